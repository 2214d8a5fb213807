"""Prompts on real micrographs: sam-nano zero-shot and adapted by SeSAMI, beside classical answers to the same prompts.

    python examples/sam_real_images.py emps FOLDER      # github.com/by256/emps: images, segmaps, doi.csv
    python examples/sam_real_images.py ebc1 FOLDER      # benchmark_segmentation_data/EBC1 of NASA's set

Adapts on a few images and tests on images of other articles (EMPS) or other specimens (EBC1). Prompts come from
the labels with a fixed seed, the same for every row; mIoU is the mean over all objects asked for. Test images are
scaled to --size whole, so for images much larger than it --crop should be as large as they are.
"""

import argparse
import csv
import json
from pathlib import Path

import lamella
from lamella.cli.tables import table
from lamella.engine.checkpoint import write_json
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella_sam.classical import classical_figures

KINDS = ("point", "box", "mask")


def pairs(which: str, folder: Path) -> dict[str, tuple[str, str, str]]:
    """(group, image, mask) by name; a group is never in both parts."""
    if which == "emps":
        rows = csv.DictReader((folder / "doi.csv").open(encoding="utf-8"))
        doi = {Path(row["filename"]).stem: row["doi"] for row in rows}
        names = sorted(path.stem for path in (folder / "images").glob("*.png"))
        return {name: (doi[name], f"images/{name}.png", f"segmaps/{name}.png") for name in names}
    files = sorted(path for part in ("train", "val", "test") for path in (folder / part).iterdir())
    sides = {path.stem: (path.parent.name, path.name) for path in files}
    return {n: (n.partition("_")[0], f"{p}/{file}", f"{p}_annot/{file}") for n, (p, file) in sorted(sides.items())}


def sources(which: str, folder: Path, few: int, most: int) -> dict[str, dict]:
    """The first ``few`` images to adapt on, and all of other groups to test on."""
    known = pairs(which, folder)
    seen = {group for group, _, _ in list(known.values())[:few]}
    chosen = {"labelled": list(known)[:few], "test": [n for n in known if known[n][0] not in seen][:most]}
    classes = {"background": 0, "particle": "rest"} if which == "emps" else ["background", "layer", "crack"]
    out = {}
    for role, names in chosen.items():
        out[role] = {"source": str(folder.resolve()), "classes": classes}
        out[role] |= {"images": [known[n][1] for n in names], "labels": [known[n][2] for n in names]}
        if which == "emps":
            out[role]["instances"] = out[role]["labels"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["emps", "ebc1"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/sam-real"))
    for name, value in {"few": 8, "steps": 150, "size": 256, "seed": 0, "tests": 99, "crop": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    asked = {"objects": "instance"} if given.which == "emps" else {"background": "background"}
    trainer = {"name": "sesami", "backbone": {"name": "sam-nano", "size": given.size}, **asked}
    common = {"seed": given.seed, "modality": {"name": "tem", "intensity": "image"}}
    common["data"] = sources(given.which, given.folder, given.few, given.tests)
    fitting = {"batch_size": 2, "crop": given.crop, "warmup": 10, "optimizer": {"lr": 1e-3}}
    zero = {
        **common,
        "trainer": {**trainer, "adapt": "nothing", "semantic": "exemplars"},
        "fit": {**fitting, "steps": 8},
    }
    ways = {
        "sam-nano zero-shot": zero,
        "SeSAMI": {**common, "trainer": trainer, "fit": {**fitting, "steps": given.steps}},
    }
    test = check_experiment(zero, name="test", folder=given.folder).open("test")
    modality = lamella.build("modality", "tem", intensity="image")
    background = 0 if given.which == "ebc1" else None
    rows = classical_figures(test, modality, objects=asked.get("objects", "region"), background=background)
    for name, tables in ways.items():
        run = given.out / f"{given.which}-{tables['trainer'].get('adapt', 'lora')}-{given.seed}"
        if not (run / "results.json").exists():
            fit(check_experiment(tables, name=name, folder=given.folder), run)
        figures = json.loads((run / "results.json").read_text(encoding="utf-8"))["sets"]["test"]
        rows[name] = {kind: figures[f"miou_{kind}"] for kind in KINDS} | {"classes": figures["miou_pooled"]}
    shown = [[name, *(f"{row[k]:.3f}" if k in row else "–" for k in (*KINDS, "classes"))] for name, row in rows.items()]
    print(table(["answered by", *(f"mIoU {kind}" for kind in KINDS), "classes, no prompt (pooled)"], shown))
    write_json(
        given.out / f"{given.which}-{given.seed}.json",
        {"settings": {k: getattr(given, k) for k in ("few", "steps", "size", "seed", "tests", "crop")}, "rows": rows},
    )


if __name__ == "__main__":
    main()
