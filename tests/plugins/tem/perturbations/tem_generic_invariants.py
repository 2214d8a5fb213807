"""What the generic perturbations promise beyond the contract, and faults that break it."""

import torch
from lamella_tem.perturbations.blur import RADIUS, Blur
from lamella_tem.perturbations.jitter import Jitter
from tem_trial import caught_by, close, invariant, rendered


@invariant("jitter")
def jitter_keeps_the_mean_under_contrast(cls, case):
    image = case.image()
    shown, _ = rendered(cls(brightness=(1.0, 1.0)), image, case.seed)
    close(shown.mean((1, 2, 3)), image.mean((1, 2, 3)), 1e-5, "the mean")


@invariant("jitter")
def jitter_is_affine_in_the_grey_value(cls, case):
    image = case.image()
    shown, drawn = rendered(cls(), image, case.seed)
    slope = (drawn["brightness"] * drawn["contrast"]).view(-1, 1, 1, 1)
    offset = (shown - slope * image).flatten(1)
    close(offset.amax(1), offset.amin(1), 1e-5, "the offset of an image")


@invariant("blur")
def blur_keeps_constants(cls, case):
    image = case.flat(0.37)
    close(rendered(cls(), image, case.seed)[0], image, 1e-5, "a constant image")


@invariant("blur")
def blur_is_a_gaussian_of_its_sigma(cls, case):
    case = case.at_least(2 * RADIUS + 3, 2 * RADIUS + 3)
    dot = case.flat(0.0)
    y, x = case.height // 2, case.width // 2
    dot[..., y, x] = 1.0
    shown, drawn = rendered(cls(sigma=(0.8, 1.6)), dot, case.seed)
    away = torch.arange(case.width) - x
    variance = (shown.sum((1, 2)) * away**2).sum(1) / shown.sum((1, 2, 3))
    close(variance.sqrt(), drawn["sigma"], 0.02, "the width of a dot")


@caught_by(jitter_keeps_the_mean_under_contrast)
class AboutBlack(Jitter):
    def render(self, image, drawn, streams, about):
        return drawn["contrast"].view(-1, 1, 1, 1) * image


@caught_by(jitter_is_affine_in_the_grey_value)
class Bent(Jitter):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) ** 1.2


@caught_by(blur_keeps_constants)
class DarkBorder(Blur):
    def render(self, image, drawn, streams, about):
        shown = super().render(image, drawn, streams, about)
        shown[..., 0, :] *= 0.5
        return shown


@caught_by(blur_is_a_gaussian_of_its_sigma)
class TooWide(Blur):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"sigma": 1.2 * drawn["sigma"]}, streams, about)
