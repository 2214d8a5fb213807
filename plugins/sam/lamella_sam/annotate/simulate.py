"""A simulated annotator: how many clicks it takes from a suggestion to a mask that is good enough.

It knows the truth and clicks where the largest wrong patch is; every click gives the superpixel under it its true
class, and what superpixels cannot mend is drawn pixel by pixel. It is no person: it never errs, never hesitates,
and every click costs it the same. Its curves compare starting points, not working hours.
"""

from typing import NamedTuple

import numpy as np
from lamella import IGNORE
from scipy import ndimage

from lamella_sam.annotate.correct import Click, fill


class Effort(NamedTuple):
    """What one image cost."""

    clicks: int
    drawn: int
    """Pixels corrected one by one, where no superpixel click helps any more."""
    wrong: list[float]
    """Share of wrong pixels before the first click, and after each."""
    label: np.ndarray
    """(H, W) uint8 the corrected mask."""

    def total(self, pixels_per_click: float = 100.0) -> float:
        """Clicks, with so many drawn pixels counted as one."""
        return self.clicks + self.drawn / pixels_per_click


def annotate(
    truth: np.ndarray, suggestion: np.ndarray, segments: np.ndarray, *, good: float = 0.01, most: int = 400
) -> Effort:
    """Correct a suggestion until at most ``good`` of its pixels are wrong.

    Args:
        truth: (H, W) class ids, 255 does not count.
        suggestion: (H, W) class ids to begin with; 255 everywhere for an annotator without a model.
        segments: (H, W) superpixels.
        good: share of wrong pixels that is let pass.
        most: clicks after which the rest is drawn.
    """
    label, counted = suggestion.astype(np.uint8).copy(), truth != IGNORE
    wrong = [_wrong(label, truth, counted)]
    clicks = 0
    hopeless = np.zeros(truth.shape, bool)
    while wrong[-1] > good and clicks < most:
        click = _next(label, truth, counted & ~hopeless)
        if click is None:
            break
        better = fill(label, click, segments)
        if _wrong(better, truth, counted) < wrong[-1]:
            label = better
            clicks += 1
            wrong.append(_wrong(label, truth, counted))
        else:  # this superpixel holds two classes, and most of it is right already
            hopeless |= segments == segments[click.y, click.x]
    drawn = 0
    if wrong[-1] > good:
        off = counted & (label != truth)
        drawn = int(off.sum())
        label = np.where(off, truth, label).astype(np.uint8)
        wrong.append(_wrong(label, truth, counted))
    return Effort(clicks, drawn, wrong, label)


def _wrong(label: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> float:
    return float(((label != truth) & counted).sum() / max(counted.sum(), 1))


def _next(label: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> Click | None:
    """A click in the middle of the largest wrong patch of one true class; None where nothing is wrong."""
    off = (label != truth) & counted
    best, size = None, 0
    for number in np.unique(truth[off]):
        parts, count = ndimage.label(off & (truth == number))
        sizes = np.bincount(parts.ravel())[1:] if count else np.zeros(1, np.int64)
        if sizes.max() > size:
            best, size = (parts == sizes.argmax() + 1, int(number)), int(sizes.max())
    if best is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(best[0], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return Click("", int(x), int(y), best[1])
