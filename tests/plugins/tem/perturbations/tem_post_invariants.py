"""What each perturbation of the family "post" promises beyond the contract, and faults that break it."""

import torch
from lamella_tem.perturbations import scale_bar
from lamella_tem.perturbations.display_stretch import DisplayStretch
from lamella_tem.perturbations.scale_bar import ScaleBar
from tem_trial import about, caught_by, close, invariant, rendered


@invariant("display-stretch")
def stretching_keeps_the_order(cls, case):
    image = case.image(0.0, 1.0)
    shown = rendered(cls(), image, case.seed)[0].flatten(1)
    steps = shown.gather(1, image.flatten(1).argsort(1)).diff(dim=1)
    assert (steps >= -1e-6).all(), "a brighter pixel became the darker one"


@invariant("display-stretch")
def stretching_fills_the_display(cls, case):
    image = case.image(0.4, 0.6)
    whole = cls(percentile=(1.0, 1.0), amount=(1.0, 1.0), gamma=(1.0, 1.0))
    shown, _ = rendered(whole, image, case.seed)
    assert (shown.amin((1, 2, 3)) == 0).all() and (shown.amax((1, 2, 3)) == 1).all(), "black or white is missing"


@invariant("display-stretch")
def stretching_cuts_off_what_it_says(cls, case):
    whole = cls(percentile=(2.0, 2.0), amount=(1.0, 1.0), gamma=(1.0, 1.0))
    noise = 0.02 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(case.seed))
    place = torch.arange(256)
    for line in (place.view(-1, 1), place, place.view(-1, 1) + place):
        for pitch in (4, 8):
            stripes = torch.where(line % pitch < pitch // 2, 0.3, 0.7)
            shown, _ = rendered(whole, stripes + noise, case.seed)
            ends = ((shown == 0).float().mean().item(), (shown == 1).float().mean().item())
            assert max(ends) < 0.035, f"at a pitch of {pitch} px {100 * max(ends):.0f} % are black or white, not 2"


@caught_by(stretching_keeps_the_order)
class Solarised(DisplayStretch):
    def render(self, image, drawn, streams, about):
        shown = super().render(image, drawn, streams, about)
        return torch.where(shown > 0.8, 1.6 - shown, shown)


@caught_by(stretching_fills_the_display)
class Timid(DisplayStretch):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"amount": 0.5 * drawn["amount"]}


@caught_by(stretching_cuts_off_what_it_says)
class Harsh(DisplayStretch):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"percentile": 2 * drawn["percentile"]}


SOLID = {"opacity": (1.0, 1.0), "dark": 0.0}


def _layout(cls, case, image, pixel_nm):
    _, drawn = rendered(cls(**SOLID), image, case.seed, pixel_nm=pixel_nm)
    return scale_bar.arrange(drawn, about(image, pixel_nm=pixel_nm)), drawn


@invariant("scale-bar")
def bars_leave_the_rest_exact(cls, case):
    image = case.image(count=4)
    shown, drawn = rendered(cls(), image, case.seed)
    there = scale_bar.arrange(drawn, about(image))
    text = there.text_height > 0
    high = torch.minimum(there.text_top, there.top - there.thick) if text else there.top - there.thick
    high = torch.minimum(high, there.strip_top).clamp(min=0).view(-1, 1, 1, 1)
    above = torch.arange(case.height).view(1, 1, -1, 1) < high
    assert (shown == image)[above.expand_as(image)].all(), "ink above the box"
    right = torch.maximum(there.left + there.bar, there.text_left + there.text_width * text + text)
    left = torch.minimum(there.left, there.text_left) if text else there.left
    x = torch.arange(case.width).view(1, 1, 1, -1)
    beside = (x < left.view(-1, 1, 1, 1)) | (x > right.view(-1, 1, 1, 1))
    beside = beside & (there.strip_top == case.height).view(-1, 1, 1, 1)
    assert (shown == image)[beside.expand_as(image)].all(), "ink beside the box"


@invariant("scale-bar")
def bars_are_round_lengths_drawn_to_scale(cls, case):
    case = case.at_least(48, 60)
    for pixel in (0.005, 0.07, 0.9, 13.0, 1000.0):
        image = case.flat(0.4, count=4)
        there, drawn = _layout(cls, case, image, (2 * pixel, pixel))
        shown, _ = rendered(cls(**SOLID), image, case.seed, pixel_nm=(2 * pixel, pixel))
        for i in range(4):
            length = there.length_nm[i].item()
            mantissa = float(f"{length:e}".split("e")[0])
            ruler = drawn["style"][i].item() == scale_bar.STYLES.index("ruler")
            assert min(abs(mantissa - m) for m in ((1, 2, 3, 5) if ruler else (1, 2, 5))) < 1e-5, f"{length} nm"
            assert length <= 0.25 * case.width * pixel * 1.001, f"a bar of {length} nm is too long"
            assert length >= 0.09 * case.width * pixel, f"a bar of {length} nm is too short"
            row = shown[i, 0, int(there.top[i]) + there.thick - 1, int(there.left[i]) :]
            inked = int((row == 1.0).to(torch.int64).cumprod(0).sum())  # up to the first gap
            assert inked == round(length / pixel), f"{length} nm at {pixel} nm/px took {inked} px"


@invariant("scale-bar")
def texts_are_written_whole_or_not_at_all(cls, case):
    for height, width in ((48, 96), (56, 56), (62, 130), (64, 64), (512, 64), (case.height, case.width)):
        image = torch.full((16, 1, height, width), 0.4)
        there, _ = _layout(cls, case, image, (torch.nan, torch.nan))
        ink, paper = (mask.unsqueeze(1) for mask in scale_bar.masks(there, 0, about(image)))
        written = torch.where(ink, 1.0, torch.where(paper, 0.0, image))
        assert rendered(cls(**SOLID), image, case.seed)[0].equal(written), f"{height} × {width}: rows are missing"
        assert (there.text_left + there.text_width <= width).all(), f"{height} × {width}: a text is cut"


@invariant("scale-bar")
def writing_twice_is_writing_once(cls, case):
    image = case.image(count=4)
    once, _ = rendered(cls(**SOLID), image, case.seed)
    close(rendered(cls(**SOLID), once, case.seed)[0], once, 0.0, "written twice")
    assert not torch.equal(once, image), "nothing was written"


@caught_by(bars_leave_the_rest_exact)
class Dimmed(ScaleBar):
    def render(self, image, drawn, streams, about):
        return super().render(image, drawn, streams, about) * 0.99


@caught_by(bars_are_round_lengths_drawn_to_scale)
class WrongAxis(ScaleBar):
    def draw(self, streams, about):
        return super().draw(streams, about._replace(pixel_nm=about.pixel_nm.flip(1)))


@caught_by(texts_are_written_whole_or_not_at_all)
class Halved(ScaleBar):
    def render(self, image, drawn, streams, about):
        written, upper = super().render(image, drawn, streams, about), about.height - about.height // 5
        return torch.cat([image[:, :, :upper], written[:, :, upper:]], 2)


@caught_by(writing_twice_is_writing_once)
class Translucent(ScaleBar):
    def draw(self, streams, about):
        drawn = super().draw(streams, about)
        return drawn | {"opacity": 0.9 * drawn["opacity"]}
