"""Prompts from ground truth, as a user might give them: points, jittered boxes, partial masks, corrections.

Source: paper section 2.1 and figure 4 (a): "point prompts are created by randomly inserting coordinates, bounding
box prompts by outlining bounding boxes around objects, and mask prompts are modeled using randomly generated
partial masks that are smaller in size than the original GT masks". Jitter and correction clicks: Kirillov et al.,
"Segment Anything", appendix A. Everything is keyed by the streams of the image. No host sync.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lamella import Streams
from lamella.errors import ConfigError
from torch import Tensor

from lamella_sam.backbone import SamBackbone
from lamella_sam.objects import Objects, boxes_of, pick_pixel
from lamella_sam.prompts import ABSENT, CORNER, NEGATIVE, NO_POINT, OPPOSITE, POSITIVE, Prompts

MASK_LOGIT = 10.0
"""What a pixel inside a given mask counts as before the prompt encoder; its negative outside."""


class Mix(NamedTuple):
    """How often each type of prompt is given, and how carelessly."""

    point: float = 1.0
    """Weight of a single point."""
    box: float = 1.0
    """Weight of a box."""
    mask: float = 1.0
    """Weight of a partial mask."""
    negative: float = 0.25
    """Probability of a negative point beside any prompt."""
    jitter: float = 0.1
    """Largest shift of a box's sides, as a share of its size."""
    least: float = 0.1
    """Smallest share of the object that a partial mask may hold."""
    most: float = 0.7
    """Largest share."""


def mix_of(given: Mapping[Any, float] | None, negative: float, jitter: float, where: str) -> Mix:
    """A mix from the weights of prompt types (equal where none are given); raises `ConfigError`."""
    share = (
        {"point": 1.0, "box": 1.0, "mask": 1.0} if given is None else {"point": 0.0, "box": 0.0, "mask": 0.0, **given}
    )
    if min(share.values()) < 0 or sum(share.values()) <= 0:
        raise ConfigError(f"{where}: mix = {given!r} needs weights of 0 or more, and one above 0")
    return Mix(point=share["point"], box=share["box"], mask=share["mask"], negative=negative, jitter=jitter)


class Asked(NamedTuple):
    """One prompt for each of Q objects of B images, before any network: in pixels of the image."""

    points: Tensor
    """(B, Q, 3, 2) x, y: two corners, or the point and its padding; and a negative point."""
    labels: Tensor
    """(B, Q, 3) as `Prompts.labels`."""
    partial: Tensor
    """(B, Q, H, W) bool: the partial mask that each object would be asked by."""
    masked: Tensor
    """(B, Q) bool: which objects are asked for by their partial mask."""
    doubt: Tensor
    """(B, Q) bool: which prompts leave doubt, single points."""


def asked_prompts(objects: Objects, streams: Streams, mix: Mix) -> Asked:
    """One prompt for each object, of a type drawn for it."""
    q, height, width = objects.mask.shape[1:]
    total = mix.point + mix.box + mix.mask
    kind = streams.uniform(0.0, total, q)
    boxed = (kind >= mix.point) & (kind < mix.point + mix.box)
    masked = kind >= mix.point + mix.box
    pointed = ~boxed & ~masked
    corners = jittered(boxes_of(objects.mask), streams.child("jitter"), mix.jitter, (height, width))
    point = objects.pixel.flip(-1).to(torch.float32)
    outside, some = negative_points(objects.mask, objects.known, streams.child("negative"))
    negative = some & (streams.child("whether").uniform(0.0, 1.0, q) < mix.negative)
    first = torch.where(boxed.unsqueeze(-1), corners[..., :2], point)
    second = torch.where(boxed.unsqueeze(-1), corners[..., 2:], 0.0)
    labels = torch.stack(
        [
            torch.where(boxed, CORNER, torch.where(pointed, POSITIVE, ABSENT)),
            torch.where(boxed, OPPOSITE, torch.where(pointed, NO_POINT, ABSENT)),
            torch.where(negative, NEGATIVE, ABSENT),
        ],
        -1,
    )
    points = torch.stack([first, second, outside], 2)
    partial = partial_masks(objects, streams.child("partial"), mix.least, mix.most)
    return Asked(points, labels, partial, masked, pointed & ~negative)


def given_prompts(objects: Objects, backbone: SamBackbone, streams: Streams, mix: Mix) -> tuple[Prompts, Tensor]:
    """What `asked_prompts` draws as prompts of a network; and (B, Q) bool, which leave doubt (single points)."""
    asked = asked_prompts(objects, streams, mix)
    height, width = objects.mask.shape[-2:]
    logits = logits_of_masks(asked.partial, backbone)
    return Prompts(asked.points, asked.labels, (height, width), logits, asked.masked), asked.doubt


def jittered(boxes: Tensor, streams: Streams, jitter: float, size: tuple[int, int]) -> Tensor:
    """Boxes (B, Q, 4) whose sides are each moved by up to ``jitter`` of the box's size, within the image."""
    q = boxes.shape[1]
    sides = (boxes[..., 2:] - boxes[..., :2] + 1).repeat(1, 1, 2)
    moved = boxes + jitter * sides * streams.uniform(-1.0, 1.0, q, 4)
    x, y = moved[..., 0::2].clamp(0, size[1] - 1), moved[..., 1::2].clamp(0, size[0] - 1)
    low, high = torch.stack([x[..., 0], y[..., 0]], -1), torch.stack([x[..., 1], y[..., 1]], -1)
    return torch.cat([torch.minimum(low, high), torch.maximum(low, high)], -1)


