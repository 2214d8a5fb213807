"""Predicting an image that is too large to hold as probabilities: strip by strip, in bounded memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lamella.contracts.data import Modality, Sample
from lamella.contracts.model import Trainer
from lamella.engine.evaluate import ramp, starts
from lamella.engine.trust.abstain import ALWAYS, Abstention

LARGE = 4096
"""Images with a longer side are predicted in strips."""


def predict_large(
    trainer: Trainer, sample: Sample, modality: Modality, *, tile: int, device: torch.device,
    rule: Abstention = ALWAYS, maps: np.ndarray | None = None,
) -> np.ndarray:
    """The class of every pixel (H, W) uint8 by a rule, from tiles that overlap by a quarter and are blended.

    At no time are probabilities held for more than one strip of tiles: K × tile × W float32.

    Args:
        maps: (K, H, W) uint8, filled with the probabilities by the rule, 255 being 1.
    """
    height, width = sample.image.shape[:2]
    label = np.empty((height, width), np.uint8)
    done, kept = 0, None
    for top, bottom, next_top, total in _strips(trainer, sample, modality, tile, device):
        if kept is not None:
            total[:, : kept.shape[1]] += kept
        end = bottom if next_top is None else next_top
        # No division by the weights: they are those of the pixel, the same for every class.
        ready = total[:, : end - top]
        label[done:end] = rule.labels(ready).cpu().numpy()
        if maps is not None:
            likely = rule.calibrated(ready / ready.sum(0))
            maps[:, done:end] = (likely * 255).round().to(torch.uint8).cpu().numpy()
        kept, done = total[:, end - top :].clone(), end
    return label


def _strips(
    trainer: Trainer, sample: Sample, modality: Modality, tile: int, device: torch.device
) -> Iterator[tuple[int, int, int | None, Tensor]]:
    """(top, bottom, top of the next strip, sum of weighted probabilities (K, h, W)) of every strip."""
    height, width = sample.image.shape[:2]
    tops = starts(height, tile)
    for place, top in enumerate(tops):
        bottom = min(top + tile, height)
        total: Tensor | None = None
        for left in starts(width, tile):
            right = min(left + tile, width)
            cut = sample.image[top:bottom, left:right]
            batch = modality.collate([sample._replace(image=cut, label=None, instance=None, whole=sample.image)])
            assert not isinstance(batch, dict)
            on_device = batch._replace(image=batch.image.to(device))
            predicted = trainer.predict(on_device)[0].to(torch.float32)
            weight = ramp(bottom - top, right - left, tile // 4, predicted)[0, 0]
            if total is None:
                total = predicted.new_zeros(predicted.shape[0], bottom - top, width)
            total[:, :, left:right] += predicted * weight
        assert total is not None
        yield top, bottom, tops[place + 1] if place + 1 < len(tops) else None, total
