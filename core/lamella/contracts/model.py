"""What learns: the three shapes of backbone, losses, trainers, and the step they share."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lamella.contracts.batch import Batch
from lamella.contracts.processes import summed, world_size
from lamella.contracts.streams import Streams


class FromData:
    """Marks a parameter that the dataset fills: ``channels: Annotated[int, FromData]``."""


class AtStart:
    """Marks a parameter that matters where a training begins and not after (weights to start from, say).

    A run that is opened again is built without it, or with None where it has no default, so that the run needs nothing
    beside its own folder.
    """


class NeedsStart:
    """Marks a backbone that must not begin at random: one of its parameters marked `AtStart` has to be given."""


@runtime_checkable
class SegmentationBackbone(Protocol):
    """A network in two halves, so that features can be perturbed between them."""

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of ``image`` (B, C, H, W), any H and W."""

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) for ``size`` = (H, W)."""


def logits_of(network: SegmentationBackbone, image: Tensor) -> Tensor:
    """Logits (B, K, H, W) of images (B, C, H, W): the two halves of a network, one after the other."""
    return network.decode(network.encode(image), (image.shape[-2], image.shape[-1]))


@runtime_checkable
class PatchEncoder(Protocol):
    """A transformer over patches: a timm ``VisionTransformer`` or like-shaped."""

    embed_dim: int
    patch_embed: nn.Module
    blocks: nn.Module

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, C, H, W)."""


@runtime_checkable
class PromptableBackbone(Protocol):
    """A network that segments what a prompt points at."""

    def embed(self, image: Tensor) -> Tensor:
        """The embedding of images (B, C, H, W): computed once, used by every prompt."""

    def masks(self, embedding: Tensor, prompts: Any) -> tuple[Tensor, Tensor]:
        """Mask logits and predicted IoU for prompts on an embedding."""


class Mean(NamedTuple):
    """A mean not yet divided, so that it can be divided by the count over all processes."""

    total: Tensor
    """The sum, a scalar with gradient."""
    count: Tensor
    """What it is divided by, a scalar without gradient; 0 where there was nothing to count."""

    def value(self) -> Tensor:
        """The mean of this process alone; 0, with zero gradient, where there was nothing to count."""
        return self.total / torch.where(self.count > 0, self.count, torch.ones_like(self.count))


@runtime_checkable
class Loss(Protocol):
    """A function of tensors: shapes, range and equation in its docstring; finite with nothing to count."""

    def __call__(self, logits: Tensor, label: Tensor, weight: Tensor, /) -> Mean | Tensor:
        """The loss of logits (B, K, …) against label and weight (B, …)."""


class Step(NamedTuple):
    """Where a run stands when a trainer's ``forward`` is called."""

    number: int
    """The optimizer step, from 0."""
    total: int
    """How many steps the run has."""
    seed: int
    """The seed of the run."""
    parts: int = 1
    """How many forwards make this step (gradient accumulation)."""
    counts: Mapping[str, Tensor] = {}
    """What `Trainer.counts` gave, summed over processes and parts; empty where it was not asked for."""

    def streams(self, batch: Batch, view: str) -> Streams:
        """The random streams of a named view of this batch."""
        return Streams.root(self.seed, batch.key, batch.visit, view)

    def mean(self, loss: Mean | Tensor, name: str = "") -> Tensor:
        """A loss as the scalar whose gradients, summed over parts and averaged over processes, are the whole's.

        A `Mean` is divided by its count over all processes, and over all parts where the trainer's ``counts``
        names it. A plain tensor, and a mean without a count known beforehand, is averaged over the parts.
        """
        if isinstance(loss, Tensor):
            return loss / self.parts
        total = loss.total * world_size()
        if name in self.counts:
            return Mean(total, self.counts[name]).value()
        return Mean(total, summed(loss.count.detach().clone())).value() / self.parts


class Metric(Protocol):
    """Something counted over an evaluation.

    It may name in ``less_is_better`` those of its figures of which the least is the best, as an error's is: by them
    the checkpoint to keep is chosen. Of any other figure the greatest is.
    """

    def update(self, prediction: Tensor, batch: Any) -> None:
        """Count one batch (of a modality with several views a dict): ``prediction`` is what ``predict`` gave."""

    def compute(self) -> dict[str, Any]:
        """The figures, by name; called once, after the last batch."""


class Trainer(nn.Module):
    """A way to learn: named losses from named batches. It owns no device, no loop and no file.

    Every trainable parameter receives a gradient in every step; a term that is switched off freezes its own.
    """

    roles: ClassVar[tuple[str, ...]] = ("labelled",)
    """The data it reads: keys of ``batches``, and of the experiment's ``[data]`` tables."""
    embeds: ClassVar[bool] = False
    """Whether it learns without classes: ``predict`` gives embeddings (B, …, D) instead of probabilities."""
    takes_views: ClassVar[bool] = False
    """Whether its batches may be of several views of each object: a `Batch` by the name of the view."""
    period: int = 1
    """After so many steps its work repeats: what a step costs is counted over whole periods."""

    sees: Literal["tiles", "trained", "whole"] = "tiles"
    """How much of a large image ``predict`` is shown: ``tiles`` of any size; as much as was ``trained`` on, whole
    images or crops, by what scales whatever it gets to one size; the ``whole`` image by what asks for its labels, as
    for prompts made of them, since tiles have none."""

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """Named scalar losses, with the one to minimise under ``"loss"``.

        Whatever is named ``GROUP/NAME`` is logged, drawn on its group's own axis, and left out of the progress line.
        """
        raise NotImplementedError(f"{type(self).__name__} must write forward(batches, step)")

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """What each named `Mean` of ``forward`` will be divided by, known before the network runs.

        Asked for under gradient accumulation alone. A mean that is left out is averaged over the parts, which
        is the whole's only where every part counts as much.
        """
        return {}

    def predict(self, batch: Batch) -> Tensor:
        """Class probabilities (B, K, H, W), or (B, K) for classification; called in eval mode.

        A trainer that `embeds` gives embeddings (B, …, D).
        """
        raise NotImplementedError(f"{type(self).__name__} must write predict(batch)")

    def metrics(self) -> list[Metric]:
        """Fresh counters for one evaluation."""
        raise NotImplementedError(f"{type(self).__name__} must write metrics()")

    def parameter_groups(self) -> Iterable[dict[str, Any]]:
        """Optimizer groups; ``lr_scale`` multiplies the experiment's learning rate for its group."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def after_step(self) -> None:
        """Called after every optimizer step (an EMA, say)."""
