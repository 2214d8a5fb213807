"""DeepLabV3+ on real micrographs: NASA's EBC1, leave one specimen out, supervised beside weak-to-strong.

    python examples/ebc1_leave_one_specimen_out.py FOLDER --out runs/ebc1
    python examples/ebc1_leave_one_specimen_out.py FOLDER --out runs/ebc1-few --labels 2 4 --seeds 0 1 2 \
        --trainers supervised weak-to-strong anchored --shrink 2 --crop 128

FOLDER is benchmark_segmentation_data/EBC1 of github.com/nasa/pretrained-microscopy-models (PNG or TIFF):
14 back-scatter SEM cross-sections of a coating, 1024 × 1024, with background, oxide layer and crack. The
upstream train/val/test split shares specimens, so every specimen is held out in turn and the pixels of all
folds are pooled. A fold that is finished is not run again. With --labels only so many images of the other specimens
keep their labels; weak-to-strong reads all images of the other specimens without labels. No test image is read in
training.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from lamella.cli.tables import table
from lamella.engine.experiment import Experiment, check_experiment
from lamella.engine.fit import fit
from lamella.engine.metrics import iou_of
from lamella.engine.whole import write_json
from PIL import Image
from torch import Tensor

CLASSES = ["background", "layer", "crack"]
PARTS = ("train", "val", "test")
TRAINERS = {
    "supervised": {"name": "supervised", "augment": "weak"},
    "weak-to-strong": {
        "name": "weak-to-strong", "weak": "weak", "sets": ["sample", "machine", "post"], "probe_scale": 0.5,
    },
}  # fmt: skip
TRAINERS["steady"] = {**TRAINERS["weak-to-strong"], "ema": 0.98, "class_tau": True, "mix": 0.5, "mix_labelled": 0.5}
TRAINERS["pasted"] = {**TRAINERS["supervised"], "mix": 0.5, "paste": ["crack"]}
TRAINERS["before-anchored"] = TRAINERS["pasted"]
TRAINERS["anchored"] = {"name": "anchored", "weak": "weak", "sets": ["sample", "post"], "paste": ["crack"]}
STEPS = {"supervised": 3.5, "pasted": 3.5, "before-anchored": 1.75, "anchored": 0.65}
"""Steps at the cost of one of weak-to-strong; the last two are one training after the other (table3-anchored.toml)."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ebc1"))
    parser.add_argument("--trainers", choices=[*TRAINERS], nargs="+", default=["supervised"])
    parser.add_argument("--labels", type=int, nargs="+", help="labelled images of the other specimens; else all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=150, help="of weak-to-strong, and as much of others")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--shrink", type=int, default=1, help="work on images so many times smaller")
    parser.add_argument("--intensity", default="dtype", help="what maps grey values; image: percentiles of each image")
    parser.add_argument("--start", type=Path, help="run whose network all begin with, as of examples/paper/start.toml")
    return parser.parse_args()


