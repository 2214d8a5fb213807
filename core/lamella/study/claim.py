"""What a study's folder was begun as, and that nothing changes under the results in it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lamella.engine.experiment import Experiment, check_experiment
from lamella.engine.whole import write_json
from lamella.errors import LamellaError, RunError
from lamella.study.kept import damaged, read_kept
from lamella.study.share import first_process
from lamella.study.study import Cell, Study, at


class _Training(NamedTuple):
    """What a study trains for every seed: a row in a column, or what comes before it."""

    cell: Cell
    before: str | None

    def experiment(self, study: Study, seed: int, runs: Mapping[str, Path]) -> Experiment:
        """Its experiment where ``seed`` is the study's only one."""
        alone = replace(study, file=study.file.model_copy(update={"seeds": [seed]}))
        cell = self.cell._replace(seed=seed)
        if self.before is None:
            return alone.experiment(cell, runs)
        return alone.experiment_before(self.before, cell, runs)

    def begun(self, study: Study, out: Path) -> list[int]:
        """The seeds of which a run of it was begun; the study's first of what is trained once."""
        folder = self.cell.folder if self.before is None else study.before_folder(self.before, self.cell)
        first, *rest = folder.parts
        if first == "before":
            return study.file.seeds[:1] if (out / folder / "run.json").is_file() else []
        there = [path.name for path in out.glob("seed-*") if path.joinpath(*rest, "run.json").is_file()]
        return [int(seed) for seed in (name.removeprefix("seed-") for name in there) if seed.isdigit()]

    def differs(self, study: Study, other: Study, out: Path) -> bool:
        """Whether a run of it that was begun has other settings in another version of the study."""
        return any(
            self.experiment(study, seed, {}).resolved() != self.experiment(other, seed, {}).resolved()
            for seed in self.begun(study, out)
        )


def claim(study: Study, out: Path) -> None:
    """Note what a folder is begun as; raise `RunError` where what was begun there has other settings.

    Several studies may share a folder, as one that is split over files: each adds to the note what it trains. Seeds,
    rows and columns may be added to a study; what a row is, builds on and may spend may not change under its results,
    nor where that is kept, nor what takes the seed. A note of an earlier version says nothing of what rows
    build on, where, or spend and of what takes the seed, and has the study's folder in place of ``{NAME}``.
    """
    note = out / "study.json"
    noted = _noted(note) if note.is_file() else {}
    known, spent = noted.get("rows", {}), noted.get("spends", {})
    trainings = _trainings(study)
    seeded = noted.get("seeded", study.file.seeded)
    seeds = {name: _noted_seed(known, name, study, seeded) for name in trainings}
    texts = {name: training.experiment(study, seeds[name], {}).resolved() for name, training in trainings.items()}
    spends = {name: _spends(study, training) for name, training in trainings.items()}
    starts = {name: _starts(study, training) for name, training in trainings.items()}
    began: dict[str, dict[str, str]] = noted.get("starts", {})
    fillings: tuple[dict[str, Path], ...] = {}, dict.fromkeys(study.file.before, out)
    changed = {name for name in spent.keys() & spends.keys() if spent[name] != spends[name]}
    changed |= {name for name in began.keys() & starts.keys() if began[name] != starts[name]}
    changed |= {
        name
        for name in known.keys() & trainings.keys()
        if not any(_is(known[name], trainings[name].experiment(study, seeds[name], runs)) for runs in fillings)
    }
    if seeded != study.file.seeded:
        before = replace(study, file=study.file.model_copy(update={"seeded": seeded}))
        changed |= {name for name, training in trainings.items() if training.differs(study, before, out)}
    for name in sorted(trainings, key=lambda name: (name not in changed, name)):
        causes = changed & _rests_on(name, study, trainings, texts)
        if causes and trainings[name].begun(study, out):
            of = "" if name in causes else f" of {min(causes)}"
            raise RunError(
                f"{out}: {name} was begun with other settings{of}; choose another --out, or remove its runs there"
            )
    if not first_process():
        return
    out.mkdir(parents=True, exist_ok=True)
    kept = {"rows": {**known, **texts}, "spends": {**spent, **spends}, "starts": {**began, **starts}}
    write_json(note, {"study": study.name, "size": study.size, "seeded": study.file.seeded, **kept})


def _trainings(study: Study) -> dict[str, _Training]:
    found = {}
    for cell in study.cells():
        if cell.seed == study.file.seeds[0]:
            found[_name(cell.row, cell)] = _Training(cell, None)
            for before in study.needs(cell):
                found[_before_name(before, cell, study)] = _Training(cell, before)
    return found


def _name(row: str, cell: Cell) -> str:
    """As notes have it."""
    return f"{row} · {cell.column}"


def _before_name(before: str, cell: Cell, study: Study) -> str:
    return _name(f"[before.{before}]", cell) if study.file.before[before].per_column else f"[before.{before}]"


def _spends(study: Study, training: _Training) -> list[str]:
    """The trainings that decide how many steps it takes."""
    if training.before is not None:
        return []
    return [_name(row, training.cell) for row in study.file.rows[training.cell.row].spends]


def _starts(study: Study, training: _Training) -> dict[str, str]:
    """Where the trainings that a row builds on are kept: once, or for every seed or column."""
    if training.before is not None:
        return {}
    cell = training.cell._replace(seed=0)  # whichever
    return {name: study.before_folder(name, cell).as_posix() for name in study.needs(cell)}


def _rests_on(name: str, study: Study, trainings: Mapping[str, _Training], texts: Mapping[str, str]) -> set[str]:
    """A training with all that it builds on and all that decide what it may spend."""
    if name not in trainings:
        return set()
    built = [_before_name(b, trainings[name].cell, study) for b in study.file.before if "{" + b + "}" in texts[name]]
    direct = [*built, *_spends(study, trainings[name])]
    return {name}.union(*(_rests_on(other, study, trainings, texts) for other in direct))


def _noted(path: Path) -> dict[str, Any]:
    """What was noted; raises `RunError` where the note is damaged."""
    found = read_kept(path)
    for key in ("rows", "spends", "starts"):
        if not isinstance(found.get(key, {}), dict):
            raise damaged(path, f"{key} must be a table")
    try:
        for text in found.get("rows", {}).values():
            tomllib.loads(text)
    except (TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error
    return found


def _noted_seed(known: Mapping[str, str], name: str, study: Study, seeded: Sequence[str]) -> int:
    """The seed that a training's note was written for, which need not be the first of the study any more."""
    tables = tomllib.loads(known[name]) if name in known else {}
    found = [seed for key in seeded if isinstance(seed := at(tables, key), int)]
    return found[0] if found else study.file.seeds[0]


def _is(known: str, experiment: Experiment) -> bool:
    """Whether a noted experiment is this one; a setting that the note does not say has its default."""
    text = experiment.resolved()
    if known == text:
        return True
    try:
        noted = check_experiment(tomllib.loads(known), name="", folder=Path(), registry=experiment.registry)
        return noted.resolved() == text
    except LamellaError:
        return False
