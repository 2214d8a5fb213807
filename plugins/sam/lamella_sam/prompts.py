"""What a promptable backbone is asked: points, boxes, masks and learned tokens, as tensors of one shape."""

from typing import NamedTuple

import torch
from lamella.errors import DataError
from torch import Tensor

POSITIVE, NEGATIVE, CORNER, OPPOSITE = 1, 0, 2, 3
"""Labels of points: inside the object, outside of it, and the two corners of a box."""
NO_POINT, ABSENT = -1, -2
"""Labels of slots without a point: SAM's own padding token, and a slot that nothing attends to."""


class Prompts(NamedTuple):
    """Q prompts for each of B images; every prompt has P slots for points, of which some may be absent."""

    points: Tensor
    """(B, Q, P, 2) float32, x then y, in pixels of the image as it was given; 0 is the centre of the first pixel."""
    labels: Tensor
    """(B, Q, P) int64: `POSITIVE`, `NEGATIVE`, `CORNER`, `OPPOSITE`, `NO_POINT` or `ABSENT`."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""
    mask: Tensor | None = None
    """(B, Q, h, w) logits on the backbone's mask grid, or None."""
    with_mask: Tensor | None = None
    """(B, Q) bool: which prompts have a mask; None where all of ``mask`` counts."""
    tokens: Tensor | None = None
    """(B, Q, T, C) learned tokens beside the points, or None."""

    @property
    def number(self) -> int:
        """Q, the number of prompts per image."""
        return self.labels.shape[1]

    def select(self, which: slice) -> "Prompts":
        """Some of the prompts of every image."""
        return self._replace(
            points=self.points[:, which],
            labels=self.labels[:, which],
            mask=None if self.mask is None else self.mask[:, which],
            with_mask=None if self.with_mask is None else self.with_mask[:, which],
            tokens=None if self.tokens is None else self.tokens[:, which],
        )


def point_prompts(points: Tensor, labels: Tensor, size: tuple[int, int]) -> Prompts:
    """Prompts of points alone, padded as SAM pads them.

    Args:
        points: (B, Q, P, 2) x, y in pixels.
        labels: (B, Q, P) `POSITIVE` or `NEGATIVE`.

    >>> point_prompts(torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1, dtype=torch.int64), (8, 8)).labels.tolist()
    [[[1, -1], [1, -1]]]
    """
    blank = points.new_zeros(*points.shape[:2], 1, 2)
    none = torch.full_like(labels[..., :1], NO_POINT)
    return Prompts(torch.cat([points, blank], 2), torch.cat([labels, none], 2), size)


def box_prompts(boxes: Tensor, size: tuple[int, int]) -> Prompts:
    """Prompts of boxes (B, Q, 4): x0, y0, x1, y1 in pixels."""
    corners = boxes.unflatten(-1, (2, 2))
    labels = torch.full(corners.shape[:3], CORNER, device=boxes.device)
    labels[..., 1] = OPPOSITE
    return Prompts(corners, labels, size)


def mask_prompts(logits: Tensor, size: tuple[int, int]) -> Prompts:
    """Prompts of masks alone: (B, Q, h, w) logits on the backbone's mask grid."""
    shape = (*logits.shape[:2], 1)
    labels = torch.full(shape, ABSENT, device=logits.device)
    return Prompts(logits.new_zeros(*shape, 2), labels, size, logits)


def check_prompts(prompts: Prompts) -> None:
    """Refuse what a user can get wrong; reads values, so it is for inference and not for a training step.

    Raises:
        DataError: a point or a corner outside of the image, a box without area, an empty mask, no prompt at all.
    """
    height, width = prompts.size
    if min(height, width) < 2:
        raise DataError(f"an image of {height}×{width} pixels is too small to segment; it needs 2×2 at least")
    if prompts.number == 0:
        raise DataError("there is no prompt; give at least one point, box or mask")
    real = (prompts.labels >= 0).unsqueeze(-1)
    x, y = torch.where(real, prompts.points, 0.0).unbind(-1)
    wrong = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5) | ~torch.isfinite(x + y)
    if bool(wrong.any()):
        (b, q, p), named = _first(wrong)
        raise DataError(
            f"{named}: the point (x {float(x[b, q, p]):g}, y {float(y[b, q, p]):g}) "
            f"lies outside of the image of {height}×{width} pixels (height × width)"
        )
    _check_boxes(prompts)
    if prompts.mask is not None:
        inside = (prompts.mask > 0).flatten(2).any(2)
        empty = ~inside if prompts.with_mask is None else ~inside & prompts.with_mask
        if bool(empty.any()):
            raise DataError(f"{_first(empty)[1]}: its mask is empty, or smaller than half a cell of the mask grid")


def _check_boxes(prompts: Prompts) -> None:
    first, second = prompts.labels == CORNER, prompts.labels == OPPOSITE
    if not bool(first.any()):
        return
    corner = torch.where(first.unsqueeze(-1), prompts.points, 0.0).sum(2)
    opposite = torch.where(second.unsqueeze(-1), prompts.points, 0.0).sum(2)
    bad = first.any(2) & (opposite <= corner).any(-1)
    if bool(bad.any()):
        (b, q), named = _first(bad)
        box = [round(float(v), 1) for v in (*corner[b, q], *opposite[b, q])]
        raise DataError(f"{named}: the box {box} must read x0, y0, x1, y1 with x0 < x1 and y0 < y1")


def _first(wrong: Tensor) -> tuple[list[int], str]:
    """Where the first wrong one of (B, Q, …) bool is, and what a sentence calls its prompt."""
    place = wrong.nonzero()[0].tolist()
    return place, f"prompt {place[1]}" + (f" of image {place[0]}" if len(wrong) > 1 else "")
