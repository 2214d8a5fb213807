"""A whole plugin of a few lines: what the tests of the core train, so that they need no real plugin."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Annotated, Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from lamella import (
    Batch,
    FromData,
    Loss,
    Mean,
    Sample,
    SegmentationBackbone,
    SegmentationMetrics,
    Step,
    Trainer,
    hookimpl,
)
from PIL import Image as Picture
from pydantic import Field
from torch import Tensor, nn

LAMELLA_API = 1

CLASSES = ("ground", "square", "disc")


def squares(*, count: Annotated[int, Field(ge=1)] = 8, seed: int = 0, size: int = 32) -> Dataset:
    """A bright square and a darker disc on a dark ground, with noise; image i depends on (seed, i, size)."""
    features = Features(
        {
            "image": Image(),
            "label": Image(),
            "classes": List(ClassLabel(names=list(CLASSES))),
            "pixel_nm": List(Value("float32"), length=2),
            "name": Value("string"),
            "lot": Value("string"),
        }
    )
    return Dataset.from_list([_square(seed, i, size) for i in range(count)], features=features)


def _square(seed: int, i: int, size: int) -> dict[str, Any]:
    random = np.random.default_rng([seed, i])
    label = np.zeros((size, size), np.uint8)
    top, left = random.integers(0, size // 2, 2)
    label[top : top + size // 3, left : left + size // 3] = 1
    y, x = np.mgrid[:size, :size]
    label[(y - size * 0.75) ** 2 + (x - size * random.uniform(0.3, 0.7)) ** 2 < (size / 6) ** 2] = 2
    grey = np.array([0.2, 0.8, 0.5])[label] + random.normal(0, 0.05, label.shape)
    return {
        "image": _png((grey.clip(0, 1) * 255).astype(np.uint8)),
        "label": _png(label),
        "classes": np.unique(label).tolist(),
        "pixel_nm": [0.5, 0.5],
        "name": f"s{seed}-{i:04d}",
        "lot": "AB"[i % 2],
    }


def _png(pixels: np.ndarray) -> dict[str, Any]:
    buffer = BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


class Grey:
    """One channel; grey values by the range of their type, or by the highest that training images hold."""

    channels = 1
    metadata: Mapping[str, float] = {}
    weak: Sequence[Mapping[str, Any]] = ()

    def __init__(self, *, stretch: bool = False):
        self.stretch, self.top = stretch, 255.0

    def calibrate(self, images: Iterable[np.ndarray]) -> None:
        if self.stretch:
            self.top = float(max(image.max() for image in images))

    def state(self) -> dict[str, Any]:
        return {"top": self.top}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.top = state["top"]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        images = np.stack([s.image if s.image.ndim == 2 else s.image.mean(2) for s in samples])
        unlabelled = any(s.label is None for s in samples)
        label = None if unlabelled else torch.from_numpy(np.stack([s.label for s in samples]).astype(np.int64))
        return Batch.of(
            torch.from_numpy(images.astype(np.float32) / self.top).clamp(0, 1).unsqueeze(1),
            label=label,
            key=torch.tensor([s.key for s in samples]),
            visit=torch.tensor([s.visit for s in samples]),
            pixel_nm=torch.tensor([s.pixel_nm for s in samples], dtype=torch.float32),
        )

    def picture(self, image: Tensor) -> np.ndarray:
        grey = (image.clamp(0, 1).mean(0) * 255).round().to(torch.uint8).numpy()
        return np.repeat(grey[..., None], 3, axis=2)


class Conv(nn.Module):
    """Two convolutions and a group norm: a segmentation backbone."""

    def __init__(self, *, width: int = 8, channels: Annotated[int, FromData], classes: Annotated[int, FromData]):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, width, 5, padding=2), nn.GroupNorm(2, width), nn.ReLU())
        self.last = nn.Conv2d(width, classes, 3, padding=1)

    def encode(self, image: Tensor) -> list[Tensor]:
        return [self.first(image)]

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        return self.last(features[-1])


def pixel_loss(logits: Tensor, label: Tensor, weight: Tensor, /, *, factor: float = 1.0) -> Mean:
    """``factor`` times the cross-entropy of the pixels that are not ignored."""
    each = nn.functional.cross_entropy(logits, label, ignore_index=255, reduction="none")
    return Mean(factor * (each * weight).sum(), weight.sum())


class Plain(Trainer):
    """One loss on the labelled images."""

    roles = ("labelled",)

    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        loss: Loss | None = None,
        bad_step: Annotated[int | None, Field(description="the loss is nan at this step")] = None,
        holes: Annotated[bool, Field(description="ignore most of every third image")] = False,
        forget: Annotated[bool, Field(description="do not count beforehand")] = False,
        class_names: Annotated[list[str], FromData],
    ):
        super().__init__()
        self.backbone, self.bad_step, self.class_names = backbone, bad_step, class_names
        self.loss = pixel_loss if loss is None else loss
        self.holes, self.forget = holes, forget

    def _labelled(self, batches: Mapping[str, Batch]) -> Batch:
        batch = batches["labelled"]
        if not self.holes:
            return batch
        holed = (batch.key % 3 == 0).view(-1, 1, 1) & (torch.arange(batch.label.shape[1]).view(1, -1, 1) > 3)
        return batch._replace(label=torch.where(holed, 255, batch.label), weight=torch.where(holed, 0.0, batch.weight))

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        return {} if self.forget else {"pixels": self._labelled(batches).weight.sum()}

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        batch = self._labelled(batches)
        logits = self.backbone.decode(self.backbone.encode(batch.image), batch.image.shape[-2:])
        loss = step.mean(self.loss(logits, batch.label, batch.weight), "pixels")
        if step.number == self.bad_step:
            loss = loss * torch.nan
        return {"pixels": loss, "loss": loss}

    def predict(self, batch: Batch) -> Tensor:
        return self.backbone.decode(self.backbone.encode(batch.image), batch.image.shape[-2:]).softmax(1)

    def metrics(self) -> list[SegmentationMetrics]:
        return [SegmentationMetrics(self.class_names)]


def hello(name: str = "world") -> None:
    """Say hello."""
    print(f"hello {name}")


@hookimpl
def lamella_datasets() -> dict[str, Any]:
    return {"tiny-squares": squares}


@hookimpl
def lamella_modalities() -> dict[str, Any]:
    return {"tiny-grey": Grey}


@hookimpl
def lamella_backbones() -> dict[str, Any]:
    return {"tiny-conv": Conv}


@hookimpl
def lamella_losses() -> dict[str, Any]:
    return {"tiny-loss": pixel_loss}


@hookimpl
def lamella_trainers() -> dict[str, Any]:
    return {"tiny-plain": Plain}


@hookimpl
def lamella_commands() -> dict[str, tuple[str, str]]:
    return {"tiny-hello": ("say hello", "tiny_plugin:hello")}
