"""The testing kit against perturbations that each break one promise: every one is caught, and named."""

import itertools
import re
from typing import ClassVar

import pytest
import torch
from lamella import Batch, Perturbation, Range, Streams, Warp
from lamella.contracts.parameters import per_image
from lamella.testing import BrokenPromise, perturbation_contract
from torch import nn


class Grain(Perturbation):
    """A correct one: noise of every pixel, of a strength drawn per image."""

    family = "noise"
    identity: ClassVar = {"strength": (0.0, 0.0)}

    def __init__(self, *, strength: Range = (0.1, 0.5), p: float = 1.0):
        super().__init__(p=p)
        self.strength = strength

    def draw(self, streams, about):
        return {"strength": streams.uniform(*self.strength)}

    def render(self, image, drawn, streams, about):
        return image + per_image(drawn["strength"], image) * streams.normal(*image.shape[1:])


class ClipsRight(Grain):
    """A correct one: it draws from its streams in its own pass too."""

    def clipped(self, image, drawn, streams, about):
        return self.render(image, drawn, streams, about).clamp(0.0, 1.0)


class ClipsOtherwise(Grain):
    def clipped(self, image, drawn, streams, about):
        return super().clipped(image, drawn, streams, about).clamp(0.0, 0.9)


class Sway(Warp):
    """A correct one: rows pushed to and fro, a few pixels far."""

    family = "movement"
    identity: ClassVar = {"pixels": (0.0, 0.0)}

    def __init__(self, *, pixels: Range = (2.0, 5.0), p: float = 1.0):
        super().__init__(p=p)
        self.pixels = pixels

    def draw(self, streams, about):
        return {"pixels": streams.uniform(*self.pixels), "phase": streams.uniform(0.0, 6.28)}

    def flow(self, drawn, streams, about):
        rows = torch.arange(about.height, device=drawn["phase"].device).view(1, -1, 1) / 12.0
        x = drawn["pixels"].view(-1, 1, 1) * torch.sin(rows + drawn["phase"].view(-1, 1, 1))
        x = x.expand(-1, -1, about.width)
        return torch.stack([torch.zeros_like(x), x], dim=-1)


class EditsInPlace(Grain):
    def render(self, image, drawn, streams, about):
        image += 0.01
        return image


class EditsWeight(Grain):
    def perturb(self, batch, streams):
        if batch.weight is not None:
            batch.weight.mul_(0.5)
        return super().perturb(batch, streams)


class GlobalNoise(Grain):
    def render(self, image, drawn, streams, about):
        return image + 0.1 * torch.randn_like(image)


class PrivateNoise(Grain):
    def render(self, image, drawn, streams, about):
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(torch.seed() % 1000))
        return image + 0.1 * noise.to(image.device)


class DrawsWhenBuilt(Grain):
    def __init__(self, *, strength: Range = (0.1, 0.5), p: float = 1.0):
        super().__init__(strength=strength, p=p)
        self.offset = torch.rand(()).item() * 0.1

    def render(self, image, drawn, streams, about):
        return super().render(image * (1 - self.offset), drawn, streams, about)


class Remembers(Grain):
    calls = 0

    def render(self, image, drawn, streams, about):
        self.calls += 1
        return super().render(image, drawn, streams, about) * (0.9 if self.calls % 2 else 0.8)


class SameForAll(Grain):
    identity = None

    def render(self, image, drawn, streams, about):
        return image * 0.7


class DependsOnBatch(Grain):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) - image.mean()


class DependsOnPlace(Grain):
    def render(self, image, drawn, streams, about):
        place = torch.linspace(0.5, 1.0, len(image), device=image.device)
        return super().render(image, drawn, streams, about) * per_image(place, image)


class BatchGate(Grain):
    """One gate for the whole batch, taken from its first image."""

    def perturb(self, batch, streams):
        if self.p == 0.5 and (streams.ids[0] & 1) == 0:
            return batch
        return Grain(strength=self.strength, p=1.0 if self.p == 0.5 else self.p).perturb(batch, streams)


class NotFinite(Grain):
    def render(self, image, drawn, streams, about):
        return torch.where(image == 1, torch.nan, super().render(image, drawn, streams, about))


class DividesByRange(Grain):
    def render(self, image, drawn, streams, about):
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        return (super().render(image, drawn, streams, about) - low) / (high - low)


