"""The contract of a segmentation backbone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lamella.contracts.model import SegmentationBackbone, logits_of
from lamella.testing.apart import apart
from lamella.testing.promise import BrokenPromise, difference, name_of

SIZES = ((64, 64), (50, 70), (33, 47))
"""Among them sizes that neither 16 nor 32 divides."""


def backbone_contract(
    component: Callable[..., Any], *, channels: int = 1, classes: int = 3, tolerance: float = 1e-4
) -> Callable[[], None]:
    """A pytest test of everything a segmentation backbone promises.

    Args:
        component: builds the backbone when called with ``channels`` and ``classes``.
        channels: of the images to try.
        classes: of the logits to expect.
        tolerance: how far the logits of an image alone may be from the same in a batch, in eval mode.

    Raises:
        BrokenPromise: from the test, a sentence that names the promise and what was seen.

    >>> class Conv(nn.Module):
    ...     def __init__(self, *, channels: int, classes: int):
    ...         super().__init__()
    ...         self.conv = nn.Conv2d(channels, classes, 3, padding=1)
    ...     def encode(self, image):
    ...         return [image]
    ...     def decode(self, features, size):
    ...         return self.conv(features[0])
    >>> test_conv = backbone_contract(Conv)
    >>> test_conv()
    """
    name = name_of(component)

    def test() -> None:
        with apart():
            torch.manual_seed(0)
            backbone = component(channels=channels, classes=classes)
            if not isinstance(backbone, nn.Module) or not isinstance(backbone, SegmentationBackbone):
                seen = f"it is a {type(backbone).__name__}"
                raise BrokenPromise(name, "be an nn.Module with encode(image) and decode(features, size)", seen)
            for promise in (takes_any_size, halves_meet, everything_learns, images_are_alone):
                promise(name, backbone, channels, classes, tolerance)

    return test


def takes_any_size(name: str, backbone: Any, channels: int, classes: int, tolerance: float) -> None:
    """Logits have the size asked for, whatever it is."""
    backbone.eval()
    for height, width in SIZES:
        image = torch.rand(1, channels, height, width)
        kept = image.clone()
        with torch.no_grad():
            features = backbone.encode(image)
            if not isinstance(features, list) or not all(len(part) == 1 for part in features):
                raise BrokenPromise(name, "encode to a list of features (B, …)", f"{type(features).__name__}")
            logits = backbone.decode(features, (height, width))
        wanted = (1, classes, height, width)
        if tuple(logits.shape) != wanted:
            raise BrokenPromise(name, f"give logits {wanted}", f"{tuple(logits.shape)}")
        if not logits.isfinite().all():
            raise BrokenPromise(name, "give finite logits", "they are not", f"{height}×{width} pixels")
        if gap := difference(image, kept):
            raise BrokenPromise(name, "leave its input as it is", gap)


def halves_meet(name: str, backbone: Any, channels: int, classes: int, tolerance: float) -> None:
    """Features can be copied, perturbed and joined between the halves."""
    backbone.eval()
    image = torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        features = backbone.encode(image)
        kept = [part.clone() for part in features]
        once = backbone.decode(features, (64, 64))
        for i, (part, copy) in enumerate(zip(features, kept)):
            if gap := difference(part, copy):
                seen = f"features[{i}]: {gap}; a second decode would see other features"
                raise BrokenPromise(name, "leave features as they are in decode", seen)
        joined = [torch.cat([part, torch.zeros_like(part)]) for part in features]
        twice = backbone.decode(joined, (64, 64))
    if twice.shape[0] != 4:
        raise BrokenPromise(name, "decode features joined along the batch", f"got {tuple(twice.shape)}")
    if gap := difference(twice[:2], once, tolerance=tolerance):
        raise BrokenPromise(name, "decode features joined along the batch", f"others changed it: {gap}")


def everything_learns(name: str, backbone: Any, channels: int, classes: int, tolerance: float) -> None:
    """Every trainable parameter receives a finite gradient in training."""
    backbone.train()
    backbone.zero_grad()
    logits = logits_of(backbone, torch.rand(2, channels, 64, 64))
    (logits * torch.randn(logits.shape)).sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            seen = f"{parameter_name} got none; freeze it, or leave it out: training on several GPUs would stop"
            raise BrokenPromise(name, "pass a gradient to every trainable parameter", seen)
        if not parameter.grad.isfinite().all():
            raise BrokenPromise(name, "pass a finite gradient to every parameter", f"{parameter_name}'s is not")
    backbone.zero_grad()


def images_are_alone(name: str, backbone: Any, channels: int, classes: int, tolerance: float) -> None:
    """In eval mode an image's logits depend on that image alone, and are the same each time."""
    backbone.eval()
    image = torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        both, again, alone = logits_of(backbone, image), logits_of(backbone, image), logits_of(backbone, image[:1])
    if gap := difference(again, both):
        raise BrokenPromise(name, "give the same logits again in eval mode", gap)
    if gap := difference(alone, both[:1], tolerance=tolerance):
        raise BrokenPromise(name, "treat each image alone in eval mode", gap)
