"""Gain noise: pixels, columns and quadrants of a detector do not amplify alike."""

from typing import ClassVar

import torch
from lamella import About, Perturbation, Streams
from lamella.contracts.parameters import per_image
from torch import Tensor

from lamella_tem.perturbations.detector import ColumnGain, Detector, PixelGain, QuadrantGain
from lamella_tem.perturbations.fixed_pattern import (
    column_pattern,
    offsets,
    pattern,
    shifted,
    shifted_columns,
)
from lamella_tem.perturbations.parameters import Chance


class GainNoise(Perturbation):
    """Multiplies the image with what the gain reference left over: pixels, columns and readout quadrants.

        y = x·(1 + k·n_px)·(1 + c·n_col)·(1 + q·n_quad)

    with n_px and n_col (white, normal, unit variance) fixed for a detector and shifted for every image, since
    an image may lie anywhere on it, and n_quad in [−1, 1] for each of the four quadrants that meet at a
    random point of the image. k, c and q are drawn per image. y/x does not depend on x; black stays black.

    Source: residual k ≈ 0.0027 after gain reference and different values per quadrant, measured on a CCD at
    −20 °C, Sci. Rep. 2025, s41598-025-85982-4. The upper ends are plausible defaults without a firm source.

    >>> image = torch.rand(1, 1, 32, 32) * 0.8
    >>> gain = GainNoise(pixel=(0.01, 0.01), column=(0.0, 0.0), quadrant=(0.0, 0.0))
    >>> (gain(image) / image).std() < 0.02
    tensor(True)
    """

    family = "machine"
    identity: ClassVar = {"pixel": (0.0, 0.0), "column": (0.0, 0.0), "quadrant": (0.0, 0.0)}

    def __init__(
        self,
        *,
        pixel: PixelGain = (0.003, 0.03),
        column: ColumnGain = (0.0, 0.01),
        quadrant: QuadrantGain = (0.0, 0.02),
        detector: Detector = 0,
        p: Chance = 1.0,
    ):
        super().__init__(p=p)
        self.pixel = pixel
        self.column = column
        self.quadrant = quadrant
        self.detector = detector

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """``pixel``, ``column`` (B,); ``quadrants`` (B, 4) gains less 1; ``seam`` and ``offset`` (B, 2)."""
        return {
            "pixel": streams.uniform(*self.pixel),
            "column": streams.uniform(*self.column),
            "quadrants": streams.uniform(*self.quadrant).unsqueeze(1) * streams.uniform(-1.0, 1.0, 4),
            "seam": streams.uniform(0.0, 1.0, 2),
            "offset": offsets(streams),
        }

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The image times its detector's gain, unclipped."""
        height, width = image.shape[-2:]
        pixels = shifted(pattern(self.detector, "gain", image.device), drawn["offset"], height, width)
        columns = column_pattern(self.detector, "gain", image.device)
        columns = shifted_columns(columns, drawn["offset"], width).view(-1, 1, 1, width)
        gain = 1.0 + per_image(drawn["column"], image) * columns
        gain = gain * quadrant_gain(drawn["quadrants"], drawn["seam"], height, width)
        return image * gain * (1.0 + per_image(drawn["pixel"], image) * pixels.unsqueeze(1))


def quadrant_gain(quadrants: Tensor, seam: Tensor, height: int, width: int) -> Tensor:
    """The gain (B, 1, H, W) of quadrants (B, 4), less 1, that meet at ``seam`` (B, 2), 0 to 1."""
    rows = torch.arange(height, device=seam.device).view(1, -1, 1) >= (seam[:, 0] * height).view(-1, 1, 1)
    columns = torch.arange(width, device=seam.device).view(1, 1, -1) >= (seam[:, 1] * width).view(-1, 1, 1)
    top_left, top_right, bottom_left, bottom_right = quadrants.view(-1, 4, 1, 1).unbind(1)
    upper = torch.where(columns, top_right, top_left)
    lower = torch.where(columns, bottom_right, bottom_left)
    return 1.0 + torch.where(rows, lower, upper).unsqueeze(1)