class OutOfRange(Grain):
    def perturb(self, batch, streams):
        return batch._replace(image=batch.image + per_image(streams.uniform(0.1, 0.2), batch.image))


class OtherType(Grain):
    def perturb(self, batch, streams):
        result = super().perturb(batch, streams)
        return result._replace(image=result.image.to(torch.float64))


class OtherShape(Grain):
    def perturb(self, batch, streams):
        result = super().perturb(batch, streams)
        return result._replace(image=result.image[..., :-1])


class IgnoresGate(Grain):
    def __init__(self, *, strength: Range = (0.1, 0.5), p: float = 1.0):
        super().__init__(strength=strength)


class MisnamesIdentity(Grain):
    identity: ClassVar = {"strenght": 0.0}


class NoZeroStrength(Grain):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) + 0.02


class ForgetsParams(Grain):
    """Draws its noise anew where Kornia applies it, whatever ``params`` say."""

    def apply_transform(self, input, params, flags, transform=None):
        fresh = Streams.drawn(len(input))
        return (input + 0.1 * fresh.normal(*input.shape[1:])).clamp(0, 1).to(input.dtype)


class ReadsValue(Grain):
    def render(self, image, drawn, streams, about):
        if drawn["strength"].max().item() > 10:
            return image
        return super().render(image, drawn, streams, about)


class IndexesByMask(Grain):
    identity = None

    def render(self, image, drawn, streams, about):
        result = super().render(image, drawn, streams, about)
        dark = result < 0.2
        result[dark] = result[dark] * 0.5
        return result


class ReadsList(Grain):
    """Reads values in the one way that goes unnoticed on a CPU."""

    def render(self, image, drawn, streams, about):
        read = drawn["strength"].tolist()
        strength = torch.stack([torch.full((), value, device=image.device) for value in read])
        return super().render(image, {"strength": strength}, streams, about)


class StaysOnTheHost(Grain):
    identity = None

    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) * torch.linspace(0.5, 1.0, about.width)


class NeedsArguments(Grain):
    def __init__(self, strength: Range, *, p: float = 1.0):
        super().__init__(strength=strength, p=p)


class NoFamily(Grain):
    family = ""


class RelabelsNoise(Grain):
    def perturb(self, batch, streams):
        result = super().perturb(batch, streams)
        return result if result.weight is None else result._replace(weight=result.weight * 0.5)


class Slope(Perturbation):
    """A correct one: the image lit from the left, over a slope as steep as drawn. No pixel is where it was bright."""

    family = "detector"

    def draw(self, streams, about):
        return {"gain": streams.uniform(0.5, 1.0)}

    def render(self, image, drawn, streams, about):
        return 0.5 + per_image(drawn["gain"], image) * (image.roll(1, -1) - image.roll(-1, -1)) / 2


class NeedsLabels(Grain):
    def perturb(self, batch, streams):
        return super().perturb(batch, streams)._replace(label=batch.label.clone())


class Rolls(Perturbation):
    """Moves the image as if that were a change of grey values: the mask is left behind."""

    family = "movement"

    def draw(self, streams, about):
        return {"pixels": streams.integers(2, 6)}

    def render(self, image, drawn, streams, about):
        columns = torch.arange(about.width, device=image.device) - drawn["pixels"].view(-1, 1)
        index = (columns % about.width).view(-1, 1, 1, about.width).expand_as(image)
        return image.gather(3, index)


class Mirrors(Grain):
    def render(self, image, drawn, streams, about):
        return super().render(image, {"strength": 0.1 * drawn["strength"]}, streams, about).flip(-1)


class TurnsAndShifts(Mirrors):
    identity = None

    def render(self, image, drawn, streams, about):
        if about.height != about.width:
            return super().render(image, drawn, streams, about).flip(-1)
        return super().render(image, drawn, streams, about).transpose(-2, -1).roll(9, -2)


class OnePixelOff(Mirrors):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about).flip(-1).roll(1, -1)


class FarOff(Mirrors):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about).flip(-1).roll(8, -2)


class LeavesMaskBehind(Sway):
    def perturb(self, batch, streams):
        moved = super().perturb(batch, streams)
        return moved._replace(label=batch.label, weight=batch.weight, instance=batch.instance)


class LeavesTrustBehind(Sway):
    def perturb(self, batch, streams):
        return super().perturb(batch, streams)._replace(weight=batch.weight)


