"""A supervised network that sees prompts: drawn into the image as channels, one for each class."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from lamella import (
    IGNORE,
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
from lamella.errors import ConfigError, DataError
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from lamella_sam.figures import LEAST, MOST, TYPES, streams_of, test_objects
from lamella_sam.losses import class_dice
from lamella_sam.objects import Kind, Objects, all_objects, identities
from lamella_sam.prompting import Asked, asked_prompts, mix_of
from lamella_sam.prompts import CORNER, NEGATIVE, POSITIVE

INSIDE, RADIUS = 0.5, 2.0
"""What a pixel within a box counts as (its rim is 1), and the radius in pixels of the disc that a point becomes."""


class PromptedSupervised(Trainer):
    """Learns from labelled images with prompts for their objects beside them: the baseline that SeSAMI is owed.

    Every object of an image is asked for by a point, a box or a partial mask, as SeSAMI asks for it, and drawn into
    the channel of its class: a network that is told where each class is, as one that answers prompts is. In
    training the prompts are drawn anew for every visit; in predict they are those that every model of this plugin
    gets, of the type ``answer``. The backbone must take the image's channels and one for each class.

    Raises:
        ConfigError: a backbone of other channels.

    Source: ours, for the comparison of the paper's Table 1; losses as `supervised`: (CE + Dice)/2.
    """

    roles = ("labelled",)
    sees = "whole"

    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        augment: Annotated[Chain | None, Field(description="perturbation set of the training images")] = None,
        losses: Annotated[
            dict[str, Loss] | None, Field(description="by the name they are logged under; cross-entropy and Dice")
        ] = None,
        mix: Annotated[
            dict[Literal["point", "box", "mask"], float] | None, Field(description="weights of prompt types; equal")
        ] = None,
        negative: Annotated[float, Field(ge=0, le=1, description="probability of a negative point")] = 0.25,
        jitter: Annotated[float, Field(ge=0, le=0.5, description="largest shift of a box's side, of its size")] = 0.1,
        objects: Annotated[Kind, Field(description="what an object is")] = "region",
        answer: Annotated[Literal["point", "box", "mask"], Field(description="type of the prompts of predict")] = "box",
        channels: Annotated[int, FromData],
        class_names: Annotated[list[str], FromData],
    ):
        super().__init__()
        self.backbone, self.augment, self.objects, self.answer = backbone, augment, objects, answer
        self.class_names = class_names
        self.losses: dict[str, Loss] = {"ce": _entropy, "dice": _dice} if losses is None else losses
        self.mix = mix_of(mix, negative, jitter, "prompted-supervised")
        self._check(channels + len(class_names))

    def _check(self, wanted: int) -> None:
        """Raise `ConfigError` where the backbone does not take so many channels."""
        training = self.training
        assert isinstance(self.backbone, torch.nn.Module)
        try:
            with torch.no_grad():
                self.backbone.eval().encode(torch.zeros(1, wanted, 64, 64))
        except RuntimeError as error:
            raise ConfigError(
                f"prompted-supervised: the backbone does not take {wanted} channels, the image's and one for each "
                f"class; write backbone = {{ …, channels = {wanted} }} ({error})"
            ) from None
        finally:
            self.backbone.train(training)

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The losses on the perturbed labelled images with their prompts."""
        batch = self._perturbed(batches["labelled"], step)
        assert batch.label is not None and batch.weight is not None
        streams = step.streams(batch, "prompts")
        objects = all_objects(self.identity(batch), streams.child("objects"), MOST, least=LEAST)
        asked = asked_prompts(objects, streams.child("given"), self.mix)
        drawn = prompt_maps(objects, asked, _classes(objects, batch.label), len(self.class_names))
        logits = self._logits(batch.image, drawn)
        named = {k: step.mean(loss(logits, batch.label, batch.weight), k) for k, loss in self.losses.items()}
        return {**named, "loss": torch.stack(list(named.values())).mean()}

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The counts of the losses, which depend on labels and trust alone."""
        batch = self._perturbed(batches["labelled"], step)
        assert batch.label is not None and batch.weight is not None
        nothing = batch.image.new_zeros(()).expand(len(batch.label), len(self.class_names), *batch.label.shape[1:])
        found = {name: loss(nothing, batch.label, batch.weight) for name, loss in self.losses.items()}
        return {name: value.count for name, value in found.items() if isinstance(value, Mean)}

    def _perturbed(self, batch: Batch, step: Step) -> Batch:
        if batch.label is None or batch.weight is None:
            raise ConfigError("prompted-supervised: the data of the role 'labelled' have no labels")
        return batch if self.augment is None else self.augment(batch, step.streams(batch, "weak"))

    def _logits(self, image: Tensor, drawn: Tensor) -> Tensor:
        return logits_of(self.backbone, torch.cat([image, drawn], 1))

    def identity(self, batch: Batch) -> Tensor:
        """(B, H, W) the objects that are asked for."""
        return identities(batch, self.objects)

    def predict(self, batch: Batch) -> Tensor:
        """Class probabilities (B, K, H, W); raises `DataError` where there are no labels to make prompts of."""
        if batch.label is None:
            raise DataError("prompted-supervised makes its prompts from labels, and there are none")
        drawn = torch.cat([self._test_maps(batch.select(slice(i, i + 1))) for i in range(len(batch.key))])
        return self._logits(batch.image, drawn).float().softmax(1)

    def _test_maps(self, one: Batch) -> Tensor:
        """(1, K, H, W) the prompts of a test image, those that `PromptedFigures` gives."""
        assert one.label is not None
        objects = test_objects(self.identity(one), one.key)
        asked = asked_prompts(objects, streams_of(one.key).child(self.answer), TYPES[self.answer])
        return prompt_maps(objects, asked, _classes(objects, one.label), len(self.class_names))

    def metrics(self) -> list[Metric]:
        """Segmentation figures."""
        return [SegmentationMetrics(self.class_names)]


def prompt_maps(objects: Objects, asked: Asked, classes: Tensor, count: int) -> Tensor:
    """(B, K, H, W) prompts drawn into a channel for each class, in [−1, 1]; where they overlap the strongest.

    A box is `INSIDE` and 1 on its rim, a point a disc of 1, a partial mask 1, a negative point a disc of −1 in the
    channel of the object that it is outside of.

    Args:
        classes: (B, Q) int64, each object's.
        count: K, the number of classes.
    """
    height, width = objects.mask.shape[-2:]
    y = torch.arange(height, device=classes.device).view(-1, 1)
    x = torch.arange(width, device=classes.device).view(1, -1)

    def disc(slot: int) -> Tensor:
        dx, dy = x - asked.points[..., slot, 0, None, None], y - asked.points[..., slot, 1, None, None]
        return dx * dx + dy * dy <= RADIUS**2

    low, high = (asked.points[..., slot, :].round()[..., None, None] for slot in (0, 1))
    beyond = [x - low[..., 0, :, :], high[..., 0, :, :] - x, y - low[..., 1, :, :], high[..., 1, :, :] - y]
    margin = torch.minimum(torch.minimum(beyond[0], beyond[1]), torch.minimum(beyond[2], beyond[3]))
    box = torch.where(margin > 0, INSIDE, 1.0) * (margin >= 0)

    def given(slot: int, label: int) -> Tensor:
        return (objects.there & (asked.labels[..., slot] == label))[..., None, None]

    mask = asked.partial & (objects.there & asked.masked)[..., None, None]
    drawn = box * given(0, CORNER) + (disc(0) & given(0, POSITIVE)).float() + mask.float()  # one of three
    index = classes[..., None, None].expand_as(drawn)
    maps = drawn.new_zeros(len(drawn), count, height, width).scatter_reduce(1, index, drawn, "amax")
    away = (disc(2) & given(2, NEGATIVE)).float()
    return maps - (maps == 0) * torch.zeros_like(maps).scatter_reduce(1, index, away, "amax")


def _classes(objects: Objects, label: Tensor) -> Tensor:
    """(B, Q) the class of each object; 0 where there is none, which is not drawn."""
    place = objects.pixel[..., 0] * label.shape[-1] + objects.pixel[..., 1]
    return torch.where(objects.there, label.flatten(1).gather(1, place), 0)


def _entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Mean:
    trust = torch.where(label == IGNORE, 0.0, weight)
    each = cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    return Mean((each * trust).sum(), trust.sum())


def _dice(logits: Tensor, label: Tensor, weight: Tensor) -> Mean:
    return class_dice(logits.float(), label, torch.where(label == IGNORE, 0.0, weight))
