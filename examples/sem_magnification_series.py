"""Pre-training on a real magnification series: layers of solar cells in cross-section, 7 000 to 35 000 times.

    python examples/sem_magnification_series.py FOLDER

FOLDER holds the images of github.com/tkm22/SEM-Layer-Detection (data/obj, data/test). Eight samples have images at two
magnifications: too few to learn from, enough to see that real pairs load, train and are measured. The two images of a
pair are of one sample, not of one place on it, and nothing is held out: this is no test of the method.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from PIL import Image

PAIRS = {  # sample: (higher magnification, lower)
    "FA-150C": ("FA 150C 30000x", "FA 150C 20000x"),
    "FA-20min": ("FA-150-20min-20000x-1", "FA-150-20min-10000x-1"),
    "MAFA-30min": ("MAFA-150-30min-20000x-2", "MAFA-150-30min-10000x-1"),
    "MAFA-6min": ("MAFA-150-6min-10000x-1", "MAFA-150-6min-7000-1"),
    "MAFA-150C": ("MAFA 150C 35000x", "MAFA 150C 20000x"),
    "MFA-25C": ("MFA 25C 30000x", "MFA 25C 20000x"),
    "MFA-20s": ("MFA-150-20s-20000x-1", "MFA-150-20s-10000x"),
    "CS-MA-PbI2": ("CS-MA-PbI2-30000x", "CS-MA-PbI2-20000x"),
}
SIZE = 96
ENCODER = {"name": "vit", "size": SIZE, "patch": 12, "width": 64, "depth": 3, "heads": 2}


def write_pairs(folder: Path, out: Path) -> None:
    """The middle square of every image, at one size: out/high/SAMPLE.png and out/low/SAMPLE.png."""
    found = {path.stem.removesuffix("x"): path for path in sorted(folder.rglob("*.jpg"))}
    found |= {path.stem: path for path in found.values()}
    for sample, names in PAIRS.items():
        for view, name in zip(("high", "low"), names):
            image = Image.open(found.get(name) or found[name.removesuffix("x")]).convert("L")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            small = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BOX)
            (out / view).mkdir(parents=True, exist_ok=True)
            small.save(out / view / f"{sample}.png")


def recall(folder: Path, name: str, steps: int) -> dict[str, float]:
    """Train so many steps and retrieve each sample's other magnification among all."""
    source = {"source": str(folder / "pairs"), "images": {"high": "high/*.png", "low": "low/*.png"}}
    tables = {
        "modality": {"name": "sem", "intensity": "image"},
        "data": {"unlabelled": source},
        "trainer": {"name": "mae-contrastive", "views": "sem-views", "encoder": ENCODER, "con": 0.3},
        "fit": {"steps": steps, "batch_size": len(PAIRS), "optimizer": {"lr": 1e-3}, "cache": False},
    }
    run = folder / name
    fit(check_experiment(tables, name=name, folder=folder), run)
    return measured(run)


def measured(run: Path) -> dict[str, float]:
    from lamella.engine.evaluate import evaluate
    from lamella.engine.run import open_run

    experiment, trainer, modality, _ = open_run(run)
    device = next(trainer.parameters()).device
    return evaluate(trainer, experiment.open("unlabelled"), modality, device=device, tile=1024)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        write_pairs(Path(sys.argv[1]), folder / "pairs")
        for name, steps in (("before", 1), ("after", 100)):
            figures = recall(folder, name, steps)
            both = np.mean([figures["recall_high_to_low"], figures["recall_low_to_high"]])
            chance = f"among {figures['pairs']} samples (chance {1 / len(PAIRS):.3f})"
            print(f"{name} ({steps} steps): recall@1 {both:.2f} {chance}")
