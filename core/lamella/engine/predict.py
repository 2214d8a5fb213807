"""Label maps, overlays and measurements for new images, or their classes, from a trained run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from lamella.contracts.data import Modality
from lamella.contracts.model import Trainer
from lamella.data.formats.files import read_mask, readable
from lamella.data.reading import Reading
from lamella.engine.experiment import Experiment
from lamella.engine.export import write_coco, write_table
from lamella.engine.inputs import Input, as_trained, check_apart, find_images, with_frames
from lamella.engine.journal import Journal, entries, failures, measured
from lamella.engine.predict_classes import (
    Patterns,
    classifies,
    find_objects,
    judged_already,
    lacking,
    predict_objects,
    trained_views,
    write_classes,
)
from lamella.engine.predictor import LABEL_MAPS, Predictor, Wanted
from lamella.engine.progress import Progress
from lamella.engine.run import checkpoint_folder, open_run, weights_digest
from lamella.engine.session import make_accelerator
from lamella.engine.trust.abstain import ALWAYS, Abstention
from lamella.engine.trust.calibration import read_rule
from lamella.engine.trust.familiar import unlike
from lamella.engine.whole import write_json
from lamella.errors import DataError, RunError
from lamella.measure.tables import TABLES, parse_structures, schema


def predict(
    run: Path,
    images: Sequence[Path],
    out: Path,
    *,
    checkpoint: str | None = None,
    wanted: Wanted = LABEL_MAPS,
) -> dict[str, Any]:
    """Predict files (or all images of folders) into ``out``; files that cannot be read are listed, not fatal.

    Writes ``NAME.label.png`` (palette PNG: the pixel value is the class, 255 none), ``NAME.overlay.png``,
    ``classes.json``, ``areas.csv`` (pixels and, where the pixel size is known, nm² per class and image) and
    ``unlike.json``; on request ``NAME.p-CLASS.png`` (probabilities from 0 to 255), the tables `TABLES` as CSV and
    parquet, and ``coco.json``. Of a classifier, ``predictions.csv`` and ``.parquet``: class and probabilities of every
    image, or of every object of several views. Started again, it goes on with what is missing; under several processes
    each takes its share. Tables, ``coco.json``, ``failed.json`` and ``unlike.json`` are about all that was predicted
    into ``out``, while label maps are there, in the order of the names: more images add to them.

    Returns:
        ``{"done": […], "skipped": […], "failed": {name: reason}}``; of label maps ``"unlike"``, in what the images
        differ from those learned from; of a classifier ``"lacking"``, how many objects have no image of a view. All of
        this is about ``images``; on the first process, about those of all.
    """
    check_apart(out, images)
    experiment, trainer, modality, header = opened = open_run(run, checkpoint)
    if trainer.embeds:
        raise RunError(f"{run}: {experiment.trainer.component.full_name} learns without classes; it predicts none")
    trained = as_trained(experiment, trainer)
    reading = replace(trained, data_bar=wanted.data_bar or trained.data_bar, stack=wanted.stack or trained.stack)
    if classifies(trainer):
        return _classes(opened, run, images, out, checkpoint, wanted, reading)
    if wanted.views:
        raise RunError("this run judges single images; leave out --view")
    rule = _rule(run, checkpoint, wanted)
    files = with_frames(find_images(images), reading)
    accelerator = make_accelerator(experiment.fit.precision)
    names: list[str] = header["data"]["class_names"]
    structures = parse_structures(wanted.structures, names)
    trainer.to(accelerator.device)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, run, checkpoint, wanted, rule)
    tile = experiment.fit.tile_for(trainer)
    predictor = Predictor(trainer, modality, accelerator, names, tile, out, reading, wanted, structures, rule)
    known = _known(predictor, entries(out), files)
    _each(predictor, {name: files[name] for name in _share([name for name in files if name not in known], accelerator)})
    accelerator.wait_for_everyone()
    noted = entries(out)
    failed = {name: noted[name]["failed"] for name in files if "failed" in noted.get(name, {})}
    doubts = _doubts(run, [noted[name] for name in files if "pixels" in noted.get(name, {})], names)
    if accelerator.is_main_process:
        write_json(out / "failed.json", failures(noted, files))
        predicted = _predicted(predictor, noted)
        write_json(out / "unlike.json", _doubts(run, predicted, names))
        _conclude(predictor, predicted)
    done = [name for name in files if name not in failed and name not in known]
    return {"done": done, "skipped": sorted(known & set(files)), "failed": failed, "unlike": doubts}


def _known(predictor: Predictor, noted: Mapping[str, Mapping[str, Any]], files: Mapping[str, Input]) -> set[str]:
    """The files that are predicted already and have not changed since.

    Raises:
        RunError: another file of the same name was predicted into this folder.
    """
    known = set()
    for name, file in files.items():
        entry = noted.get(name, {})
        if "pixels" not in entry:
            continue
        same = entry.get("stamp") in (None, file.stamp())  # none in journals of earlier versions
        path = readable(str(file.path.resolve()))
        before = entry.get("path", path)
        if before != path and not (same and not Path(before).exists()):  # the same file, moved
            raise RunError(
                f"{predictor.out} holds the prediction of {before}, and {path} would take its name, {name!r}; "
                "choose another --out"
            )
        if same and all(written.is_file() for written in predictor.maps(name)):
            known.add(name)
    return known


def _each(predictor: Predictor, files: Mapping[str, Input]) -> None:
    """Predict files, each with an entry in the journal; one that cannot be read is told and noted."""
    accelerator = predictor.accelerator
    with (
        Progress("predicting", len(files), quiet=not accelerator.is_main_process) as progress,
        Journal(predictor.out, accelerator.process_index) as journal,
    ):
        for number, (name, file) in enumerate(files.items()):
            try:
                journal.note(*predictor.predict(name, file))
            except DataError as error:
                reason = readable(str(error))  # of a path that is no UTF-8
                journal.note({"name": name, "paths": [readable(str(file.path.resolve()))], "failed": reason})
                progress.say(f"not read: {error}")
            progress.at(number + 1, {})


def _rule(run: Path, checkpoint: str | None, wanted: Wanted) -> Abstention:
    """Where pixels get a class; raises `RunError` for a run that is not calibrated, or where interfaces are needed."""
    if not wanted.abstain:
        return ALWAYS
    if wanted.measurements:
        raise RunError(
            "--abstain leaves out the pixels along interfaces, by which everything would measure too thin: "
            "give --measure without it, into another --out"
        )
    return read_rule(run, checkpoint)


def _doubts(run: Path, predicted: list[dict[str, Any]], classes: list[str]) -> list[str]:
    """In what images are `unlike` those learned from; unknown of a run cut off, or of an older version."""
    path = run / "results.json"
    learned = json.loads(path.read_text(encoding="utf-8")).get("learned_from") if path.is_file() else None
    return [] if learned is None else unlike(learned, predicted, classes)


def _share(names: list[str], accelerator: Accelerator) -> list[str]:
    """What this process does of what is left; it waits, since nobody may write before all have read what is known."""
    accelerator.wait_for_everyone()
    return names[accelerator.process_index :: accelerator.num_processes]


def _classes(
    opened: tuple[Experiment, Trainer, Modality, dict[str, Any]],
    run: Path,
    images: Sequence[Path],
    out: Path,
    checkpoint: str | None,
    wanted: Wanted,
    reading: Reading,
) -> dict[str, Any]:
    """`predict` for a run that gives a class for each image or object."""
    experiment, trainer, modality, header = opened
    if options := wanted.for_maps():
        raise RunError(f"{options[0]} is about label maps; this run gives one class for each image or object")
    views, trained = trained_views(experiment, trainer)
    patterns: Patterns | None = wanted.views or trained
    objects = find_objects(images, reading, views=views, patterns=patterns)
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, run, checkpoint, wanted)
    known = judged_already(entries(out), objects)
    mine = _share([name for name in objects if name not in known], accelerator)
    predict_objects({name: objects[name] for name in mine}, trainer, modality, accelerator, out)
    accelerator.wait_for_everyone()
    noted = entries(out)
    failed = {name: noted[name]["failed"] for name in objects if "failed" in noted.get(name, {})}
    if accelerator.is_main_process:
        names: list[str] = header["data"]["class_names"]
        write_json(out / "classes.json", {name: number for number, name in enumerate(names)})
        write_json(out / "failed.json", failures(noted, objects))
        write_classes(out, names, views, [noted[name] for name in sorted(noted) if "p" in noted[name]])
    return {"done": [n for n in objects if n not in failed and n not in known], "skipped": sorted(known),
            "failed": failed, "lacking": lacking(objects, views)}  # fmt: skip


def _claim(out: Path, run: Path, checkpoint: str | None, wanted: Wanted, rule: Abstention = ALWAYS) -> None:
    """Note what a folder is predicted with; raise `RunError` where it was begun with something else."""
    ours = {
        "run": str(run.resolve()), "checkpoint": checkpoint_folder(run, checkpoint),
        "weights": weights_digest(run, checkpoint),
        "measurements": wanted.measurements, "structures": list(wanted.structures), "pixel_nm": wanted.pixel_nm,
        "abstain": rule.threshold or None, "data_bar": wanted.data_bar, "stack": wanted.stack,
    }  # fmt: skip
    note = out / "predicted-by.json"
    there = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else ours
    there = {"weights": ours["weights"], **there}  # notes of earlier versions have none
    if any(there.get(key) != ours[key] for key in ("run", "checkpoint", "weights")):
        raise RunError(f"{out} holds predictions of another run or checkpoint ({note.name}); choose another --out")
    for key in ("measurements", "structures", "pixel_nm", "abstain", "data_bar", "stack"):
        before = there.get(key, ours[key] if key in ("measurements", "structures", "pixel_nm") else None)
        if before != ours[key]:
            raise RunError(
                f"{out} was begun with {key} = {before!r}, not {ours[key]!r} ({note.name}); choose another --out"
            )
    write_json(note, ours)


def _predicted(predictor: Predictor, noted: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The images, of this and earlier calls, whose label maps are there, in the order of their names."""
    done = [noted[name] for name in sorted(noted) if "pixels" in noted[name]]
    return [entry for entry in done if _label(predictor, entry).is_file()]


