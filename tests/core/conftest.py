"""A small plugin, written into an empty folder, and the registry that finds it there."""

import sys

import pytest
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry

PARTS = '''
from typing import Annotated, Literal
import torch
from pydantic import Field
from torch import nn
from lamella import (
    Chain, FromData, Loss, Mean, Perturbation, Range, SegmentationBackbone, Trainer, kornia, within
)

BUILT = []


class Blur(Perturbation):
    """Blurs. More than one sentence."""
    family = "optics"

    def __init__(
        self,
        *,
        sigma: Annotated[Range, within(0, 9), Field(description="in pixels")] = (0.5, 1.0),
        border: Literal["mirror", "zero"] = "mirror",
        p: float = 1.0,
    ):
        super().__init__(p=p)
        self.sigma, self.border = sigma, border
        BUILT.append("blur")


class Net(nn.Module):
    def __init__(self, *, width: Annotated[int, Field(ge=1)] = 2, channels: Annotated[int, FromData],
                 classes: Annotated[int, FromData]):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3)
        self.classes = classes
        BUILT.append("net")

    def encode(self, image):
        return [image]

    def decode(self, features, size):
        return features[0]


def focal(logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor, /, *,
          gamma: Annotated[float, Field(ge=0)] = 2.0) -> Mean:
    """Focal loss."""
    return Mean(logits.sum() * gamma, weight.sum())


class Learner(Trainer):
    def __init__(self, *, backbone: SegmentationBackbone, weak: Chain | None = None, loss: Loss = focal,
                 losses: dict[str, Loss] | None = None, extra: SegmentationBackbone | None = None,
                 strong: list[Chain] = [], steps: int = 3):
        super().__init__()
        self.backbone, self.weak, self.loss, self.losses = backbone, weak, loss, losses
        self.extra, self.strong, self.steps = extra, strong, steps
        self.head = nn.Linear(2, 2)


def anything(**options: int):
    return options


def several(*options: int):
    return options


def untyped(*, sigma=1.0):
    return sigma


def misspelt(*, x: "torch.Tensro" = 1):
    return x


def unreadable(*, x: "no Python(" = 1):
    return x


flip = kornia("kornia.augmentation:RandomHorizontalFlip")
'''

PLUGIN = """
from lamella import hookimpl
LAMELLA_API = 1

@hookimpl
def lamella_perturbations():
    return {"blur": "mine_parts:Blur", "flip": "mine_parts:flip", "missing": "mine_parts:Missing",
            "broken": "mine_nowhere:Thing", "quits": "mine_quits:Thing"}

@hookimpl
def lamella_backbones():
    return {"net": "mine_parts:Net"}

@hookimpl
def lamella_losses():
    return {"focal": "mine_parts:focal"}

@hookimpl
def lamella_trainers():
    return {"learner": "mine_parts:Learner", "anything": "mine_parts:anything",
            "several": "mine_parts:several", "untyped": "mine_parts:untyped",
            "misspelt": "mine_parts:misspelt", "unreadable": "mine_parts:unreadable"}

@hookimpl
def lamella_sets():
    return {"soft": [{"name": "blur", "sigma": 1}], "shipped": [{"name": "blur"}, {"name": "flip"}]}
"""


@pytest.fixture
def load_registry(tmp_path, monkeypatch):
    """Writes the small plugin, others and a registry.toml into an empty folder and loads what it describes."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def load(text="", **others):
        modules = {"mine": PLUGIN, **others}
        kept = {"mine_parts": PARTS, "mine_quits": "raise SystemExit('enough')"}
        for name, source in {**modules, **kept}.items():
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        path = tmp_path / "registry.toml"
        path.write_text(f"[plugins]\nenable = []\nlocal = {[*modules]}\npath = ['.']\n{text}", encoding="utf-8")
        return Registry.load(RegistryFile.read(path))

    yield load
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def small_registry(load_registry):
    """The registry of the small plugin alone."""
    return load_registry()
