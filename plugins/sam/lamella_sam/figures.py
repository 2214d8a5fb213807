"""How well objects are found when they are asked for: mIoU by type of prompt, and the class map it makes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lamella import Batch, Streams
from lamella.engine.metrics import confusion, iou_of
from torch import Tensor

from lamella_sam.answers import choose, class_map
from lamella_sam.objects import Objects, pick_pixel
from lamella_sam.prompting import Mix, given_prompts

if TYPE_CHECKING:
    from lamella_sam.backbone import SamBackbone

TEST_SEED = 20260101
"""Prompts of a test depend on this seed, the sample's key and the object's place alone: the same for every model."""
TYPES = {
    "point": Mix(point=1, box=0, mask=0, negative=0),
    "box": Mix(point=0, box=1, mask=0, negative=0),
    "mask": Mix(point=0, box=0, mask=1, negative=0),
}
LEAST, MOST = 16, 64
"""Objects of fewer pixels are not asked for; of more objects than this the largest."""


def test_objects(identity: Tensor, key: Tensor) -> Objects:
    """All objects of one image (1, H, W), with a pixel drawn in each; reads values, so it is for tests alone."""
    numbers, counts = identity[identity > 0].unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:MOST]
    numbers = numbers[order][counts[order] >= LEAST]
    mask = identity == numbers.view(-1, 1, 1)  # (N, H, W)
    share = streams_of(key).child("pixel").uniform(0.0, 1.0, MOST)[0, : len(numbers)]
    pixel, there = pick_pixel(mask, share)
    return Objects(mask.unsqueeze(0), pixel.unsqueeze(0), there.unsqueeze(0), identity >= 0)


def streams_of(key: Tensor) -> Streams:
    """The streams (1) of one test image."""
    return Streams.root(TEST_SEED, key, torch.zeros_like(key), "test prompts")


def answered(
    backbone: "SamBackbone", embedding: Tensor, objects: Objects, key: Tensor, kind: str, *, at_once: int = 32
) -> Tensor:
    """Mask logits (N, H, W) for every object of one image, asked for by prompts of one type.

    Args:
        embedding: (1, C, g, g) of the image.
        kind: ``point``, ``box`` or ``mask``.
    """
    prompts, doubt = given_prompts(objects, backbone, streams_of(key).child(kind), TYPES[kind])
    parts = []
    for first in range(0, prompts.number, at_once):
        part = prompts.select(slice(first, first + at_once))
        logits, iou = backbone.masks(embedding, part)
        chosen, _ = choose(logits, iou, doubt[:, first : first + at_once])
        parts.append(backbone.enlarge(chosen, prompts.size)[0])
    return torch.cat(parts)


def classes_of(objects: Objects, label: Tensor) -> Tensor:
    """(N,) the class at each object's pixel, for one image's label (H, W)."""
    y, x = objects.pixel[0].unbind(-1)
    return label[y, x]


class PromptedFigures:
    """Mean IoU over objects by type of prompt, and the segmentation that these answers make.

    ``compute`` gives ``miou_point``, ``miou_box``, ``miou_mask`` (mean over the objects of `LEAST` pixels or more, of
    an image with more than `MOST` the largest), and under ``prompted`` for each type ``miou``, ``miou_per_image``,
    ``recall`` (share of objects with IoU ≥ ½), ``objects``, and ``classes``: the figures of the class map. Prompts are
    made from the labels with a fixed seed.
    """

    def __init__(self, asker: Any, classes: Sequence[str]):
        self.asker = asker
        self.ious: dict[str, list[Tensor]] = {kind: [] for kind in TYPES}
        self.counts: dict[str, list[Tensor]] = {kind: [] for kind in TYPES}
        self.classes = list(classes)

    def update(self, prediction: Tensor, batch: Batch) -> None:
        """Ask for every object of a labelled batch; the prediction is not looked at."""
        if batch.label is None:
            return
        embedding, identity = self.asker.embedding(batch), self.asker.identity(batch)
        for i in range(len(batch.key)):
            one = batch.select(slice(i, i + 1))
            self._image(embedding[i : i + 1], identity[i : i + 1], one)

    def _image(self, embedding: Tensor, identity: Tensor, one: Batch) -> None:
        assert one.label is not None
        objects = test_objects(identity, one.key)
        if not objects.mask.shape[1]:
            return
        classes = classes_of(objects, one.label[0])
        for kind in TYPES:
            logits = answered(self.asker.backbone, embedding, objects, one.key, kind)
            found, wanted = (logits > 0) & objects.known, objects.mask[0]
            both = (found & wanted).flatten(1).sum(1).double()
            either = (found | wanted).flatten(1).sum(1).double()
            self.ious[kind].append((both / either).cpu())
            likely = class_map(logits, classes, len(self.classes), self.asker.background)
            labelled = likely.argmax(0, keepdim=True)
            self.counts[kind].append(confusion(labelled, one.label, len(self.classes)).cpu())

    def compute(self) -> dict[str, Any]:
        """The figures; none where no image had an object."""
        if not self.ious["box"]:
            return {}
        detail = {kind: self._of(kind) for kind in TYPES}
        return {**{f"miou_{kind}": figures["miou"] for kind, figures in detail.items()}, "prompted": detail}

    def _of(self, kind: str) -> dict[str, Any]:
        every = torch.cat(self.ious[kind])
        counts = torch.cat(self.counts[kind])  # (images, K, K)
        pooled = iou_of(counts.sum(0))
        return {
            "miou": every.mean().item(),
            "miou_per_image": torch.stack([part.mean() for part in self.ious[kind]]).mean().item(),
            "recall": (every >= 0.5).double().mean().item(),
            "objects": len(every),
            "classes": {
                "miou_pooled": pooled.nanmean().item(),
                "miou_per_image": iou_of(counts).nanmean(1).nanmean().item(),
                "iou": dict(zip(self.classes, pooled.tolist())),
            },
        }
