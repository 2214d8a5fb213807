"""Plain supervised segmentation: the method every other is measured against."""

from collections.abc import Mapping
from typing import Annotated

import torch
from lamella import (
    Batch,
    Chain,
    FromData,
    Loss,
    Mean,
    SegmentationBackbone,
    SegmentationMetrics,
    Step,
    Trainer,
    logits_of,
)
from lamella.contracts.model import Metric
from lamella.errors import ConfigError
from pydantic import Field
from torch import Tensor, nn

from lamella_tem.cutmix import cutmix, warn_if_alone
from lamella_tem.losses import cross_entropy, dice
from lamella_tem.object_recall import ObjectRecall
from lamella_tem.paste import neighbours, paste_objects, rare_classes

RESERVED = {"loss", "unlabelled", "feature", "images"}
"""Names under which trainers log and count what is no loss of labelled images."""


class Supervised(Trainer):
    """Learns from labelled images: a weighted sum of losses, by default cross-entropy + Dice.

    Source: supervised baseline of the paper's Table 2; the sum (CE + Dice)/2 as UniMatch has it for ACDC.
    """

    roles = ("labelled",)

    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        augment: Annotated[Chain | None, Field(description="perturbation set of the training images")] = None,
        losses: Annotated[
            dict[str, Loss] | None, Field(description="by the name they are logged under; cross-entropy and Dice")
        ] = None,
        weights: Annotated[dict[str, float] | None, Field(description="of the losses; all equal, sum 1")] = None,
        mix: Annotated[float, Field(ge=0, le=1, description="probability of CutMix")] = 0.0,
        paste: Annotated[
            list[str] | None, Field(description="rare classes whose objects are pasted from image to image")
        ] = None,
        class_names: Annotated[list[str], FromData],
    ):
        super().__init__()
        self.backbone, self.augment, self.mix, self.class_names = backbone, augment, mix, class_names
        self.register_buffer("pasted", rare_classes(paste or [], class_names), persistent=False)
        self.pasted: Tensor
        self.losses: dict[str, Loss] = {"ce": cross_entropy, "dice": dice} if losses is None else losses
        if not self.losses:
            raise ConfigError("supervised: losses = {} leaves nothing to learn from; name one, or leave losses out")
        if taken := RESERVED & self.losses.keys():
            raise ConfigError(f"supervised: no loss can be called {sorted(taken)[0]!r}, the training has it")
        self.loss_modules = nn.ModuleList(loss for loss in self.losses.values() if isinstance(loss, nn.Module))
        self.weights = weights or {name: 1 / len(self.losses) for name in self.losses}
        if set(self.weights) != set(self.losses):
            raise ConfigError(
                f"supervised: weights are given for {', '.join(self.weights)}, losses are {', '.join(self.losses)}"
            )

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The losses on the perturbed labelled images."""
        batch, label, weight = self.mixed(self.augmented(batches, step), step)
        return self.judged(self.logits(batch.image), label, weight, step)

    def judged(self, logits: Tensor, label: Tensor, weight: Tensor, step: Step) -> dict[str, Tensor]:
        """The losses of logits (B, K, H, W) of labelled images."""
        named = {name: step.mean(loss(logits, label, weight), name) for name, loss in self.losses.items()}
        return {**named, "loss": torch.stack([self.weights[name] * named[name] for name in named]).sum()}

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The counts of the losses: they depend on labels and trust, not on what the network says."""
        batch, label, weight = self.mixed(self.augmented(batches, step), step)
        height, width = batch.image.shape[-2:]
        nothing = batch.image.new_zeros(()).expand(len(label), len(self.class_names), height, width)
        found = {name: loss(nothing, label, weight) for name, loss in self.losses.items()}
        return {name: value.count for name, value in found.items() if isinstance(value, Mean)}

    def augmented(self, batches: Mapping[str, Batch], step: Step) -> Batch:
        """The perturbed labelled batch, each image by itself."""
        batch = batches["labelled"]
        if batch.label is None or batch.weight is None:
            raise ConfigError("supervised: the role 'labelled' has no labels")
        if batch.label.ndim != 3:
            raise ConfigError(
                "supervised: the role 'labelled' has one class for each image, and this trainer learns from label "
                "maps; give masks, or take a trainer of classes, as 'classify'"
            )
        return batch if self.augment is None else self.augment(batch, step.streams(batch, "weak"))

    def mixed(self, batch: Batch, step: Step) -> tuple[Batch, Tensor, Tensor]:
        """The batch with what is pasted and mixed from image to image, its label and its trust."""
        if len(self.pasted) or self.mix > 0:
            warn_if_alone(batch, step)
        if len(self.pasted):
            batch = paste_objects(batch, neighbours(batch), step.streams(batch, "paste"), classes=self.pasted)
        if self.mix > 0:
            batch = cutmix(batch, step.streams(batch, "cutmix"), p=self.mix)
        assert batch.label is not None and batch.weight is not None
        return batch, batch.label, batch.weight

    def logits(self, image: Tensor) -> Tensor:
        """(B, K, H, W) of (B, C, H, W)."""
        return logits_of(self.backbone, image)

    def predict(self, batch: Batch) -> Tensor:
        """Class probabilities (B, K, H, W)."""
        return self.logits(batch.image).float().softmax(1)

    def metrics(self) -> list[Metric]:
        """Segmentation figures, and how many defects are found where there is a class of them."""
        found: list[Metric] = [SegmentationMetrics(self.class_names)]
        return [*found, ObjectRecall(self.class_names, "defect")] if "defect" in self.class_names else found
