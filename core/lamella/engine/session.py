"""Everything one training has in its hands, built from an experiment and handed to Accelerate."""

from __future__ import annotations

import difflib
import json
import math
import typing
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lamella.contracts.data import Modality
from lamella.contracts.model import Trainer
from lamella.data.balanced import classes_of
from lamella.data.cache import cached
from lamella.data.samples import SampleTable
from lamella.engine.checkpoint import Checkpoints
from lamella.engine.compiling import compile_networks
from lamella.engine.doubts import doubts
from lamella.engine.ema import Ema
from lamella.engine.experiment import Experiment, FitConfig, OptimizerConfig
from lamella.engine.freed_memory import keep_freed_memory
from lamella.engine.run import read_header
from lamella.engine.whole import json_line, write_text
from lamella.errors import ConfigError, RunError


@dataclass
class Session:
    """One training: its data, its trainer, where it stands, and where it writes."""

    experiment: Experiment
    run: Path
    accelerator: Accelerator
    tables: dict[str, SampleTable]
    modality: Modality
    data: dict[str, Any]
    trainer: Trainer
    wrapped: Any
    """The trainer as Accelerate prepared it: what is called in training."""
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    classes: dict[str, list[int]]
    """Of every row of the roles that are balanced."""
    start: int = 0
    best: float | None = None
    seconds: float = 0.0
    """Spent in training, before an interruption too."""
    flops: float | None = None
    """Floating-point operations of one step on this process, where they were counted."""
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.accelerator.is_main_process

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles the trainer reads."""
        return tuple(type(self.trainer).roles)

    def averaged(self) -> Any:
        """A context in which the trainer has the weights to evaluate with."""
        return nullcontext() if self.ema is None else self.ema.in_use()

    def write_log(self, entry: dict[str, Any]) -> None:
        """Add a line to ``log.jsonl``."""
        self.log.append(entry)
        if self.main:
            with (self.run / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json_line(entry))

    def save(self, name: str, done: int) -> None:
        """Save a checkpoint after ``done`` steps."""
        if self.main:
            kept = {"step": done, "best": self.best, "seconds": self.seconds, "flops": self.flops}
            averaged = None if self.ema is None else self.ema.weights
            Checkpoints(self.run).save(name, self.trainer, self.optimizer, kept, averaged=averaged)


def prepare(experiment: Experiment, run: Path, *, resume: bool = False) -> Session:
    """Open the data, build modality and trainer, hand them to Accelerate, and pick up a checkpoint.

    Raises:
        ConfigError: the data do not fit the trainer.
        RunError: nothing to resume, or a change of the experiment with which a run cannot go on.
    """
    config = experiment.fit
    header = read_header(run) if resume else None
    accelerator = make_accelerator(config.precision)
    roles = _roles(experiment.trainer.component.resolve())
    _check_roles(experiment, roles)
    _check_batches(config, roles, accelerator.num_processes)
    wanted = [*roles, *(role for role in ("validation", *experiment.tests()) if role in experiment.file.data)]
    with accelerator.main_process_first():
        tables = {role: experiment.open(role) for role in wanted}
        if config.cache:
            tables.update({role: cached(tables[role], tell=accelerator.print) for role in roles})
    _check_labels(tables, roles)
    classes = {role: classes_of(tables[role], role) for role in config.balanced}
    for role, table in tables.items():
        if (lacking := table.incomplete()) is not None:
            accelerator.print(f"[data.{role}] {lacking}; what compares views leaves them out")
    modality = experiment.modality.build(seed=experiment.seed)
    if header is None:
        modality.calibrate(tables[role].read(i).image for role in roles for i in range(len(tables[role])))
    else:
        modality.restore(header["modality"])
    data = _facts(tables, roles, modality, experiment.trainer.needs())
    if accelerator.is_main_process:
        learns = bool(experiment.trainer.needs() & {"classes", "class_names"})
        for doubt in doubts({role: tables[role] for role in roles}, config.crop, classes=learns):
            accelerator.print(f"beware: {doubt}")
    if header is not None and data != header["data"]:
        key = next(key for key, value in data.items() if header["data"].get(key) != value)
        raise RunError(
            f"{run} was begun with {key} = {header['data'].get(key)!r}, its data are now of {data[key]!r}; change them "
            "back, or train in a new folder"
        )
    going_on = header is not None and Checkpoints(run).has("last")
    trainer: Trainer = experiment.trainer.build(seed=experiment.seed, data=data, opened=going_on)
    _check_views(experiment, trainer, modality, tables[roles[0]])
    optimizer = build_optimizer(trainer, config.optimizer)
    if config.compile:
        accelerator.print(f"compile: {compile_networks(trainer)}")
    wrapped, prepared = accelerator.prepare(trainer, optimizer)
    session = Session(
        experiment, run, accelerator, tables, modality, data, trainer, wrapped, prepared.optimizer,
        None if config.ema is None else Ema(trainer, config.ema), classes,
    )  # fmt: skip
    if header is not None:
        _pick_up(session)
    return session


def _roles(target: Any) -> tuple[str, ...]:
    """The roles a trainer reads: of the class, or of the class its factory says it returns."""
    made: Any = target if isinstance(target, type) else typing.get_type_hints(target).get("return", Trainer)
    return tuple(made.roles)


def make_accelerator(precision: str) -> Accelerator:
    """An Accelerator of that precision, whatever precision an earlier run in this process had."""
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def _check_roles(experiment: Experiment, roles: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a ``[data.ROLE]`` that nothing would read: it is misspelt."""
    known = {*roles, "labelled", "unlabelled", "validation", *experiment.tests()}
    for role in experiment.file.data:
        if role not in known:
            close = difflib.get_close_matches(role, [*known, "test"], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it reads {', '.join(roles)}"
            raise ConfigError(f"[data.{role}] is read by nothing{hint} (test sets are 'test' or 'test-NAME')")


def _check_batches(config: FitConfig, roles: tuple[str, ...], processes: int) -> None:
    """Raise `ConfigError` for batches that cannot be shared or parted, and for a balanced role that nobody reads."""
    for role in roles:
        size = config.batch_of(role)
        if size % processes:
            raise ConfigError(f"batch_size = {size} does not divide among {processes} processes")
        if size // processes % config.accumulate:
            raise ConfigError(
                f"[fit] accumulate = {config.accumulate} does not divide the {size // processes} images of {role!r} "
                "per process"
            )
    if unread := [role for role in config.balanced if role not in roles]:
        raise ConfigError(f"[fit] balanced names {unread[0]!r}; this trainer reads {', '.join(roles)}")


def _check_labels(tables: Mapping[str, SampleTable], roles: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a set to measure on that has no labels, or no names for them."""
    for role, table in tables.items():
        if role not in roles and not (table.labelled and table.classes is not None):
            what = "names no classes" if table.labelled else "has no labels"
            raise ConfigError(f"[data.{role}] {what}; a set to measure on needs both")


def open_to_measure(experiment: Experiment, role: str, names: Sequence[str]) -> SampleTable:
    """A set to measure a run on that was trained on the classes ``names``; raises `ConfigError` as its training would.

    The order of the classes counts: labels are their numbers.
    """
    table = experiment.open(role)
    _check_labels({role: table}, ())
    if names:
        _check_names(role, table, names, "this run")
    return table


def _check_names(role: str, table: SampleTable, names: Sequence[str], whose: str) -> None:
    """Raise `ConfigError` where a labelled set has other classes than ``names``, or these in another order."""
    if table.labelled and table.classes is not None and list(table.classes.names) != list(names):
        raise ConfigError(
            f"[data.{role}] has the classes {', '.join(table.classes.names)}, {whose} {', '.join(names)}; "
            "they have to be the same ones in the same order"
        )


def _check_views(experiment: Experiment, trainer: Trainer, modality: Modality, table: SampleTable) -> None:
    """Raise `ConfigError` where batches are of several views and the trainer takes single images."""
    if trainer.takes_views:
        return
    made = modality.collate([table.read(0)])
    if isinstance(made, dict):
        raise ConfigError(
            f"the trainer {experiment.trainer.component.full_name} learns from single images, and the modality "
            f"{experiment.modality.component.full_name} gives several views of each ({', '.join(made)}): set another "
            "modality, or a trainer that says takes_views = True"
        )


def _facts(
    tables: Mapping[str, SampleTable], roles: tuple[str, ...], modality: Modality, needs: set[str]
) -> dict[str, Any]:
    """What the dataset fills in: parameters marked `FromData`. Who needs no classes (``needs``) does without."""
    named = [table for table in tables.values() if table.classes is not None and table.labelled]
    if not named and not needs & {"classes", "class_names"}:
        return {"channels": modality.channels, "classes": 0, "class_names": []}
    if not named or named[0].classes is None:
        raise ConfigError(f"the data of {', '.join(roles)} name no classes; write classes = [ … ] in [data.{roles[0]}]")
    names = named[0].classes.names
    for role, table in tables.items():
        if role != "unlabelled":
            _check_names(role, table, names, f"[data.{roles[0]}]")
    return {"channels": modality.channels, "classes": len(names), "class_names": list(names)}


def build_optimizer(trainer: Trainer, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over the trainer's parameter groups; each keeps its peak rate under ``peak_lr``.

    Fused: such an optimizer can leave out an update on the device's own word, without a host sync.
    """
    groups = [
        {"params": list(group["params"]), "lr": config.lr * group.get("lr_scale", 1.0)}
        for group in trainer.parameter_groups()
    ]
    for group in groups:
        group["peak_lr"] = group["lr"]
    if config.name == "sgd":
        sgd = torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)
        _start_momentum(sgd)
        return sgd
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, betas=betas, weight_decay=config.weight_decay, fused=True)


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """From 0 where there is none yet: a first step that is left out would leave it unset."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


def _pick_up(session: Session) -> None:
    """Go on from the last checkpoint, and cut the log back to it; from the start where there is none yet.

    Learning rate, weight decay, betas and momentum are those of the experiment as it is now.
    """
    checkpoints, groups = Checkpoints(session.run), session.optimizer.param_groups
    if checkpoints.has("last"):
        now = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        kept = checkpoints.load("last", session.trainer, session.optimizer)
        for group, told in zip(session.optimizer.param_groups, now, strict=True):
            group.update(told)
        _start_momentum(session.optimizer)
        session.start, session.best = kept["step"], kept["best"]
        session.seconds, session.flops = kept.get("seconds", 0.0), kept.get("flops")
        averaged = checkpoints.averaged("last")
        if session.ema is not None:
            session.ema.restore(session.trainer.state_dict() if averaged is None else averaged)
    session.log = [entry for entry in _log_lines(session.run / "log.jsonl") if entry["step"] <= session.start]
    if session.main:
        write_text(session.run / "log.jsonl", "".join(map(json_line, session.log)))


def _log_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, null as nan again; the last may have been cut short by a kill."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line, object_hook=_numbers) for line in lines if line.endswith("\n")]


def _numbers(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in entry.items()}
