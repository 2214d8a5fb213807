"""Charts of a classification: its confusion matrix, and where samples lie in the embedding."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from lamella.engine.pictures import colours

Point = Sequence[float]
"""(x, y, class, predicted class); a class that is unknown is −1."""


def confusion_chart(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Image.Image:
    """A confusion matrix, row = label, column = prediction, shaded by the share of the row."""
    figure, axes = _figure(0.62 * len(classes) + 2.2, 0.5 * len(classes) + 1.6)
    table = np.asarray(counts, float)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(*table.shape):
        axes.text(j, i, f"{table[i, j]:.0f}", ha="center", va="center", color="white" if share[i, j] > 0.6 else "black")
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=40, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="label")
    return drawn(figure)


def embedding_chart(points: Sequence[Point], classes: Sequence[str]) -> Image.Image:
    """Samples in the plane, coloured by class; a cross where the prediction is another."""
    figure, axes = _figure(7.6, 5.0)
    table = np.asarray(points, float)
    for number, (name, colour) in enumerate(zip(classes, colours(classes))):
        mine = table[table[:, 2] == number]
        wrong = mine[:, 3] != number
        shade = np.array(colour) / 255
        axes.scatter(mine[~wrong, 0], mine[~wrong, 1], s=12, color=shade, label=name)
        axes.scatter(mine[wrong, 0], mine[wrong, 1], s=22, color=shade, marker="x", linewidths=1)
    axes.set(xlabel="first principal component", ylabel="second", xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawn(figure: Any) -> Image.Image:
    """A matplotlib figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")
