"""The report of a run: one HTML file with figures, curves and pictures, that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.data import Modality
from lamella.engine.charts import confusion_chart, drawn, embedding_chart
from lamella.engine.headline import HEADLINE, named
from lamella.engine.pictures import row, sample_row, stack
from lamella.engine.whole import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1120px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em; margin-bottom: .1em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; margin: .6em 0; display: block; overflow-x: auto }
th, td { padding: .25em .9em; text-align: right }
th { border-bottom: 1px solid #9aa4b2; font-weight: 600 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f4f6f8 } .quiet { color: #66707d }
td .quiet { white-space: nowrap } img { max-width: 100% }
pre { background: #f4f6f8; padding: 1em; overflow-x: auto; font-size: 12px }
"""


class Gallery:
    """Collects a few samples of an evaluation as picture strips, spread over the set."""

    def __init__(self, modality: Modality, classes: Sequence[str], count: int, *, strips: int = 6):
        self.modality, self.classes = modality, list(classes)
        self._wanted = {round(i * (count - 1) / max(strips - 1, 1)) for i in range(strips)}
        self._seen = 0
        self.strips: list[Image.Image] = []

    def watch(self, batch: Batch | dict[str, Batch], prediction: Tensor, names: list[str]) -> None:
        """Take what is wanted of a batch; given to ``evaluate`` as ``watch``."""
        for i, name in enumerate(names):
            if self._seen in self._wanted:
                if prediction.ndim == 4 and isinstance(batch, Batch):
                    self.strips.append(self._strip(batch, prediction, i, name))
                elif prediction.ndim == 2 and prediction.shape[1] == len(self.classes):
                    self.strips.append(self._sample(batch, prediction[i].cpu(), i, name))
            self._seen += 1

    def _sample(self, batch: Batch | dict[str, Batch], probabilities: Tensor, i: int, name: str) -> Image.Image:
        """A classified sample: every view, its class and what was predicted."""
        views = batch if isinstance(batch, dict) else {"image": batch}
        first = next(iter(views.values()))
        label = None if first.label is None else int(first.label[i])
        return sample_row(
            {view: self.modality.picture(one.image[i].cpu()) for view, one in views.items()},
            None if label is None or label >= len(self.classes) else label,
            probabilities.tolist(),
            self.classes,
            name=name,
            pixel_nm={view: float(one.pixel_nm[i, 1]) for view, one in views.items()},
        )

    def _strip(self, batch: Batch, probabilities: Tensor, i: int, name: str) -> Image.Image:
        label = None if batch.label is None else batch.label[i].cpu().numpy()
        return row(
            self.modality.picture(batch.image[i].cpu()),
            label,
            probabilities[i].argmax(0).cpu().numpy(),
            self.classes,
            name=name,
            pixel_nm=float(batch.pixel_nm[i, 1]),
        )

    def sheet(self) -> Image.Image | None:
        """All strips with the legend, or None where there are none."""
        return stack(self.strips, self.classes) if self.strips else None

    def save(self, path: Path) -> Path | None:
        """Write the sheet as PNG; None where there is nothing to show."""
        sheet = self.sheet()
        if sheet is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        return path


def write_report(
    run: Path, results: Mapping[str, Any], log: Sequence[Mapping[str, Any]], galleries: Mapping[str, Gallery]
) -> Path:
    """Write ``report.html`` into a run folder, and each test set's pictures as PNG beside it."""
    parts = [
        f"<h1>{escape(str(results['experiment']))}</h1>",
        f"<p class='quiet'>{escape(_summary(results))}</p>",
        _headline(results),
    ]
    for role, gallery in galleries.items():
        sheet = gallery.sheet()
        if sheet is not None:
            gallery.save(run / "pictures" / f"{role}.png")
            parts.append(f"<h2>Pictures: {escape(role)}</h2>{png(sheet)}")
    parts.append(_curves(log))
    for role, figures in results["sets"].items():
        parts += [_per_class(role, figures, results["classes"]), _classified(role, figures, results["classes"])]
    toml = (run / "experiment.toml").read_text(encoding="utf-8")
    parts.append(f"<h2>Experiment, as it was run</h2><pre>{escape(toml)}</pre>")
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{escape(str(results['experiment']))}</title><style>{STYLE}</style>{''.join(parts)}</html>"
    )
    path = run / "report.html"
    write_text(path, page)
    return path


