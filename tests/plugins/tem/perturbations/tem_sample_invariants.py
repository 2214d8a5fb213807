"""What each perturbation of the family "sample" promises beyond the contract, and faults that break it."""

import math

import torch
from lamella import Batch
from lamella_tem.perturbations.amorphous_layer import AmorphousLayer
from lamella_tem.perturbations.carbon import Carbon
from lamella_tem.perturbations.curtaining import Curtaining
from lamella_tem.perturbations.deformation import Deformation
from lamella_tem.perturbations.metal_spots import MetalSpots
from lamella_tem.perturbations.thickness_wedge import ThicknessWedge
from scipy.ndimage import gaussian_filter
from tem_trial import caught_by, close, flow, invariant, rendered, warped

STEADY = {"decay": (math.inf, math.inf), "second": 0.0}


@invariant("curtaining")
def stripes_are_constant_down_a_column(cls, case):
    image = case.image()
    ratio = rendered(cls(angle=(0.0, 0.0), **STEADY), image, case.seed)[0] / image
    close(ratio, ratio[:, :, :1].expand_as(ratio), 1e-5, "y/x down a column")


@invariant("curtaining")
def stripes_lie_in_a_narrow_wedge(cls, case):
    case = case.at_least(96, 96)
    flat = case.flat(0.5)
    log = torch.log(rendered(cls(angle=(-3.0, 3.0), **STEADY), flat, case.seed)[0] / flat)[:, 0]
    window = torch.hann_window(case.height).view(-1, 1) * torch.hann_window(case.width)
    energy = torch.fft.fft2((log - log.mean((1, 2), keepdim=True)) * window).abs().square()
    fy = torch.fft.fftfreq(case.height).abs().view(-1, 1)
    fx = torch.fft.fftfreq(case.width).abs()
    wedge = fy <= fx * math.tan(math.radians(4.0)) + 2.5 / case.height
    share = (energy * wedge).sum((1, 2)) / energy.sum((1, 2))
    assert (share > 0.95).all(), f"only {share.min():.2f} of the stripes' energy lies in the wedge"


@invariant("curtaining")
def curtains_keep_black(cls, case):
    assert (rendered(cls(), case.flat(0.0), case.seed)[0] == 0).all(), "black did not stay black"


@invariant("curtaining")
def curtains_turn_with_polarity(cls, case):
    image = case.image()
    bright, dark = (rendered(cls(), image, case.seed, polarity=m)[0] / image for m in (1.0, -1.0))
    close(bright * dark, torch.ones_like(bright), 1e-4, "HAADF ratio times bright-field ratio")


@caught_by(stripes_are_constant_down_a_column)
class Leaning(Curtaining):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"angle": drawn["angle"] + 0.2}


@caught_by(stripes_lie_in_a_narrow_wedge)
class Crossed(Curtaining):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"angle": drawn["angle"] + math.radians(40)}


@caught_by(curtains_keep_black)
class Added(Curtaining):
    def render(self, image, drawn, streams, about):
        return image + super().render(torch.ones_like(image), drawn, streams, about) - 1.0


@caught_by(curtains_turn_with_polarity)
class BlindCurtain(Curtaining):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about._replace(meta={}))


@invariant("thickness-wedge")
def wedge_is_a_plane(cls, case):
    flat = case.flat(0.5)
    log = torch.log(rendered(cls(), flat, case.seed)[0] / flat)
    assert log.std() > 0.01, "there is no wedge"
    for axis in (2, 3):
        close(log.diff(n=2, dim=axis), torch.zeros(()), 2e-5, "second difference of the log-ratio")


@invariant("thickness-wedge")
def wedge_mirrors_to_one(cls, case):
    flat = case.flat(0.5)
    ratio = rendered(cls(), flat, case.seed)[0] / flat
    close(ratio * ratio.flip(2, 3), torch.ones_like(ratio), 1e-5, "ratio times its mirror image")


@caught_by(wedge_is_a_plane)
class Linear(ThicknessWedge):
    def render(self, image, drawn, streams, about):
        return image * (1 + torch.log(super().render(torch.ones_like(image), drawn, streams, about)))


@caught_by(wedge_mirrors_to_one)
class Brightened(ThicknessWedge):
    def render(self, image, drawn, streams, about):
        return 1.05 * super().render(image, drawn, streams, about)


