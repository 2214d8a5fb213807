"""Suggestions for an annotation folder from any segmentation run, and how coherent each is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from lamella import IGNORE, Batch, Modality, Trainer
from lamella.engine.evaluate import predict_whole
from lamella.engine.experiment import Experiment
from lamella.engine.inputs import Input, as_trained, read_sample
from lamella.engine.metrics import confusion, iou_of
from lamella.engine.predict_classes import classifies
from lamella.engine.run import open_run
from lamella.engine.session import make_accelerator
from lamella.errors import ConfigError, DataError
from torch import Tensor

from lamella_sam.annotate.folder import AnnotationFolder, Entry

VIEWS: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    (lambda image: image.flip(-1), lambda label: label.flip(-1)),
    (lambda image: image.flip(-2), lambda label: label.flip(-2)),
    (lambda image: image.clamp(0, 1) ** 0.8, lambda label: label),
)
"""Views of an image that a sure model labels alike, and the way back for their labels."""


def open_for(run: Path, classes: list[str]) -> tuple[Experiment, Trainer, Modality]:
    """A trained run that tells a folder's classes of pixels; raises `ConfigError` for another."""
    experiment, trainer, modality, header = open_run(run)
    known = header["data"]["class_names"]
    if known != classes:
        raise ConfigError(f"{run} tells the classes {', '.join(known)}, the folder has {', '.join(classes)}")
    if classifies(trainer) or trainer.embeds:
        raise ConfigError(f"{run}: it gives no class to each pixel of an image; name a run that segments")
    refuse_prompted(getattr(trainer, "answer", None), str(run))
    return experiment, trainer, modality


def refuse_prompted(answer: str | None, who: str) -> None:
    """Raise `ConfigError` for a trainer that answers prompts made from labels: it would be told what to find."""
    if answer not in (None, "classes"):
        raise ConfigError(
            f"{who}: it answers prompts made from labels (answer = {answer!r}), which images without any do not have; "
            "take a trainer that tells classes by itself, as sesami does with answer = 'classes'"
        )


class Suggester:
    """A run that labels images: what it predicts, and how far it agrees with itself."""

    def __init__(self, run: Path, classes: list[str]):
        experiment, self.trainer, self.modality = open_for(run, classes)
        self.run, self.tile = run, experiment.fit.tile_for(self.trainer)
        self.reading = as_trained(experiment, self.trainer)
        self.accelerator = make_accelerator(experiment.fit.precision)
        self.trainer.to(self.accelerator.device)

    def batch(self, folder: AnnotationFolder, name: str) -> Batch:
        """An image as training and `lamella predict` show it to the run: without a data bar, on the run's device.

        Raises `DataError`.
        """
        made = self.modality.collate([read_sample(name, Input(folder.original(name)), self.reading)])
        if isinstance(made, dict):
            raise ConfigError(f"{self.run} makes label maps of several views; name a run that segments single images")
        on_device: Batch = send_to_device(made, self.accelerator.device)
        return on_device

    @torch.inference_mode()
    def label(self, batch: Batch) -> Tensor:
        """(1, H, W) int64 classes."""
        with self.accelerator.autocast():
            return predict_whole(self.trainer, batch, self.tile).argmax(1)

    def suggest(self, folder: AnnotationFolder, name: str) -> tuple[np.ndarray, float]:
        """The label (H, W) uint8 of an image, 255 in a data bar, and its coherence.

        Coherence is the mean over views (mirrored twice, lighter) of the mIoU between the label of the image and
        that of the view, turned back: 1 where the model always says the same. It needs no truth and is no
        accuracy; it only orders the queue.
        """
        batch = self.batch(folder, name)
        label = self.label(batch)
        scores = []
        for there, back in VIEWS:
            other = back(self.label(batch._replace(image=there(batch.image))))
            count = int(torch.maximum(label.max(), other.max())) + 1
            scores.append(iou_of(confusion(other, label, count)).nanmean())
        whole = in_whole(label[0].to(torch.uint8).cpu().numpy(), folder.size(name), IGNORE)
        return whole, float(torch.stack(scores).mean())


def in_whole(seen: np.ndarray, size: tuple[int, int], bar: int) -> np.ndarray:
    """What was said of an image without its data bar, in the size of the whole one; ``bar`` below it."""
    out = np.full(size, bar, seen.dtype)
    out[: len(seen)] = seen
    return out


def suggest_all(folder: AnnotationFolder, run: Path, tell: Callable[[str], None]) -> list[Entry]:
    """Label every image that nobody has accepted; returns the queue, least coherent first.

    A mask that a person has begun to change since the last suggestion is left alone. What is wrong with an image that
    the run cannot read is told, and the others are labelled; raises `DataError` where there are no others.
    """
    suggester, labelled, failed = Suggester(run, folder.classes), 0, 0
    for name in [entry.name for entry in folder.of("new", "suggested")]:
        try:
            if _left_alone(folder, name, tell):
                continue
            label, score = suggester.suggest(folder, name)
            folder.read()
            if _left_alone(folder, name, tell):
                continue
        except DataError as error:
            tell(f"{error}; it is left as it is")
            failed += 1
            continue
        labelled += 1
        folder.write_mask(name, label, suggested=True)
        entry = folder.entry(name)
        entry.status, entry.score = "suggested", score
        entry.provenance.append({"suggested": str(run), "score": score})
        folder.save()
    if failed and not labelled:
        raise DataError(f"{folder.path}: {run} can read none of the images that wait")
    return folder.queue()


def _left_alone(folder: AnnotationFolder, name: str, tell: Callable[[str], None]) -> bool:
    """Whether a mask is a person's, who has accepted it or changed it since it was suggested; tells so."""
    if (status := folder.entry(name).status) in ("accepted", "locked"):
        tell(f"{name}: it is {status} by now and left alone")
        return True
    if folder.touched(name):
        tell(f"{name}: its mask was changed by hand and is left alone")
        return True
    return False


def promptable(suggester: Suggester) -> Any | None:
    """The run's promptable network, or None."""
    network = getattr(suggester.trainer, "backbone", None)
    return network if hasattr(network, "masks") else None
