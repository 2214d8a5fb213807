"""How trained rows of a study bear noise: mIoU against dose, contamination and curtaining, as curves.

    python examples/paper/robustness.py runs/table2-small --rows supervised weak-to-strong without-sample

Each finished row of the first column and seed is measured on the clean test images, disturbed by one perturbation at
one strength. Rows trained with these perturbations have met their kind in training; a row that was trained without
the family (without-sample, without-machine) tells how far that carries; and so do the unseen nuisances, which have no
counterpart among the perturbations: mIoU of the unseen test images with each of them. Writes robustness.json and
robustness.png into the study's folder.
"""

import argparse
from pathlib import Path

import lamella
import numpy as np
import torch
from accelerate.utils import send_to_device
from lamella import Chain, Streams
from lamella.cli.tables import table
from lamella.data.loaders import evaluation_batches
from lamella.engine.experiment import read_experiment
from lamella.engine.metrics import iou_of
from lamella.engine.run import open_run
from lamella.engine.session import make_accelerator
from lamella.engine.whole import write_json
from lamella.study.groups import read_counts

LEVELS = {
    "dose (e⁻/px)": ("shot-noise", {"pedestal": (0.0, 0.0)}, "dose", [500.0, 200.0, 100.0, 50.0, 20.0, 10.0]),
    "carbon (nm)": ("carbon", {}, "thickness", [0.0, 10.0, 20.0, 40.0, 80.0]),
    "metal spots per image": ("metal-spots", {}, "spots", [0.0, 4.0, 8.0, 16.0, 32.0]),
    "curtaining κ": ("curtaining", {}, "strength", [0.0, 0.05, 0.1, 0.15, 0.25]),
}


def measured(run: Path, name: str, settings: dict, parameter: str, value: float, images: int) -> float:
    """Pooled mIoU of a run on its clean test images under one perturbation of fixed strength."""
    experiment, trainer, modality, _ = open_run(run)
    device = make_accelerator(experiment.fit.precision).device
    trainer.to(device)
    chain = Chain([lamella.build("perturbation", name, **settings, **{parameter: (value, value)})])
    samples = experiment.open("test")
    metrics = trainer.metrics()
    with torch.inference_mode():
        for batch, _names in evaluation_batches(samples.take(range(min(images, len(samples)))), modality, 16):
            batch = send_to_device(batch, device)
            noisy = chain(batch, Streams.root(0, batch.key, batch.visit, "robustness"))
            prediction = trainer.predict(noisy)
            for metric in metrics:
                metric.update(prediction, noisy)
    return metrics[0].compute()["miou_pooled"]


def by_kind(run: Path) -> dict[str, float]:
    """Pooled mIoU of the unseen test images, by the nuisance in them; an image with two counts for both."""
    source = dict(read_experiment(run / "experiment.toml").file.data["test-unseen"].source)
    images = lamella.build("dataset", source.pop("name"), **source)
    _, counts = read_counts(run / "counts" / "test-unseen.json", "name")
    pooled: dict[str, np.ndarray] = {}
    for kinds, matrix in zip(images["nuisances"], counts.values(), strict=True):
        for kind in kinds:
            pooled[kind] = pooled.get(kind, 0) + matrix
    return {kind: float(iou_of(torch.from_numpy(pooled[kind])).nanmean()) for kind in sorted(pooled)}


def draw(found: dict, path: Path) -> None:
    """One panel per perturbation, one line per row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found), 3.4), layout="constrained")
    for axis, (title, rows) in zip(figure.subplots(1, len(found), sharey=True), found.items()):
        for row, values in rows.items():
            axis.plot(LEVELS[title][3], values, marker="o", label=row)
        axis.set(xlabel=title, ylabel="mIoU (pooled)", xscale="log" if title.startswith("dose") else "linear")
        axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rows", nargs="+", default=["supervised", "weak-to-strong"])
    parser.add_argument("--cell", default="seed-0/A20", help="seed and column")
    parser.add_argument("--images", type=int, default=120)
    options = parser.parse_args()
    kinds = {row: by_kind(options.study / options.cell / row) for row in options.rows}
    lines = [[row, *(f"{value:.3f}" for value in values.values())] for row, values in kinds.items()]
    print(table(["unseen nuisance", *next(iter(kinds.values()))], lines), "\n")
    found: dict[str, dict[str, list[float]]] = {}
    for title, (name, settings, parameter, values) in LEVELS.items():
        for row in options.rows:
            run = options.study / options.cell / row
            curve = [measured(run, name, settings, parameter, value, options.images) for value in values]
            found.setdefault(title, {})[row] = curve
        lines = [[row, *(f"{value:.3f}" for value in curve)] for row, curve in found[title].items()]
        print(table([title, *(f"{value:g}" for value in values)], lines), "\n")
    write_json(
        options.study / "robustness.json",
        {"cell": options.cell, "images": options.images, "curves": found, "unseen": kinds},
    )
    draw(found, options.study / "robustness.png")
    print(f"curves: {options.study / 'robustness.png'}")


if __name__ == "__main__":
    main()
