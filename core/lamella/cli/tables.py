"""Results as text tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def results_table(results: Mapping[str, Any]) -> str:
    """The headline figures of every evaluated set, with the grey-level baseline beneath each."""
    rows = []
    for role, figures in results["sets"].items():
        rows.append([role, *_figures(figures)])
        if "grey_level" in figures:
            rows.append([f"  grey level alone ({role})", *_figures(figures["grey_level"])])
    return table(["set", "mIoU pooled", "mIoU per image", "boundary mIoU", "accuracy"], rows)


def _figures(figures: Mapping[str, Any]) -> list[str]:
    values = [figures.get(name) for name in ("miou_pooled", "miou_per_image", "boundary_miou", "accuracy")]
    return ["–" if value is None or math.isnan(value) else f"{value:.4f}" for value in values]
