"""The contract of segmentation backbones: a correct one keeps it, broken ones are caught and named."""

import pytest
import torch
from lamella.testing import BrokenPromise, backbone_contract
from torch import nn
from torch.nn import functional


class Correct(nn.Module):
    """Half the resolution and back."""

    def __init__(self, *, channels: int, classes: int):
        super().__init__()
        self.down = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)

    def encode(self, image):
        return [image, self.norm(self.down(image)).relu()]

    def decode(self, features, size):
        return functional.interpolate(self.head(features[-1]), size, mode="bilinear")


class OnlyMultiplesOf32(Correct):
    def decode(self, features, size):
        height, width = (32 * (side // 32) for side in size)
        return functional.interpolate(self.head(features[-1]), (height, width))


class Tuples(Correct):
    def encode(self, image):
        return tuple(super().encode(image))


class UnusedParameter(Correct):
    def __init__(self, *, channels: int, classes: int):
        super().__init__(channels=channels, classes=classes)
        self.auxiliary = nn.Linear(2, 2)


class EditsFeatures(Correct):
    def decode(self, features, size):
        features[-1].add_(1.0)
        return super().decode(features, size)


class EditsImage(Correct):
    def encode(self, image):
        image.sub_(image.mean())
        return super().encode(image)


class DropsInEval(Correct):
    def decode(self, features, size):
        return super().decode([functional.dropout(features[-1], 0.5)], size)


class NormalisesBatch(Correct):
    def encode(self, image):
        return super().encode(image - image.mean())


class KeepsSize(Correct):
    def encode(self, image):
        self.count = len(image)
        return super().encode(image)

    def decode(self, features, size):
        return super().decode([features[-1][: self.count]], size)


class NoHalves(nn.Module):
    def __init__(self, *, channels: int, classes: int):
        super().__init__()


BROKEN = {
    OnlyMultiplesOf32: r"give logits \(1, 3, 50, 70\)",
    Tuples: "encode to a list",
    UnusedParameter: "gradient to every trainable parameter: auxiliary.weight",
    EditsFeatures: r"leave features as they are in decode: features\[1\]",
    EditsImage: "leave its input as it is",
    DropsInEval: "decode features joined|same logits again in eval",
    NormalisesBatch: "treat each image alone in eval mode",
    KeepsSize: "decode features joined along the batch",
    NoHalves: "be an nn.Module with encode",
}

test_correct_backbone = backbone_contract(Correct)
test_correct_in_colour = backbone_contract(Correct, channels=3, classes=7)


@pytest.mark.parametrize("backbone", BROKEN, ids=lambda c: c.__name__)
def test_broken_promise_is_caught_and_named(backbone):
    with pytest.raises(BrokenPromise, match=f"{backbone.__name__} must .*{BROKEN[backbone]}"):
        backbone_contract(backbone)()


def test_batch_statistics_in_eval_mode_are_caught():
    class NeverEval(Correct):
        def encode(self, image):
            mean, var = image.mean((0, 2, 3), keepdim=True), image.var((0, 2, 3), keepdim=True)
            return super().encode((image - mean) / torch.sqrt(var + 1e-5))

    with pytest.raises(BrokenPromise, match="each image alone"):
        backbone_contract(NeverEval)()
