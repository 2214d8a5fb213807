"""CutMix: a rectangle of one image, with its label and its trust, pasted into another."""

import warnings

import torch
from lamella import Batch, Step, Streams
from torch import Tensor


def cutmix(batch: Batch, streams: Streams, *, p: float = 0.5) -> Batch:
    """Paste into each image, with probability ``p``, a rectangle of its neighbour in the batch.

    Image, label, trust and instances move together. The rectangle covers 2–40 % of the image, its height is 0.3–1/0.3
    of its width, both uniform. The neighbour is the image before; a batch of one image is left alone.

    Source: Yun et al., CutMix, ICCV 2019; rectangles as in UniMatch (Yang et al., CVPR 2023), but for those that do not
    fit: it draws them again, here their aspect is drawn from those that do.

    >>> image = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    >>> mixed = cutmix(Batch.of(image), Streams(torch.arange(2)), p=1.0)
    >>> bool((mixed.image[0].mean() > 0.01) & (mixed.image[0].mean() < 0.45))
    True
    """
    inside = rectangles(batch.image.shape[-2], batch.image.shape[-1], streams)
    inside = inside & (streams.uniform(0.0, 1.0) < p).view(-1, 1, 1)

    def mixed(values: Tensor | None) -> Tensor | None:
        if values is None or values.ndim < 3:
            return values
        mask = inside.unsqueeze(1) if values.ndim == 4 else inside
        return torch.where(mask, values.roll(1, 0), values)

    image = mixed(batch.image)
    assert image is not None
    return batch._replace(
        image=image, label=mixed(batch.label), weight=mixed(batch.weight), instance=mixed(batch.instance)
    )


def warn_if_alone(batch: Batch, step: Step) -> None:
    """Warn, at the first step, where images are to take from each other and there is one alone."""
    if step.number == 0 and len(batch.key) == 1:
        warnings.warn(
            "mix and paste take from the image before, and one image per process and part has none: nothing is mixed, "
            "and labelled objects are pasted into their own image; use a larger batch_size, or less accumulation",
            stacklevel=1,
        )


def rectangles(height: int, width: int, streams: Streams) -> Tensor:
    """(B, H, W) bool: a rectangle of 2–40 % of each image, inside it."""
    share = streams.uniform(0.02, 0.4)
    area, least = share * height * width, (share * height / width).clamp(min=0.3)
    most = (height / (share * width)).clamp(max=1 / 0.3)
    aspect = torch.lerp(least, most, streams.uniform(0.0, 1.0))
    tall = (area * aspect).sqrt().clamp(1, height).round()
    wide = (area / aspect).sqrt().clamp(1, width).round()
    top = (streams.uniform(0.0, 1.0) * (height - tall + 1)).floor()
    left = (streams.uniform(0.0, 1.0) * (width - wide + 1)).floor()
    rows = torch.arange(height, device=area.device).view(1, -1, 1)
    columns = torch.arange(width, device=area.device).view(1, 1, -1)
    top, left, tall, wide = (value.view(-1, 1, 1) for value in (top, left, tall, wide))
    return (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
