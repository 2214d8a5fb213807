"""A round of the data engine: train on what was accepted, measure on the locked set, promote what is better."""

import json
from pathlib import Path
from typing import Any

from lamella.engine.checkpoint import json_text
from lamella.engine.evaluate import evaluate
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import new_folder, open_run
from lamella.engine.session import make_accelerator
from lamella.registry.tomlfile import read_toml

from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.gate import Verdict, judge


def retrain(folder: AnnotationFolder, template: Path, *, zero_shot: Path | None = None) -> tuple[Path, Verdict]:
    """Train an experiment's trainer on the accepted images and judge it on the locked ones.

    Args:
        template: an experiment file; its ``[data]`` is replaced by the folder's.
        zero_shot: a run that has learned from none of these images, to beat; without one the first round has to
            beat the best classifier that sees the grey value of one pixel.

    Raises:
        ConfigError: nothing accepted or locked.
    """
    if zero_shot is not None:
        folder.facts["zero_shot"] = {"run": str(zero_shot.resolve()), "figures": locked_figures(folder, zero_shot)}
        folder.save()
    number = len(folder.facts["rounds"]) + 1
    run = new_folder(folder.path / "runs" / f"round-{number}")
    fit(check_experiment(_tables(folder, template), name=run.name, folder=folder.path), run)
    if "zero_shot" not in folder.facts:
        folder.facts["zero_shot"] = _grey_level(run)
    return run, promote(folder, run)


def promote(folder: AnnotationFolder, run: Path) -> Verdict:
    """Judge a run on the locked set; note the round, and where it wins, which run is in force."""
    figures = locked_figures(folder, run)
    first = folder.facts["zero_shot"]
    others = {first.get("name", "zero-shot"): first["figures"]}
    before = [entry for entry in folder.facts["rounds"] if entry["promoted"]]
    if before:
        others[before[-1]["name"]] = before[-1]["figures"]
    verdict = judge(figures, others)
    folder.facts["rounds"].append(
        {
            "name": run.name, "run": str(run), "accepted": len(folder.of("accepted")), "figures": figures,
            "promoted": verdict.promoted, "reasons": verdict.reasons, "alarms": verdict.alarms,
        }
    )  # fmt: skip
    if verdict.promoted:
        folder.facts["promoted"] = str(run)
    folder.save()
    return verdict


def _grey_level(run: Path) -> dict[str, Any]:
    """What stands in the place of a zero-shot run: grey value alone, learned from the images of the first round."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return {"name": "grey level alone", "figures": {**results["sets"]["test"]["grey_level"], "iou": {}}}


def locked_figures(folder: AnnotationFolder, run: Path) -> dict[str, Any]:
    """A run's figures on the locked set; those that JSON can hold."""
    experiment, trainer, modality, _ = open_run(run)
    tables = experiment.file.model_dump(exclude_none=True)
    tables["data"] = {"labelled": folder.source(folder.of("locked"))}
    table = check_experiment(tables, name="locked", folder=folder.path).open("labelled")
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)
    figures = evaluate(trainer, table, modality, device=accelerator.device, tile=experiment.fit.tile_for(trainer))
    return json.loads(json_text(figures))


def _tables(folder: AnnotationFolder, template: Path) -> dict[str, Any]:
    tables = read_toml(template, "experiment file")
    tables["data"] = {
        "labelled": folder.source(folder.of("accepted")),
        "test": folder.source(folder.of("locked")),
    }
    return tables
