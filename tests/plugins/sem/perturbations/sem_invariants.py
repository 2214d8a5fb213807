"""What each SEM perturbation promises beyond the contract, and for every promise a fault that breaks it."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from lamella import About, Batch, Streams
from lamella_sem.perturbations.charging import Charging
from lamella_sem.perturbations.defocus import Defocus
from lamella_sem.perturbations.flip import Flip
from lamella_sem.perturbations.intensity import SemIntensity
from lamella_sem.perturbations.reframe import Reframe
from lamella_sem.perturbations.scan_jitter import SemScanJitter
from lamella_sem.perturbations.shot_noise import SemShotNoise
from lamella_sem.sets import TARGETS
from torch import Tensor

Check = Callable[[Any, int], None]
INVARIANTS: dict[str, list[Check]] = {}
"""The checks of every perturbation by its registered name; each takes the class and a seed."""
FAULTS: list[tuple[Check, type]] = []
"""A check, and a class with one deliberate fault that it must catch."""


def invariant(name: str) -> Callable[[Check], Check]:
    def enter(check: Check) -> Check:
        INVARIANTS.setdefault(name, []).append(check)
        return check

    return enter


def caught_by(check: Check) -> Callable[[type], type]:
    def enter(faulty: type) -> type:
        FAULTS.append((check, faulty))
        return faulty

    return enter


def component(name: str) -> type:
    module, _, attribute = TARGETS[name].partition(":")
    return getattr(import_module(module), attribute)


def noise(seed: int, height: int = 40, width: int = 56, *, low: float = 0.2, high: float = 0.8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(3, 1, height, width, generator=generator)


def about(image: Tensor) -> About:
    count, _, height, width = image.shape
    return About(height, width, torch.full((count, 2), torch.nan), {})


def rendered(perturbation: Any, image: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The unclipped image and what was drawn for it."""
    streams, known = Streams(torch.arange(len(image)) + 1000 * seed), about(image)
    drawn = perturbation.draw(streams.child("draw"), known)
    return perturbation.render(image, drawn, streams.child("render"), known), drawn


def flow_of(warp: Any, image: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    streams, known = Streams(torch.arange(len(image)) + 1000 * seed), about(image)
    drawn = warp.draw(streams.child("draw"), known)
    return warp.flow(drawn, streams.child("render"), known), drawn


def close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    gap = (found - wanted).abs().max().item()
    assert gap <= tolerance, f"{what}: off by {gap:.3g}, {tolerance:.3g} allowed"


@invariant("reframe")
def shows_the_share_that_it_says(cls, seed):
    image = noise(seed)
    flow, drawn = flow_of(cls(), image, seed)
    place = flow + torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij"), -1)
    right, down = place[:, 0, -1] - place[:, 0, 0], place[:, -1, 0] - place[:, 0, 0]
    close(right.norm(dim=1), drawn["zoom"] * 55, 1e-3, "the width of the crop")
    close(down.norm(dim=1), drawn["zoom"] * 39, 1e-3, "the height of the crop")
    close((right * down).sum(1), torch.zeros(3), 0.05, "the crop's right angle")
    angle = torch.atan2(right[:, 0], right[:, 1])
    close(angle, drawn["angle"], 1e-4, "the angle of the crop")


@invariant("reframe")
def shifts_no_further_than_it_says(cls, seed):
    image = noise(seed)
    flow, drawn = flow_of(cls(shift=(0.1, 0.1)), image, seed)
    middle = 0.25 * (flow[:, 19, 27] + flow[:, 20, 27] + flow[:, 19, 28] + flow[:, 20, 28])
    close(middle, drawn["shift"], 1e-4, "the middle of the crop")
    close(middle.norm(dim=1), torch.full((3,), 4.0), 1e-3, "the distance from the middle, a tenth of 40 pixels")


@caught_by(shows_the_share_that_it_says)
class ZoomsOneSide(Reframe):
    def flow(self, drawn, streams, about):
        return super().flow(drawn, streams, about) * torch.tensor([1.0, 0.9])


@caught_by(shifts_no_further_than_it_says)
class ShiftsTwice(Reframe):
    def flow(self, drawn, streams, about):
        return super().flow(drawn | {"shift": 2 * drawn["shift"]}, streams, about)


@invariant("flip")
def flipped_twice_is_as_before(cls, seed):
    batch = Batch.of(noise(seed), label=(noise(seed)[:, 0] > 0.5).long())
    both = cls(horizontal=1.0, vertical=1.0)
    once = both.perturb(batch, Streams(torch.arange(3)))
    assert (once.image == batch.image.flip(2, 3)).all() and (once.label == batch.label.flip(1, 2)).all()
    twice = both.perturb(once, Streams(torch.arange(3)))
    assert (twice.image == batch.image).all() and (twice.weight == batch.weight).all()


@invariant("flip")
def each_direction_has_its_own_chance(cls, seed):
    image = torch.zeros(400, 1, 4, 4)
    _, drawn = flow_of(cls(horizontal=0.25, vertical=0.75), image, seed)
    down, across = drawn["mirrored"].mean(0).tolist()
    assert abs(down - 0.75) < 0.12 and abs(across - 0.25) < 0.12, f"mirrored {down:.2f} down, {across:.2f} across"
    both = drawn["mirrored"].prod(1).mean().item()
    assert abs(both - 0.1875) < 0.1, f"both at once {both:.2f}"


@caught_by(flipped_twice_is_as_before)
class FlipsOneTooFar(Flip):
    def flow(self, drawn, streams, about):
        return super().flow(drawn, streams, about) + torch.tensor([0.0, 1.0])


@caught_by(each_direction_has_its_own_chance)
class FlipsTogether(Flip):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)["mirrored"]
        return {"mirrored": drawn[:, :1].expand(-1, 2)}


