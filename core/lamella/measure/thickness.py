"""The thickness of a layer of any shape: distances along the normal from one side to the other."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

_SMOOTH = 1.5
"""Pixels over which the direction of a thin layer's edge is taken, at least."""
_SMOOTH_WIDE = 0.35
"""The same as a share of the width: a ray that followed every bump of a rough edge would cross at a slant."""
_STEP = 0.25
"""Of the smaller pixel side: how finely a ray is sampled."""
_STRIDE = 64
"""Samples of a ray between looking which rays have left."""
_RAYS = 4000
_LARGE, _BLOCK, _BAND = 2048**2, 8, 512
"""Pixels from which on the widest place is sought among blocks of so many pixels a side, or in bands of rows."""
_SLACK = 1.3
"""How much longer than the widest inscribed circle a chord may be and still be a thickness."""


def thickness(mask: np.ndarray, pixel_nm: tuple[float, float]) -> tuple[float, float]:
    """Thickness of the region and its 3σ, in nm; nan where no side faces another within the image.

    From points all along the edge a ray goes inwards along the normal to where it leaves the region. Rays that
    leave the image, and those that run along the region instead of across it, do not count. σ is 1.4826 times the
    median absolute deviation, which a few strays do not move. The thickness is the mean of the lengths within 3σ,
    or one pixel, of their median: along a flat film every length is a whole number of pixels, and so is the median.

    Source: normal distance ± 3σ, as metrology of cross-sections reports it; the mean behind the median is ours.

    Args:
        mask: (H, W) True inside. What touches the border of the array is taken to go on beyond it.
        pixel_nm: nm per pixel in y and x.

    >>> mask = np.zeros((40, 60), bool)
    >>> mask[10:17] = True
    >>> thickness(mask, (0.5, 0.5))
    (3.5, 0.0)
    """
    lengths = chords(mask, pixel_nm)
    if not len(lengths):
        return math.nan, math.nan
    away = np.abs(lengths - np.median(lengths))
    spread = float(3 * 1.4826 * np.median(away))
    return float(lengths[away <= max(spread, *pixel_nm)].mean()), spread


