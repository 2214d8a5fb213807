"""What each perturbation of the family "machine" promises beyond the contract, and faults that break it."""

import torch
from lamella import Batch
from lamella_tem.perturbations.camera import Camera
from lamella_tem.perturbations.dark_current import DarkCurrent
from lamella_tem.perturbations.detector_mtf import DetectorMtf
from lamella_tem.perturbations.gain_noise import GainNoise
from lamella_tem.perturbations.readout import Readout
from lamella_tem.perturbations.scan_jitter import ScanJitter
from lamella_tem.perturbations.shot_noise import ShotNoise
from lamella_tem.perturbations.spikes import Spikes
from tem_trial import caught_by, close, flow, invariant, rendered, warped


def _whole(counts, what):
    close(counts, counts.round(), 2e-3, what)


@invariant("shot-noise")
def counts_are_whole(cls, case):
    shown, drawn = rendered(cls(dose=(10.0, 100.0)), case.image(), case.seed)
    dose, pedestal = (drawn[name].view(-1, 1, 1, 1) for name in ("dose", "pedestal"))
    _whole(shown * dose * (1 - pedestal) + dose * pedestal, "electrons counted")


@invariant("shot-noise")
def counts_have_poissons_mean_and_variance(cls, case):
    case = case.at_least(96, 96)
    grey, count = 0.4, case.at_least(96, 96).height * case.width
    shown, drawn = rendered(cls(), case.flat(grey), case.seed)
    rate = drawn["dose"] * (drawn["pedestal"] + (1 - drawn["pedestal"]) * grey)
    variance = rate / (drawn["dose"] * (1 - drawn["pedestal"])) ** 2
    off = (shown.mean((1, 2, 3)) - grey) / (variance / count).sqrt()
    assert off.abs().max() < 5, f"the mean is {off.abs().max():.1f} standard errors from the image"
    off = (shown.var((1, 2, 3)) / variance - 1) / (2 / count + 1 / (rate * count)).sqrt()
    assert off.abs().max() < 5, f"the variance is {off.abs().max():.1f} standard errors off"


@caught_by(counts_are_whole)
class Smooth(ShotNoise):
    def render(self, image, drawn, streams, about):
        return image + 0.9 * (super().render(image, drawn, streams, about) - image)


@caught_by(counts_have_poissons_mean_and_variance)
class NoPedestal(ShotNoise):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"pedestal": 0 * drawn["pedestal"]}, streams, about)


@invariant("dark-current")
def dark_frames_do_not_see_the_image(cls, case):
    frames = [rendered(cls(), x, case.seed)[0] - x for x in (case.flat(0.0), case.image())]
    close(frames[0], frames[1], 2e-6, "dark frames of two images")


@invariant("dark-current")
def columns_are_constant(cls, case):
    only = cls(dark=(0.0, 0.0), hot=(0.0, 0.0), column=(1.0, 2.0))
    frame, _ = rendered(only, case.flat(0.0), case.seed)
    assert (frame == frame[:, :, :1]).all() and frame.std() > 0, "the column term varies down a column"


@invariant("dark-current")
def hot_pixels_are_as_many_as_said(cls, case):
    case, share = case.at_least(96, 96), 0.01
    only = cls(dark=(0.0, 0.0), hot=(share, share), column=(0.0, 0.0))
    count = (rendered(only, case.flat(0.0), case.seed)[0] > 0).sum((1, 2, 3))
    pixels = case.height * case.width
    off = (count - share * pixels) / (share * (1 - share) * pixels) ** 0.5
    assert off.abs().max() < 6, f"hot pixels are {off.abs().max():.1f} standard deviations off their share"


@caught_by(dark_frames_do_not_see_the_image)
class Proportional(DarkCurrent):
    def render(self, image, drawn, streams, about):
        return image + (super().render(image, drawn, streams, about) - image) * (0.5 + image)


@caught_by(columns_are_constant)
class Rows(DarkCurrent):
    def render(self, image, drawn, streams, about):
        frame = super().render(image, drawn, streams, about) - image
        return image + frame[:, :, :1, :1] * torch.linspace(0, 1, about.height).view(-1, 1)


