"""The picture of a gauge study: every image's measurements, and what share of their scatter the measuring has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lamella.engine.charts import drawn

PANELS = 9
"""How many figures are drawn at most; the others are in the table."""
_FIRST = ("cd_mid_nm", "thickness_nm", "ler_nm", "pitch_nm", "lwr_nm", "sidewall_deg", "cd_top_nm", "cd_bottom_nm")
"""What is drawn first, where there are more."""


def gauge_chart(summary: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """A panel for each of up to `PANELS` rows of a summary: images from the least to the greatest, a dot for every
    trial with a colour for every setup, a dash for the image as it is. Images that lack the figure in a trial are pale:
    R&R is not of them.

    Args:
        rows: of `lamella.engine.trust.gauge.TRIALS`.
    """
    from matplotlib.figure import Figure

    shown = sorted(summary, key=lambda one: _FIRST.index(one["figure"]))[:PANELS]
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(4.2 * across, 3.0 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flat
    for panel, one in zip(axes, shown):
        _draw(panel, one, [row for row in rows if row["class"] == one["class"]])
    for panel in list(figure.axes)[len(shown) :]:
        panel.remove()
    return drawn(figure)


def _draw(panel: Any, one: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    figure = one["figure"]
    images = list(dict.fromkeys(row["image"] for row in rows))
    values = {name: [row[figure] for row in rows if row["image"] == name] for name in images}
    middles = {name: _middle(values[name]) for name in images}
    order = sorted((name for name in images if not math.isnan(middles[name])), key=lambda name: middles[name])
    judged = {name for name in order if not any(map(math.isnan, values[name]))}
    setups = max(row["setup"] for row in rows) + 1
    for row in (row for row in rows if row["image"] in order):
        place, setup, pale = order.index(row["image"]), row["setup"], row["image"] not in judged
        if setup < 0:
            grey = "0.85" if pale else "0.6"
            panel.plot([place - 0.35, place + 0.35], [row[figure]] * 2, "-", lw=1.2, color=grey, zorder=0)
        else:
            shift = 0.5 * ((setup + 0.5) / setups - 0.5)
            panel.plot(place + shift, row[figure], "o", ms=3.5, alpha=0.2 if pale else 0.8, color=f"C{setup % 10}")
    percent = f"R&R {one['rr_percent']:.0f} % ({one['rr_percent_low']:.0f} to {one['rr_percent_high']:.0f})"
    quantity, unit = figure.rsplit("_", 1)
    panel.set_title(f"{one['class']}, {quantity.replace('_', ' ')}: {percent}", fontsize=9)
    others = "" if len(judged) == len(order) else f" ({len(judged)} of {len(order)} judged)"
    panel.set(xlabel=f"image{others}", ylabel="°" if unit == "deg" else unit, xticks=range(len(order)))
    panel.set_xticklabels([str(images.index(name) + 1) for name in order], fontsize=7)
    panel.spines[["top", "right"]].set_visible(False)


def _middle(values: Sequence[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan
