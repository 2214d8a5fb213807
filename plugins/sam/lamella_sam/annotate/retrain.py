"""A round of the data engine: train on what was accepted, measure on the locked set, promote what is better."""

import glob
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamella import Trainer
from lamella.data.samples import SampleTable
from lamella.engine.baseline import grey_level_baseline, grey_likelihood
from lamella.engine.evaluate import evaluate
from lamella.engine.experiment import Experiment, check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import new_folder, run_experiment
from lamella.engine.session import make_accelerator
from lamella.engine.whole import json_text
from lamella.errors import ConfigError
from lamella.registry.tomlfile import read_toml

from lamella_sam.annotate.folder import AnnotationFolder, Entry
from lamella_sam.annotate.gate import Verdict, judge
from lamella_sam.annotate.suggest import open_for, refuse_prompted

READING = ("data_bar", "pixel_nm")
"""Keys of a ``[data.ROLE]`` table that say how the folder's images are read."""


def retrain(
    folder: AnnotationFolder,
    template: Path,
    *,
    zero_shot: Path | None = None,
    tell: Callable[[str], None] = print,
) -> tuple[Path, Verdict]:
    """Train an experiment's trainer on the accepted images and judge it on the locked ones.

    Args:
        template: an experiment file; of its ``[data]`` the labelled and test images are replaced by the folder's, read
            as its labelled ones are.
        zero_shot: a run that has learned from none of these images, to beat; without one the first round has to
            beat the best classifier that sees the grey value of one pixel.
        tell: told how to go on where the training is interrupted.

    Raises:
        ConfigError: nothing accepted or locked, a trainer that answers prompts, or a zero-shot run that tells other
            classes.
    """
    number, learned = len(folder.facts["rounds"]) + 1, [entry.name for entry in folder.of("accepted")]
    experiment = check_experiment(_tables(folder, template), name=f"round-{number}", folder=template.parent)
    refuse_prompted(experiment.trainer.spec().get("answer"), str(template))
    _measure_first(folder, zero_shot)
    run = new_folder(folder.path / "runs" / experiment.name)
    try:
        fit(replace(experiment, name=run.name), run)
    except KeyboardInterrupt:
        tell(f"then judge it: lamella annotate retrain {folder.path} --judge {run}")
        raise
    return run, promote(folder, run, learned)


def judge_run(folder: AnnotationFolder, run: Path, *, zero_shot: Path | None = None) -> Verdict:
    """Judge a round that was interrupted, and trained to its end since, as `retrain` would have.

    Raises:
        ConfigError: as `retrain`, or a run that did not learn from this folder's images alone.
    """
    labelled = run_experiment(run).file.data.get("labelled")
    names = {glob.escape(entry.original): name for name, entry in folder.entries.items()}
    patterns = labelled.images if labelled is not None and isinstance(labelled.images, list) else []
    begun_here = run.resolve().is_relative_to(folder.path.resolve())
    if not begun_here or not patterns or not set(patterns) <= names.keys():
        raise ConfigError(f"{run}: it did not learn from images of {folder.path}; name a round that was begun there")
    if folder.note(run) in [entry["run"] for entry in folder.facts["rounds"]]:
        raise ConfigError(f"{run}: it was judged already; {folder.path / 'annotate.json'} says how")
    _measure_first(folder, zero_shot)
    return promote(folder, run, [names[pattern] for pattern in patterns])


def _measure_first(folder: AnnotationFolder, zero_shot: Path | None) -> None:
    """Bring up to date what a round has to beat."""
    if zero_shot is not None:
        folder.facts["zero_shot"] = {"run": folder.note(zero_shot), **_measured(folder, zero_shot)}
    _measure_again(folder)
    folder.save()


