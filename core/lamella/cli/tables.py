"""Results as text tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lamella.engine.headline import named


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def counted(number: int, what: str) -> str:
    """A number of things that add an s.

    >>> counted(1, "image"), counted(2, "image")
    ('1 image', '2 images')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def results_table(results: Mapping[str, Any]) -> str:
    """The headline figures of every evaluated set, with the grey-level baseline beneath each."""
    rows, names = [], named(results["sets"].values())
    for role, figures in results["sets"].items():
        rows.append([role, *_figures(figures, names)])
        if "grey_level" in figures:
            rows.append([f"  grey level alone ({role})", *_figures(figures["grey_level"], names)])
    return table(["set", *names.values()], rows)


def _figures(figures: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    values = [figures.get(name) for name in names]
    return ["–" if value is None or math.isnan(value) else f"{value:.4f}" for value in values]
