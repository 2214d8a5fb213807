"""The picture of a calibration: is the confidence right, and what does giving fewer pixels a class bring?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from lamella.engine.charts import drawn


def calibration_chart(found: Mapping[str, Any]) -> Image.Image:
    """Reliability before and after the temperature, and the share that is wrong over the share with a class.

    Args:
        found: as `lamella.engine.trust.calibration.calibrate` returns it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], "-", lw=1, color="0.7")
    errors = found["calibration_error"]
    shown = [("before", "C1", "as it is"), ("after", "C0", f"T = {found['temperature']:.2f}")]
    for name, colour, words in shown[: 1 if found["temperature"] == 1.0 else 2]:
        table = np.array(found["reliability"][name])
        text = f"{words}: calibration error {100 * errors[name]:.1f} %"
        left.scatter(table[:, 0], table[:, 1], s=12 + 300 * np.sqrt(table[:, 2]), alpha=0.6, color=colour, label=text)
        left.plot(table[:, 0], table[:, 1], "-", lw=1, color=colour)
    left.set(xlabel="confidence", ylabel="share of pixels that is right", xlim=(0, 1.05), ylim=(0, 1.05))
    left.legend(frameon=False, fontsize=8, loc="upper left", markerscale=0.4)
    curve = 100 * np.array(found["curve"])
    right.plot(curve[:, 0], curve[:, 1], "-", color="C0")
    after = found["after"]
    right.plot(100 * after["given"], 100 * after["wrong_of_given"], "o", color="C3")
    right.annotate(
        f"{100 * after['given']:.0f} % have a class,\n{100 * after['wrong_of_given']:.2f} % of them wrong",
        (100 * after["given"], 100 * after["wrong_of_given"]), xytext=(-10, 10), textcoords="offset points",
        ha="right", fontsize=8,
    )  # fmt: skip
    right.set(xlabel="pixels with a class (%), the surest first", ylabel="of these wrong (%)")
    right.set(xlim=(0, 102), ylim=(0, None))
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    return drawn(figure)