def negative_points(mask: Tensor, known: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:
    """A point (B, Q, 2) x, y just outside of each object, and whether there is one (B, Q).

    Drawn from the object's box, widened by a quarter and 8 pixels, without the object and what has no label.
    """
    q, height, width = mask.shape[1:]
    box = boxes_of(mask)
    margin = 0.25 * (box[..., 2:] - box[..., :2]).amax(-1) + 8.0
    y = torch.arange(height, device=mask.device).view(-1, 1)
    x = torch.arange(width, device=mask.device).view(1, -1)
    x0, y0, x1, y1 = (edge[..., None, None] for edge in box.unbind(-1))
    wide = margin[..., None, None]
    near = (x >= x0 - wide) & (x <= x1 + wide) & (y >= y0 - wide) & (y <= y1 + wide)
    pixel, some = pick_pixel(near & ~mask & known.unsqueeze(1), streams.uniform(0.0, 1.0, q))
    return pixel.flip(-1).to(torch.float32), some


def partial_masks(objects: Objects, streams: Streams, least: float, most: float) -> Tensor:
    """(B, Q, H, W) bool: what a turned ellipse around the object's pixel cuts out of the object.

    The ellipse's own area is a share of the object's, so the part is smaller than the object (or one pixel).
    """
    q, height, width = objects.mask.shape[1:]
    area = objects.mask.flatten(2).sum(2).to(torch.float32)
    share = streams.uniform(least, most, q)
    long = (share * area / math.pi).sqrt()
    stretch = torch.exp(streams.uniform(-0.7, 0.7, q))
    angle = streams.uniform(0.0, math.pi, q)
    y = torch.arange(height, device=area.device).view(-1, 1) - objects.pixel[..., 0, None, None]
    x = torch.arange(width, device=area.device).view(1, -1) - objects.pixel[..., 1, None, None]
    cos, sin, long, stretch = (v[..., None, None] for v in (angle.cos(), angle.sin(), long, stretch))
    u, v = (cos * x + sin * y) / (long * stretch), (cos * y - sin * x) / (long / stretch)
    return objects.mask & ((u * u + v * v < 1.0) | ((x == 0) & (y == 0)))


def mask_logits(share: Tensor) -> Tensor:
    """Mask prompts (B, Q, h, w) from covered shares in [0, 1]: ±`MASK_LOGIT` where a cell is full or empty."""
    return MASK_LOGIT * (2.0 * share - 1.0)


def logits_of_masks(mask: Tensor, backbone: SamBackbone) -> Tensor:
    """Masks (B, Q, H, W) bool as mask prompts (B, Q, h, w): of each cell the share that is covered.

    Of a mask too thin to cover more than half of any cell, the cells that it touches: by shares it would be nowhere.
    """
    share = backbone.reduce(mask.to(torch.float32))
    filled = (share > 0.5).flatten(2).any(2)[..., None, None]
    return mask_logits(torch.where(filled, share, backbone.touched(mask)))


def corrected(
    prompts: Prompts, logits: Tensor, mask: Tensor, streams: Streams, *, cell: float, feed_back: Tensor, known: Tensor
) -> Prompts:
    """The prompts with one more click each, where the mask is wrong; unchanged where it is right.

    Args:
        logits: (B, Q, h, w) the masks so far, on the mask grid, without gradient.
        mask: (B, Q, h, w) in [0, 1], the covered share of the object on the mask grid.
        cell: side of a cell of the mask grid in pixels of the image.
        feed_back: (B, Q) bool, which prompts get their mask so far as a mask prompt.
        known: (B, Q, h, w) bool, the cells of the image that have a label; nobody clicks on others.

    The click's label is the object's at that place. Clicks fall on the centres of cells of the mask grid.
    """
    q = mask.shape[1]
    inside = mask >= 0.5
    wrong = ((logits > 0) != inside) & known
    pixel, some = pick_pixel(wrong, streams.uniform(0.0, 1.0, q))
    flat = pixel[..., 0] * mask.shape[-1] + pixel[..., 1]
    positive = inside.flatten(2).gather(2, flat.unsqueeze(-1)).squeeze(-1)
    label = torch.where(some, positive.to(torch.int64), ABSENT)
    height, width = prompts.size
    point = (pixel.flip(-1) + 0.5) * cell - 0.5
    point = torch.stack([point[..., 0].clamp(0, width - 1), point[..., 1].clamp(0, height - 1)], -1)
    before, had = prompts.mask, prompts.with_mask
    if before is None:
        before, had = logits, torch.zeros_like(feed_back)
    elif had is None:
        had = torch.ones_like(feed_back)
    return prompts._replace(
        points=torch.cat([prompts.points, point.unsqueeze(2)], 2),
        labels=torch.cat([prompts.labels, label.unsqueeze(2)], 2),
        mask=torch.where(feed_back[..., None, None], logits.clamp(-32.0, 32.0), before),
        with_mask=had | feed_back,
    )
