"""The training loop: the only one, on Accelerate."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from accelerate.utils import send_to_device

from lamella.data.loaders import training_loader
from lamella.data.samples import SampleTable
from lamella.engine.baseline import grey_level_baseline, grey_likelihood
from lamella.engine.checkpoint import Checkpoints
from lamella.engine.counts import ImageCounts
from lamella.engine.evaluate import evaluate
from lamella.engine.experiment import Experiment
from lamella.engine.flops import Flops
from lamella.engine.meters import Meters
from lamella.engine.progress import Progress
from lamella.engine.report import Gallery, write_report
from lamella.engine.run import write_header
from lamella.engine.session import Session, prepare
from lamella.engine.trust.familiar import learned_from
from lamella.engine.update import update
from lamella.engine.whole import write_json
from lamella.errors import ConfigError, RunError

_STUCK = 10
"""Steps in a row that are not finite, after which a training is given up; half of them where it has few."""


def fit(experiment: Experiment, run: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train an experiment into a run folder and return its results, as in ``results.json``.

    A resumed run ends with the same weights as one that was never interrupted (on one CPU, to the bit).

    Raises:
        ConfigError: the data do not fit the trainer.
        RunError: nothing to resume, or losses that stay not finite.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint saved.
    """
    try:
        session = prepare(experiment, run, resume=resume)
        _check_best(session)
    except BaseException:
        with suppress(OSError):  # nothing was written into it yet
            run.rmdir()
        raise
    if session.main and not resume:
        write_header(run, experiment, session.data, session.modality)
    with Progress("training", experiment.fit.steps, quiet=not session.main) as progress:
        _loop(session, progress)
    return _finish(session)


