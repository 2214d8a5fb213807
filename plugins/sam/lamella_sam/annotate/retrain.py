"""A round of the data engine: train on what was accepted, measure on the locked set, promote what is better."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamella.engine.evaluate import evaluate
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import new_folder
from lamella.engine.session import make_accelerator
from lamella.engine.whole import json_text
from lamella.registry.tomlfile import read_toml

from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.gate import Verdict, judge
from lamella_sam.annotate.suggest import open_for


def retrain(folder: AnnotationFolder, template: Path, *, zero_shot: Path | None = None) -> tuple[Path, Verdict]:
    """Train an experiment's trainer on the accepted images and judge it on the locked ones.

    Args:
        template: an experiment file; of its ``[data]`` the labelled and test images are replaced by the folder's.
        zero_shot: a run that has learned from none of these images, to beat; without one the first round has to
            beat the best classifier that sees the grey value of one pixel.

    Raises:
        ConfigError: nothing accepted or locked, or a zero-shot run that tells other classes.
    """
    if zero_shot is not None:
        folder.facts["zero_shot"] = {"run": folder.note(zero_shot), **_measured(folder, zero_shot)}
    _measure_again(folder)
    folder.save()
    number = len(folder.facts["rounds"]) + 1
    experiment = check_experiment(_tables(folder, template), name=f"round-{number}", folder=template.parent)
    run = new_folder(folder.path / "runs" / experiment.name)
    fit(replace(experiment, name=run.name), run)
    if "zero_shot" not in folder.facts:
        folder.facts["zero_shot"] = _grey_level(folder, run)
    return run, promote(folder, run)


def promote(folder: AnnotationFolder, run: Path) -> Verdict:
    """Judge a run on the locked set; note the round, and where it wins, which run is in force."""
    _measure_again(folder)
    if not _of_now(folder, folder.facts["zero_shot"]):
        folder.facts["zero_shot"] = _grey_level(folder, run)
    measured = _measured(folder, run)
    first = folder.facts["zero_shot"]
    others = {first.get("name", "zero-shot"): first["figures"]}
    before = [entry for entry in folder.facts["rounds"] if entry["promoted"]]
    if before:
        others[before[-1]["name"]] = before[-1]["figures"]
    verdict = judge(measured["figures"], others)
    learned = [entry.name for entry in folder.of("accepted")]
    folder.facts["rounds"].append(
        {
            "name": run.name, "run": folder.note(run), "accepted": len(learned), "learned": learned, **measured,
            "promoted": verdict.promoted, "reasons": verdict.reasons, "alarms": verdict.alarms,
        }
    )  # fmt: skip
    if verdict.promoted:
        folder.facts["promoted"] = folder.note(run)
    folder.save()
    return verdict


def _measure_again(folder: AnnotationFolder) -> None:
    """Bring the figures of the runs that are to be beaten up to the locked images of now."""
    promoted = [entry for entry in folder.facts["rounds"] if entry["promoted"]]
    for noted in [folder.facts.get("zero_shot", {}), *promoted[-1:]]:
        if "run" in noted and not _of_now(folder, noted):
            noted |= _measured(folder, folder.run(noted["run"]))


def _measured(folder: AnnotationFolder, run: Path) -> dict[str, Any]:
    """A run's figures, and the locked images that they are of."""
    return {"figures": locked_figures(folder, run), "locked": [entry.name for entry in folder.of("locked")]}


def _of_now(folder: AnnotationFolder, noted: Mapping[str, Any]) -> bool:
    """Whether figures are of the locked images of now."""
    return noted.get("locked") == [entry.name for entry in folder.of("locked")]


def _grey_level(folder: AnnotationFolder, run: Path) -> dict[str, Any]:
    """What stands in the place of a zero-shot run: grey value alone, learned from the images that a run learned from.

    Its figures are those of the run's test set, the locked images that the folder had when it was trained.
    """
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    figures = {**results["sets"]["test"]["grey_level"], "iou": {}}
    return {"name": "grey level alone", "figures": figures, "locked": [entry.name for entry in folder.of("locked")]}


def locked_figures(folder: AnnotationFolder, run: Path) -> dict[str, Any]:
    """A run's figures on the locked set; those that JSON can hold. `ConfigError` for a run that tells other classes."""
    experiment, trainer, modality = open_for(run, folder.classes)
    tables = experiment.file.model_dump(exclude_none=True)
    tables["data"] = {"labelled": folder.source(folder.of("locked"))}
    table = check_experiment(tables, name="locked", folder=folder.path).open("labelled")
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)
    figures = evaluate(trainer, table, modality, device=accelerator.device, tile=experiment.fit.tile_for(trainer))
    return json.loads(json_text(figures))


def _tables(folder: AnnotationFolder, template: Path) -> dict[str, Any]:
    tables = read_toml(template, "experiment file")
    given = tables.get("data")
    tables["data"] = {
        **(given if isinstance(given, dict) else {}),
        "labelled": folder.source(folder.of("accepted")),
        "test": folder.source(folder.of("locked")),
    }
    return tables
