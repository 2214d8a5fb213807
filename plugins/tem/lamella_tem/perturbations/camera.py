"""Camera: shot noise, gain, dark current and readout of one detector in one kernel."""

from functools import partial
from typing import ClassVar

import torch
from lamella import About, Perturbation, Streams
from torch import Tensor

from lamella_tem.perturbations.compiled import Compiled, Kernel, gpu_kernels, noise_source, uniform_pair
from lamella_tem.perturbations.dark_current import hot_pixels, hot_threshold
from lamella_tem.perturbations.detector import (
    Bits,
    ColumnGain,
    ColumnOffset,
    DarkCount,
    DarkReference,
    DarkSpread,
    Detector,
    Dose,
    HotShare,
    Pedestal,
    PixelGain,
    QuadrantGain,
    ReadNoise,
    RowNoise,
)
from lamella_tem.perturbations.fixed_pattern import (
    SIDE,
    column_pattern,
    offsets,
    packed_patterns,
    packed_windows,
    shifted_columns,
    unpacked,
)
from lamella_tem.perturbations.parameters import Chance, exponential, log_range
from lamella_tem.perturbations.poisson import SPLIT, Counts, normal_quantile, poisson, poisson_of_many
from lamella_tem.perturbations.readout import EXACT_BITS, whole

_FARTHEST = 5.5
"""Standard deviations within which all pixels of a fixed pattern lie (1024² of them)."""


