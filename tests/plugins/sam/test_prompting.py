"""Objects and prompts from labels: against slow references, within their bounds, and keyed by the image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import Streams
from lamella.errors import ConfigError, DataError
from lamella.testing.no_sync import no_sync
from lamella_sam.losses import pairs
from lamella_sam.objects import (
    all_objects,
    boxes_of,
    drawn_objects,
    identities,
    pick,
    pick_pixel,
    regions,
    renumbered,
    swept,
)
from lamella_sam.prompting import Mix, corrected, given_prompts, jittered, negative_points, partial_masks
from lamella_sam.prompts import (
    ABSENT,
    CORNER,
    NEGATIVE,
    NO_POINT,
    OPPOSITE,
    POSITIVE,
    box_prompts,
    check_prompts,
    mask_prompts,
    point_prompts,
)
from scipy import ndimage


def streams(*keys):
    return Streams(torch.tensor(keys))


@pytest.mark.parametrize("find", [regions, swept])
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), size=st.sampled_from([(9, 9), (12, 5), (1, 7)]))
def test_regions_are_the_connected_components_of_scipy(find, seed, classes, size):
    label = torch.randint(0, classes, (2, *size), generator=torch.Generator().manual_seed(seed))
    found = find(label)
    assert torch.equal(found, regions(label))  # on the host as on an accelerator
    for image, ids in zip(label.numpy(), found.numpy()):
        count = 0
        for number in range(classes):
            parts, here = ndimage.label(image == number)
            count += here
            for part in range(1, here + 1):
                assert len(np.unique(ids[parts == part])) == 1
        assert len(np.unique(ids)) == count


@pytest.mark.parametrize("find", [regions, swept])
def test_a_long_snake_is_one_region(find):
    snake = torch.zeros(1, 15, 40, dtype=torch.int64)
    for row in range(1, 15, 2):
        snake[0, row, 1:-1] = 1
    for i, row in enumerate(range(2, 14, 2)):
        snake[0, row, -2 if i % 2 == 0 else 1] = 1
    assert len(find(snake)[snake == 1].unique()) == 1


@pytest.mark.parametrize("find", [regions, swept])
def test_a_long_staircase_is_one_region(find):
    """As a rough layer over several fins: each of its pixels is a corner."""
    stairs = torch.zeros(1, 61, 60, dtype=torch.int64)
    for step in range(60):
        stairs[0, step : step + 2, step] = 1
    assert len(find(stairs)[stairs == 1].unique()) == 1


def test_objects_are_drawn_evenly_and_points_uniformly_inside(batch):
    identity = identities(batch, "region")
    objects = drawn_objects(identity[:1], streams(3), 4000)
    assert objects.there.all()
    y, x = objects.pixel[0].unbind(-1)
    assert objects.mask[0][torch.arange(4000), y, x].all()
    chosen, counts = identity[0][y, x].unique(return_counts=True)
    assert len(chosen) == len(identity[0].unique()) - 1  # all but the ignored strip
    assert (counts / 4000 - 1 / len(chosen)).abs().max() < 0.04
    inside = objects.mask[0].flatten(1).sum(1)
    assert set(inside.unique().tolist()) == set(identity[0][identity[0] > 0].unique(return_counts=True)[1].tolist())


def test_kinds_of_objects(batch):
    batch = batch._replace(instance=(batch.label == 1).long() * 7)
    assert identities(batch, "instance").unique().tolist() == [-1, 0, 1]
    assert identities(batch._replace(label=None), "instance").unique().tolist() == [0, 1]
    assert identities(batch, "class").unique().tolist() == [-1, 1, 2, 3]
    assert identities(batch, "class", background=0).unique().tolist() == [-1, 0, 2, 3]
    assert (identities(batch, "region")[:, :3] == -1).all()


def test_an_image_without_objects_gives_none(batch):
    nothing = batch._replace(label=torch.full_like(batch.label, 255))
    objects = drawn_objects(identities(nothing, "region"), streams(1, 2), 3)
    assert not objects.there.any() and not objects.mask.any()


def test_pick_follows_the_weights():
    weight = torch.tensor([[0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    share = torch.linspace(0, 0.999, 400).expand(2, -1)
    found = pick(weight, share)
    assert found[0].bincount(minlength=4).tolist() == [0, 100, 0, 300]
    assert (found[1] < 4).all()


def test_pick_pixel_says_where_there_is_none():
    where = torch.zeros(2, 4, 4, dtype=torch.bool)
    where[0, 2, 3] = True
    pixel, some = pick_pixel(where, torch.tensor([0.7, 0.7]))
    assert pixel[0].tolist() == [2, 3] and some.tolist() == [True, False]


def test_boxes_are_those_of_numpy(batch):
    objects = drawn_objects(identities(batch, "region"), streams(5, 6), 6)
    for b in range(2):
        for q in range(6):
            y, x = np.nonzero(objects.mask[b, q].numpy())
            assert boxes_of(objects.mask)[b, q].tolist() == [x.min(), y.min(), x.max(), y.max()]


def test_objects_of_an_instance_map_need_one(batch):
    with pytest.raises(ConfigError, match="objects = 'instance' needs data with instance maps"):
        identities(batch, "instance")
    drawn = identities(batch._replace(instance=batch.label + 7), "instance")
    assert drawn.unique().tolist() == [-1, 1, 2, 3]


@pytest.mark.parametrize("other", [2, 1 + 64 * 64 + 1, 2**24 + 1, 2**40])
def test_objects_of_any_id_are_told_apart(batch, other):
    one = other - 1 if other == 2**24 + 1 else 1  # what float32 takes for the same, else what H·W + 1 does
    instance = torch.zeros_like(batch.label)
    instance[:, 8:24, 8:24], instance[1, 32:56, 32:60], instance[:, 60:] = one, other, -1
    with no_sync():
        identity = identities(batch._replace(instance=instance), "instance")
        found = all_objects(identity, streams(1, 2), 3)
        drawn = drawn_objects(identity, streams(1, 2), 500)
        same, different = pairs(identity, 8)
    assert found.there.tolist() == [[True, False, False], [True, True, False]]
    assert found.mask[1, :2].flatten(1).sum(1).tolist() == [24 * 28, 16 * 16]
    assert abs(drawn.mask[1, :, 8, 8].float().mean() - 0.5) < 0.1  # both as often
    truth = identities(batch._replace(instance=(instance > 0).long() + (instance == other)), "instance")
    assert torch.equal(identity, truth)
    cells = truth[1].reshape(8, 8, 8, 8).movedim(2, 1).reshape(64, 64)
    ids = torch.where((cells == cells[:, :1]).all(1) & (cells[:, 0] >= 0), cells[:, 0], -1)
    assert torch.equal(same[1], (ids[:, None] == ids) & (ids >= 0) & (ids[:, None] >= 0))
    assert torch.equal(different[1], (ids[:, None] != ids) & (ids >= 0) & (ids[:, None] >= 0))


@given(seed=st.integers(0, 10**6), most=st.sampled_from([3, 50, 2**62]), size=st.sampled_from([(9, 9), (1, 7)]))
def test_numbers_in_an_image_are_those_of_numpy(seed, most, size):
    instance = torch.randint(-most, most, (2, *size), generator=torch.Generator().manual_seed(seed))
    for found, ids in zip(renumbered(instance), instance.numpy()):
        _, place = np.unique(np.append(ids.clip(min=0), 0), return_inverse=True)
        assert found.flatten().tolist() == place[:-1].tolist()


def test_jitter_keeps_within_its_bound_and_the_image():
    boxes = torch.tensor([[[10.0, 10.0, 29.0, 49.0]]]).repeat(1, 500, 1)
    moved = jittered(boxes, streams(1), 0.1, (64, 64))
    shift = (moved - boxes).abs()
    assert shift[..., 0::2].max() <= 2.0 and shift[..., 1::2].max() <= 4.0  # 10 % of 20 and of 40 pixels
    assert shift[..., 0].max() > 1.5
    assert (jittered(boxes, streams(1), 0.5, (40, 25)) >= 0).all()
    assert (jittered(boxes, streams(1), 0.5, (40, 25))[..., 2:] <= torch.tensor([24.0, 39.0])).all()
    assert torch.equal(jittered(boxes, streams(1), 0.0, (64, 64)), boxes)
    for edge in (0.0, 63.0):  # one pixel wide, at the rim
        line = torch.tensor([edge, 5.0, edge, 9.0]).expand(1, 50, 4)
        moved = jittered(line, streams(1), 0.5, (64, 64))
        assert (moved >= 0).all() and (moved <= 63).all()


def test_partial_masks_are_parts_smaller_than_the_object_and_hold_its_pixel(batch):
    objects = drawn_objects(identities(batch, "region"), streams(7, 8), 40)
    part = partial_masks(objects, streams(9, 10), 0.1, 0.7)
    assert not (part & ~objects.mask).any()
    area, whole = part.flatten(2).sum(2), objects.mask.flatten(2).sum(2)
    assert (area >= 1).all() and (area <= 0.8 * whole + 2).all()
    index = objects.pixel[..., 0] * 64 + objects.pixel[..., 1]
    assert part.flatten(2).gather(2, index.unsqueeze(-1)).all()
    assert (area / whole).min() < 0.15 and (area / whole).max() > 0.4


def test_negative_points_lie_outside_and_near(batch):
    objects = drawn_objects(identities(batch, "region"), streams(1, 2), 30)
    points, some = negative_points(objects.mask, objects.known, streams(3, 4))
    assert some.all()
    index = (points[..., 1] * 64 + points[..., 0]).long()
    assert not objects.mask.flatten(2).gather(2, index.unsqueeze(-1)).any()
    labelled = objects.known.unsqueeze(1).expand_as(objects.mask).flatten(2)
    assert not objects.known.all() and labelled.gather(2, index.unsqueeze(-1)).all()
    whole = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    assert not negative_points(whole, whole[0], streams(1))[1].any()


def test_every_type_is_given_as_often_as_the_mix_says(nano, batch):
    objects = drawn_objects(identities(batch, "region"), streams(1, 2), 600)
    prompts, doubt = given_prompts(objects, nano, streams(3, 4), Mix(point=1, box=2, mask=1, negative=0.25))
    boxed = prompts.labels[..., 0] == CORNER
    pointed = prompts.labels[..., 0] == POSITIVE
    masked = prompts.with_mask
    assert (boxed.int() + pointed.int() + masked.int() == 1).all()
    assert abs(boxed.float().mean() - 0.5) < 0.05 and abs(masked.float().mean() - 0.25) < 0.05
    assert (prompts.labels[..., 1][boxed] == OPPOSITE).all() and (prompts.labels[..., 1][pointed] == NO_POINT).all()
    negative = prompts.labels[..., 2] == NEGATIVE
    assert abs(negative.float().mean() - 0.25) < 0.05
    assert torch.equal(doubt, pointed & ~negative)
    assert (prompts.mask[masked] > 0).flatten(1).any(1).all()  # nor is a sliver nowhere that fills no cell by half


def test_a_partial_mask_that_fills_no_cell_by_half_is_given_by_the_cells_that_it_touches(nano):
    """A line of one pixel, where a cell of the mask grid is two wide, beside an object that fills many cells."""
    identity = torch.zeros(1, 64, 64, dtype=torch.int64)
    identity[0, 20, 10:50], identity[0, 30:60, 10:50] = 1, 2
    objects = all_objects(identity, streams(1), 2)
    prompts, _ = given_prompts(objects, nano, streams(2), Mix(point=0, box=0, mask=1))
    partial = partial_masks(objects, streams(2).child("partial"), Mix().least, Mix().most)
    assert not (nano.reduce(partial.float())[0, 1] > 0.5).any()
    assert torch.equal(prompts.mask[0, 0] > 0, nano.reduce(partial.float())[0, 0] > 0.5)
    assert torch.equal(prompts.mask[0, 1] > 0, nano.touched(partial)[0, 1] > 0)
    check_prompts(prompts)


def test_prompts_depend_on_the_image_s_stream_alone(nano, batch):
    def prompts(keys, some):
        objects = drawn_objects(identities(some, "region"), streams(*keys).child("objects"), 5)
        return given_prompts(objects, nano, streams(*keys), Mix())[0]

    both, alone = prompts([1, 2], batch), prompts([2], batch.select(slice(1, 2)))
    assert torch.equal(both.points[1:], alone.points) and torch.equal(both.labels[1:], alone.labels)
    assert torch.equal(both.mask[1:], alone.mask)
    assert not torch.equal(prompts([3], batch.select(slice(1, 2))).points, alone.points)


def test_a_correction_clicks_where_the_mask_is_wrong():
    target = torch.zeros(1, 2, 16, 16)
    target[:, :, 4:8, 4:8] = 1.0
    logits = torch.where(target > 0.5, 5.0, -5.0)
    logits[0, 0, 4, 4] = -5.0  # one missing cell
    logits[0, 1, 12, 3] = 5.0  # one cell too many
    start = box_prompts(torch.zeros(1, 2, 4), (32, 32))
    back = torch.tensor([[True, False]])
    known = torch.ones(1, 2, 16, 16, dtype=torch.bool)
    prompts = corrected(start, logits, target, streams(1), cell=2.0, feed_back=back, known=known)
    assert prompts.labels[0, :, -1].tolist() == [POSITIVE, NEGATIVE]
    assert prompts.points[0, :, -1].tolist() == [[8.5, 8.5], [6.5, 24.5]]  # centres of cells of 2 pixels
    assert prompts.with_mask.tolist() == [[True, False]]
    right = torch.where(target > 0.5, 5.0, -5.0)
    for mask, where in ((right, known), (logits, known & (logits < 0) & (target < 0.5))):  # nobody knows better
        given = corrected(start, mask, target, streams(1), cell=2.0, feed_back=back, known=where)
        assert given.labels[..., -1].tolist() == [[ABSENT] * 2]


def test_making_prompts_never_waits_for_the_device(nano, batch):
    with no_sync():
        objects = drawn_objects(identities(batch, "region"), streams(1, 2), 4)
        prompts, _ = given_prompts(objects, nano, streams(3, 4), Mix())
        target = nano.reduce(objects.mask.float())
        back, known = torch.ones(2, 4, dtype=torch.bool), target >= 0
        corrected(prompts, target - 0.3, target, streams(5, 6), cell=2.0, feed_back=back, known=known)


ONE = torch.ones(1, 1, 1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (point_prompts(torch.tensor([[[[70.0, 5.0]]]]), ONE, (64, 64)), r"^prompt 0: the point \(x 70, y 5\)"),
        (point_prompts(torch.tensor([[[[5.0, -3.0]]]]), ONE, (64, 64)), "lies outside of the image of 64×64"),
        (point_prompts(torch.tensor([[[[5.0, torch.nan]]]]), ONE, (64, 64)), "lies outside"),
        (box_prompts(torch.tensor([[[30.0, 5.0, 20.0, 9.0]]]), (64, 64)), "must read x0, y0, x1, y1"),
        (box_prompts(torch.tensor([[[20.0, 5.0, 20.0, 9.0]]]), (64, 64)), r"box \[20.0, 5.0, 20.0, 9.0\] must read"),
        (box_prompts(torch.tensor([[[20.0, 5.0, 30.0, 5.0]]]), (64, 64)), "with x0 < x1 and y0 < y1"),
        (box_prompts(torch.tensor([[[0.0, 0.0, 9.0, 9.0]], [[9.0, 5.0, 2.0, 9.0]]]), (64, 64)), "0 of image 1: the"),
        (mask_prompts(torch.full((1, 1, 32, 32), -5.0), (64, 64)), "its mask is empty"),
        (point_prompts(torch.zeros(1, 0, 1, 2), ONE[:, :0], (64, 64)), "there is no prompt"),
        (point_prompts(torch.zeros(1, 1, 1, 2), ONE, (1, 64)), "1×64 pixels is too small"),
    ],
)  # fmt: skip
def test_what_a_user_can_get_wrong_is_one_sentence(prompts, message):
    with pytest.raises(DataError, match=message):
        check_prompts(prompts)


def test_right_prompts_pass():
    check_prompts(point_prompts(torch.tensor([[[[0.0, 63.0]]]]), ONE, (64, 64)))
    check_prompts(box_prompts(torch.tensor([[[0.0, 0.0, 63.0, 63.0]]]), (64, 64)))
