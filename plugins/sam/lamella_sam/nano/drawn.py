"""Points and boxes drawn into the mask prompt.

Segment Anything tells a decoder of a prompt's place by Fourier features alone; what a box encloses it has to learn,
which took a million images. A small network with little training is shown it: a box as what lies within it, a click
as a dot. The prompt's tokens stay as they are, and so do the modules and their weights' layout.
"""

import torch
from torch import Tensor

from lamella_sam.prompts import CORNER, NEGATIVE, OPPOSITE, POSITIVE, Prompts

OUTSIDE, WITHIN, DOT = -10.0, 2.0, 10.0
"""Logits: surely not the object, maybe, and surely the object (or, negated, surely not)."""
RADIUS = 2.0
"""Of a dot: its standard deviation in cells of the mask grid."""


def drawn(prompts: Prompts, grid: int, cell: float) -> Prompts:
    """The same prompts, with a mask prompt for each that has a point, a box or a mask; no host sync.

    Args:
        grid: side of the mask grid.
        cell: side of its cells in pixels of the image.

    >>> from lamella_sam.prompts import box_prompts
    >>> drawn(box_prompts(torch.tensor([[[2.0, 0.0, 5.0, 3.0]]]), (8, 8)), 4, 2.0).mask[0, 0, 0].tolist()
    [-10.0, 2.0, 2.0, -10.0]
    """
    place = (prompts.points + 0.5) / cell - 0.5  # (B, Q, P, 2), in cells
    boxed = (prompts.labels == CORNER).any(2)
    paper = torch.where(boxed[..., None, None], _rectangle(place, prompts.labels, grid), 0.0)
    given = (prompts.labels >= 0).any(2)
    if prompts.mask is not None:
        masked = torch.ones_like(given) if prompts.with_mask is None else prompts.with_mask
        paper = torch.where(masked[..., None, None], prompts.mask, paper)
        given = given | masked
    return prompts._replace(mask=_dotted(paper, place, prompts.labels), with_mask=given)


def _rectangle(place: Tensor, labels: Tensor, grid: int) -> Tensor:
    """(B, Q, g, g) `WITHIN` the box and `OUTSIDE` of it; a cell that a side cuts lies within."""
    low, high = (
        torch.where((labels == kind).unsqueeze(-1), place, 0.0).sum(2)[..., None] for kind in (CORNER, OPPOSITE)
    )
    at = torch.arange(grid, device=place.device, dtype=place.dtype)
    within = (at > low - 0.5) & (at < high + 0.5)  # (B, Q, 2, g): x, y
    return torch.where(within[:, :, 0, None, :] & within[:, :, 1, :, None], WITHIN, OUTSIDE)


def _dotted(paper: Tensor, place: Tensor, labels: Tensor) -> Tensor:
    """``paper`` (B, Q, g, g) with a soft dot at each click, blended over what is there."""
    at = torch.arange(paper.shape[-1], device=paper.device, dtype=paper.dtype)
    apart = (at - place.unsqueeze(-1)) / RADIUS  # (B, Q, P, 2, g)
    near = torch.exp(-0.5 * apart * apart)
    cover = near[..., 0, None, :] * near[..., 1, :, None]  # (B, Q, P, g, g)
    ink = DOT * ((labels == POSITIVE).to(paper.dtype) - (labels == NEGATIVE).to(paper.dtype))[..., None, None]
    for dot in range(labels.shape[2]):
        there = cover[:, :, dot] * (ink[:, :, dot] != 0)
        paper = paper * (1 - there) + ink[:, :, dot] * there
    return paper
