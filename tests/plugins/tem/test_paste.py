"""Objects of rare classes are carried whole, with label, trust and surroundings, and nothing else changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import Batch, Streams
from lamella.errors import ConfigError
from lamella_tem.paste import paste_objects, rare_classes

RARE = torch.tensor([2])


def drawn(seed, count=3, size=24, classes=3):
    """Images that show their label as grey value, so that image and label can be compared after any move."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes - 1, (count, 1, 1), generator=generator).repeat(1, size, size)
    return Batch.of(label[:, None].float(), label=label)


def with_object(batch, top, left, tall=3, wide=4):
    label = batch.label.clone()
    label[:, top : top + tall, left : left + wide] = 2
    return batch._replace(image=label[:, None].float(), label=label)


def streams(count=3, seed=7):
    return Streams(torch.arange(count) + seed)


def test_an_object_and_its_surroundings_arrive_as_a_slow_reference_puts_them():
    batch, donors = drawn(0), with_object(drawn(1), 10, 6)
    done = paste_objects(batch, donors, streams(), classes=RARE, p=1.0, halo=2, reach=(0.0, 0.0))
    region = {(y, x) for y in range(8, 15) for x in range(4, 12)}  # the object and two pixels around it
    expected = batch.label.clone()
    for b in range(3):
        for y in range(24):
            for x in range(24):
                near = [(v, u) in region for v in range(y - 2, y + 3) for u in range(x - 2, x + 3)]
                if sum(near) > 12.5:
                    expected[b, y, x] = donors.label[b, y, x]
    assert torch.equal(done.label, expected)
    assert torch.equal(done.image[:, 0, 10:13, 6:10], donors.image[:, 0, 10:13, 6:10])
    assert torch.equal(done.image[:, :, :, 14:], batch.image[:, :, :, 14:])


@given(seed=st.integers(0, 999), top=st.integers(0, 21), left=st.integers(0, 20), halo=st.integers(0, 5))
def test_image_and_label_move_together(seed, top, left, halo):
    batch, donors = drawn(seed), with_object(drawn(seed + 1), top, left)
    done = paste_objects(batch, donors, streams(seed=seed), classes=RARE, p=1.0, halo=halo)
    whole = done.image[:, 0] == done.image[:, 0].round()  # not blended
    low = torch.minimum(batch.label, donors.label.amin((1, 2), keepdim=True))
    agree = (done.image[:, 0].long() == done.label) | (done.image[:, 0] > low) & (done.image[:, 0] < 2)
    assert bool((agree | ~whole).all())
    assert bool(((done.label == 2).sum((1, 2)) <= 12).all())


def test_where_the_donor_shows_no_such_object_nothing_changes():
    batch = with_object(drawn(3), 4, 4)
    done = paste_objects(batch, drawn(4), streams(), classes=RARE, p=1.0)
    assert torch.equal(done.image, batch.image)
    assert torch.equal(done.label, batch.label)


def test_the_probability_is_the_share_of_images():
    batch, donors = drawn(5, count=400), with_object(drawn(6, count=400), 10, 10)
    done = paste_objects(batch, donors, streams(400), classes=RARE, p=0.25, reach=(0.0, 0.0))
    assert 0.18 < float((done.label == 2).any(-1).any(-1).float().mean()) < 0.32


def test_objects_of_one_donor_serve_more_images_and_images_of_another_size():
    donors = with_object(drawn(1, count=1, size=16), 6, 6)
    done = paste_objects(drawn(0), donors, streams(), classes=RARE, p=1.0, reach=(0.0, 0.0))
    assert (done.label == 2).sum((1, 2)).tolist() == [12, 12, 12]


def test_what_is_pasted_does_not_depend_on_the_batch():
    batch, donors = drawn(0), with_object(drawn(1), 10, 6)
    whole = paste_objects(batch, donors, streams(), classes=RARE)
    one = [Batch.of(batch.image[:1], label=batch.label[:1]), Batch.of(donors.image[:1], label=donors.label[:1])]
    assert torch.equal(paste_objects(*one, streams(1), classes=RARE).image, whole.image[:1])


def test_a_class_that_the_data_lack_is_refused_by_name():
    with pytest.raises(ConfigError, match="no class is called void; there are a, b, c"):
        rare_classes(["void"], ["a", "b", "c"])
