"""Which defects are found, and how many are invented: objects by size, and false objects per image.

    python examples/paper/defect_sizes.py runs/table3-anchored-small --rows supervised pasted pasted-then-anchored

An IoU of a class counts pixels, and most pixels are in its few large objects. Objects are connected pixels of the class
in the label; one is found where the network takes at least half of it for the class. A false object is a connected
patch of the prediction that touches no such pixel; pixels without a label are in none. Writes defect_sizes.json into
the study's folder.
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
from scipy import ndimage


def counted(run: Path, role: str, name: str, large: int) -> dict[str, float]:
    """Figures of one run on one test set; the IoU is pooled over it."""
    experiment, trainer, modality, facts = open_run(run)
    number = facts["data"]["class_names"].index(name)
    objects, false, images, wrong = [], 0, 0, 0
    with torch.inference_mode():
        for batch, _names in evaluation_batches(experiment.open(role), modality, 16):
            taken = ((trainer.predict(batch).argmax(1) == number) & (batch.label != IGNORE)).numpy()
            for truth, said in zip(batch.label.numpy() == number, taken, strict=True):
                parts, count = ndimage.label(truth)
                objects += [((parts == i).sum(), said[parts == i].sum()) for i in range(1, count + 1)]
                patches, many = ndimage.label(said)
                false += many - len(np.setdiff1d(patches[truth], 0))
                images, wrong = images + 1, wrong + int((said & ~truth).sum())
    size, hit = np.array(objects).reshape(-1, 2).T
    big = size >= large
    return {
        "objects": len(size),
        "share of large ones": float(big.mean()),
        "their share of pixels": float(size[big].sum() / size.sum()),
        "small found": float((hit >= 0.5 * size)[~big].mean()),
        "large found": float((hit >= 0.5 * size)[big].mean()),
        "false objects per image": false / images,
        "false pixels per defect pixel": float(wrong / size.sum()),
        "IoU": float(hit.sum() / (size.sum() + wrong)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rows", nargs="+", default=["supervised", "pasted", "pasted-then-anchored"])
    parser.add_argument("--name", default="defect", help="the class")
    parser.add_argument("--column", default="all")
    parser.add_argument("--sets", nargs="+", default=["test", "test-a"])
    parser.add_argument("--large", type=int, default=60, help="pixels from which an object is a large one")
    given = parser.parse_args()
    seeds = sorted(path.parent for path in given.study.glob(f"seed-*/{given.column}"))
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for role in given.sets:
        for row in given.rows:
            runs = [run for seed in seeds if ((run := seed / given.column / row) / "results.json").exists()]
            found.setdefault(role, {})[row] = [counted(run, role, given.name, given.large) for run in runs]
        each = {row: values for row, values in found[role].items() if values}
        figures = list(next(iter(each.values()))[0])
        lines = [
            [row, str(len(values)), *(f"{np.mean([v[name] for v in values]):.3f}" for name in figures)]
            for row, values in each.items()
        ]
        print(table([role, "seeds", *figures], lines), "\n", flush=True)
    write_json(given.study / "defect_sizes.json", {"class": given.name, "large from": given.large, "each": found})


if __name__ == "__main__":
    main()
