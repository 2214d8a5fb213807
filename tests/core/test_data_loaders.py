"""Which sample comes when, cropped where: a function of (seed, position) alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import IGNORE, Sample
from lamella.data.balanced import BalancedOrder
from lamella.data.loaders import Order, _Collate, cropped, evaluation_batches, training_loader
from lamella.data.samples import SampleTable
from lamella.data.sources import SourceConfig, open_source
from lamella.engine.evaluate import predict_whole
from lamella.engine.large import predict_large
from lamella.errors import ConfigError, DataError
from PIL import Image
from tiny_plugin import Conv, Grey, Plain

counts, seeds = st.integers(1, 12), st.integers(0, 2**31)


@pytest.mark.parametrize("order", [Order, lambda count, seed: BalancedOrder([k % 3 for k in range(count)], seed)])
@given(counts, seeds, st.integers(0, 500))
def test_the_order_is_a_function_of_seed_and_position(order, count, seed, position):
    walked = order(count, seed)
    for earlier in range(0, position, 7):
        walked.at(earlier)
    assert walked.at(position) == order(count, seed).at(position)


@given(counts, seeds, st.integers(0, 5))
def test_every_row_comes_once_per_epoch_and_visits_count_epochs(count, seed, epoch):
    order = Order(count, seed)
    rows, visits = zip(*(order.at(epoch * count + i) for i in range(count)))
    assert sorted(rows) == list(range(count))
    assert set(visits) == {epoch}


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(Order(50, seed).at(epoch * 50 + i)[0] for i in range(50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


@pytest.fixture(scope="module")
def table(tiny_registry):
    config = SourceConfig(source={"name": "tiny-squares", "count": 5, "size": 16})
    return open_source(config, tiny_registry, "here", folder=Path())


def loaded(table, steps=range(6), batch_size=4, crop=None, seed=3, **more):
    loader = training_loader(table, Grey(), batch_size=batch_size, crop=crop, seed=seed, steps=steps, **more)
    return list(loader)


def same(one, other):
    return all(
        torch.equal(a, b)
        for batch, twin in zip(one, other, strict=True)
        for a, b in zip(batch, twin)
        if a is batch.image or (isinstance(a, torch.Tensor) and not a.is_floating_point())
    )


def test_a_loader_walks_through_the_endless_sequence(table):
    order, keys = Order(5, 3), table.keys()
    seen = [(key, visit) for b in loaded(table) for key, visit in zip(b.key.tolist(), b.visit.tolist())]
    assert seen == [(keys[row], visit) for row, visit in (order.at(p) for p in range(24))]
    assert set(Counter(key for key, visit in seen if visit == 2).values()) == {1}


def test_a_loader_that_starts_later_yields_what_the_first_would_have(table):
    assert same(loaded(table, range(4, 6), crop=8), loaded(table, range(6), crop=8)[4:])


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_all_processes_together_are_the_whole_batch(table, world):
    whole = loaded(table, crop=8)
    shares = [loaded(table, crop=8, rank=rank, world=world) for rank in range(world)]
    assert all(len(b.key) == 4 // world for share in shares for b in share)
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step].key for share in shares]), batch.key)
        assert torch.equal(torch.cat([share[step].image for share in shares]), batch.image)


def test_a_batch_that_does_not_divide_among_processes_is_refused(table):
    with pytest.raises(ConfigError, match="batch_size = 4 does not divide among 3"):
        loaded(table, world=3)


def test_a_batch_may_be_larger_than_the_set(table):
    (batch,) = loaded(table, range(1), batch_size=12)
    assert len(batch.key) == 12
    assert sorted(zip(batch.key.tolist(), batch.visit.tolist()))[0][1] == 0
    assert len(set(zip(batch.key.tolist(), batch.visit.tolist()))) == 12


@pytest.mark.slow
def test_worker_processes_yield_what_the_main_process_does(table):
    assert same(loaded(table, range(3), crop=8, workers=2), loaded(table, range(3), crop=8))


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_an_error_in_a_worker_is_the_sentence_that_it_is_without_one(tmp_path, tiny_registry, damaged):
    for name, side in (("a", 16), ("b", 24)):
        Image.new("L", (side, 16)).save(tmp_path / f"{name}.png")
    table = open_source(SourceConfig(source=".", images="*.png"), tiny_registry, "here", folder=tmp_path)
    if damaged:
        (tmp_path / "b.png").write_bytes(b"")
    errors = []
    for workers in (0, 1):
        with pytest.raises(DataError if damaged else ConfigError) as caught:
            loaded(table, range(1), batch_size=2, workers=workers)
        errors.append(caught.value)
    assert str(errors[0]) == str(errors[1])
    assert "Traceback" in errors[1].__notes__[0]


def sized(table, *sizes):
    """A table of arrays: one sample of each size."""

    class Fixed(SampleTable):
        def read(self, index, visit=0):
            image = np.full(sizes[index], index, np.uint8)
            return Sample(image, np.zeros_like(image), None, index, visit, (1.0, 1.0), {}, f"n{index}")

    return Fixed(table.rows[: len(sizes)], table.classes, "fixed")


def test_images_of_different_sizes_need_a_crop_and_the_message_says_so(table):
    mixed = sized(table, (8, 8), (8, 12))
    with pytest.raises(ConfigError, match=r"8×8, 8×12.*set crop"):
        loaded(mixed, range(1), batch_size=2)
    views = [Sample(np.zeros((s, 8, 2)), None, None, 0, 0, (1.0, 1.0), {}, "D", views=("high", "low")) for s in (8, 9)]
    with pytest.raises(ConfigError, match=r"different sizes \(8×8, 9×8\) cannot share a batch; bring all to one size"):
        _Collate(Grey())(views)
    (batch,) = loaded(mixed, range(1), batch_size=2, crop=8)
    assert batch.image.shape == (2, 1, 8, 8)


def sample(height, width, key=5, visit=0):
    pixels = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    return Sample(pixels, (pixels % 3).astype(np.uint8), pixels.astype(np.int64), key, visit, (1, 1), {}, "s")


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 16), st.integers(0, 2**62), st.integers(0, 9))
def test_image_label_and_instances_are_cropped_together(height, width, size, key, visit):
    before = sample(height, width, key, visit)
    after = cropped(before, size, seed=0)
    inside = np.zeros((size, size), bool)
    inside[: min(size, height), : min(size, width)] = True
    assert after.image.shape == after.label.shape == after.instance.shape == (size, size)
    assert (after.image[inside] == after.instance[inside]).all()
    assert (after.label[inside] == after.image[inside] % 3).all()
    assert (after.label[~inside] == IGNORE).all()
    assert (after.instance[~inside] == 0).all()
    assert set(np.unique(after.image)) <= set(np.unique(before.image))


def test_the_place_of_a_crop_is_keyed_by_seed_sample_and_visit():
    def place(seed=0, key=5, visit=0):
        return int(cropped(sample(64, 64, key, visit), 8, seed).image[0, 0])

    assert place() == place()
    assert len({place(), place(seed=1), place(key=6), place(visit=1)}) == 4


def test_crops_reach_every_place_of_the_image():
    tops = {int(cropped(sample(11, 11, visit=visit), 8, 0).image[0, 0]) for visit in range(400)}
    assert tops == {row * 11 + column for row in range(4) for column in range(4)}


def test_small_images_are_mirrored_and_their_padding_is_ignored():
    after = cropped(sample(2, 3), 4, 0)
    assert after.image.tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]
    assert (after.label == IGNORE).sum() == 16 - 6


def test_batches_say_how_much_of_a_crop_is_the_image_where_it_is_not_all(table):
    assert all(batch.meta["inside"].tolist() == [[16, 16]] * 4 for batch in loaded(table, crop=24))
    assert all("inside" not in batch.meta for crop in (8, 16, None) for batch in loaded(table, crop=crop))
    assert loaded(table, crop=24)[0].select(slice(1, 3)).meta["inside"].shape == (2, 2)


def test_colour_images_keep_their_channels_when_cropped():
    before = sample(4, 4)._replace(image=np.zeros((4, 4, 3), np.uint8))
    assert cropped(before, 6, 0).image.shape == (6, 6, 3)


def test_a_sample_without_a_mask_is_cropped_too():
    after = cropped(sample(8, 8)._replace(label=None, instance=None), 4, 0)
    assert (after.label, after.instance, after.image.shape) == (None, None, (4, 4))


def test_evaluation_reads_every_sample_once_in_order_and_batches_equal_sizes(table):
    mixed = sized(table, (8, 8), (8, 8), (8, 8), (4, 8), (8, 8))
    batches = list(evaluation_batches(mixed, Grey(), 2))
    assert [names for _, names in batches] == [["n0", "n1"], ["n2"], ["n3"], ["n4"]]
    assert [tuple(batch.image.shape) for batch, _ in batches] == [
        (2, 1, 8, 8), (1, 1, 8, 8), (1, 1, 4, 8), (1, 1, 8, 8),
    ]  # fmt: skip
    assert torch.cat([batch.key for batch, _ in batches]).tolist() == [0, 1, 2, 3, 4]


def test_crops_and_tiles_carry_the_pixel_size():
    """It is a size of pixels, which cutting does not change; also where y and x differ."""
    sample = Sample(np.zeros((90, 130), np.uint8), None, None, 3, 0, (0.5, 0.25), {}, "x")
    for size in (32, 128):  # within the image, and padded
        assert cropped(sample, size, seed=1).pixel_nm == (0.5, 0.25)
    seen = []

    class Watching(Plain):
        def predict(self, batch):
            seen.append((tuple(batch.image.shape[-2:]), batch.pixel_nm.tolist()))
            return super().predict(batch)

    trainer = Watching(backbone=Conv(channels=1, classes=3), class_names=["a", "b", "c"]).eval()
    with torch.inference_mode():
        predict_whole(trainer, Grey().collate([sample]), 64)
        predict_large(trainer, sample, Grey(), tile=64, device=torch.device("cpu"))
    assert len(seen) >= 12
    assert {size for size, _ in seen} == {(64, 64)}
    assert all(pixel_nm == [[0.5, 0.25]] for _, pixel_nm in seen)
