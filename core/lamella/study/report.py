"""The page of a study: its table beside the published one, differences, cost, and the curve over labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from lamella.engine.charts import drawn
from lamella.engine.report import STYLE, png
from lamella.engine.whole import write_json, write_text
from lamella.study.study import Study

Table = Mapping[str, Any]
Entry = Mapping[str, Any]


_CHOICE = (
    "Images chosen by a rule, not by eye: ranked by how much more mIoU the last method has on them than the first, "
    "the greatest gain, the one at nine tenths, the middle one, and the greatest loss."
)

_COLUMNS = "th.over { text-align: center; border: 0 } "
_WIDE = "body { max-width: 1400px } th, td { padding: .25em .5em } td:first-child { min-width: 9em }"
_UNBROKEN = 5
"""Figures side by side up to which an interval stands on the line of its figure: more would not fit a screen."""


def write_study(study: Study, table: Table, out: Path, sheet: Image.Image | None = None) -> Path:
    """Write ``table.json``, ``report.html`` and, where there is a ``sheet``, ``comparison.png``; returns the page."""
    write_json(out / "table.json", table)
    parts = [f"<h1>{escape(study.file.title)}</h1>", f"<p class='quiet'>{escape(_summary(table))}</p>"]
    for test in study.file.sets:
        parts.append(_figures(study, table, test))
    if sheet is not None:
        sheet.save(out / "comparison.png")
        parts += [
            f"<h2>Side by side: {escape(str(study.file.pictures))}</h2>",
            f"<p class='quiet'>{_CHOICE}</p>",
            png(sheet),
        ]
    parts += [_cost(study, table), _curve(study, table)]
    if study.file.note:
        parts.append(f"<p>{escape(study.file.note)}</p>")
    few = max(len(study.file.columns), 1) * len(study.file.figures) <= _UNBROKEN
    style = STYLE + _COLUMNS + ("td + td { white-space: nowrap }" if few else _WIDE)
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{escape(study.file.title)}</title><style>{style}</style>"
        f"{''.join(parts)}</html>"
    )
    write_text(out / "report.html", page)
    return out / "report.html"


def text_rows(study: Study, table: Table, test: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of one test set for a terminal: mean with the half width of its interval, and the paper's."""
    shown = _shown(study, table, test)
    header = ["method", *(f"{_column(study, column)} {title}".strip() for column, title in shown)]
    rows = []
    for row in study.file.rows:
        cells = [_find(table, row, column, test, title) for column, title in shown]
        if any(cells):
            rows.append([_row(study, row), *("–" if entry is None else _cell(entry) for entry in cells)])
    return header, rows


def _cell(entry: Entry) -> str:
    paper = f" [{_number(entry['paper'])}]" if "paper" in entry else ""
    half = (entry["high"] - entry["low"]) / 2
    return _number(entry["mean"]) + (f" ±{half:.3f}" if math.isfinite(half) else "") + paper


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _shown(study: Study, table: Table, test: str) -> list[tuple[str, str]]:
    done = {(entry["column"], entry["figure"]) for entry in table["entries"] if entry["set"] == test}
    return [(c, f) for c in study.file.columns for f in study.file.figures if (c, f) in done]


def _find(table: Table, row: str, column: str, test: str, title: str) -> Entry | None:
    wanted = (row, column, test, title)
    found = (e for e in table["entries"] if (e["row"], e["column"], e["set"], e["figure"]) == wanted)
    return next(found, None)


def _row(study: Study, row: str) -> str:
    return study.file.rows[row].title or row


def _column(study: Study, column: str) -> str:
    return study.file.columns[column].title or column


def _summary(table: Table) -> str:
    size = f"size {table['size']} · " if table["size"] else ""
    seeds = ", ".join(str(seed) for seed in table["seeds"])
    return (
        f"{size}{table['done']} of {table['planned']} runs done · seeds {seeds} · mean over seeds with 95 % bootstrap "
        "interval over seeds and groups; published figures in brackets"
    )


def _figures(study: Study, table: Table, test: str) -> str:
    shown = _shown(study, table, test)
    if not shown:
        return ""
    body = ""
    for row in study.file.rows:
        cells = [_find(table, row, column, test, title) for column, title in shown]
        if any(cells):
            body += f"<tr><td>{escape(_row(study, row))}</td>{''.join(map(_html_cell, cells))}</tr>"
    head = _head(study, shown, "method")
    return f"<h2>{escape(test)}</h2><table>{head}{body}</table>{_differences(study, table, test)}"


def _head(study: Study, shown: Sequence[tuple[str, str]], first: str) -> str:
    """The titles of the figures, below those of the columns where these have any."""
    titles = "".join(f"<th>{escape(title)}</th>" for _, title in shown)
    over = ""
    for name, group in groupby(column for column, _ in shown):
        over += f"<th class='over' colspan='{len(list(group))}'>{escape(_column(study, name))}</th>"
    columns = f"<tr><th class='over'></th>{over}</tr>" if any(_column(study, name) for name, _ in shown) else ""
    return f"{columns}<tr><th>{first}</th>{titles}</tr>"


