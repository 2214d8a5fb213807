"""The run folder: what a finished or a running training leaves on disk, and how it is opened again."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from lamella.contracts.data import Modality
from lamella.contracts.model import Trainer
from lamella.engine.checkpoint import FORMAT, Checkpoints, check_format
from lamella.engine.experiment import Experiment, read_experiment
from lamella.engine.whole import write_json, write_text
from lamella.errors import RunError
from lamella.registry.registry import Registry


def new_folder(wanted: Path) -> Path:
    """``wanted``, or ``wanted-2``, ``wanted-3`` … where that is taken, made at once so that nobody else takes it."""
    folder, number = wanted, 2
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
        else:
            return folder


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in ("lamella", "torch", "kornia", "accelerate", "datasets", "timm", "segmentation-models-pytorch", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_header(run: Path, experiment: Experiment, data: dict[str, Any], modality: Modality) -> None:
    """Write what is fixed before the first step: ``experiment.toml`` and ``run.json``."""
    write_text(run / "experiment.toml", experiment.resolved())
    header = {
        "format": FORMAT,
        "name": experiment.name,
        "data": data,
        "modality": modality.state(),
        "plugins": {p.name: p.version for p in experiment.registry.plugins if p.status == "loaded"},
        "versions": versions(),
    }
    write_json(run / "run.json", header)


def read_header(run: Path) -> dict[str, Any]:
    """``run.json``; raises `RunError` where the folder is no run or of another format."""
    try:
        header = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except OSError:
        raise RunError(f"{run}: this is no run folder; it has no run.json") from None
    except ValueError as error:
        raise RunError(f"{run / 'run.json'}: not JSON: {error}") from error
    check_format(header.get("format") if isinstance(header, dict) else None, run)
    return header


def run_experiment(run: Path, *, registry: Registry | None = None) -> Experiment:
    """The experiment of a run, under the name that it began with; raises `RunError` and as `read_experiment`."""
    name = read_header(run)["name"]
    return replace(read_experiment(run / "experiment.toml", registry=registry), name=name)


def run_weights(run: Path) -> dict[str, Tensor]:
    """What the trainer of a run has learned, by name: of its best checkpoint or else its last; averaged where it kept
    averages. Raises `RunError` where that cannot be read."""
    read_header(run)
    return Checkpoints(run).weights(_usual(run))


def checkpoint_folder(run: Path, checkpoint: str | None = None) -> str:
    """The name of the folder of a run's checkpoint; by default of its best where there is one, else its last."""
    return Checkpoints(run).load_pointer(checkpoint or _usual(run))


def weights_digest(run: Path, checkpoint: str | None = None) -> str:
    """SHA-256 of the weights with which a run's checkpoint predicts; by default of the same as `checkpoint_folder`."""
    return Checkpoints(run).digest(checkpoint or _usual(run))


def _usual(run: Path) -> str:
    return "best" if Checkpoints(run).has("best") else "last"


def open_run(
    run: Path, checkpoint: str | None = None, *, registry: Registry | None = None
) -> tuple[Experiment, Trainer, Modality, dict[str, Any]]:
    """A trained run: (experiment, trainer in eval mode, modality, header).

    Args:
        checkpoint: ``"best"`` or ``"last"``; by default best where there is one.
    """
    header = read_header(run)
    experiment = run_experiment(run, registry=registry)
    modality = experiment.modality.build(seed=experiment.seed)
    modality.restore(header["modality"])
    trainer = experiment.trainer.build(seed=experiment.seed, data=header["data"], opened=True)
    Checkpoints(run).load_to_use(checkpoint or _usual(run), trainer)
    trainer.eval()
    return experiment, trainer, modality, header
