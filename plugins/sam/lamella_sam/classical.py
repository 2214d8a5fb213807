"""What a person without a network would answer to a prompt: Otsu's threshold, superpixels, the box itself."""

from typing import Any

import numpy as np
from lamella import Batch
from lamella.errors import DataError
from scipy import ndimage

from lamella_sam.annotate.correct import superpixels
from lamella_sam.figures import TYPES, streams_of, test_objects
from lamella_sam.objects import Kind, Objects, boxes_of, identities
from lamella_sam.prompting import jittered, partial_masks

Answers = dict[str, dict[str, np.ndarray]]
"""Masks (N, H, W) bool by method and by type of prompt."""


def classical_figures(
    table: Any, modality: Any, *, objects: Kind = "region", background: int | None = None
) -> dict[str, dict[str, float]]:
    """Mean IoU over objects by method and type of prompt, for the prompts that `PromptedFigures` gives.

    Args:
        table: a labelled `SampleTable`.
        modality: reads its samples.
    """
    from lamella.data.loaders import evaluation_batches

    ious: dict[str, dict[str, list[float]]] = {}
    for batch, _ in evaluation_batches(table, modality, 1):
        if not isinstance(batch, Batch) or batch.label is None:
            raise DataError("classical answers need one labelled view per image")
        asked = test_objects(identities(batch, objects, background=background), batch.key)
        known, wanted = asked.known.numpy(), asked.mask[0].numpy()
        for method, kinds in classical_answers(batch, asked).items():
            for kind, found in kinds.items():
                found = found & known
                each = (found & wanted).sum((1, 2)) / np.maximum((found | wanted).sum((1, 2)), 1)
                ious.setdefault(method, {}).setdefault(kind, []).extend(each.tolist())
    return {method: {kind: float(np.mean(v)) for kind, v in kinds.items()} for method, kinds in ious.items()}


def classical_answers(batch: Batch, objects: Objects) -> Answers:
    """Every method's masks for every object of one image."""
    grey = batch.image[0].mean(0).numpy()
    size = (grey.shape[0], grey.shape[1])
    prompts = streams_of(batch.key)
    boxes = jittered(boxes_of(objects.mask), prompts.child("box").child("jitter"), TYPES["box"].jitter, size)
    partial = partial_masks(objects, prompts.child("mask").child("partial"), TYPES["mask"].least, TYPES["mask"].most)
    frames = [_inside(size, box) for box in boxes[0].numpy()]
    points, parts = objects.pixel[0].tolist(), partial[0].numpy()
    segments = superpixels(grey)
    bright = grey > _otsu(grey)
    return {
        "the box itself": {"box": np.stack(frames)},
        "Otsu": {
            "point": np.stack([_touching(bright == bright[y, x], _at(size, y, x)) for y, x in points]),
            "box": np.stack([_otsu_in(grey, frame) for frame in frames]),
            "mask": np.stack([_touching(bright == (bright[part].mean() >= 0.5), part) for part in parts]),
        },
        "SLIC": {
            "point": np.stack([segments == segments[y, x] for y, x in points]),
            "box": np.stack([_mostly(segments, frame, 0.5) for frame in frames]),
            "mask": np.stack([_mostly(segments, part, 0.3) for part in parts]),
        },
    }


def _inside(size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return (x >= np.floor(box[0])) & (x <= np.ceil(box[2])) & (y >= np.floor(box[1])) & (y <= np.ceil(box[3]))


def _at(size: tuple[int, int], y: int, x: int) -> np.ndarray:
    out = np.zeros(size, bool)
    out[y, x] = True
    return out


def _otsu(values: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values)) if values.max() > values.min() else float(values.max())


def _otsu_in(grey: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The side of the threshold within a box that holds most of the box's inner half."""
    bright = grey > _otsu(grey[frame])
    y, x = np.nonzero(frame)
    middle = np.logical_and(*(abs(at - at.mean()) <= max(np.ptp(at) / 4, 0.5) for at in (y, x)))  # of two rows, both
    side = bright[y[middle], x[middle]].mean() >= 0.5
    return frame & (bright == side)


def _touching(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """The connected regions of a mask that meet the seed."""
    parts, _ = ndimage.label(mask)
    return np.isin(parts, np.setdiff1d(np.unique(parts[seed]), 0))


def _mostly(segments: np.ndarray, region: np.ndarray, share: float) -> np.ndarray:
    """The superpixels of which at least a share lies in a region; the most covered one in any case."""
    covered = np.bincount(segments.ravel(), weights=region.ravel()) / np.bincount(segments.ravel())
    return (covered >= min(share, covered.max()))[segments]