def _far(image, centre, reach):
    """(B, 1, H, W): pixels farther than ``reach`` (B,) px from ``centre`` (B, 2) in shares of the image."""
    height, width = image.shape[-2:]
    y = torch.arange(height).view(1, -1, 1) - centre[:, 0].view(-1, 1, 1) * height
    x = torch.arange(width).view(1, 1, -1) - centre[:, 1].view(-1, 1, 1) * width
    return (torch.sqrt(y * y + x * x) > reach.view(-1, 1, 1) + 1).unsqueeze(1)


@invariant("carbon")
def carbon_darkens_bright_field_and_brightens_haadf(cls, case):
    image = case.image()
    assert (rendered(cls(), image, case.seed, polarity=-1.0)[0] <= image).all(), "brighter in bright field"
    assert (rendered(cls(), image, case.seed, polarity=1.0)[0] >= image).all(), "darker in HAADF"


@invariant("carbon")
def carbon_ends_at_its_support(cls, case):
    image = case.image()
    for polarity in (-1.0, 1.0):
        shown, drawn = rendered(cls(radius=(0.05, 0.1)), image, case.seed, polarity=polarity)
        reach = (drawn["radius"] * drawn["flatness"].clamp(min=1) * math.sqrt(2)) * case.width
        far = _far(image, drawn["centre"], reach + (drawn["rim"] * case.width).clamp(min=1))
        assert (shown == image)[far].all(), "carbon beyond its support"


@invariant("carbon")
def more_carbon_changes_more(cls, case):
    image = case.image()
    for polarity in (-1.0, 1.0):
        thin, thick = (
            (rendered(cls(thickness=(t, t)), image, case.seed, polarity=polarity)[0] - image).abs()
            for t in (5.0, 30.0)
        )
        assert (thick >= thin).all() and thick.sum() > thin.sum(), "a thicker deposit changed less"


@caught_by(carbon_darkens_bright_field_and_brightens_haadf)
class Inverted(Carbon):
    def render(self, image, drawn, streams, about):
        turned = {"polarity": -about.value("polarity", 1.0)}
        return super().render(image, drawn, streams, about._replace(meta=turned))


@caught_by(carbon_ends_at_its_support)
class Everywhere(Carbon):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) * 0.999


@caught_by(more_carbon_changes_more)
class Saturated(Carbon):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"thickness": drawn["thickness"].clamp(max=5.0)}


@invariant("metal-spots")
def metal_darkens_bright_field_and_brightens_haadf(cls, case):
    image = case.image()
    assert (rendered(cls(), image, case.seed, polarity=-1.0)[0] <= image).all(), "brighter in bright field"
    assert (rendered(cls(), image, case.seed, polarity=1.0)[0] >= image).all(), "darker in HAADF"


@invariant("metal-spots")
def spots_are_compact(cls, case):
    image = case.image()
    for polarity in (-1.0, 1.0):
        shown, drawn = rendered(cls(), image, case.seed, polarity=polarity)
        far = torch.ones_like(image, dtype=torch.bool)
        for i in range(drawn["radius"].shape[1]):
            there = drawn["opacity"][:, i] > 0
            reach = torch.where(there, 1.5 * drawn["radius"][:, i], torch.full_like(there, -2, dtype=torch.float))
            far &= _far(image, drawn["centre"][:, i], reach)
        assert (shown == image)[far].all(), "metal beyond its support"


@invariant("metal-spots")
def spots_have_no_order(cls, case):
    image, spots = case.image(), cls(spots=(20.0, 20.0))

    class Turned(cls):
        def draw(self, streams, about):
            drawn = super().draw(streams, about)
            return {name: value.flip(1) for name, value in drawn.items()}

    turned = rendered(Turned(spots=(20.0, 20.0)), image, case.seed)[0]
    close(turned, rendered(spots, image, case.seed)[0], 1e-5, "spots in the opposite order")


@caught_by(metal_darkens_bright_field_and_brightens_haadf)
class DarkMetal(MetalSpots):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about._replace(meta={"polarity": -torch.ones(len(image))}))


@caught_by(spots_are_compact)
class Hazy(MetalSpots):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"radius": 1.8 * drawn["radius"]}, streams, about)


