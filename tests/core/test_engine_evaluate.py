"""Whole images through tiles, and a trainer's figures on a set."""

from itertools import pairwise
from pathlib import Path
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from lamella import Batch, Sample, SegmentationMetrics, Trainer
from lamella.data.sources import SourceConfig, open_source
from lamella.engine.evaluate import evaluate, predict_whole, tiles
from tiny_plugin import CLASSES, Grey

SIZES = st.integers(1, 300)
TILES = st.integers(4, 128)
FEWER = st.integers(32, 128)


class PerPixel(Trainer):
    """Predicts from each pixel alone; notes the size of what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def predict(self, batch):
        assert not self.training
        self.seen.append(tuple(batch.image.shape[-2:]))
        return torch.cat([batch.image, 1 - batch.image, batch.image * 0], 1)

    def metrics(self):
        return [SegmentationMetrics(CLASSES)]


class Constant(PerPixel):
    def predict(self, batch):
        return torch.full((len(batch.key), 2, *batch.image.shape[-2:]), 0.3)


@given(SIZES, SIZES, TILES)
def test_tiles_cover_the_image_and_lie_within_it(height, width, tile):
    covered = torch.zeros(height, width, dtype=torch.int64)
    for top, left, bottom, right in tiles(height, width, tile):
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        assert (bottom - top, right - left) == (min(tile, height), min(tile, width))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1


@given(SIZES, TILES)
def test_neighbouring_tiles_overlap_by_at_least_a_quarter(height, tile):
    assume(height > tile)
    rows = sorted({(top, bottom) for top, _, bottom, _ in tiles(height, 1, tile)})
    assert all(before[1] - after[0] >= tile // 4 for before, after in pairwise(rows))


@given(SIZES, SIZES, FEWER)
def test_a_constant_prediction_stays_constant_through_tiles(height, width, tile):
    batch = Batch.of(torch.zeros(1, 1, height, width))
    blended = predict_whole(Constant().eval(), batch, tile)
    torch.testing.assert_close(blended, torch.full((1, 2, height, width), 0.3))


@given(SIZES, SIZES, FEWER)
def test_what_depends_on_one_pixel_alone_is_the_same_in_tiles_and_whole(height, width, tile):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    batch = Batch.of(torch.rand(2, 1, height, width, generator=generator))
    torch.testing.assert_close(
        predict_whole(PerPixel().eval(), batch, tile), predict_whole(PerPixel().eval(), batch, 10**6)
    )


def test_tiles_are_used_above_the_given_side_only():
    small, large = PerPixel().eval(), PerPixel().eval()
    predict_whole(small, Batch.of(torch.rand(1, 1, 64, 64)), 64)
    predict_whole(large, Batch.of(torch.rand(1, 1, 64, 65)), 64)
    assert small.seen == [(64, 64)]
    assert large.seen == [(64, 64), (64, 64)]


def test_a_seam_is_blended_and_not_cut():
    class Left(PerPixel):
        """Says how many tiles came before."""

        def predict(self, batch):
            self.seen.append(0)
            return torch.full((1, 1, *batch.image.shape[-2:]), float(len(self.seen)))

    row = predict_whole(Left().eval(), Batch.of(torch.zeros(1, 1, 1, 112)), 64)[0, 0, 0]
    assert (row[0], row[-1]) == (1.0, 2.0)
    assert row.diff().min() >= -1e-6
    assert row.diff().max() < 0.2


@pytest.fixture(scope="module")
def table(tiny_registry):
    config = SourceConfig(source={"name": "tiny-squares", "count": 5, "size": 20})
    return open_source(config, tiny_registry, "here", folder=Path())


def test_the_figures_are_those_of_every_sample(table):
    trainer, watched = PerPixel().train(), []
    figures = evaluate(
        trainer, table, Grey(), device=torch.device("cpu"), batch_size=2, tile=16,
        watch=lambda batch, probabilities, names: watched.extend(names),
    )  # fmt: skip
    expected = SegmentationMetrics(CLASSES)
    for i in range(5):
        batch = Grey().collate([table.read(i)])
        expected.update(PerPixel().eval().predict(batch), batch)
    assert figures == expected.compute()
    assert watched == [row.name for row in table.rows]
    assert trainer.training


def test_a_small_image_does_not_set_the_batch_of_large_ones():
    sides = [32, *[512] * 17, *[64] * 130]
    pixels = [np.zeros((side, side), np.uint8) for side in sides]
    samples = [Sample(image, image, None, 0, 0, (1.0, 1.0), {}, "x") for image in pixels]
    table, seen = MagicMock(__len__=Mock(return_value=len(sides)), read=samples.__getitem__), []
    evaluate(PerPixel(), table, Grey(), device=torch.device("cpu"), tile=512, watch=lambda *what: seen.append(what))
    assert [len(names) for *_, names in seen] == [1, 8, 8, 1, 128, 2]


def test_a_trainer_is_back_in_training_after_an_evaluation_that_failed(table):
    trainer = PerPixel().train()
    with pytest.raises(ZeroDivisionError):
        evaluate(
            trainer, table, Grey(), device=torch.device("cpu"), batch_size=2, tile=64, watch=lambda *_: 1 / 0
        )
    assert trainer.training
