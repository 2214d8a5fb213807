"""Predicting whole images, tile by tile where they are large, and measuring a trainer on a set."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.data import Modality
from lamella.contracts.model import Trainer
from lamella.data.loaders import evaluation_batches
from lamella.data.samples import SampleTable


def predict_whole(trainer: Trainer, batch: Batch | dict[str, Batch], tile: int) -> Tensor:
    """What the trainer predicts, float32: of every pixel (B, K, H, W), or of a whole sample (B, …).

    Pictures with a side above ``tile`` go through in tiles that overlap by a quarter and are blended with a linear
    ramp, so no seam shows; samples of several views go through whole.
    """
    if isinstance(batch, dict):
        return trainer.predict(batch).to(torch.float32)  # type: ignore[arg-type]
    height, width = batch.image.shape[-2:]
    if height <= tile and width <= tile:
        return trainer.predict(batch).to(torch.float32)
    total: Tensor | None = None
    share = batch.image.new_zeros(1, 1, height, width)
    for top, left, bottom, right in tiles(height, width, tile):
        part = batch._replace(image=batch.image[..., top:bottom, left:right], label=None, weight=None, instance=None)
        predicted = trainer.predict(part).to(torch.float32)
        weight = ramp(bottom - top, right - left, tile // 4, batch.image)
        if total is None:
            total = predicted.new_zeros(*predicted.shape[:2], height, width)
        total[..., top:bottom, left:right] += predicted * weight
        share[..., top:bottom, left:right] += weight
    assert total is not None
    return total / share


def tiles(height: int, width: int, tile: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of tiles that cover an image and overlap by at least a quarter.

    >>> list(tiles(100, 64, 64))
    [(0, 0, 64, 64), (36, 0, 100, 64)]
    """
    for top in starts(height, tile):
        for left in starts(width, tile):
            yield top, left, min(top + tile, height), min(left + tile, width)


def starts(size: int, tile: int) -> list[int]:
    """Where tiles begin along a side, evenly, overlapping by at least a quarter."""
    if size <= tile:
        return [0]
    stride = tile - tile // 4
    count = -(-(size - tile) // stride)
    return [round(i * (size - tile) / count) for i in range(count + 1)]


def ramp(height: int, width: int, overlap: int, like: Tensor) -> Tensor:
    """(1, 1, height, width) weights of a tile: rising linearly over ``overlap`` pixels from every side."""

    def along(size: int) -> Tensor:
        distance = torch.minimum(torch.arange(size), torch.arange(size).flip(0)) + 1
        return (distance / (overlap + 1)).clamp(max=1.0).to(like.device, torch.float32)

    return (along(height).view(-1, 1) * along(width).view(1, -1)).view(1, 1, height, width)


def evaluate(
    trainer: Trainer,
    table: SampleTable,
    modality: Modality,
    *,
    device: torch.device,
    batch_size: int | None = None,
    tile: int,
    watch: Callable[[Batch | dict[str, Batch], Tensor, list[str]], None] | None = None,
) -> dict[str, Any]:
    """The trainer's metrics on every sample of a labelled set.

    Args:
        batch_size: by default as in `evaluation_batches`.
        watch: called with each batch, its probabilities and its names (for pictures, say).
    """
    from accelerate.utils import send_to_device

    training = trainer.training
    trainer.eval()
    metrics = trainer.metrics()
    try:
        with torch.inference_mode():
            for batch, names in evaluation_batches(table, modality, batch_size):
                batch = send_to_device(batch, device)
                probabilities = predict_whole(trainer, batch, tile)
                for metric in metrics:
                    metric.update(probabilities, batch)
                if watch is not None:
                    watch(batch, probabilities, names)
    finally:
        trainer.train(training)
    return {name: value for metric in metrics for name, value in metric.compute().items()}