def _html_cell(entry: Entry | None) -> str:
    if entry is None:
        return "<td>–</td>"
    paper = f" <span class='quiet'>[{_number(entry['paper'])}]</span>" if "paper" in entry else ""
    known = math.isfinite(entry["low"]) and math.isfinite(entry["high"])
    interval = f" <span class='quiet'>({entry['low']:.3f}–{entry['high']:.3f})</span>" if known else ""
    return f"<td>{_number(entry['mean'])}{interval}{paper}</td>"


def _differences(study: Study, table: Table, test: str) -> str:
    reference = study.file.reference
    shown = _shown(study, table, test)
    body = ""
    for row in study.file.rows:
        cells = [_find(table, row, column, test, title) for column, title in shown]
        if any(entry is not None and "difference" in entry for entry in cells):
            body += f"<tr><td>{escape(_row(study, row))}</td>{''.join(map(_difference, cells))}</tr>"
    if not body or reference is None:
        return ""
    title = f"{escape(_row(study, reference))} minus each, paired by seed and group"
    return f"<p class='quiet'>{title}</p><table>{_head(study, shown, 'against')}{body}</table>"


def _difference(entry: Entry | None) -> str:
    if entry is None or "difference" not in entry or not math.isfinite(entry["difference"]["mean"]):
        return "<td>–</td>"
    apart = entry["difference"]
    if not math.isfinite(apart["low"]):  # nothing to resample
        return f"<td>{_signed(apart['mean'])}</td>"
    resolved = "" if resolved_sign(apart) else "<br><span class='quiet'>not resolved</span>"
    interval = f"<span class='quiet'>({_signed(apart['low'])}…{_signed(apart['high'])})</span>"
    return f"<td>{_signed(apart['mean'])} {interval}{resolved}</td>"


def _signed(value: float) -> str:
    """A difference with its sign, a minus as wide as the plus: −0.010."""
    return f"{value:+.3f}".replace("-", "−")


def resolved_sign(apart: Entry) -> int:
    """The sign of a difference whose interval leaves out zero; 0 where it is not resolved."""
    return 1 if apart["low"] > 0 else -1 if apart["high"] < 0 else 0


def _cost(study: Study, table: Table) -> str:
    columns = any(_column(study, column) for column in study.file.columns)
    head = ["method", *(["column"] if columns else []), "steps", "TFLOP", "seconds", "runs"]
    body = ""
    for c in table["cost"]:
        where = [_row(study, c["row"]), *([_column(study, c["column"])] if columns else [])]
        spent = [f"{c['steps']:.0f}", f"{c['flops'] / 1e12:.2f}", f"{c['seconds']:.0f}", str(c["runs"])]
        body += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in [*where, *spent])}</tr>"
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<h2>Cost of a run</h2><table><tr>{titles}</tr>{body}</table>" if body else ""


def _curve(study: Study, table: Table) -> str:
    """Each figure on the first test set against the number of labels, where columns say theirs."""
    labels = {name: column.labels for name, column in study.file.columns.items() if column.labels is not None}
    if len(labels) < 2:
        return ""
    from matplotlib.figure import Figure

    titles, test = [*study.file.figures], study.file.sets[0]
    across, ticks = min(len(titles), 2), sorted(labels.values())
    down = -(-len(titles) // across)
    figure = Figure(figsize=(1 + 4.5 * across, 0.6 + 3 * down + 0.22 * len(study.file.rows)), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    lines: dict[str, Any] = {}
    for axis, title in zip(axes, titles):
        for number, row in enumerate(study.file.rows):
            points = [(count, _find(table, row, column, test, title)) for column, count in labels.items()]
            if there := [(count, entry) for count, entry in points if entry is not None]:
                lines[_literal(_row(study, row))] = _line(axis, f"C{number % 10}", there)
        axis.set(xlabel="labelled images", ylabel=_literal(f"{title} ({test})"), xscale="log")
        axis.set_xticks(ticks, [f"{count:g}" for count in ticks])
        axis.set_xticks([], minor=True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(titles) :]:
        axis.remove()
    figure.legend(lines.values(), lines.keys(), loc="outside lower left", frameon=False)
    return f"<h2>Against the number of labels</h2>{png(drawn(figure))}"


def _literal(text: str) -> str:
    """A text that matplotlib draws as it is: between dollar signs it would read mathematics."""
    return text.replace("$", r"\$")


def _line(axis: Any, color: str, points: Sequence[tuple[float, Entry]]) -> Any:
    """The mean with its interval; returns the line, for a legend."""
    ordered = sorted(points, key=lambda point: point[0])
    x, mean = [count for count, _ in ordered], [entry["mean"] for _, entry in ordered]
    (line,) = axis.plot(x, mean, marker="o", color=color)
    axis.fill_between(x, [e["low"] for _, e in ordered], [e["high"] for _, e in ordered], alpha=0.12, color=color)
    return line
