"""Checkpoints and the run folder: written beside, then renamed; loaded without executing anything."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lamella.engine.whole import write_json
from lamella.errors import RunError

FORMAT = 1
"""The version of the run folder; a later version reads it or says what to do."""


class Checkpoints:
    """The ``checkpoints`` folder of a run: one folder per saved step, and a pointer file per name.

    A checkpoint is written into a folder of its own; only then does the pointer (``last.json``, ``best.json``)
    come to name it, by an atomic rename. A run killed in between keeps the checkpoint before.
    """

    def __init__(self, run: Path):
        self.folder = run / "checkpoints"

    def save(
        self,
        name: str,
        trainer: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        state: dict[str, Any],
        *,
        averaged: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Save weights, optimizer and ``state`` under a name; ``state["step"]`` counts the steps done.

        ``averaged`` are the weights of an EMA; where there are any, a run is opened with them.
        """
        self._clear(name)
        target = self.folder / f"{name}-{state['step']:08d}"
        beside = self.folder / f".{target.name}.{os.getpid()}"
        beside.mkdir(parents=True)
        save_file(_portable(trainer.state_dict()), beside / "trainer.safetensors")
        if averaged is not None:
            save_file(_portable(averaged), beside / "averaged.safetensors")
        if optimizer is not None:
            torch.save(optimizer.state_dict(), beside / "optimizer.pt")
        write_json(beside / "state.json", {"format": FORMAT, **state})
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
        write_json(self.folder / f"{name}.json", {"format": FORMAT, "folder": target.name, "step": state["step"]})
        for old in self.folder.glob(f"{name}-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def _clear(self, name: str) -> None:
        """Remove what saves that were killed have left; the folder of another process that is alive stays."""
        for left in self.folder.glob(f".{name}-*"):
            process = left.suffix.removeprefix(".")
            mine = process == str(os.getpid())
            if mine or (process.isdecimal() and not psutil.pid_exists(int(process))):
                shutil.rmtree(left, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether there is a checkpoint of that name."""
        return (self.folder / f"{name}.json").is_file()

    def load(self, name: str, trainer: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
        """Load weights (and optimizer) as they were in training, in place, and return the state.

        Raises:
            RunError: no such checkpoint, another format, or weights or an optimizer that do not fit.
        """
        folder, state = self._find(name)
        try:
            trainer.load_state_dict(load_file(folder / "trainer.safetensors"))
            if optimizer is not None:
                saved = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
                before, now = ("momentum" in one["param_groups"][0] for one in (saved, optimizer.state_dict()))
                if before != now:
                    raise RunError(
                        f"{folder}: it was trained with {_named(before)} and cannot go on with {_named(now)}; "
                        "change [fit.optimizer] back, or train in a new folder"
                    )
                optimizer.load_state_dict(saved)
        except _DAMAGE as error:
            raise _misfit(folder, error) from error
        return state

    def load_to_use(self, name: str, trainer: nn.Module) -> None:
        """Load the weights to predict with: the averaged ones where the run kept any. Raises as `load`."""
        folder, _ = self._find(name)
        weights = self.weights(name)
        try:
            trainer.load_state_dict(weights)
        except _DAMAGE as error:
            raise _misfit(folder, error) from error

    def weights(self, name: str) -> dict[str, Tensor]:
        """The weights to predict with, on the CPU: the averaged ones where the run kept any. Raises as `load`."""
        path = self._to_use(name)
        try:
            return load_file(path)
        except _DAMAGE as error:
            raise _misfit(path.parent, error) from error

    def digest(self, name: str) -> str:
        """SHA-256 of the file of the weights to predict with, read piece by piece; raises `RunError` as `load`."""
        path = self._to_use(name)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _misfit(path.parent, error) from error

    def averaged(self, name: str) -> dict[str, Tensor] | None:
        """The averaged weights of a checkpoint, or None where there are none."""
        folder, _ = self._find(name)
        path = folder / "averaged.safetensors"
        return load_file(path) if path.is_file() else None

    def load_pointer(self, name: str) -> str:
        """The folder that holds the checkpoint of that name; raises as `load`."""
        return self._find(name)[0].name

    def _to_use(self, name: str) -> Path:
        folder, _ = self._find(name)
        averaged = folder / "averaged.safetensors"
        return averaged if averaged.is_file() else folder / "trainer.safetensors"

    def _find(self, name: str) -> tuple[Path, dict[str, Any]]:
        pointer = self.folder / f"{name}.json"
        try:
            where = json.loads(pointer.read_text(encoding="utf-8"))
            folder = self.folder / where["folder"]
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.folder}: there is no checkpoint {name!r} that can be read ({error})") from error
        check_format(state.get("format"), folder)
        return folder, state


_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError, UnpicklingError)


def _named(momentum: bool) -> str:
    return "sgd" if momentum else "adamw"


def _misfit(folder: Path, error: Exception) -> RunError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return RunError(f"{folder}: the weights do not fit this experiment: {reason}")


def check_format(found: Any, where: Path) -> None:
    """Raise `RunError` unless ``found`` is a run format this version reads."""
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        advice = "install a newer Lamella to read it" if newer else "train it again, or use the version that wrote it"
        raise RunError(f"{where}: written in run format {found}, this version reads {FORMAT}; {advice}")


def _portable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and tied weights copied apart: safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    out = {}
    for key, value in weights.items():
        there = value.detach().cpu().contiguous()
        out[key] = there.clone() if there.data_ptr() in seen else there
        seen.add(there.data_ptr())
    return out
