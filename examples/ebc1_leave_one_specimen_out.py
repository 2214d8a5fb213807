"""DeepLabV3+ on real micrographs: NASA's EBC1, leave one specimen out, supervised or weak-to-strong.

    python examples/ebc1_leave_one_specimen_out.py FOLDER --out runs/ebc1
    python examples/ebc1_leave_one_specimen_out.py FOLDER --labels 4 --trainer weak-to-strong --out runs/ebc1-4

FOLDER is benchmark_segmentation_data/EBC1 of github.com/nasa/pretrained-microscopy-models (PNG or TIFF):
14 back-scatter SEM cross-sections of a coating, 1024 × 1024, with background, oxide layer and crack. The
upstream train/val/test split shares specimens, so every specimen is held out in turn and the pixels of all
folds are pooled. A fold that is finished is not run again. With --labels only so many images of the other specimens
keep their labels; weak-to-strong reads all images of the other specimens without labels. No test image is read in
training.
"""

import argparse
import json
from pathlib import Path

import torch
from lamella.cli.tables import table
from lamella.engine.checkpoint import write_json
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.metrics import iou_of

CLASSES = ["background", "layer", "crack"]


TRAINERS = {
    "supervised": {"name": "supervised", "augment": "weak"},
    "weak-to-strong": {"name": "weak-to-strong", "weak": "weak", "sets": ["sample", "machine", "post"]},
}


def source(folder: Path, **which: dict[str, str] | int) -> dict:
    """All 14 images, or those of some specimens; the specimen is what stands before the underscore."""
    parts = [part for part in ("train", "val", "test") if (folder / part).is_dir()]
    return {
        "source": str(folder.resolve()),
        "images": [f"{part}/*" for part in parts],
        "labels": [f"{part}_annot/*" for part in parts],
        "classes": CLASSES,
        "group": "^(?P<specimen>[^_]+)_",
        **which,
    }


def experiment(folder: Path, specimen: str, options: argparse.Namespace):
    """Train on every specimen but one."""
    others = source(folder, exclude={"specimen": specimen})
    few = {} if options.labels is None else {"subset": options.labels, "subset_seed": options.seed}
    tables = {
        "seed": options.seed,
        "modality": "tem",
        "data": {
            "labelled": {**others, **few},
            **({} if options.trainer == "supervised" else {"unlabelled": others}),
            "test": source(folder, only={"specimen": specimen}),
        },
        "trainer": {
            **TRAINERS[options.trainer],
            "backbone": {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100"},
        },
        "fit": {"steps": options.steps, "batch_size": 4, "crop": 256, "warmup": 10, "optimizer": {"lr": 3e-3}},
    }
    return check_experiment(tables, name=f"ebc1 without {specimen}", folder=folder)


def shown(value: float | None) -> str:
    """A figure for the table; a dash where the class does not occur."""
    return "–" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ebc1"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trainer", choices=TRAINERS, default="supervised")
    parser.add_argument("--labels", type=int, help="labelled images of the other specimens; else all")
    arguments = parser.parse_args()
    names = sorted(path.stem.partition("_")[0] for path in arguments.folder.glob("*_annot/*"))
    rows, pooled, grey = [], 0, 0
    for specimen in dict.fromkeys(names):
        run = arguments.out / f"seed-{arguments.seed}" / specimen.replace("#", "-")
        if not (run / "results.json").exists():
            fit(experiment(arguments.folder, specimen, arguments), run)
        figures = json.loads((run / "results.json").read_text(encoding="utf-8"))["sets"]["test"]
        pooled += torch.tensor(figures["confusion"])
        grey += torch.tensor(figures["grey_level"]["confusion"])
        rows.append([specimen, str(figures["images"]), *(shown(figures["iou"][name]) for name in CLASSES)])
    for title, counts in (("pooled", pooled), ("grey level alone", grey)):
        rows.append([title, str(len(names)), *(shown(value) for value in iou_of(counts).tolist())])
    print(table(["held-out specimen", "images", *(f"IoU {name}" for name in CLASSES)], rows))
    print(f"mIoU pooled {iou_of(pooled).nanmean():.4f}, grey level alone {iou_of(grey).nanmean():.4f}")
    write_json(arguments.out / f"seed-{arguments.seed}.json", {"steps": arguments.steps, "rows": rows})


if __name__ == "__main__":
    main()
