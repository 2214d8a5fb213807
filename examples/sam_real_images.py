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
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.whole import write_json
from lamella_sam.classical import classical_figures

KINDS = ("point", "box", "mask")
OPTIONS = {
    "few": (8, "images to adapt on; every seed takes the next ones"),
    "steps": (150, "steps of SeSAMI"),
    "size": (256, "pixels of the longer side that sam-nano sees"),
    "seed": (0, "of the trainings, and which images they have"),
    "skip": (0, "test images left out, so that a later row is tested on others"),
    "tests": (99, "most images to test on"),
    "crop": (256, "pixels of a training crop"),
}


def pairs(which: str, folder: Path) -> dict[str, tuple[str, str, str]]:
    """(group, image, mask) by name; a group is never in both parts."""
    if which == "emps":
        rows = csv.DictReader((folder / "doi.csv").read_text(encoding="utf-8").splitlines())
        doi = {Path(row["filename"]).stem: row["doi"] for row in rows}
        names = sorted(path.stem for path in (folder / "images").glob("*.png"))
        return {name: (doi[name], f"images/{name}.png", f"segmaps/{name}.png") for name in names}
    files = sorted(path for part in ("train", "val", "test") for path in (folder / part).iterdir())
    sides = {path.stem: (path.parent.name, path.name) for path in files}
    return {n: (n.partition("_")[0], f"{p}/{file}", f"{p}_annot/{file}") for n, (p, file) in sorted(sides.items())}


def sources(which: str, folder: Path, given: argparse.Namespace) -> dict[str, dict]:
    """``few`` images to adapt on, others for every seed, and those of other groups to test on."""
    known = pairs(which, folder)
    few = list(known)[given.seed * given.few :][: given.few]
    seen = {known[name][0] for name in few}
    others = [name for name in known if known[name][0] not in seen]
    chosen = {"labelled": few, "test": others[given.skip :][: given.tests]}
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
    for name, (value, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} [{value}]")
    given = parser.parse_args()
    asked = {"background": "background", **({"objects": "instance"} if given.which == "emps" else {})}
    trainer = {"name": "sesami", "backbone": {"name": "sam-nano", "size": given.size}, **asked}
    common = {"seed": given.seed, "modality": {"name": "tem", "intensity": "image"}}
    common["data"] = sources(given.which, given.folder, given)
    fitting = {"batch_size": 2, "crop": given.crop, "warmup": 10, "optimizer": {"lr": 1e-3}}
    ways = {
        "sam-nano zero-shot": ("nothing", {"adapt": "nothing", "semantic": "exemplars"}, 8),
        "SeSAMI": ("lora", {}, given.steps),
        "SeSAMI, decoder learning": ("decoder", {"decoder": "train", "decoder_rate": 3.0}, given.steps),
    }
    experiments = {
        name: (folder, {**common, "trainer": {**trainer, **options}, "fit": {**fitting, "steps": steps}})
        for name, (folder, options, steps) in ways.items()
    }
    test = check_experiment(experiments["SeSAMI"][1], name="test", folder=given.folder).open("test")
    modality = lamella.build("modality", "tem", intensity="image")
    background = 0 if given.which == "ebc1" else None
    rows = classical_figures(test, modality, objects=asked.get("objects", "region"), background=background)
    for name, (folder, tables) in experiments.items():
        run = given.out / f"{given.which}-{folder}-{given.seed}"
        wanted = check_experiment(tables, name=name, folder=given.folder)
        if not (run / "results.json").exists():
            fit(wanted, run)
        elif (run / "experiment.toml").read_text(encoding="utf-8") != wanted.resolved():
            raise SystemExit(f"{run} was trained with other settings; choose another --out")
        figures = json.loads((run / "results.json").read_text(encoding="utf-8"))["sets"]["test"]
        rows[name] = {kind: figures[f"miou_{kind}"] for kind in KINDS} | {"classes": figures["miou_pooled"]}
    shown = [[name, *(f"{row[k]:.3f}" if k in row else "–" for k in (*KINDS, "classes"))] for name, row in rows.items()]
    print(table(["answered by", *(f"mIoU {kind}" for kind in KINDS), "classes, no prompt (pooled)"], shown))
    write_json(
        given.out / f"{given.which}-{given.seed}.json",
        {"settings": {name: getattr(given, name) for name in OPTIONS}, "rows": rows},
    )


if __name__ == "__main__":
    main()
