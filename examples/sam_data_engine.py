"""Rounds of the data engine on a new device, with a simulated annotator: figure 9 of the paper, simulated.

    python examples/sam_data_engine.py --out runs/data-engine

A network that has seen device A alone suggests masks for device B; the simulated annotator (it knows the truth and
clicks superpixels; no person) corrects them; SeSAMI learns from what was accepted and suggests the next batch. A
run is in force only when it beats zero-shot and the run before on a locked set. At the end a spoiled adapter asks
to be promoted. Effort is clicks + drawn pixels / 100 per image; "from nothing" is the same annotator without a model.
"""

import argparse
from pathlib import Path

import lamella
import numpy as np
from lamella.cli.tables import table
from lamella.engine.checkpoint import Checkpoints
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import open_run
from lamella.engine.whole import write_json
from lamella_sam.annotate.correct import superpixels
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.retrain import promote, retrain
from lamella_sam.annotate.simulate import annotate
from lamella_sam.annotate.suggest import suggest_all

TEMPLATE = """seed = {seed}
modality = "tem"
[data.labelled]
source = "replaced"
[trainer]
name = "sesami"
backbone = "sam-nano"
semantic = "exemplars"
prompts = 6
[fit]
steps = {steps}
batch_size = 4
warmup = 10
optimizer = {{ lr = 2e-3 }}
"""


def begin(out: Path, count: int, locked: int, size: int) -> tuple[AnnotationFolder, dict[str, np.ndarray]]:
    """A folder of device B with a locked set, and the truth of every image."""
    data = lamella.build("dataset", "synth-tem", preset="device-b", count=count + locked, size=size)
    (out / "given").mkdir(parents=True)
    truth = {}
    for number, row in enumerate(data):
        row["image"].save(out / "given" / f"b{number:03d}.png")
        truth[f"b{number:03d}"] = np.asarray(row["label"])
    names = data.features["classes"].feature.names
    folder = AnnotationFolder.create(out / "work", [out / "given"], names)
    for name in list(truth)[count:]:
        folder.write_mask(name, truth[name])
        folder.accept(name, by="truth", lock=True)
    return folder, truth


def spoiled(run: Path) -> Path:
    """A copy of a run that takes each class for the next: a deliberately bad adapter."""
    _, trainer, _, _ = open_run(run)
    for exemplar in (trainer.exemplars.counts, trainer.exemplars.sums):
        exemplar.copy_(exemplar.roll(1, 0))
    bad = run.with_name("spoiled")
    bad.mkdir()
    for name in ("experiment.toml", "run.json"):
        (bad / name).write_bytes((run / name).read_bytes())
    Checkpoints(bad).save("last", trainer, None, {"step": 1, "best": None})
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/data-engine"))
    for name, value in {"rounds": 3, "batch": 6, "steps": 120, "size": 128, "seed": 0, "locked": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    folder, truth = begin(given.out, given.rounds * given.batch, given.locked, given.size)
    template = given.out / "sesami.toml"
    template.write_text(TEMPLATE.format(seed=given.seed, steps=given.steps), encoding="utf-8")
    source = {"name": "synth-tem", "preset": "device-a", "count": 16, "size": given.size}
    trainer = {"name": "sesami", "backbone": "sam-nano", "adapt": "nothing", "semantic": "exemplars", "prompts": 1}
    tables = {"modality": "tem", "data": {"labelled": {"source": source}}, "trainer": trainer}
    zero, rows = given.out / "zero-shot", []
    fit(check_experiment({**tables, "fit": {"steps": 4, "batch_size": 4}}, name="zero-shot", folder=given.out), zero)
    for number in range(given.rounds):
        run = folder.promoted or zero
        efforts, scratch = [], []
        for entry in [e for e in suggest_all(folder, run, print) if e.status == "suggested"][: given.batch]:
            segments = superpixels(folder.image(entry.name), size=6)
            label = truth[entry.name]
            done = annotate(label, folder.mask(entry.name), segments)
            nothing = annotate(label, np.full_like(label, 255), segments)
            efforts.append(done.total())
            scratch.append(nothing.total())
            folder.write_mask(entry.name, done.label)
            folder.accept(entry.name, by="simulated annotator")
        trained, verdict = retrain(folder, template, zero_shot=zero if number == 0 else None)
        miou = folder.facts["rounds"][-1]["figures"]["miou_pooled"]
        print(f"round {number + 1}: {'promoted' if verdict.promoted else verdict.reasons}", flush=True)
        means = float(np.mean(efforts)), float(np.mean(scratch))
        rows.append(
            [str(number + 1), run.name, f"{means[0]:.1f}", f"{means[1]:.1f}", f"{miou:.4f}", str(verdict.promoted)]
        )
    refused = promote(folder, spoiled(trained))
    head = ["round", "suggested by", "effort per image", "from nothing", "mIoU locked after", "promoted"]
    print(f"zero-shot mIoU on the locked set {folder.facts['zero_shot']['figures']['miou_pooled']:.4f}")
    print(table(head, rows))
    print(f"spoiled adapter: {'promoted' if refused.promoted else 'refused'}: {refused.reasons[0]}")
    write_json(given.out / "figure9.json", {"simulated": True, "head": head, "rows": rows, "spoiled": refused.reasons})


if __name__ == "__main__":
    main()
