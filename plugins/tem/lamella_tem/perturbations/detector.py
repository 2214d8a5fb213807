"""The ranges that describe a detector, as `Camera` and the four parts of it take them. Symbols as in `Camera`."""

from typing import Annotated

from lamella import Range, within
from pydantic import Field

Detector = Annotated[
    int, within(0, 10**9), Field(description="number of the detector whose fixed pattern is used")
]

Dose = Annotated[Range, within(1e-3, float("inf")), Field(description="electrons per pixel at white, D (e⁻/px)")]
FiniteDose = Annotated[Range, within(1e-3, 1e7), Field(description="electrons per pixel at white, D (e⁻/px)")]
Pedestal = Annotated[Range, within(0.0, 0.95), Field(description="share of the dose that black receives, b (0 to 1)")]

PixelGain = Annotated[
    Range, within(0.0, 0.5), Field(description="standard deviation of the pixels' gain, k (relative)")
]
ColumnGain = Annotated[
    Range, within(0.0, 0.3), Field(description="standard deviation of the columns' gain (relative)")
]
QuadrantGain = Annotated[
    Range, within(0.0, 0.5), Field(description="largest deviation of a quadrant's gain (relative)")
]

DarkCount = Annotated[Range, within(0.0, 1e4), Field(description="mean dark count, d (e⁻/px)")]
DarkSpread = Annotated[Range, within(0.0, 1.0), Field(description="spread of the dark count, DSNU (relative)")]
DarkReference = Annotated[Range, within(0.0, 2.0), Field(description="share the dark reference takes away, ρ")]
HotShare = Annotated[Range, within(0.0, 0.1), Field(description="share of hot pixels, h")]
ColumnOffset = Annotated[Range, within(0.0, 1e3), Field(description="standard deviation of the column offsets, c (e⁻)")]

ReadNoise = Annotated[Range, within(0.0, 1e4), Field(description="noise of reading a pixel, σ_r (e⁻)")]
RowNoise = Annotated[Range, within(0.0, 1e4), Field(description="noise common to a row, σ_row (e⁻)")]
Bits = Annotated[
    Range, within(1.0, 24.0), Field(description="bits of the converter, rounded; 24 = not quantised")
]