def _loop(session: Session, progress: Progress) -> None:
    """Every step that is still to do, with what it costs."""
    before, begun = session.seconds, time.monotonic()
    config = session.experiment.fit
    checkpoint_every = config.checkpoint_every or max(config.steps // 10, 1)
    period = session.trainer.period
    counting = -(-config.count_flops // period) * period
    flops = Flops(counting, min(session.start, counting), session.flops)
    meters = Meters(session.accelerator.device)
    session.trainer.train()
    with _interrupt() as interrupted:
        for number, batches in training_batches(session):
            with flops.step():
                losses, finite = update(session, batches, number)
            meters.add(number, losses, finite, batches)
            session.seconds = before + time.monotonic() - begun
            session.flops = session.flops if flops.per_step is None else flops.per_step
            done = number + 1
            due = done % checkpoint_every == 0 or done == config.steps
            logging, saving = due or done % config.log_every == 0, due or interrupted.is_set()
            trouble, bad = None, 0
            if logging or saving:  # Ctrl-C need not find every process at the same step
                trouble, bad = _log(session, progress, done, meters.read(together=logging)), meters.bad_in_a_row()
            else:
                progress.at(done)
            if bad >= min(_STUCK, (config.steps + 1) // 2) and not interrupted.is_set():
                raise RunError(
                    f"the losses stay not finite from step {done - bad} on: {trouble}; "
                    "lower the learning rate, or look at these images"
                )
            last = done == config.steps and (config.evaluate_every or "validation" in session.tables)
            if last or (config.evaluate_every and done % config.evaluate_every == 0):
                _look(session, progress, done)
            if saving:
                session.save("last", done)
            if interrupted.is_set():
                again = f"lamella train {quote(str(session.run))} --resume"
                progress.say(f"interrupted after step {done}; go on with: {again}")
                raise KeyboardInterrupt


def training_batches(session: Session) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, batches by role on the device) for every step that is still to do."""
    config = session.experiment.fit
    steps = range(session.start, config.steps)
    loaders = {
        role: training_loader(
            session.tables[role],
            session.modality,
            batch_size=config.batch_of(role),
            crop=config.crop,
            seed=session.experiment.seed,
            steps=steps,
            rank=session.accelerator.process_index,
            world=session.accelerator.num_processes,
            workers=config.workers,
            classes=session.classes.get(role),
        )
        for role in session.roles
    }
    for number, batches in zip(steps, zip(*loaders.values())):
        yield number, send_to_device(dict(zip(loaders, batches)), session.accelerator.device, non_blocking=True)


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step ends before the run does; a second Ctrl-C ends it at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _log(session: Session, progress: Progress, done: int, read: tuple[dict[str, float], str | None]) -> str | None:
    """Log a reading of the meters; returns what was not finite."""
    means, trouble = read
    if trouble is not None:
        progress.say(f"step {done}: {trouble}; these updates were left out")
    progress.at(done, {name: value for name, value in means.items() if "/" not in name})
    rate = session.optimizer.param_groups[0]["lr"]
    session.write_log({"step": done, "lr": rate, **means, **({"trouble": trouble} if trouble else {})})
    return trouble


def measure(session: Session, table: SampleTable, *watchers: Gallery | ImageCounts) -> dict[str, Any]:
    """The trainer's figures on a labelled set, with averaged weights where the run keeps them."""

    def watch(batch: Any, prediction: torch.Tensor, names: list[str]) -> None:
        for watcher in watchers:
            watcher.watch(batch, prediction, names)

    with session.accelerator.autocast(), session.averaged():
        return evaluate(
            session.trainer,
            table,
            session.modality,
            device=session.accelerator.device,
            tile=session.experiment.fit.tile_for(session.trainer),
            watch=watch,
        )


def _look(session: Session, progress: Progress, done: int) -> None:
    """Evaluate in between: figures where there is a validation set, and a picture in any case."""
    if not session.main:
        return
    validation = session.tables.get("validation")
    labelled = session.tables[session.roles[0]]
    seen = validation or labelled.take(range(min(3, len(labelled))))
    gallery = Gallery(session.modality, session.data["class_names"], len(seen))
    figures = measure(session, seen, gallery)
    if validation is not None:
        session.write_log({"step": done, "validation": {k: v for k, v in figures.items() if isinstance(v, float)}})
        if session.experiment.fit.best == "last":
            listed = ", ".join(f"{k} {v:.4f}" for k, v in figures.items() if isinstance(v, float))
            progress.say(f"step {done}: validation {listed}")
        else:
            _keep_best(session, progress, done, figures)
    picture = gallery.save(session.run / "pictures" / f"step-{done:06d}.png")
    if picture is not None:
        progress.say(f"step {done}: picture {picture}")


def _check_best(session: Session) -> None:
    """Raise `ConfigError` for a ``best`` that is no figure, before anything is trained."""
    config, validation = session.experiment.fit, session.tables.get("validation")
    if validation is None or config.best == "last" or session.start >= config.steps:
        return
    with suppress(RunError):  # what learns its classes from the images that it is shown has none yet
        if config.best not in measure(session, validation.take([0])):
            _score(measure(session, validation), config.best)  # some figures need several samples


def _keep_best(session: Session, progress: Progress, done: int, figures: Mapping[str, Any]) -> None:
    name = session.experiment.fit.best
    score = _score(figures, name)
    least = any(name in getattr(metric, "less_is_better", ()) for metric in session.trainer.metrics())
    if _better(score, session.best, least=least):
        session.best = score
        session.save("best", done)
    progress.say(f"step {done}: validation {name} {score:.4f}")


def _better(score: float, best: float | None, *, least: bool) -> bool:
    """Whether a figure is better than the best so far, as the ``least`` is of an error and the greatest of all else.

    Any is better than none, and than one that is no number.
    """
    if best is None or math.isnan(best):
        return True
    return score < best if least else score > best


def _score(figures: Mapping[str, Any], name: str) -> float:
    score = figures.get(name)
    if not isinstance(score, float):
        known = ", ".join(key for key, value in figures.items() if isinstance(value, float))
        raise ConfigError(f"[fit] best = {name!r} is none of the figures {known}")
    return score


def _finish(session: Session) -> dict[str, Any]:
    """Measure on the test sets; write results, TensorBoard and report. Only the first process does."""
    if not session.main:
        return {}
    checkpoints, names = Checkpoints(session.run), session.data["class_names"]
    chosen = "best" if checkpoints.has("best") else "last"
    if chosen == "best":
        checkpoints.load_to_use("best", session.trainer)
        session.ema = None  # what is loaded is averaged already
    sets: dict[str, dict[str, Any]] = {}
    galleries = {}
    labelled = session.tables[session.roles[0]]
    for role in [role for role in ("validation", *session.experiment.tests()) if role in session.tables]:
        table = session.tables[role]
        galleries[role] = Gallery(session.modality, names, len(table))
        counts = ImageCounts(table, names)
        watchers = [galleries[role]] if session.trainer.embeds else [galleries[role], counts]
        figures = measure(session, table, *watchers)
        counts.save(session.run / "counts" / f"{role}.json")
        sets[role] = figures
    _add_grey_levels(session, labelled, sets)
    whole = session.accelerator.num_processes * session.experiment.fit.steps
    spent = None if session.flops is None else session.flops * whole
    cost = {"seconds": round(session.seconds, 1), "flops": spent}
    learned = learned_from(labelled, session.modality, names) if labelled.labelled else None
    results = {**_facts(session), "checkpoint": chosen, **cost, "learned_from": learned, "sets": sets}
    write_json(session.run / "results.json", results)
    _tensorboard(session)
    write_report(session.run, results, session.log, galleries)
    return results


def _add_grey_levels(session: Session, labelled: SampleTable, sets: dict[str, dict[str, Any]]) -> None:
    """Beside the figures of label maps those of grey level alone, learned from the labelled images."""
    roles = [role for role, figures in sets.items() if "miou_pooled" in figures]
    if not (roles and labelled.labelled):
        return
    names = session.data["class_names"]
    likelihood = grey_likelihood(labelled, session.modality, len(names))
    for role in roles:
        sets[role]["grey_level"] = grey_level_baseline(likelihood, session.tables[role], session.modality, names)


def _facts(session: Session) -> dict[str, Any]:
    """What a reader of the results needs to know of the run."""
    experiment = session.experiment
    return {
        "experiment": experiment.name,
        "trainer": experiment.trainer.component.full_name,
        "seed": experiment.seed,
        "steps": experiment.fit.steps,
        "images": {role: len(table) for role, table in session.tables.items()},
        "incomplete": {role: text for role, table in session.tables.items() if (text := table.incomplete())},
        "classes": session.data["class_names"],
        "trainable_parameters": sum(p.numel() for p in session.trainer.parameters() if p.requires_grad),
        "device": str(session.accelerator.device),
        "processes": session.accelerator.num_processes,
        "torch": torch.__version__,
    }


def _tensorboard(session: Session) -> None:
    """The log as TensorBoard scalars: written at the end, since its import costs seconds."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(session.run / "tensorboard")) as writer:
        for entry in session.log:
            flat = {**{f"validation/{k}": v for k, v in entry.get("validation", {}).items()}, **entry}
            for name, value in flat.items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, entry["step"])