def chords(mask: np.ndarray, pixel_nm: tuple[float, float]) -> np.ndarray:
    """The lengths in nm (N,) of the rays that count; see `thickness`."""
    scale = np.array(pixel_nm, np.float64)
    points = _edge(mask)
    if not len(points):
        return np.empty(0)
    points = points[:: -(-len(points) // _RAYS)]
    # What touches the border goes on beyond it: padding with the edge keeps it from looking like a side.
    widest = 2 * _deepest(np.pad(mask, 1, mode="edge"), scale)
    sigma = np.maximum(_SMOOTH, _SMOOTH_WIDE * widest / scale)
    normal = _slope(mask, points, sigma) / scale
    length = np.linalg.norm(normal, axis=1)
    points, normal = points[length > 1e-6], normal[length > 1e-6] / length[length > 1e-6, None]
    return _across(mask, points, normal, scale, widest)


def _deepest(mask: np.ndarray, scale: np.ndarray) -> float:
    """The largest distance in nm from a place inside to the nearest outside.

    Of a mask of more than 2048² pixels, the distances are taken among squares of 8 × 8 pixels, unless the region is
    so thin that these miss it; then in bands of rows. So memory stays what the mask itself takes.
    """
    if mask.size <= _LARGE:
        return float(ndimage.distance_transform_edt(mask, sampling=scale).max())
    height, width = (side // _BLOCK * _BLOCK for side in mask.shape)
    whole = mask[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).all((1, 3))
    if whole.all():
        return float((np.array(mask.shape) * scale).max())
    deep = float(ndimage.distance_transform_edt(whole, sampling=scale * _BLOCK).max())
    if deep >= 8 * _BLOCK * float(scale.max()):
        return deep
    margin = 12 * _BLOCK * math.ceil(float(scale.max() / scale.min()))
    return max(
        float(ndimage.distance_transform_edt(mask[max(at - margin, 0) : at + margin + _BAND], sampling=scale).max())
        if not mask[max(at - margin, 0) : at + margin + _BAND].all() else 0.0
        for at in range(0, len(mask), _BAND)
    )  # fmt: skip


def _slope(mask: np.ndarray, points: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gradient (N, 2) of the smoothed mask at some points, up to a factor; wide smoothing is done on fewer pixels."""
    factor = max(int(sigma.min() // 8), 1)
    if factor > 1:
        beyond = [(0, -side % factor) for side in mask.shape]
        padded = np.pad(mask, beyond, mode="edge")
        rows, columns = (side // factor for side in padded.shape)
        soft = padded.reshape(rows, factor, columns * factor).sum(1, dtype=np.float32)
        soft = soft.reshape(rows, columns, factor).mean(2) / factor
    else:
        soft = mask.astype(np.float32)
    soft = ndimage.gaussian_filter(soft, sigma / factor, mode="nearest")
    at = ((points + 0.5) / factor - 0.5).T
    if min(soft.shape) < 2:
        return np.zeros((len(points), 2))
    return np.stack(
        [ndimage.map_coordinates(np.gradient(soft, axis=axis), at, order=1, mode="nearest") for axis in (0, 1)], 1
    )


def _edge(mask: np.ndarray) -> np.ndarray:
    """The middles (N, 2) of all pixel sides between inside and outside, in pixels."""
    down = np.argwhere(mask[1:] != mask[:-1]) + np.array([0.5, 0.0])
    across = np.argwhere(mask[:, 1:] != mask[:, :-1]) + np.array([0.0, 0.5])
    return np.concatenate([down, across])


def _across(mask: np.ndarray, points: np.ndarray, normal: np.ndarray, scale: np.ndarray, widest: float) -> np.ndarray:
    """From every point inwards to the first place outside; in nm.

    Rays go on together, `_STRIDE` samples at a time, and those that have left the region stop. One that leaves the
    image before the region does not count.
    """
    step = _STEP * float(scale.min())
    most = _SLACK * widest + 2 * float(scale.max())
    reach = np.arange(-1.5 * float(scale.max()), most + step, step)  # begins outside, to find the edge itself
    values = mask.view(np.uint8)
    enters, leaves = np.full(len(points), math.nan), np.full(len(points), math.nan)
    going: np.ndarray = np.arange(len(points))
    for first in range(0, len(reach) - 1, _STRIDE):
        part = reach[first : first + _STRIDE + 1]  # the last sample is the next stride's first
        inside = _sampled(values, points[going], normal[going] / scale, part)
        within = inside >= 0.5
        if first == 0:  # a ray that begins inside has no edge
            outer = ~within[:, 0]
            going, inside, within = going[outer], inside[outer], within[outer]
        late = np.isnan(enters[going])
        enter = within.argmax(1)
        found = late & within.any(1)
        enters[going[found]] = _crossing(inside[found], part, enter[found])
        outside = ~within & (np.arange(len(part)) > enter[:, None])
        leave = outside.argmax(1)
        left = ~np.isnan(enters[going]) & outside.any(1)
        leaves[going[left]] = _crossing(inside[left], part, leave[left])
        going = going[~left]
    lengths, ends = leaves - enters, points + normal / scale * leaves[:, None]
    there = ((ends >= -0.5) & (ends <= np.array(mask.shape) - 0.5)).all(1)
    return lengths[there & (lengths <= most)]


def _sampled(values: np.ndarray, points: np.ndarray, normal: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(N, S) between pixels along rays from points (N, 2) in directions (N, 2), all in pixels for a reach of 1."""
    where = points.T[:, :, None] + normal.T[:, :, None] * reach
    found = ndimage.map_coordinates(values, where.reshape(2, -1), np.float32, order=1, mode="nearest")
    return found.reshape(len(points), len(reach))


def _crossing(inside: np.ndarray, reach: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Where a row crosses one half between ``index - 1`` and ``index``."""
    rows = np.arange(len(index))
    before, here = inside[rows, index - 1], inside[rows, index]
    share = (0.5 - before) / np.where(here == before, 1, here - before)
    return reach[index - 1] + share * (reach[index] - reach[index - 1])