@caught_by(spots_have_no_order)
class Painted(MetalSpots):
    def render(self, image, drawn, streams, about):
        fading = torch.linspace(1.0, 0.2, drawn["opacity"].shape[1])
        return super().render(image, drawn | {"opacity": drawn["opacity"] * fading}, streams, about)


@invariant("amorphous-layer")
def the_layer_keeps_the_mean_and_smooths(cls, case):
    image = case.image()
    shown, _ = rendered(cls(speckle=(0.0, 0.0)), image, case.seed)
    close(shown.mean((2, 3)), image.mean((2, 3)), 1e-5, "mean")
    assert (shown.var((2, 3)) <= image.var((2, 3)) * (1 + 1e-5)).all(), "the variance rose"


@invariant("amorphous-layer")
def the_layer_keeps_constants(cls, case):
    shown, _ = rendered(cls(speckle=(0.0, 0.0)), case.flat(0.7), case.seed)
    close(shown, case.flat(0.7), 1e-5, "a constant image")


@invariant("amorphous-layer")
def the_layer_blurs_as_scipys_gaussian_mirrored_at_the_border(cls, case):
    image = case.image()
    for sigma in (0.7, 5.0, 40.0):
        shown, _ = rendered(cls(fraction=(1.0, 1.0), blur=(sigma, sigma), speckle=(0.0, 0.0)), image, case.seed)
        blurred = gaussian_filter(image.double().numpy(), sigma, axes=(2, 3), mode="reflect", truncate=8)
        close(shown, torch.from_numpy(blurred).float(), 2e-6, f"blur of {sigma} px")


@caught_by(the_layer_blurs_as_scipys_gaussian_mirrored_at_the_border)
class Wider(AmorphousLayer):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"blur": 1.2 * drawn["blur"]}, streams, about)


@caught_by(the_layer_keeps_the_mean_and_smooths)
class Sharpened(AmorphousLayer):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn | {"fraction": -drawn["fraction"]}, streams, about)


@caught_by(the_layer_keeps_constants)
class Absorbing(AmorphousLayer):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) * 0.99


@invariant("deformation")
def deformation_is_gentle(cls, case):
    u = flow(cls(elastic=(50.0, 50.0), wavelength=(8.0, 16.0), shear=(0.3, 0.3), drift=(0.2, 0.2)), case)
    du = u.diff(dim=1)[:, :, :-1], u.diff(dim=2)[:, :-1]
    slope = torch.linalg.matrix_norm(torch.stack(du, -1), ord=2).max()
    assert slope < 1.0, f"‖∇u‖ reaches {slope:.2f}: the image folds"


@invariant("deformation")
def deformation_keeps_constants_and_classes(cls, case):
    label = torch.randint(0, 4, (2, case.height, case.width), generator=torch.Generator().manual_seed(case.seed))
    moved = warped(cls(), Batch.of(case.flat(0.3), label=label), case.seed)
    close(moved.image, case.flat(0.3), 1e-6, "a constant image")
    assert set(moved.label.unique().tolist()) <= {0, 1, 2, 3, 255}, "a class that was not there"


@invariant("deformation")
def image_and_label_move_together(cls, case):
    case = case.at_least(40, 40)
    label = (torch.arange(case.width) // 8 % 2).expand(2, case.height, -1).contiguous()
    strong = cls(shear=(0.05, 0.05), elastic=(5.0, 5.0))
    moved = warped(strong, Batch.of(label.unsqueeze(1).float(), label=label), case.seed)
    sure = ((moved.image[:, 0] < 0.01) | (moved.image[:, 0] > 0.99)) & (moved.label != 255)
    assert (moved.image[:, 0].round() == moved.label)[sure].all(), "the label is not where its pixels are"
    assert not torch.equal(moved.label, label), "nothing moved"


@caught_by(deformation_is_gentle)
class Folding(Deformation):
    def flow(self, drawn, streams, about):
        return 6.0 * super().flow(drawn, streams, about)


@caught_by(deformation_keeps_constants_and_classes)
class Interpolating(Deformation):
    def perturb(self, batch, streams):
        moved = super().perturb(batch, streams)
        return moved._replace(label=(moved.label + moved.label.roll(1, 2)) * 3)


@caught_by(image_and_label_move_together)
class LeftBehind(Deformation):
    def perturb(self, batch, streams):
        return super().perturb(batch, streams)._replace(label=batch.label)
