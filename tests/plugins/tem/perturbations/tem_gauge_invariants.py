"""What the perturbations of gauge studies promise beyond the contract, and faults that break it."""

import torch
from lamella import Batch
from lamella_tem.perturbations.own_noise import OwnNoise
from lamella_tem.perturbations.stage_shift import StageShift
from tem_trial import caught_by, close, flow, invariant, rendered, warped


def _layers(case):
    """Bright and dark layers 9 pixels thick, as (image without noise, noise that grows with brightness)."""
    case = case.at_least(128, 128)
    bright = (torch.arange(case.height) // 9 % 2).view(1, 1, -1, 1)
    clean = (0.25 + 0.5 * bright).expand(2, 1, case.height, case.width)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(case.seed))
    return clean, 0.08 * clean * noise


@invariant("own-noise")
def noise_comes_again_as_strong_at_every_grey_level(cls, case):
    clean, noise = _layers(case)
    shown, _ = rendered(cls(), clean + noise, case.seed)
    added, inner = shown - clean - noise, torch.arange(clean.shape[2]) % 9 == 4
    for grey in (0.25, 0.75):
        mine = inner.view(1, 1, -1, 1) & (clean == grey)
        off = added[mine].std() / (0.08 * grey)
        assert 0.85 < off < 1.15, f"at {grey} it adds {off:.2f} times the noise that is there"


@invariant("own-noise")
def an_image_without_noise_gets_none(cls, case):
    clean, _ = _layers(case)
    close(rendered(cls(), clean, case.seed)[0], clean, 1e-3, "an image without noise")


@invariant("own-noise")
def the_border_does_not_dilute_the_noise(cls, case):
    noise = 0.05 * torch.randn(100, 1, 64, 64, generator=torch.Generator().manual_seed(case.seed))
    shown, _ = rendered(cls(), 0.5 + noise, case.seed)
    off = (shown - 0.5 - noise).var() / noise.var()
    assert 0.97 < off < 1.05, f"on 64 × 64 pixels it adds {off:.2f} times the variance that is there"


@caught_by(noise_comes_again_as_strong_at_every_grey_level)
class Even(OwnNoise):
    def render(self, image, drawn, streams, about):
        added = super().render(image, drawn, streams, about) - image
        return image + added.std() * torch.randn_like(image)


@caught_by(the_border_does_not_dilute_the_noise)
class Diluted(OwnNoise):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"factor": 0.96 * drawn["factor"]}


@caught_by(an_image_without_noise_gets_none)
class Edgy(OwnNoise):
    def render(self, image, drawn, streams, about):
        return image + image.std((2, 3), keepdim=True) * streams.normal(*image.shape[1:])


@invariant("stage-shift")
def shifts_are_whole_and_the_same_everywhere(cls, case):
    moved = flow(cls(), case)
    close(moved, moved.round(), 1e-6, "shifts in whole pixels")
    close(moved, moved[:, :1, :1].expand_as(moved), 0.0, "shifts of all pixels of an image")


@invariant("stage-shift")
def shifted_noise_is_as_strong_as_before(cls, case):
    case = case.at_least(64, 64)
    noise = 0.5 + 0.05 * torch.randn(2, 1, case.height, case.width, generator=torch.Generator().manual_seed(case.seed))
    ratio = warped(cls(), Batch.of(noise), case.seed).image.std() / noise.std()
    assert 0.95 < ratio < 1.05, f"a shift leaves {ratio:.2f} of the noise"


@caught_by(shifts_are_whole_and_the_same_everywhere)
class Sheared(StageShift):
    def flow(self, drawn, streams, about):
        return super().flow(drawn, streams, about) * torch.linspace(0, 1, about.width).view(1, 1, -1, 1)


@caught_by(shifted_noise_is_as_strong_as_before)
class Halfway(StageShift):
    def draw(self, streams, about):
        return {name: shift + 0.5 for name, shift in super().draw(streams, about).items()}
