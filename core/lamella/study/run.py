"""Running a study: every cell trained once, resumed where it was cut off, and its results gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState

from lamella.engine.experiment import Experiment
from lamella.engine.fit import fit
from lamella.errors import ConfigError, LamellaError, RunError
from lamella.study.check import check_data
from lamella.study.claim import claim
from lamella.study.kept import read_kept
from lamella.study.share import taken, together
from lamella.study.study import Cell, Study

Tell = Callable[[str], None]


class FailedRuns(RunError):
    """Runs of a study failed; the others went on, and starting it again tries what is missing."""


def run_study(
    study: Study, out: Path, *, limit: int | None = None, tell: Tell = print
) -> dict[Cell, dict[str, Any]]:
    """Run what is missing of a study below ``out``; returns the results of every cell that is done.

    Several processes may run one study in one folder: a cell that another has begun is left to it. One that fails is
    told, what builds on it is left out, and the others go on.

    Args:
        limit: run at most so many cells, then stop; the rest is for another time. Those that fail do not count.
        tell: takes one line of progress at a time.

    Raises:
        RunError: ``out`` holds runs of these rows with other settings.
        ConfigError: figures or pictures that the test set cannot give.
        FailedRuns: after all others, where runs failed; at once where several processes train each run together.
    """
    claim(study, out)
    cells, new, checked = study.cells(), 0, False
    failed: list[str] = []
    lost: set[Path] = set()
    for number, cell in enumerate(cells):
        if limit is not None and new >= limit:
            break
        done = out / cell.folder / "results.json"
        if done.is_file():
            continue
        what = f"run {number + 1} of {len(cells)}: {cell.row}{cell.column and f' · {cell.column}'} · seed {cell.seed}"
        bases = _bases(study, cell, out)
        if missing := lost & set(bases):
            tell(f"{what}: left out, since {min(missing)} could not be trained")
            lost.add(out / cell.folder)
            continue
        with taken(out / cell.folder) as mine:
            if not mine:
                tell(f"{what}: another process is at it")
            elif not done.is_file():
                if not checked:
                    check_data(study, tell)
                checked = True
                tell(what)
                try:
                    found = result_of(study, cell, out, tell=tell)
                    new += 1
                    if new == 1:
                        for text in study.lacking([found]):
                            tell(f"figure {text!r} is not in this run's results; if no run has it, there is no table")
                except (LamellaError, torch.OutOfMemoryError) as error:
                    reason = str(error).partition("\n")[0]
                    if together():
                        raise FailedRuns(f"{what}: {reason}") from error
                    unfinished = [base for base in bases if not (base / "results.json").is_file()]
                    lost |= {out / cell.folder, *unfinished[:1]}
                    failed.append(f"{what}: {reason}")
                    tell(f"{what}: failed: {reason}")
    if failed:
        more = f" ({len(failed)} trainings failed, this was the first)" if len(failed) > 1 else ""
        raise FailedRuns(f"{failed[0]}{more}; the others went on")
    return results(study, out)


def _bases(study: Study, cell: Cell, out: Path) -> list[Path]:
    """The folders of what is trained before a cell: what it builds on, and runs that say what it may spend."""
    before = [out / study.before_folder(name, cell) for name in study.needs(cell)]
    return [*before, *(out / cell._replace(row=row).folder for row in study.file.rows[cell.row].spends)]


def results(study: Study, out: Path) -> dict[Cell, dict[str, Any]]:
    """The results of every cell that is done."""
    done = {cell: out / cell.folder / "results.json" for cell in study.cells()}
    return {cell: read_kept(path, "sets", "steps", "flops") for cell, path in done.items() if path.is_file()}


def result_of(study: Study, cell: Cell, out: Path, *, tell: Tell = print) -> dict[str, Any]:
    """The results of one cell, trained now if need be, after everything it builds on."""
    runs: dict[str, Path] = {}
    for name in study.needs(cell):
        runs[name] = out / study.before_folder(name, cell)
        trained(study.experiment_before(name, cell, runs), runs[name], tell=tell)
    allowed = _affordable(study, cell, out, tell)
    done = (out / cell.folder / "results.json").is_file()
    found = trained(study.experiment(cell, runs, allowed and allowed.steps), out / cell.folder, tell=tell)
    if allowed is not None and not done:
        _compare(cell, allowed.flops, found, tell)
    return found


def trained(experiment: Experiment, run: Path, *, tell: Tell = print) -> dict[str, Any]:
    """Train an experiment into ``run``: not again where it is done, from its checkpoint where it was cut off.

    Where another process trains it at present, its end is waited for; processes that train it together go on together.
    """
    path = run / "results.json"
    if not path.is_file():
        with taken(run, wait=lambda: tell(f"waiting for another process to train {run}")):
            if not path.is_file():
                fit(experiment, run, resume=(run / "run.json").is_file())
                PartialState().wait_for_everyone()  # the first one measures
    return read_kept(path)


class _Allowed(NamedTuple):
    """What a row may spend on its own training."""

    steps: int
    flops: float


def _affordable(study: Study, cell: Cell, out: Path, tell: Tell) -> _Allowed | None:
    """What a row may take for the operations of the row it is compared with; None where it has steps of its own.

    Raises:
        ConfigError: operations that were not counted, or nothing left by what the row builds on.
    """
    spends = study.file.rows[cell.row].spends
    if not spends:
        return None
    whole, price = (cell._replace(row=row) for row in spends)
    spent = total_flops(study, whole, out, tell=tell)
    step = _own_flops(study, price, out, tell) / result_of(study, price, out, tell=tell)["steps"]
    left = spent - _flops_before(study, cell, out)  # what it builds on itself is paid first
    if round(left / step) < 1:
        raise ConfigError(
            f"{study.name}: row {cell.row!r} may spend what {whole.row!r} costs, {spent:.3g} floating-point "
            f"operations, and what it builds on leaves no step of that ({left:.3g})"
        )
    return _Allowed(round(left / step), left)


def _compare(cell: Cell, allowed: float, found: dict[str, Any], tell: Tell) -> None:
    """Tell where a row missed what it might spend by more than a step: one of its own costs another than was taken."""
    if found["flops"] is not None and abs(found["flops"] - allowed) > found["flops"] / found["steps"]:
        tell(
            f"{cell.row} spent {found['flops'] / allowed:.2f} times what it might: a step of it costs another than one "
            "of the row it is like"
        )


def total_flops(study: Study, cell: Cell, out: Path, *, tell: Tell = print) -> float:
    """The operations of a cell's training and of everything it builds on, training them now if need be."""
    return _own_flops(study, cell, out, tell) + _flops_before(study, cell, out)


def _own_flops(study: Study, cell: Cell, out: Path, tell: Tell) -> float:
    return _counted(result_of(study, cell, out, tell=tell), f"{study.name}: row {cell.row!r}")


def _flops_before(study: Study, cell: Cell, out: Path) -> float:
    """The operations of everything a cell builds on, which is trained."""
    paths = {name: out / study.before_folder(name, cell) / "results.json" for name in study.needs(cell)}
    kept = {name: read_kept(path, "flops") for name, path in paths.items()}
    return sum(_counted(found, f"{study.name}: [before.{name}]") for name, found in kept.items())


def _counted(found: Mapping[str, Any], what: str) -> float:
    """The operations of a training; raises `ConfigError` where none were counted."""
    if found["flops"] is None:
        raise ConfigError(f"{what} counted no floating-point operations")
    return float(found["flops"])