@caught_by(hot_pixels_are_as_many_as_said)
class TooHot(DarkCurrent):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"hot": 3 * drawn["hot"]}


@invariant("gain-noise")
def gain_is_homogeneous(cls, case):
    image = case.image()
    full, half = (rendered(cls(), x, case.seed)[0] for x in (image, 0.5 * image))
    close(half, 0.5 * full, 1e-6, "y(x/2) against y(x)/2")
    assert (rendered(cls(), case.flat(0.0), case.seed)[0] == 0).all(), "black did not stay black"


@invariant("gain-noise")
def gain_has_the_spread_it_says(cls, case):
    case = case.at_least(96, 96)
    only = cls(pixel=(0.02, 0.02), column=(0.0, 0.0), quadrant=(0.0, 0.0))
    ratios = [rendered(only, x, case.seed)[0] / x for x in (case.image(), case.flat(0.5))]
    close(ratios[0], ratios[1], 1e-5, "y/x of two images")
    spread = ratios[0].std((1, 2, 3))
    close(spread, torch.full_like(spread, 0.02), 0.0012, "standard deviation of y/x")


@caught_by(gain_is_homogeneous)
class Offset(GainNoise):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) + 0.01


@caught_by(gain_has_the_spread_it_says)
class Doubled(GainNoise):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"pixel": 2 * drawn["pixel"]}, streams, about)


@invariant("readout")
def rounding_errs_by_half_a_level(cls, case):
    quiet = cls(read=(0.0, 0.0), row=(0.0, 0.0), bits=(2.0, 8.0))
    image = case.image(0.0, 1.0)
    shown, drawn = rendered(quiet, image, case.seed)
    levels = (2 ** drawn["bits"] - 1).view(-1, 1, 1, 1)
    assert ((shown - image).abs() * levels <= 0.5 + 1e-4).all(), "off by more than half a level"
    close(rendered(quiet, shown, case.seed)[0], shown, 1e-6, "rounded twice")
    _whole(shown * levels, "levels")


@invariant("readout")
def readout_has_the_noise_it_says(cls, case):
    case = case.at_least(96, 96)
    noisy = cls(read=(5.0, 5.0), row=(0.0, 0.0), bits=(24.0, 24.0), dose=(100.0, 100.0))
    spread = rendered(noisy, case.flat(0.5), case.seed)[0].std((1, 2, 3))
    close(spread, torch.full_like(spread, 0.05), 0.003, "standard deviation of the readout noise")


@caught_by(rounding_errs_by_half_a_level)
class Truncating(Readout):
    def render(self, image, drawn, streams, about):
        levels = (2 ** drawn["bits"] - 1).view(-1, 1, 1, 1)
        return super().render(image - 0.45 / levels, drawn, streams, about)


@caught_by(readout_has_the_noise_it_says)
class Uniform(Readout):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"read": 0.9 * drawn["read"]}, streams, about)


@invariant("detector-mtf")
def mtf_keeps_the_mean_and_amplifies_nothing(cls, case):
    image = case.image()
    before, after = (torch.fft.fft2(x).abs() for x in (image, rendered(cls(), image, case.seed)[0]))
    close(after[..., 0, 0] / before[..., 0, 0], torch.ones(2, 1), 1e-5, "mean")
    assert (after <= before * (1 + 1e-4) + 1e-3).all(), "a frequency was amplified"
    assert after.square().sum() < 0.999 * before.square().sum(), "nothing was damped"


@invariant("detector-mtf")
def mtf_commutes_with_shifts(cls, case):
    image = case.image()
    shifted = rendered(cls(), image.roll((3, 5), (2, 3)), case.seed)[0]
    close(shifted, rendered(cls(), image, case.seed)[0].roll((3, 5), (2, 3)), 1e-5, "a circular shift")


@caught_by(mtf_keeps_the_mean_and_amplifies_nothing)
class Amplifying(DetectorMtf):
    def render(self, image, drawn, streams, about):
        return 2 * image - super().render(image, drawn, streams, about)


@caught_by(mtf_commutes_with_shifts)
class Vignetted(DetectorMtf):
    def render(self, image, drawn, streams, about):
        blurred = super().render(image, drawn, streams, about)
        return torch.lerp(image, blurred, torch.linspace(0.2, 1, about.width))


