"""Segmenting with a promptable network: what a prompt asks for, and everything there is in an image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from lamella.engine.evaluate import tiles
from torch import Tensor

from lamella_sam.answers import choose
from lamella_sam.objects import boxes_of
from lamella_sam.prompts import POSITIVE, Prompts, check_prompts, point_prompts

if TYPE_CHECKING:
    from lamella_sam.backbone import SamBackbone


class Found(NamedTuple):
    """N objects of one image."""

    mask: Tensor
    """(N, H, W) bool."""
    quality: Tensor
    """(N,) the IoU that the network expects of each mask."""

    def instances(self) -> Tensor:
        """(H, W) int64 object ids from 1 in the order of quality, 0 = none; smaller objects lie on top."""
        out = torch.zeros(self.mask.shape[1:], dtype=torch.int64, device=self.mask.device)
        for number in self.mask.flatten(1).sum(1).argsort(descending=True, stable=True).tolist():
            out = torch.where(self.mask[number], number + 1, out)
        return out


class Patch(NamedTuple):
    """A mask within its box, and where in the image that begins."""

    mask: np.ndarray
    """(h, w) bool."""
    top: int
    left: int

    def shared(self, other: "Patch") -> int:
        """How many pixels are in both masks."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.mask.shape[0], other.top + other.mask.shape[0])
        right = min(self.left + self.mask.shape[1], other.left + other.mask.shape[1])
        if bottom <= top or right <= left:
            return 0
        ours, theirs = (
            one.mask[top - one.top : bottom - one.top, left - one.left : right - one.left] for one in (self, other)
        )
        return int(np.count_nonzero(ours & theirs))


@torch.no_grad()
def ask(backbone: "SamBackbone", embedding: Tensor, prompts: Prompts) -> Found:
    """The objects that prompts ask for, on the embedding (1, C, g, g) of one image.

    Raises:
        DataError: prompts outside of the image, boxes the wrong way round or without area, empty masks.
    """
    check_prompts(prompts)
    logits, iou = backbone.masks(embedding, prompts)
    clicks = (prompts.labels == POSITIVE).sum(2) == 1
    others = (prompts.labels >= 0).sum(2) > 1
    masked = torch.zeros_like(clicks) if prompts.mask is None else torch.ones_like(clicks)
    if prompts.mask is not None and prompts.with_mask is not None:
        masked = prompts.with_mask
    chosen, quality = choose(logits, iou, clicks & ~others & ~masked)
    return Found(backbone.enlarge(chosen, prompts.size)[0] > 0, quality[0])


@torch.no_grad()
def everything(
    backbone: "SamBackbone",
    image: Tensor,
    *,
    grid: int = 16,
    quality: float = 0.6,
    stability: float = 0.8,
    overlap: float = 0.7,
    smallest: int = 16,
    tile: int = 1024,
) -> Found:
    """Every object of an image (1, C, H, W) in [0, 1]: a click at each point of a grid, filtered.

    Images with a side above ``tile`` are worked through in tiles that overlap by a quarter; objects cut by an
    inner border of a tile are left to its neighbour, so one that is wider than the overlap can be cut in both and is
    not found then.

    Args:
        grid: clicks along each side of a tile.
        quality: least IoU that the network expects of a mask.
        stability: least IoU between the mask's cuts at logits +1 and −1.
        overlap: masks whose IoU with a better one is above this are dropped.
        smallest: least pixels of an object.

    Source: Kirillov et al., appendix B, with masks in the place of boxes in the suppression of doubles.
    """
    height, width = image.shape[-2:]
    patches: list[Patch] = []
    scores = []
    for top, left, bottom, right in tiles(height, width, tile):
        part = _in_tile(backbone, image[..., top:bottom, left:right], grid, quality, stability, smallest)
        inner = torch.tensor([left > 0, top > 0, right < width, bottom < height], device=image.device)
        kept = ~_cut_off(part.mask, inner)
        patches += _patches(part.mask[kept], top, left)
        scores.append(part.quality[kept])
    expected = torch.cat(scores)
    best = _without_doubles(patches, expected, overlap)
    whole = torch.zeros(len(best), height, width, dtype=torch.bool)
    for mask, (inside, top, left) in zip(whole, [patches[number] for number in best]):
        mask[top : top + inside.shape[0], left : left + inside.shape[1]] = torch.from_numpy(inside)
    return Found(whole.to(image.device), expected[best])


def _in_tile(
    backbone: "SamBackbone", image: Tensor, grid: int, quality: float, stability: float, smallest: int
) -> Found:
    """All good masks of one tile, doubles among them."""
    height, width = image.shape[-2:]
    place = (torch.arange(grid, device=image.device) + 0.5) / grid
    y, x = torch.meshgrid(place * height - 0.5, place * width - 0.5, indexing="ij")
    points = torch.stack([x, y], -1).view(1, -1, 1, 2).clamp(min=0)
    prompts = point_prompts(
        points, torch.ones(1, grid * grid, 1, dtype=torch.int64, device=image.device), (height, width)
    )
    embedding = backbone.embed(image)
    masks, scores = [], []
    for first in range(0, grid * grid, 64):
        logits, iou = backbone.masks(embedding, prompts.select(slice(first, first + 64)))
        large = backbone.enlarge(logits[0, :, 1:].flatten(0, 1), (height, width))
        score = iou[0, :, 1:].flatten()
        area = (large > 0).flatten(1).sum(1)
        good = (
            (score >= quality) & (_stability(large) >= stability) & (area >= smallest) & (area < 0.95 * height * width)
        )
        masks.append(large[good] > 0)
        scores.append(score[good])
    return Found(torch.cat(masks), torch.cat(scores))


def _stability(logits: Tensor) -> Tensor:
    """(N,) the IoU between the masks cut at +1 and at −1, from logits (N, H, W)."""
    inner, outer = (logits > 1).flatten(1).sum(1), (logits > -1).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def _cut_off(mask: Tensor, inner: Tensor) -> Tensor:
    """(N,) bool: which masks (N, h, w) touch one of the sides (left, top, right, bottom) that are inside the image."""
    sides = torch.stack([mask[:, :, 0].any(1), mask[:, 0].any(1), mask[:, :, -1].any(1), mask[:, -1].any(1)], 1)
    return (sides & inner).any(1)


def _patches(mask: Tensor, top: int, left: int) -> list[Patch]:
    """Masks (N, h, w) of a tile that begins at ``top`` and ``left``."""
    boxes = boxes_of(mask).to(torch.int64).tolist()
    return [
        Patch(one[y0 : y1 + 1, x0 : x1 + 1].copy(), top + y0, left + x0)
        for one, (x0, y0, x1, y1) in zip(mask.cpu().numpy(), boxes)
    ]


def _without_doubles(patches: Sequence[Patch], quality: Tensor, overlap: float) -> list[int]:
    """The better of every two masks that overlap too much, best first."""
    areas = [int(np.count_nonzero(one.mask)) for one in patches]
    kept: list[int] = []
    for number in quality.argsort(descending=True, stable=True).tolist():
        both = [patches[k].shared(patches[number]) for k in kept]
        if all(b <= overlap * (areas[k] + areas[number] - b) for b, k in zip(both, kept)):
            kept.append(number)
    return kept
