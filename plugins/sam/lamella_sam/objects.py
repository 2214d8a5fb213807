"""Objects to ask for, from labels: connected regions, one drawn at random per prompt. No host sync."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from lamella import IGNORE, Batch, Streams
from lamella.errors import ConfigError
from torch import Tensor

Kind = Literal["region", "class", "instance"]
"""An object is a connected region of one class, all of a class, or what the instance map holds."""


class Objects(NamedTuple):
    """Q objects of each of B images."""

    mask: Tensor
    """(B, Q, H, W) bool."""
    pixel: Tensor
    """(B, Q, 2) int64, y and x of a pixel inside, uniform over the object."""
    there: Tensor
    """(B, Q) bool: whether the image had any object."""
    known: Tensor
    """(B, H, W) bool: where the label says what is there; elsewhere nobody can say that an object ends."""


def identities(batch: Batch, kind: Kind, *, background: int | None = None) -> Tensor:
    """(B, H, W) int64: −1 where the label says nothing, 0 where there is no object, else one number for each object.

    Where an object is a region or an instance, no number is above H·W.

    Args:
        background: a class that is no object, where ``kind`` is not ``instance``.

    Raises:
        ConfigError: instances of data without them.
    """
    label = batch.label
    if kind == "instance":
        if batch.instance is None:
            raise ConfigError(
                "objects = 'instance' needs data with instance maps, and these have none: name them by instances = "
                "[ … ] beside labels, or set objects to 'region' or 'class'"
            )
        objects = renumbered(batch.instance)
        return objects if label is None else torch.where(label == IGNORE, -1, objects)
    assert label is not None
    found = label + 1 if kind == "class" else regions(label) + 1
    if background is not None:
        found = torch.where(label == background, 0, found)
    return torch.where(label == IGNORE, -1, found)


def renumbered(instance: Tensor) -> Tensor:
    """Object ids (B, H, W) int64 of any size as 1, 2, … in each image, in rising order; 0 where they are 0 or less.

    Without a host sync, hence by sorting.

    >>> renumbered(torch.tensor([[[0, 2**40, 7], [7, -1, 2**40 + 1]]])).tolist()
    [[[0, 2, 1], [1, 0, 3]]]
    """
    rising, place = instance.clamp(min=0).flatten(1).sort(1)
    number = (rising.diff(dim=1, prepend=torch.zeros_like(rising[:, :1])) != 0).cumsum(1)
    return torch.empty_like(number).scatter(1, place, number).view_as(instance)


def regions(label: Tensor) -> Tensor:
    """(B, H, W) int64: the largest pixel index of each pixel's 4-connected region of equal label.

    On the host scikit-image finds them; on an accelerator, where that would wait for the host, `swept`.

    >>> regions(torch.tensor([[[0, 0, 1], [1, 1, 1], [0, 0, 0]]])).tolist()
    [[[1, 1, 5], [5, 5, 5], [8, 8, 8]]]
    """
    return torch.stack([_connected(one) for one in label]) if label.device.type == "cpu" else swept(label)


def _connected(label: Tensor) -> Tensor:
    """`regions` of one image (H, W) on the host."""
    from skimage.measure import label as components

    found = components(label.numpy(), background=-1, connectivity=1)
    last = np.zeros(found.max() + 1, np.int64)
    last[found.ravel()] = np.arange(found.size)  # of several the last one stays
    return torch.from_numpy(last[found])


def swept(label: Tensor, *, sweeps: int = 64) -> Tensor:
    """`regions` without a host sync: every sweep carries the largest index along rows and columns, both ways.

    ``sweeps`` of them reach around twice as many corners, so a region that winds more often may fall into parts. A
    rough layer over four fins needs more than 32.
    """
    b, height, width = label.shape
    index = torch.arange(height * width, device=label.device).view(1, height, width).expand(b, -1, -1)
    rows, columns = _runs(label, 2), _runs(label, 1)
    for _ in range(sweeps):
        index = _carry(_carry(index, rows, 2), columns, 1)
    return index


def _runs(label: Tensor, dim: int) -> Tensor:
    """The number of each run of equal labels along a dimension, counted from its start."""
    size = label.shape[dim]
    changed = label.narrow(dim, 1, size - 1) != label.narrow(dim, 0, size - 1)
    first = torch.zeros_like(label.narrow(dim, 0, 1))
    return torch.cat([first, changed.to(torch.int64).cumsum(dim)], dim)


def _carry(index: Tensor, runs: Tensor, dim: int) -> Tensor:
    """The largest index in each run, by a running maximum there and back."""
    far = index.shape[1] * index.shape[2]
    there = (index + runs * far).cummax(dim).values - runs * far
    last = runs.narrow(dim, -1, 1) - runs
    back = (there + last * far).flip(dim).cummax(dim).values.flip(dim)
    return back - last * far


def drawn_objects(identity: Tensor, streams: Streams, count: int, *, evenness: float = 1.0) -> Objects:
    """``count`` objects of every image, and a pixel inside each.

    Args:
        identity: (B, H, W) int64 from `identities`.
        evenness: 1 draws every object equally often, 0 in proportion to its area, between them by area^(1 − e).
    """
    b, height, width = identity.shape
    flat = identity.flatten(1)
    slot = flat.clamp(min=0) % (height * width + 1)
    area = torch.zeros(b, height * width + 1, dtype=torch.float64, device=flat.device)
    area = area.scatter_add_(1, slot, torch.ones_like(slot, dtype=torch.float64))
    weight = torch.where(flat > 0, area.gather(1, slot) ** -evenness, 0.0)
    place = pick(weight, streams.uniform(0.0, 1.0, count))
    chosen = flat.gather(1, place)
    mask = (identity.unsqueeze(1) == chosen.view(b, count, 1, 1)) & (chosen > 0).view(b, count, 1, 1)
    pixel = torch.stack([place // width, place % width], -1)
    return Objects(mask, pixel, chosen > 0, identity >= 0)


def all_objects(identity: Tensor, streams: Streams, most: int, *, least: int = 1) -> Objects:
    """Every object of each image once, the largest first, and a pixel inside each. No host sync.

    Args:
        identity: (B, H, W) int64 from `identities`.
        most: Q; of more objects the largest.
        least: objects of fewer pixels are not ``there``.
    """
    b, height, width = identity.shape
    flat = identity.flatten(1)
    slot = flat.clamp(min=0) % (height * width + 1)
    place = torch.arange(height * width, device=flat.device).expand(b, -1)
    none = torch.zeros(b, height * width + 1, dtype=torch.int64, device=flat.device)
    area = none.scatter_add(1, slot, torch.ones_like(slot)).gather(1, slot)
    last = none.scatter_reduce(1, slot, place, "amax").gather(1, slot)
    size, chosen = torch.where((last == place) & (flat > 0), area, 0).topk(min(most, height * width))
    there = size >= max(least, 1)
    mask = (identity.unsqueeze(1) == flat.gather(1, chosen)[..., None, None]) & there[..., None, None]
    pixel, _ = pick_pixel(mask, streams.uniform(0.0, 1.0, there.shape[1]))
    return Objects(mask, pixel, there, identity >= 0)


def pick(weight: Tensor, share: Tensor) -> Tensor:
    """Positions (…, n) drawn with probability ∝ ``weight`` (…, N), from uniform numbers ``share`` (…, n).

    Where all weights are 0 the position is some position.
    """
    sums = weight.to(torch.float64).cumsum(-1)
    place = torch.searchsorted(sums, share.to(torch.float64) * sums[..., -1:], right=True)
    return place.clamp(max=weight.shape[-1] - 1)


def pick_pixel(where: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """A pixel (…, 2) (y, x) uniform in each map (…, H, W) bool, and whether the map had any (…).

    Args:
        share: (…) uniform in [0, 1).
    """
    width = where.shape[-1]
    flat = where.flatten(-2)
    place = pick(flat.to(torch.float64), share.unsqueeze(-1)).squeeze(-1)
    return torch.stack([place // width, place % width], -1), flat.any(-1)


def boxes_of(mask: Tensor) -> Tensor:
    """(…, 4) float32 x0, y0, x1, y1 of the pixels of each mask (…, H, W); the whole map where it is empty."""
    height, width = mask.shape[-2:]
    columns, rows = mask.any(-2), mask.any(-1)
    x0, y0 = (line.to(torch.uint8).argmax(-1) for line in (columns, rows))
    x1 = width - 1 - columns.flip(-1).to(torch.uint8).argmax(-1)
    y1 = height - 1 - rows.flip(-1).to(torch.uint8).argmax(-1)
    return torch.stack([x0, y0, x1, y1], -1).to(torch.float32)