@invariant("spikes")
def spikes_are_rare_and_leave_the_rest_exact(cls, case):
    case, share = case.at_least(64, 64), 0.002
    image = case.image(0.2, 0.6)
    shown, drawn = rendered(cls(struck=(share, share), dead=(share, share)), image, case.seed)
    bright = shown == drawn["brightness"].view(-1, 1, 1, 1)
    dead = shown == image * drawn["left"].view(-1, 1, 1, 1)
    assert ((shown == image) | bright | dead).all(), "a pixel is neither spike nor dead nor as it was"
    expected = share * case.height * case.width
    most = expected + 6 * expected**0.5 + 1
    assert bright.sum((1, 2, 3)).max() <= 3 * most, "too many spikes"
    assert dead.sum((1, 2, 3)).max() <= most, "too many dead pixels"
    assert (bright.sum((1, 2, 3)) >= 1).all(), "an image without a strike"


@caught_by(spikes_are_rare_and_leave_the_rest_exact)
class Blooming(Spikes):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) + 0.001


@caught_by(spikes_are_rare_and_leave_the_rest_exact)
class Hail(Spikes):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"struck": 10 * drawn["struck"]}


@invariant("scan-jitter")
def rows_stay_rows(cls, case):
    image = case.image()
    moved = warped(cls(), Batch.of(image), case.seed).image
    assert (moved <= image.amax(3, keepdim=True) + 1e-6).all(), "brighter than anything in its row"
    assert (moved >= image.amin(3, keepdim=True) - 1e-6).all(), "darker than anything in its row"
    close(warped(cls(), Batch.of(case.flat(0.3)), case.seed).image, case.flat(0.3), 1e-6, "a constant image")


@invariant("scan-jitter")
def jitter_has_the_rms_it_says(cls, case):
    case = case.at_least(97, 8)
    u = flow(cls(rms=(0.5, 0.5), correlation=(0.3, 0.3)), case, count=64)
    assert (u[..., 0] == 0).all() and (u == u[:, :, :1]).all(), "pixels of a row moved apart"
    rms = u[..., 1].square().mean().sqrt()
    close(rms, torch.tensor(0.5), 0.05, "rms of the row shifts")


@caught_by(rows_stay_rows)
class Wandering(ScanJitter):
    def flow(self, drawn, streams, about):
        return super().flow(drawn, streams, about).flip(-1)


@caught_by(jitter_has_the_rms_it_says)
class Nervous(ScanJitter):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"rms": 1.5 * drawn["rms"]}


COUNTING = {
    "gain": (0.0, 0.0), "column_gain": (0.0, 0.0), "quadrant_gain": (0.0, 0.0), "hot": (0.0, 0.0),
    "column": (0.0, 0.0), "read": (0.0, 0.0), "row": (0.0, 0.0), "bits": (24.0, 24.0),
}  # fmt: skip


@invariant("camera")
def cameras_count_beam_and_heat_as_one(cls, case):
    camera = cls(dose=(10.0, 100.0), dark=(5.0, 5.0), reference=(1.0, 1.0), **COUNTING)
    shown, drawn = rendered(camera, case.image(), case.seed)
    dose, pedestal = (drawn[name].view(-1, 1, 1, 1) for name in ("dose", "pedestal"))
    _whole(shown * dose * (1 - pedestal) + dose * pedestal + 5.0, "electrons counted")


@invariant("camera")
def cameras_without_noise_only_amplify(cls, case):
    bright = cls(dose=(float("inf"),) * 2, hot=(0.0, 0.0), bits=(24.0, 24.0))
    image = case.image()
    full, half = (rendered(bright, x, case.seed)[0] for x in (image, 0.5 * image))
    close(half, 0.5 * full, 1e-6, "y(x/2) against y(x)/2")
    assert not torch.equal(full, image), "there is no gain pattern"


@caught_by(cameras_count_beam_and_heat_as_one)
class Leaky(Camera):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"reference": drawn["reference"] + 0.05}


@caught_by(cameras_without_noise_only_amplify)
class Fogged(Camera):
    def render(self, image, drawn, streams, about):
        return super().render(image + 0.01, drawn, streams, about)
