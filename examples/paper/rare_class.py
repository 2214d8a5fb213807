"""Why a rare class is lost: is it ranked badly, or only never the likeliest class?

    python examples/paper/rare_class.py runs/table3-doubted-small --rows supervised weak-to-strong

A pixel is predicted as the class where its log odds against the likeliest other class exceed 0. A network that is
never sure of the class loses it there and may still rank its pixels well. For every row, mean over the seeds: IoU at 0;
IoU at the level above which the share of pixels of the unlabelled images is that of the labelled ones (no label beyond
the training's counts); IoU at the best level, which only the test labels tell; and the average precision, which needs
no level. Writes rare_class.json into the study's folder.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from lamella import IGNORE
from lamella.cli.tables import table
from lamella.data.loaders import evaluation_batches
from lamella.engine.run import open_run
from lamella.engine.whole import write_json

LEVELS = np.linspace(-10.0, 10.0, 801)
FIGURES = ("IoU", "IoU, share matched", "IoU, best level", "average precision")


def ranked(opened: tuple, role: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels above each level that are of the class, and that are not or have no label."""
    experiment, trainer, modality, _ = opened
    counts = np.zeros((2, len(LEVELS)))
    with torch.inference_mode():
        for batch, _names in evaluation_batches(experiment.open(role), modality, 16):
            p = trainer.predict(batch).clamp(min=1e-9)
            others = p.clone()
            others[:, number] = 0.0
            odds = (p[:, number] / others.amax(1)).log()
            label = torch.full_like(odds, -1) if batch.label is None else batch.label
            bins = np.digitize(odds.numpy(), LEVELS[1:])
            for row, mask in enumerate((label == number, (label != number) & (label != IGNORE))):
                counts[row] += np.bincount(bins[mask.numpy()], minlength=len(LEVELS))
    above = counts[:, ::-1].cumsum(1)[:, ::-1]
    return above[0], above[1]


def figures(found: tuple[np.ndarray, np.ndarray], matched: int) -> list[float]:
    """`FIGURES` of a test set."""
    right, wrong = found
    iou = right / (right[0] + wrong)
    recall, precision = right / right[0], right / np.maximum(right + wrong, 1)
    area = float(((recall[:-1] - recall[1:]) * precision[:-1]).sum() + recall[-1] * precision[-1])
    return [float(iou[len(LEVELS) // 2]), float(iou[matched]), float(iou.max()), area]


def measured(run: Path, name: str, sets: list[str]) -> dict[str, list[float]]:
    """`FIGURES` of a run on each set."""
    opened = open_run(run)
    number = opened[3]["data"]["class_names"].index(name)
    right, wrong = ranked(opened, "labelled", number)
    right_u, wrong_u = ranked(opened, "unlabelled", number)
    share = (right_u + wrong_u) / (right_u + wrong_u)[0]
    matched = min(int((share > right[0] / (right + wrong)[0]).sum()), len(LEVELS) - 1)
    return {role: figures(ranked(opened, role, number), matched) for role in sets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rows", nargs="+", default=["supervised", "weak-to-strong"])
    parser.add_argument("--name", default="defect", help="the class")
    parser.add_argument("--column", default="all")
    parser.add_argument("--sets", nargs="+", default=["test", "test-unseen"])
    given = parser.parse_args()
    seeds = sorted(path.parent for path in given.study.glob(f"seed-*/{given.column}"))
    found: dict[str, dict[str, list[list[float]]]] = {role: {} for role in given.sets}
    for row in given.rows:
        for run in (seed / given.column / row for seed in seeds):
            if not (run / "results.json").exists():
                continue
            for role, values in measured(run, given.name, given.sets).items():
                found[role].setdefault(row, []).append(values)
    for role, rows in found.items():
        lines = [[row, str(len(v)), *(f"{x:.3f}" for x in np.mean(v, 0))] for row, v in rows.items()]
        print(table([role, "seeds", *FIGURES], lines), "\n")
    write_json(given.study / "rare_class.json", {"class": given.name, "figures": FIGURES, "each": found})


if __name__ == "__main__":
    main()