def shrunk(folder: Path, factor: int, out: Path) -> Path:
    """The folder with images averaged over squares of ``factor`` pixels and one label of each square kept.

    What is left at the right and at the bottom is cut off.
    """
    if factor == 1:
        return folder
    for path in sorted(folder.glob("*/*")):
        image: Image.Image = Image.open(path)
        target = out / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        small = (image.width // factor, image.height // factor)
        image = image.crop((0, 0, small[0] * factor, small[1] * factor))
        if target.exists():
            with Image.open(target) as known:
                if known.size != small:
                    raise SystemExit(f"{out} has images of another size; choose another --out")
        labels = path.parent.name.endswith("_annot")
        (image.resize(small, Image.Resampling.NEAREST) if labels else image.reduce(factor)).save(target)
    return out


def source(folder: Path, **which: dict[str, str] | int) -> dict:
    """All 14 images, or those of some specimens; the specimen is what stands before the underscore."""
    parts = [part for part in PARTS if (folder / part).is_dir()]
    return {
        "source": str(folder.resolve()),
        "images": [f"{part}/*" for part in parts],
        "labels": [f"{part}_annot/*" for part in parts],
        "classes": CLASSES,
        "group": "^(?P<specimen>[^_]+)_",
        **which,
    }


class Fold(NamedTuple):
    """One training: who learns, from how many labels, and the specimen that is held out."""

    trainer: str
    labels: int | None
    seed: int
    specimen: str

    @property
    def folder(self) -> Path:
        """Where it is kept below --out."""
        return Path(f"{self.trainer}-{self.labels or 'all'}", f"seed-{self.seed}", self.specimen.replace("#", "-"))


def experiment(folder: Path, fold: Fold, given: argparse.Namespace, start: Path | None) -> Experiment:
    """Train on every specimen but one, from the network of ``start`` or from random weights."""
    specimen, trainer = fold.specimen, fold.trainer
    others = source(folder, exclude={"specimen": specimen})
    few = {} if fold.labels is None else {"subset": fold.labels, "subset_seed": fold.seed}
    alone = given.trainers == ["supervised"]
    rate = 3e-3 if given.start is None else 1e-3
    tables = {
        "seed": fold.seed,
        "modality": {"name": "tem", "intensity": given.intensity},
        "data": {
            "labelled": {**others, **few},
            **({} if TRAINERS[trainer]["name"] == "supervised" else {"unlabelled": others}),
            "test": source(folder, only={"specimen": specimen}),
        },
        "trainer": {
            **TRAINERS[trainer],
            "backbone": {
                "name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100",
                **({} if start is None else {"start": str(start.resolve())}),
            },
        },
        "fit": {
            "steps": round(given.steps * (1 if alone else STEPS.get(trainer, 1))),
            "batch_size": 4,
            "crop": given.crop,
            "warmup": 10,
            "optimizer": {"lr": rate / 2 if trainer == "anchored" else rate},
        },
    }  # fmt: skip
    return check_experiment(tables, name=f"ebc1 without {specimen}", folder=folder)


def trained(folder: Path, fold: Fold, given: argparse.Namespace) -> Path:
    """The run of a fold, trained where it was not yet, and what it begins with before it."""
    start = given.start
    if fold.trainer == "anchored":
        start = trained(folder, fold._replace(trainer="before-anchored"), given)
    run = given.out / fold.folder
    wanted = experiment(folder, fold, given, start)
    if not (run / "results.json").exists():
        fit(wanted, run)
    elif (run / "experiment.toml").read_text(encoding="utf-8") != wanted.resolved():
        raise SystemExit(f"{run} was trained with other settings; choose another --out")
    return run


def folds(folder: Path, trainer: str, labels: int | None, seed: int, given: argparse.Namespace) -> Iterator[dict]:
    """What each specimen, held out, gave."""
    names = sorted(path.stem.partition("_")[0] for path in folder.glob("*_annot/*"))
    for specimen in dict.fromkeys(names):
        run = trained(folder, Fold(trainer, labels, seed, specimen), given)
        figures = json.loads((run / "results.json").read_text(encoding="utf-8"))["sets"]["test"]
        yield {"specimen": specimen, **{name: figures[name] for name in ("images", "iou", "confusion", "grey_level")}}


def pooled(rows: list[dict]) -> Tensor:
    """IoU of every class over the pixels of all folds."""
    return iou_of(torch.stack([torch.tensor(row["confusion"]) for row in rows]).sum(0))


def shown(value: float | None) -> str:
    """A figure for the table; a dash where the class does not occur."""
    return "–" if value is None else f"{value:.3f}"


def over_seeds(seeds: list[list[dict]]) -> list[str]:
    """IoU of every class and their mean: over seeds, and the least and the greatest where there are several."""
    iou = torch.stack([pooled(rows) for rows in seeds])  # (seeds, classes)
    columns = [*iou.unbind(1), iou.mean(1)]
    if len(seeds) == 1:
        return [f"{column.item():.3f}" for column in columns]
    return [f"{column.mean():.3f} ({column.min():.3f}–{column.max():.3f})" for column in columns]


def main() -> None:
    given = arguments()
    folder = shrunk(given.folder, given.shrink, given.out / "images")
    grid = list(product(given.seeds, given.labels or [None], given.trainers))
    runs = {(s, labels, name): list(folds(folder, name, labels, s, given)) for s, labels, name in grid}
    found = [
        {"trainer": name, "labels": labels, "seed": seed, "pooled": pooled(rows).tolist(), "folds": rows}
        for (seed, labels, name), rows in runs.items()
    ]
    overview = []
    for labels, name in dict.fromkeys((labels, name) for _, labels, name in grid):
        overview.append([name, str(labels or "all"), *over_seeds([runs[s, labels, name] for s in given.seeds])])
    for labels in given.labels or [None]:
        grey = [[row["grey_level"] for row in runs[s, labels, given.trainers[0]]] for s in given.seeds]
        overview.append(["grey level alone", str(labels or "all"), *over_seeds(grey)])
    if len(found) == 1:
        rows = [[r["specimen"], str(r["images"]), *(shown(r["iou"][c]) for c in CLASSES)] for r in found[0]["folds"]]
        print(table(["held-out specimen", "images", *(f"IoU {name}" for name in CLASSES)], rows))
    print(table(["pooled over specimens", "labels", *(f"IoU {name}" for name in CLASSES), "mIoU"], overview))
    options = {name: str(value) for name, value in vars(given).items() if name not in ("folder", "out", "start")}
    write_json(given.out / "results.json", {"options": options, "rows": found})


if __name__ == "__main__":
    main()