def promote(folder: AnnotationFolder, run: Path, learned: list[str] | None = None) -> Verdict:
    """Judge a run on the locked set; note the round, and where it wins, which run is in force.

    Args:
        learned: the images that it has learned from; by default those that are accepted. One that has been locked
            since cannot measure it, so it is not promoted.
    """
    learned = [entry.name for entry in folder.of("accepted")] if learned is None else learned
    _measure_again(folder)
    if not _of_now(folder, folder.facts.get("zero_shot", {})):
        folder.facts["zero_shot"] = _grey_level(folder, run, learned)
    measured = _measured(folder, run)
    first = folder.facts["zero_shot"]
    others = {first.get("name", "zero-shot"): first["figures"]}
    before = [entry for entry in folder.facts["rounds"] if entry["promoted"]]
    if before:
        others[before[-1]["name"]] = before[-1]["figures"]
    verdict = judge(measured["figures"], others)
    if both := sorted({entry.name for entry in AnnotationFolder(folder.path).of("locked")} & set(learned)):
        reason = f"{', '.join(both)}: locked since it has learned from them, so they cannot measure it"
        verdict = verdict._replace(promoted=False, reasons=[*verdict.reasons, reason])
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
    """A run's figures, and the locked images and masks that they are of."""
    return {"figures": locked_figures(folder, run), "locked": _locked(folder)}


def _locked(folder: AnnotationFolder) -> dict[str, str]:
    """The locked images by name, each with what tells its mask from another."""
    return {entry.name: folder.digest(entry.name) for entry in folder.of("locked")}


def _of_now(folder: AnnotationFolder, noted: Mapping[str, Any]) -> bool:
    """Whether figures are of the locked images of now, with the masks that they have now."""
    return noted.get("locked") == _locked(folder)


def _grey_level(folder: AnnotationFolder, run: Path, learned: list[str]) -> dict[str, Any]:
    """What stands in the place of a zero-shot run: grey value alone, learned from the images that a run learned from.

    Its figures are of the locked images of now, which need not be those of the run's test set.
    """
    experiment, trainer, modality = open_for(run, folder.classes)
    shown = _table(folder, experiment, trainer, [folder.entry(name) for name in learned])
    likelihood = grey_likelihood(shown, modality, len(folder.classes))
    locked = _table(folder, experiment, trainer, folder.of("locked"))
    figures = json.loads(json_text(grey_level_baseline(likelihood, locked, modality, folder.classes)))
    return {"name": "grey level alone", "figures": {**figures, "iou": {}}, "locked": _locked(folder)}


def locked_figures(folder: AnnotationFolder, run: Path) -> dict[str, Any]:
    """A run's figures on the locked set; those that JSON can hold. `ConfigError` for a run that tells other classes."""
    experiment, trainer, modality = open_for(run, folder.classes)
    table = _table(folder, experiment, trainer, folder.of("locked"))
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)
    tile = experiment.fit.tile_for(trainer)
    with accelerator.autocast():
        figures = evaluate(trainer, table, modality, device=accelerator.device, tile=tile)
    return json.loads(json_text(figures))


def _table(folder: AnnotationFolder, experiment: Experiment, trainer: Trainer, entries: Iterable[Entry]) -> SampleTable:
    """Images of the folder with their masks, read as the images that a run learned from."""
    tables = experiment.file.model_dump(exclude_none=True)
    first = [tables["data"][role] for role in type(trainer).roles if role in tables["data"]]
    reading = _reading(first[0] if first else None)
    tables["data"] = {"labelled": {**folder.source(entries), **reading}}
    return check_experiment(tables, name="locked", folder=folder.path).open("labelled")


def _tables(folder: AnnotationFolder, template: Path) -> dict[str, Any]:
    tables = read_toml(template, "experiment file")
    given = tables.get("data")
    given = given if isinstance(given, dict) else {}
    for status, option in (("accepted", ""), ("locked", " --lock")):
        if not folder.of(status):
            raise ConfigError(f"{folder.path}: no image is {status}; `lamella annotate accept{option}` some first")
    reading = _reading(given.get("labelled"))
    tables["data"] = {
        **given,
        "labelled": {**folder.source(folder.of("accepted")), **reading},
        "test": {**folder.source(folder.of("locked")), **reading},
    }
    return tables


def _reading(table: Any) -> dict[str, Any]:
    """How the images of a ``[data.ROLE]`` table are read."""
    return {key: table[key] for key in READING if key in table} if isinstance(table, dict) else {}