@invariant("charging")
def keeps_the_mean(cls, seed):
    image = noise(seed)
    shown, _ = rendered(cls(), image, seed)
    close(shown.mean((1, 2, 3)), image.mean((1, 2, 3)), 1e-5, "the mean of the image")


@invariant("charging")
def bands_are_constant_along_a_line(cls, seed):
    image = noise(seed)
    shown, _ = rendered(cls(wave=(0.0, 0.0)), image, seed)
    change = shown - image
    close(change, change[..., :1].expand_as(change), 1e-6, "the change along a line")
    excess = image.mean(3) - image.mean((2, 3)).unsqueeze(2)
    assert (change[..., 0] * excess <= 1e-7).all(), "a line brighter than the image was not shown darker"


@invariant("charging")
def the_wave_does_not_see_the_image(cls, seed):
    waves = [rendered(cls(bands=(0.0, 0.0)), image, seed)[0] - image for image in (noise(seed), 0 * noise(seed))]
    close(waves[0], waves[1], 1e-6, "the waves of two images")
    _, drawn = rendered(cls(), noise(seed), seed)
    assert (waves[1].abs().amax((1, 2, 3)) <= 2 * drawn["wave"] + 1e-6).all(), "the wave is higher than its amplitude"


@caught_by(keeps_the_mean)
class Brightens(Charging):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) + 0.01


@caught_by(bands_are_constant_along_a_line)
class BandsDownwards(Charging):
    def render(self, image, drawn, streams, about):
        turned = super().render(image.transpose(2, 3), drawn, streams, about._replace(height=56, width=40))
        return turned.transpose(2, 3)


@caught_by(the_wave_does_not_see_the_image)
class WaveOnBright(Charging):
    def render(self, image, drawn, streams, about):
        return image + (super().render(image, drawn, streams, about) - image) * (0.5 + image)


@invariant("defocus")
def a_point_becomes_a_disc(cls, seed):
    image = torch.zeros(3, 1, 25, 25)
    image[..., 12, 12] = 1.0
    shown, drawn = rendered(cls(radius=(1.0, 5.0)), image, seed)
    close(shown.sum((1, 2, 3)), torch.ones(3), 1e-5, "the light of a point")
    at = torch.arange(25.0) - 12
    distance = torch.hypot(at.view(-1, 1), at)
    for one, radius in zip(shown[:, 0], drawn["radius"]):
        assert (one[distance >= radius + 1] == 0).all(), "the disc is larger than its radius"
        within = one[distance <= radius]
        close(within, within.amax().expand_as(within), 1e-7, "the disc is not flat")


@invariant("defocus")
def a_mirrored_image_is_mirrored(cls, seed):
    image = noise(seed)
    shown, turned = (rendered(cls(), x, seed)[0] for x in (image, image.flip(2, 3)))
    close(turned, shown.flip(2, 3), 1e-5, "the mirrored image out of focus")