class Camera(Perturbation):
    """Takes the image with a camera: the whole detector in one pass, with two random numbers per pixel.

        λ = D·(b + (1−b)·x)·g + d·(1 + s·n_dark)             expected electrons, of beam and heat
        n = Poisson(λ) + σ_r·n_read + σ_row·n_row + c·n_col
        y = round(L·(K·(n − D·b − ρ·d) + hot)) / L,          K = 1/(D·(1−b)), L = 2^bits − 1

    with g the gain of pixels, columns and quadrants. It is `ShotNoise`, `GainNoise`, `DarkCurrent` and
    `Readout` with one dose D, in the order in which a detector does it: the Poisson noise of beam and heat is
    one draw, that of the amplifier the other, and gain and dark patterns are drawn once per detector and
    shifted for every image. On a flat image Var(y) = K²·(λ + d + σ_r²) + 1/(12·L²), the photon-transfer line.

    At an infinite dose only gain, hot pixels and rounding remain.

    Source: the camera model of EMVA 1288; the ranges are those of the four parts.

    >>> noisy = Camera(dose=(100.0, 100.0))(torch.full((1, 1, 64, 64), 0.5))
    >>> bool(noisy.std() > 0.05)
    True
    """

    family = "machine"
    identity: ClassVar = {
        "dose": (float("inf"), float("inf")),
        "gain": (0.0, 0.0),
        "column_gain": (0.0, 0.0),
        "quadrant_gain": (0.0, 0.0),
        "hot": (0.0, 0.0),
        "bits": (24.0, 24.0),
    }

    def __init__(
        self,
        *,
        dose: Dose = (10.0, 500.0),
        pedestal: Pedestal = (0.0, 0.6),
        gain: PixelGain = (0.003, 0.03),
        column_gain: ColumnGain = (0.0, 0.01),
        quadrant_gain: QuadrantGain = (0.0, 0.02),
        dark: DarkCount = (0.0, 10.0),
        spread: DarkSpread = (0.02, 0.2),
        reference: DarkReference = (0.8, 1.2),
        hot: HotShare = (1e-5, 1e-3),
        column: ColumnOffset = (0.0, 2.0),
        read: ReadNoise = (1.0, 10.0),
        row: RowNoise = (0.0, 1.0),
        bits: Bits = (6.0, 8.0),
        detector: Detector = 0,
        kernel: Kernel = "auto",
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.dose, self.pedestal = dose, pedestal
        self.gain, self.column_gain, self.quadrant_gain = gain, column_gain, quadrant_gain
        self.dark, self.spread, self.reference = dark, spread, reference
        self.hot, self.column, self.read, self.row, self.bits = hot, column, read, row, bits
        self.detector, self.kernel = detector, kernel

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``quadrants`` (B, 4) gains less 1, ``seam`` and ``offset`` (B, 2); all else (B,), counts in e⁻."""
        dose, pedestal, gain, column_gain, quadrant_gain = streams.uniforms(
            log_range(*self.dose), self.pedestal, self.gain, self.column_gain, self.quadrant_gain
        )
        quadrants, seam = streams.uniform(-1.0, 1.0, 4), streams.uniform(0.0, 1.0, 2)
        names = ("dark", "spread", "reference", "hot", "glow", "column", "read", "row")
        others = streams.uniforms(
            self.dark, self.spread, self.reference, self.hot, (0.2, 0.8), self.column, self.read, self.row
        )
        return {
            "dose": exponential(dose, *self.dose),
            "pedestal": pedestal,
            "gain": gain,
            "column_gain": column_gain,
            "quadrants": quadrant_gain.unsqueeze(1) * quadrants,
            "seam": seam,
            **dict(zip(names, others, strict=True)),
            "bits": whole(streams, *self.bits),
            "offset": offsets(streams),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image as the camera gives it, unclipped."""
        return self._taken(image, drawn, streams, (-float("inf"), float("inf")))

    def clipped(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The same in [0, 1]."""
        return self._taken(image, drawn, streams, (0.0, 1.0))

    def _taken(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, limits: tuple[float, float]) -> Tensor:
        if (kernels := gpu_kernels(self.kernel, image)) is not None:
            return kernels.expose(image, drawn, streams, self.detector, limits)
        _, channels, height, width = image.shape
        device, hashed = image.device, _expose.wanted(self.kernel, image)
        # The rows of all channels stand one below the other: (B, R, W) with R = C·H.
        sources = [
            noise_source(streams.child(name), channels * height, width, hashed=hashed)
            for name in ("count", "read")
        ]
        row = torch.arange(height, device=device)
        place: Tensor | list[Tensor]
        patterns: Tensor | None
        upper = (row < drawn["seam"][:, :1] * height).unsqueeze(-1)  # (B, H, 1)
        quadrants = drawn["quadrants"].unsqueeze(1)
        sides = 1.0 + torch.where(upper, quadrants[..., :2], quadrants[..., 2:])  # (B, H, 2)
        electrons = drawn["row"].view(-1, 1, 1) * streams.child("row").normal(height).unsqueeze(-1)
        scalars = _per_image(drawn, limits).unsqueeze(1).expand(-1, height, -1)
        rows = torch.cat([scalars, sides, electrons], 2).repeat(1, channels, 1)  # (B, R, 19)
        gain_columns, dark_columns = (
            shifted_columns(column_pattern(self.detector, kind, device), drawn["offset"], width).unsqueeze(1)
            for kind in ("gain", "dark")
        )
        if device.type == "cpu":  # vectorised arithmetic must not wait for look-ups
            windows = packed_windows(self.detector, drawn["offset"], height, width)
            place, patterns = [one.repeat(1, channels, 1) if channels > 1 else one for one in windows], None
        else:
            first = drawn["offset"].unsqueeze(1) + torch.stack([row, torch.zeros_like(row)], 1)
            place = (first & (SIDE - 1)).to(torch.int32).repeat(1, channels, 1)  # (B, R, 2)
            patterns = packed_patterns(self.detector, device)
        images = (image.flatten(1, 2), *sources, rows, gain_columns, dark_columns, place)
        return _expose(*images, shared=(patterns,), kernel=self.kernel, easy=_many(drawn)).view_as(image)


def _many(drawn: dict[str, Tensor]) -> Tensor:
    """(B,) bool: images of which no pixel expects fewer than `SPLIT` electrons, not even a black one."""
    least = [(1.0 - _FARTHEST * drawn[name]).clamp(min=0.0) for name in ("gain", "column_gain", "spread")]
    sides = 1.0 + drawn["quadrants"].amin(1)
    return drawn["dose"] * drawn["pedestal"] * least[0] * least[1] * sides + drawn["dark"] * least[2] >= SPLIT


def _per_image(drawn: dict[str, Tensor], limits: tuple[float, float]) -> Tensor:
    """(B, 16): the scalars that `_exposed` takes, in its order."""
    finite = torch.isfinite(drawn["dose"])
    dose = torch.where(finite, drawn["dose"], torch.ones_like(drawn["dose"]))
    black = dose * drawn["pedestal"]
    levels = torch.exp2(drawn["bits"]).round() - 1.0
    return torch.stack([
        black,
        dose - black,
        finite.to(torch.float32),
        drawn["gain"],
        drawn["column_gain"],
        drawn["dark"],
        drawn["spread"],
        drawn["reference"] * drawn["dark"] + black,
        drawn["read"],
        drawn["column"],
        hot_threshold(drawn["hot"]),
        drawn["glow"],
        torch.where(drawn["bits"] < EXACT_BITS, levels, torch.zeros_like(levels)),
        *(torch.full_like(black, limit) for limit in limits),
        drawn["seam"][:, 1],
    ], 1)  # fmt: skip


def _looked_up(place: Tensor, patterns: Tensor, width: int) -> Tensor:
    """The packed patterns (B, R, W) of rows that begin at ``place`` (B, R, 2) on the detector."""
    column = torch.arange(width, dtype=torch.int32, device=place.device)
    return patterns.flatten()[place[..., :1] * SIDE + ((place[..., 1:] + column) & (SIDE - 1))]


def _exposed(
    image: Tensor,
    count_source: Tensor,
    read_source: Tensor,
    rows: Tensor,
    gain_columns: Tensor,
    dark_columns: Tensor,
    place: Tensor,
    patterns: Tensor | None,
    counts: Counts = poisson,
) -> Tensor:
    """The camera's arithmetic on rows of pixels (B, R, W), pointwise: one kernel when compiled.

    ``rows`` (B, R, 19) are the scalars of `_per_image`, the gains left and right of the seam, and the row's
    offset in e⁻; the columns' patterns are (B, 1, W). ``place`` is where rows begin on the detector's packed
    ``patterns``, or, where those are None, what was looked up there.
    """
    width = image.shape[2]
    (
        black, span, finite, gain, column_gain, dark, spread, offset, read, column, hottest, glow, levels,
        low, high, seam, left, right, row_offset,
    ) = rows.unsqueeze(-1).unbind(2)  # fmt: skip
    words = place if patterns is None else _looked_up(place, patterns, width)
    gain_noise, dark_noise = unpacked(words)
    gain = (1.0 + gain * gain_noise) * (1.0 + column_gain * gain_columns)
    pixel = torch.arange(width, dtype=torch.int32, device=image.device)
    gain = gain * torch.where(pixel < seam * width, left, right)

    rate = (black + span * image) * gain + dark * (1.0 + spread * dark_noise)
    for_count, for_read = uniform_pair(count_source, read_source, width)
    electrons = counts(rate.clamp(min=0.0), for_count) + read * normal_quantile(for_read)
    electrons = electrons + (row_offset + column * dark_columns - offset)
    seen = torch.where(finite > 0.0, electrons / span, image * gain)
    seen = seen + hot_pixels(dark_noise, hottest, glow)
    seen = torch.where(levels > 0.0, (seen * levels).round() / levels.clamp(min=1.0), seen)
    return seen.clamp(low, high)


# The second does for images of which no pixel expects fewer than `SPLIT` electrons.
_expose = Compiled(_exposed, partial(_exposed, counts=poisson_of_many))