def _summary(results: Mapping[str, Any]) -> str:
    images = ", ".join(f"{count} {role}" for role, count in results["images"].items())
    return (
        f"trainer {results['trainer']} · seed {results['seed']} · {results['steps']} steps in "
        f"{results['seconds']:.0f} s on {results['device']} ({results['processes']} process"
        f"{'es' if results['processes'] > 1 else ''}) · images: {images} · checkpoint: {results['checkpoint']}"
    )


def _headline(results: Mapping[str, Any]) -> str:
    rows = []
    for role, figures in results["sets"].items():
        rows.append((role, figures))
        if "grey_level" in figures:
            rows.append((f"{role}: grey level alone", figures["grey_level"]))
    names = named(figures for _, figures in rows)
    head = "".join(f"<th>{title}</th>" for title in names.values())
    body = "".join(
        f"<tr><td>{escape(label)}</td>{''.join(f'<td>{_figure(figures.get(name))}</td>' for name in names)}</tr>"
        for label, figures in rows
    )
    return f"<h2>Results</h2><table><tr><th>set</th>{head}</tr>{body}</table>"


def _per_class(role: str, figures: Mapping[str, Any], classes: Sequence[str]) -> str:
    columns = [("IoU", "iou"), ("Dice", "dice"), ("boundary IoU", "boundary_iou")]
    if not all(key in figures for _, key in columns):
        return ""
    total = sum(figures["pixels"].values()) or 1
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{figures['pixels'][name] / total:.2%}</td>"
        + "".join(f"<td>{_figure(figures[key][name])}</td>" for _, key in columns)
        + "</tr>"
        for name in classes
    )
    head = "".join(f"<th>{title}</th>" for title, _ in columns)
    return f"<h2>Classes: {escape(role)}</h2><table><tr><th>class</th><th>pixels</th>{head}</tr>{body}</table>"


def _classified(role: str, figures: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Recall and counts of every class, the confusion matrix and the map of the embedding, where there are any."""
    parts = []
    if "recall" in figures and "precision" in figures:
        body = "".join(
            f"<tr><td>{escape(name)}</td><td>{sum(row)}</td><td>{_figure(figures['recall'][name])}</td>"
            f"<td>{_figure(figures['precision'][name])}</td></tr>"
            for name, row in zip(classes, figures["confusion"])
        )
        head = "<tr><th>class</th><th>samples</th><th>recall</th><th>precision</th></tr>"
        parts += [f"<table>{head}{body}</table>", png(confusion_chart(figures["confusion"], classes))]
    if figures.get("embedding_map"):
        parts.append(png(embedding_chart(figures["embedding_map"], classes)))
    return f"<h2>Classes: {escape(role)}</h2>{''.join(parts)}" if parts else ""


def _figure(value: Any) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def png(image: Image.Image) -> str:
    """A picture as an ``img`` element that carries its data."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Losses and validation figures over the steps; a name with a slash, GROUP/NAME, goes on its group's own axis."""
    from matplotlib.figure import Figure

    training = [entry for entry in log if "lr" in entry]
    checks = [entry for entry in log if HEADLINE.keys() & entry.get("validation", {}).keys()]
    groups = _groups({name: value for entry in training for name, value in entry.items()})
    if not groups:
        return ""
    panels = len(groups) + bool(checks)
    figure = Figure(figsize=(max(11.0, 4.4 * panels), 3.4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, (group, names) in zip(axes, groups.items()):
        for name in names:
            steps, values = zip(*((e["step"], e[name]) for e in training if name in e))
            axis.plot(steps, values, label=name.removeprefix(f"{group}/"))
        axis.set(xlabel="step", ylabel=group, yscale="log" if group == "loss" and _positive(training) else "linear")
        axis.legend(frameon=False)
    if checks:
        for name in HEADLINE:
            points = [(e["step"], e["validation"][name]) for e in checks if name in e["validation"]]
            if points:
                axes[-1].plot(*zip(*points), marker="o", label=HEADLINE[name])
        axes[-1].set(xlabel="step", ylabel="validation", ylim=(0, 1))
        axes[-1].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return f"<h2>Curves</h2>{png(drawn(figure))}"


def _groups(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """The logged figures by the axis they go on."""
    groups: dict[str, list[str]] = {}
    for name, value in entry.items():
        if name not in ("step", "lr") and isinstance(value, int | float):
            groups.setdefault(name.partition("/")[0] if "/" in name else "loss", []).append(name)
    return groups


def _positive(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every loss can stand on a logarithmic axis."""
    return all(entry[name] > 0 for entry in entries for name in _groups(entry).get("loss", []))