@caught_by(a_point_becomes_a_disc)
class Gains(Defocus):
    def render(self, image, drawn, streams, about):
        return 1.1 * super().render(image, drawn, streams, about)


@caught_by(a_mirrored_image_is_mirrored)
class Drags(Defocus):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about).roll(1, 3)


@invariant("sem-scan-jitter")
def lines_move_whole_and_along_themselves(cls, seed):
    flow, _ = flow_of(cls(rms=(0.5, 1.0)), noise(seed), seed)
    assert (flow[..., 0] == 0).all(), "lines moved down"
    assert (flow[..., 1] == flow[:, :, :1, 1]).all(), "a line was stretched"


@invariant("sem-scan-jitter")
def shifts_are_as_large_as_said(cls, seed):
    flow, drawn = flow_of(cls(rms=(0.5, 1.0)), noise(seed, 4000, 8), seed)
    rms = flow[:, :, 0, 1].square().mean(1).sqrt()
    close(rms / drawn["rms"], torch.ones(3), 0.15, "the standard deviation of the shifts")


@caught_by(lines_move_whole_and_along_themselves)
class JittersColumns(SemScanJitter):
    def flow(self, drawn, streams, about):
        return super().flow(drawn, streams, about).flip(-1)


@caught_by(shifts_are_as_large_as_said)
class JittersMore(SemScanJitter):
    def flow(self, drawn, streams, about):
        return 1.4 * super().flow(drawn, streams, about)


@invariant("sem-shot-noise")
def mean_and_variance_are_poissons(cls, seed):
    grey, pixels = 0.4, 120 * 120
    shown, drawn = rendered(cls(), torch.full((3, 1, 120, 120), grey), seed)
    dose, black = 1 / drawn["inverse"], drawn["black"]
    variance = dose * (black + (1 - black) * grey) / (dose * (1 - black)) ** 2
    off = (shown.mean((1, 2, 3)) - grey) / (variance / pixels).sqrt()
    assert off.abs().max() < 5, f"the mean is {off.abs().max():.1f} standard errors off"
    off = (shown.var((1, 2, 3)) / variance - 1) * (pixels / 2) ** 0.5
    assert off.abs().max() < 5, f"the variance is {off.abs().max():.1f} standard errors off"


@invariant("sem-shot-noise")
def without_a_pedestal_black_stays_black(cls, seed):
    shown, _ = rendered(cls(black=(0.0, 0.0)), torch.zeros(3, 1, 16, 16), seed)
    assert (shown == 0).all()


@caught_by(mean_and_variance_are_poissons)
class Additive(SemShotNoise):
    def render(self, image, drawn, streams, about):
        return super().render(torch.ones_like(image), drawn, streams, about) - 1 + image


@caught_by(without_a_pedestal_black_stays_black)
class AlwaysSome(SemShotNoise):
    def render(self, image, drawn, streams, about):
        return super().render(image + 0.01, drawn, streams, about) - 0.01


@invariant("sem-intensity")
def the_order_of_greys_is_kept(cls, seed):
    image = torch.linspace(0, 1, 64).expand(3, 1, 8, 64)
    shown, _ = rendered(cls(), image, seed)
    assert (shown.diff(dim=3) >= 0).all(), "a brighter pixel was shown darker"


@invariant("sem-intensity")
def mid_grey_moves_by_the_brightness_alone(cls, seed):
    shown, drawn = rendered(cls(gamma=(1.0, 1.0)), torch.full((3, 1, 8, 8), 0.5), seed)
    close(shown, (0.5 + drawn["brightness"]).view(-1, 1, 1, 1).expand_as(shown), 1e-6, "mid-grey")


@caught_by(the_order_of_greys_is_kept)
class Inverts(SemIntensity):
    def render(self, image, drawn, streams, about):
        return 1 - super().render(image, drawn, streams, about)


@caught_by(mid_grey_moves_by_the_brightness_alone)
class AboutBlack(SemIntensity):
    def render(self, image, drawn, streams, about):
        return (drawn["contrast"].view(-1, 1, 1, 1) * image + drawn["brightness"].view(-1, 1, 1, 1)).clamp(0, 1)