class LeavesKorniaMaskBehind(Sway):
    def apply_transform_mask(self, input, params, flags, transform=None):
        return input


class InventsClass(Sway):
    """Labels interpolated like grey values: halfway between class 0 and 2 lies class 1."""

    def perturb(self, batch, streams):
        moved = super().perturb(batch, streams)
        if moved.label is None or moved.label.ndim != 3:
            return moved
        blurred = nn.functional.avg_pool2d(moved.label.float().unsqueeze(1), 3, 1, 1).squeeze(1)
        return moved._replace(label=blurred.round().long())


class Folds(Sway):
    def flow(self, drawn, streams, about):
        return 6.0 * super().flow(drawn, streams, about).roll(1, dims=-1)


class Spins(Sway):
    """Turns by 80 degrees: it does not fold, but the iteration that inverts it runs away."""

    identity = None

    def flow(self, drawn, streams, about):
        rows, columns = (torch.arange(float(n)) - n / 2 for n in (about.height, about.width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        flow = torch.stack([0.985 * x - 0.826 * y, -0.985 * y - 0.826 * x], dim=-1)
        return flow.expand(len(drawn["phase"]), -1, -1, -1)


class Mirror(Warp):
    """A correct one that folds: left becomes right, for half of the images."""

    family = "geometry"
    mirrors = True

    def draw(self, streams, about):
        return {"left": (streams.uniform(0, 1) < 0.5).float()}

    def flow(self, drawn, streams, about):
        left = drawn["left"].view(-1, 1, 1)
        x = left * (about.width - 1.0 - 2.0 * torch.arange(float(about.width), device=left.device))
        x = x.expand(-1, about.height, -1)
        return torch.stack([torch.zeros_like(x), x], -1)

    def inverse(self, flow, points):
        return points + flow[:, 0, 0].flip(-1).unsqueeze(1) * (1 - 2 * points / max(flow.shape[2] - 1, 1))


class MirrorsTwice(Mirror):
    """Both halves of the image come from its right half."""

    def flow(self, drawn, streams, about):
        flow = super().flow(drawn, streams, about)
        return flow * (torch.arange(about.width, device=flow.device) < about.width // 2).view(1, 1, -1, 1)


class MirrorsPointsByIteration(Mirror):
    def inverse(self, flow, points):
        return Warp.inverse(self, flow, points)


class FlowOfOtherShape(Sway):
    def flow(self, drawn, streams, about):
        return super().flow(drawn, streams, about).double()


class ChangesConstant(Sway):
    def perturb(self, batch, streams):
        moved = super().perturb(batch, streams)
        return moved._replace(image=moved.image * 0.99)


class NoBatch(Grain):
    def perturb(self, batch, streams):
        return super().perturb(batch, streams).image


class NotAModule:
    family = "noise"
    p = 1.0

    def perturb(self, batch: Batch, streams: Streams) -> Batch:
        return Grain(p=self.p).perturb(batch, streams)


class NotOfKornia(nn.Module):
    family = "noise"
    p = 1.0

    def perturb(self, batch: Batch, streams: Streams) -> Batch:
        return Grain(p=self.p).perturb(batch, streams)


class NamesItself(Grain):
    """Draws from the chain's streams directly, under a name that others use too, and more each time."""

    calls = itertools.count()

    def perturb(self, batch, streams):
        return super().perturb(batch, Streams(streams.ids + next(self.calls)))


BROKEN = {
    EditsInPlace: "leave its input as it is",
    EditsWeight: "leave its input as it is .*weight",
    GlobalNoise: "draw from its streams alone: torch's global generator moved on",
    PrivateNoise: "streams",
    DrawsWhenBuilt: "same streams: a second instance",
    Remembers: "same streams: a second call",
    SameForAll: "another result under other streams",
    DependsOnBatch: "treat each image alone",
    DependsOnPlace: "treat each image alone",
    BatchGate: "at p = 0.5",
    NotFinite: "give finite values",
    DividesByRange: "finite values|zero strength",
    OutOfRange: r"stay within \[0, 1\]",
    ClipsOtherwise: r"have clipped\(\) give what render\(\) gives, clipped to .0, 1.: .*: 0.9 instead of",
    OtherType: "keep the image's dtype",
    OtherShape: "keep the image's shape",
    IgnoresGate: "change nothing at p = 0",
    MisnamesIdentity: "identity names: there is no 'strenght'",
    NoZeroStrength: "zero strength, identity = {'strength': .*0.02",
    ForgetsParams: "repeat itself exactly under params=",
    ReadsValue: r"wait for the device: .*test_broken_perturbations.py:\d+ \(if drawn",
    IndexesByMask: "wait for the device: .*x.mask.",
    ReadsList: "run on a GPU as it does on a CPU: .* makes the host wait for a value",
    StaysOnTheHost: "run on a GPU as it does on a CPU: .*image.device",
    NeedsArguments: "build without arguments: .*strength",
    NoFamily: "name its family",
    RelabelsNoise: "leave label, weight and instance alone",
    NeedsLabels: "take a batch without labels",
    Rolls: "leave pixels in place .* derive from Warp",
    Mirrors: r"leave pixels in place .* the image \(all, mirrored\) came out 0 rows and 0 columns away",
    TurnsAndShifts: r"leave pixels in place .* the image \(all, .*turned by 90°\) came out",
    OnePixelOff: r"leave pixels in place .* the image \(all\) came out 0 rows and 1 columns away",
    FarOff: r"leave pixels in place .* the image \(all\) came out 8 rows and 0 columns away",
    LeavesMaskBehind: "move the label as it moves the image",
    LeavesTrustBehind: "move weight with label",
    LeavesKorniaMaskBehind: "move a mask beside it as it moves the image",
    InventsClass: "invent no label: class",
    Folds: "not fold the image over itself: .*∇u",
    MirrorsTwice: "move whole pixels to places of their own",
    MirrorsPointsByIteration: "have an inverse of its own",
    Spins: "have a flow whose inverse a fixed-point iteration finds",
    FlowOfOtherShape: "give a flow of .* float32",
    ChangesConstant: "zero strength|constant image",
    NoBatch: "return the Batch",
    NotAModule: "be an nn.Module",
    NotOfKornia: "be a Kornia augmentation",
    NamesItself: "same streams|in a Chain",
}

test_correct_noise = perturbation_contract(Grain)
test_correct_noise_in_colour = perturbation_contract(Grain, channels=(1, 3))
test_correct_clipping = perturbation_contract(ClipsRight)
test_correct_slope = perturbation_contract(Slope)
test_correct_warp = perturbation_contract(Sway)
test_correct_mirror = perturbation_contract(Mirror)
test_factory = perturbation_contract(lambda: Grain(strength=(0.2, 0.2)))
test_draws_nothing = perturbation_contract(
    type("Dim", (Grain,), {"identity": None, "render": SameForAll.render}), varies=False
)


@pytest.mark.parametrize("component", BROKEN, ids=lambda c: c.__name__)
def test_broken_promise_is_caught_and_named(component):
    with pytest.raises(BrokenPromise, match=BROKEN[component]) as caught:
        perturbation_contract(component)()
    assert str(caught.value).startswith(f"{component.__name__} must ")


class Polar(Grain):
    """A correct one: brightens HAADF images, darkens bright field, takes HAADF for granted."""

    def render(self, image, drawn, streams, about):
        sign = about.value("polarity", 1.0)
        return image + per_image(sign * drawn["strength"], image)


class NeedsPolarity(Polar):
    def render(self, image, drawn, streams, about):
        return image + per_image(about.meta["polarity"] * drawn["strength"], image)


test_metadata = perturbation_contract(Polar, meta={"polarity": -1.0})


@pytest.mark.parametrize("meta", [None, {"polarity": -1.0}])
def test_metadata_must_not_be_needed(meta):
    with pytest.raises(BrokenPromise, match=r"about.value.*'polarity'"):
        perturbation_contract(NeedsPolarity, meta=meta)()


def test_metadata_is_given():
    seen = set()

    class Watch(Grain):
        def draw(self, streams, about):
            seen.update(about.meta)
            return super().draw(streams, about)

    perturbation_contract(Watch, meta={"polarity": -1.0}, examples=1)()
    assert seen == {"polarity"}


def test_message_names_values_and_case():
    with pytest.raises(BrokenPromise) as caught:
        perturbation_contract(OutOfRange)()
    assert re.search(r"first at \(\d+, \d+, \d+, \d+\): 1\.\d+ \[24×31 pixels, batch 3", str(caught.value))
