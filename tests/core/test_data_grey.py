"""The grey range of images and of what crops were cut out of."""

import numpy as np
import pytest
from lamella.data.grey import _looks, grey_ends


def rimmed(level, size, dtype=np.uint8):
    """Black at its left rim, and of one level elsewhere."""
    image = np.full((size, size), level, dtype)
    image[:, 0] = 0
    return image


@pytest.mark.parametrize("size", [96, 256, 500, 512, 1024])
def test_another_whole_of_the_same_key_and_rim_has_its_own_range(size):
    one, other = rimmed(50, size), rimmed(200, size)
    assert grey_ends(one[:8, :8], one, 0)[1] == 50
    assert grey_ends(other[:8, :8], other, 0)[1] == 200


def test_an_image_that_is_no_crop_has_its_own_range_whatever_it_shares():
    one = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    other = one.copy()
    other[50:70, 50:70] = 60_000
    assert grey_ends(one, key=3)[1] < 10_000 < grey_ends(other, key=3)[1]


def test_a_crop_has_the_range_of_its_whole():
    whole = np.random.default_rng(0).random((64, 48)).astype(np.float32)
    assert grey_ends(whole[:8, :8], whole, 7) == tuple(np.percentile(whole, (0.1, 99.9)))
    assert grey_ends(whole[8:16, :8], whole, 7) == grey_ends(whole)


@pytest.mark.parametrize("shape", [(512, 512), (1024, 1024), (700, 300), (512, 512, 3), (5, 1), (1, 5)])
def test_looks_meet_every_column_of_a_large_image(shape):
    columns = np.broadcast_to(np.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)), shape)
    assert len(np.unique(_looks(columns))) >= min(shape[1], 80)
