"""Scale bar: what the microscope's software writes over the image."""

from typing import Annotated, ClassVar, NamedTuple

import torch
from lamella import About, Perturbation, Range, Streams, within
from lamella.contracts.parameters import per_image
from pydantic import Field
from torch import Tensor

from lamella_tem.perturbations.parameters import Chance, log_uniform
from lamella_tem.perturbations.scale_bar_text import HEIGHT, fields, lengths, widths

STYLES = ("lower left", "lower right", "ruler", "strip")
"""Gatan: bar and text inside the image, lower left. Thermo: lower right. Hitachi: a ruler of ten parts.
JEOL: a bottom strip with bar and text side by side."""
_RULER, _STRIP = 2, 3
_FINEST, _COARSEST = 5e-3, 1e3
"""Pixel sizes (nm/px) between which the table of lengths has one for images 8 to 20,000 px wide."""


class ScaleBar(Perturbation):
    """Writes a bar of a round length with its label over the lower edge of the image.

        L = max{m·10^k : m ∈ {1, 2, 5}} ≤ 0.25·W·p (rulers: also 3),    bar = round(L/p) px
        y = x + α·mask·(ink − x)

    with p the pixel size in nm, taken from the image where it is known (and 0.005 to 1000) and drawn where it is
    not; labels are in nm below 1 µm. The mask is 0 or 1, so that writing twice at α = 1 is writing once. Bars are
    0.02·H high, text about twice that; images lower than 48 px get no text, nor do those too narrow for it.

    Source: proportions and places after Thermo/FEI's and Hitachi's software (0.02·H, twice that, lower right;
    ten ticks with the total labelled); places after Gatan and JEOL, pixel sizes, strips and opacity are
    plausible defaults without a firm source.

    >>> image = torch.full((1, 1, 64, 64), 0.5)
    >>> bool((ScaleBar()(image)[..., :32, :] == image[..., :32, :]).all())
    True
    """

    family = "post"
    identity: ClassVar = {"opacity": (0.0, 0.0)}

    def __init__(
        self,
        *,
        pixel: Annotated[
            Range, within(_FINEST, _COARSEST), Field(description="pixel size where the image has none (nm/px)")
        ] = (0.05, 50.0),
        strip: Annotated[
            Range, within(0.0, 0.25), Field(description="height of a bottom strip (share of the height)")
        ] = (0.05, 0.08),
        opacity: Annotated[Range, within(0.0, 1.0), Field(description="opacity of the ink, α")] = (0.8, 1.0),
        dark: Annotated[float, within(0.0, 1.0), Field(description="chance of black ink")] = 0.25,
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.pixel = pixel
        self.strip = strip
        self.opacity = opacity
        self.dark = dark

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``style`` (B,) int64, ``margin`` (B, 2), ``pixel`` (nm), ``strip``, ``opacity``, ``ink``."""
        known = about.pixel_nm[:, 1]
        drawn = log_uniform(streams, *self.pixel)
        return {
            "pixel": torch.where((known >= _FINEST) & (known <= _COARSEST), known, drawn),
            "style": streams.integers(0, len(STYLES)),
            "strip": streams.uniform(*self.strip),
            "opacity": streams.uniform(*self.opacity),
            "ink": (streams.uniform(0.0, 1.0) >= self.dark).to(torch.float32),
            "margin": streams.uniform(0.02, 0.06, 2),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image with its bar, unclipped; of 64 rows and more only the lowest quarter is touched."""
        layout = arrange(drawn, about)
        first = about.height - touched_rows(about)
        ink, paper = (mask.unsqueeze(1) for mask in masks(layout, first, about))
        colour, alpha = per_image(drawn["ink"], image), per_image(drawn["opacity"], image)
        lower = image[:, :, first:]
        lower = torch.where(paper, torch.lerp(lower, (1.0 - colour).expand_as(lower), alpha), lower)
        lower = torch.where(ink, torch.lerp(image[:, :, first:], colour.expand_as(lower), alpha), lower)
        return torch.cat([image[:, :, :first], lower], 2)


class Layout(NamedTuple):
    """Where everything lies, (B,) each; pixels are float32 whole numbers, rectangles [first, first + size)."""

    length_nm: Tensor
    label: Tensor
    style: Tensor
    left: Tensor
    top: Tensor
    bar: Tensor
    """The bar's length in px."""
    thick: int
    text_left: Tensor
    text_top: Tensor
    text_width: Tensor
    """0 where the image is too narrow for a text."""
    text_height: int
    strip_top: Tensor
    """First row of the strip; H where there is none."""


def touched_rows(about: About) -> int:
    """Rows at the lower edge in which everything is written."""
    return about.height if about.height < 64 else -(-about.height // 4)


def arrange(drawn: dict[str, Tensor], about: About) -> Layout:
    """The length by the rule of 1-2-5 and the place of everything."""
    height, width, style = about.height, about.width, drawn["style"]
    index = _longest(drawn["pixel"], style, width)
    length = lengths(index.device)[index]
    bar = (length / drawn["pixel"]).round().clamp(1, width)
    thick = max(1, round(0.02 * height))
    text_height = max(9, round(0.055 * height)) if height >= 48 else 0
    text_width = (widths(index.device)[index] * (text_height / HEIGHT)).round()
    edge_y = torch.round(drawn["margin"][:, 0] * height).clamp(min=1)
    edge_x = torch.round(drawn["margin"][:, 1] * width).clamp(min=1)
    in_strip = style == _STRIP
    before = torch.where(in_strip, edge_x + bar + thick + 2, torch.where(style == 0, edge_x, torch.zeros_like(bar)))
    text_width = torch.where(before + text_width <= width, text_width, torch.zeros_like(bar))
    broad = torch.maximum(bar, text_width) if text_height else bar
    strip = (drawn["strip"] * height).round().clamp(min=text_height + 2 if text_height else thick + 2)
    left = torch.where((style == 0) | in_strip, edge_x, width - edge_x - broad)
    left = torch.minimum(left, width - bar).clamp(min=0)
    top = torch.where(in_strip, height - ((strip + thick) / 2).round(), height - edge_y - thick).clamp(min=0)
    beside = (left + bar + thick + 2, height - ((strip + text_height) / 2).round())
    above = (
        left + ((bar - text_width) / 2).round().clamp(min=0),
        top - text_height - 1 - thick * (style == _RULER),
    )
    return Layout(
        length_nm=length,
        label=index,
        style=style,
        left=left,
        top=top,
        bar=bar,
        thick=thick,
        text_left=torch.where(in_strip, beside[0], above[0]),
        text_top=torch.where(in_strip, beside[1], above[1]),
        text_width=text_width,
        text_height=text_height,
        strip_top=torch.where(in_strip, height - strip, torch.full_like(strip, height)),
    )


def _longest(pixel: Tensor, style: Tensor, width: int) -> Tensor:
    """(B,) int64: the place in ``lengths`` of the longest one that takes up to a quarter of the width."""
    candidates = lengths(pixel.device)
    fits = candidates <= (0.25 * width * pixel * (1.0 + 1e-6)).unsqueeze(1)
    three = torch.arange(len(candidates), device=pixel.device) % 4 == 2
    fits = fits & (~three | (style == _RULER).unsqueeze(1))
    place = torch.arange(len(candidates), device=pixel.device)
    return torch.where(fits, place, torch.zeros_like(place)).amax(1)


def masks(layout: Layout, first: int, about: About) -> tuple[Tensor, Tensor]:
    """Ink and strip, (B, R, W) bool each, for the rows from ``first`` on."""
    device = layout.left.device
    y = torch.arange(first, about.height, device=device, dtype=torch.float32).view(1, -1, 1)
    x = torch.arange(about.width, device=device, dtype=torch.float32).view(1, 1, -1)
    left, top, bar = (value.view(-1, 1, 1) for value in (layout.left, layout.top, layout.bar))
    ruler = (layout.style == _RULER).view(-1, 1, 1)
    along = (x >= left) & (x < left + bar)
    solid = along & (y >= top) & (y < top + layout.thick)
    base = along & (y == top + layout.thick - 1)
    line = max(1, about.width // 400)
    step = (bar - line) / 10.0
    nearest = left + (((x - left) / step.clamp(min=1e-3)).round() * step).round()
    tick = along & ((x - nearest).abs() * 2 < line + 1) & (y >= top - layout.thick) & (y < top + layout.thick)
    ink = torch.where(ruler, base | tick, solid)
    if layout.text_height:
        ink = ink | _text(layout, y, x)
    return ink, (y >= layout.strip_top.view(-1, 1, 1)) & (x >= 0)


def _text(layout: Layout, y: Tensor, x: Tensor) -> Tensor:
    """(B, R, W) bool: where the label's distance field, sampled bilinearly, is above −0.15 px."""
    field = fields(layout.left.device)
    scale = HEIGHT / layout.text_height
    row = (y - layout.text_top.view(-1, 1, 1) + 0.5) * scale - 0.5  # (B, R, 1)
    column = (x - layout.text_left.view(-1, 1, 1) + 0.5) * scale - 0.5  # (B, 1, W)
    high, wide = field.shape[1:]
    top, left = row.floor().clamp(0, high - 2), column.floor().clamp(0, wide - 2)
    start = layout.label.view(-1, 1, 1) * (high * wide)
    index = start + (top * wide).to(torch.int64) + left.to(torch.int64)
    flat = field.flatten()
    right, down = (column - left).clamp(0, 1), (row - top).clamp(0, 1)
    upper = torch.lerp(flat[index], flat[index + 1], right.expand_as(index))
    lower = torch.lerp(flat[index + wide], flat[index + wide + 1], right.expand_as(index))
    written = (layout.text_width > 0).view(-1, 1, 1)
    inside = written & (row > -0.5) & (row < high - 0.5) & (column > -0.5) & (column < wide - 0.5)
    return inside & (torch.lerp(upper, lower, down.expand_as(index)) > -0.15 * scale)