def _label(predictor: Predictor, entry: Mapping[str, Any]) -> Path:
    """The label map of a noted image, in the format of then; journals of earlier versions do not say it."""
    return predictor.out / entry.get("label", predictor.label_path(entry["name"]).name)


def _conclude(predictor: Predictor, done: list[dict[str, Any]]) -> None:
    """Write what is about all images that are predicted: classes, areas, tables, COCO."""
    out, classes, wanted = predictor.out, predictor.classes, predictor.wanted
    write_json(out / "classes.json", {name: number for number, name in enumerate(classes)})
    _write_areas(out, classes, done, unsure=wanted.abstain)
    names = [entry["name"] for entry in done]
    for table in TABLES if wanted.measurements else ():
        write_table(out / table, schema(table), measured(out, names, table))
    if wanted.coco:
        labels = ((entry["name"], entry["file"], read_mask(_label(predictor, entry))) for entry in done)
        write_coco(out / "coco.json", labels, classes)


def _write_areas(out: Path, names: list[str], done: list[dict[str, Any]], *, unsure: bool) -> None:
    known = any(not math.isnan(entry["pixel_nm"][0]) for entry in done)
    columns: dict[str, type] = {"image": str, **{f"{name} (px)": int for name in names}}
    columns |= {f"{name} (nm²)": float for name in names} if known else {}
    columns |= {"no class (px)": int} if unsure else {}

    def rows() -> Iterator[dict[str, Any]]:
        for entry in done:
            square = entry["pixel_nm"][0] * entry["pixel_nm"][1]
            areas = {f"{name} (px)": count for name, count in zip(names, entry["pixels"], strict=True)}
            nm = {f"{name} (nm²)": count * square for name, count in zip(names, entry["pixels"], strict=True)}
            yield {"image": entry["name"], **areas, **nm, "no class (px)": entry.get("unsure", 0)}

    write_table(out / "areas", columns, rows())
