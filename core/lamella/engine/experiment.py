"""An experiment file: read, checked through and through, and planned before anything heavy is built."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from lamella.data.samples import SampleTable
from lamella.data.sources import SourceConfig, open_source
from lamella.errors import ConfigError
from lamella.registry.registry import Plan, Registry, current
from lamella.registry.tomlfile import read_toml

if TYPE_CHECKING:
    from lamella.contracts.model import Trainer

_TILE = 1024
_STRICT = ConfigDict(extra="forbid", strict=True)


def _some(sizes: int | dict[str, int]) -> int | dict[str, int]:
    if min(sizes.values() if isinstance(sizes, dict) else [sizes], default=1) < 1:
        raise PydanticCustomError("size", "A batch holds 1 image or more")
    return sizes


class OptimizerConfig(BaseModel):
    """``[fit.optimizer]``: how gradients become updates."""

    model_config = _STRICT

    name: Annotated[Literal["sgd", "adamw"], Field(description="update rule")] = "adamw"
    lr: Annotated[float, Field(gt=0, description="learning rate at its peak")] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, description="decoupled for adamw, L2 for sgd")] = 1e-4
    momentum: Annotated[float, Field(ge=0, lt=1, description="sgd only")] = 0.9
    betas: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2, description="adamw only")
    ] = [0.9, 0.999]


class FitConfig(BaseModel):
    """``[fit]``: how long, how much at a time, and how the learning rate goes."""

    model_config = _STRICT

    steps: Annotated[int, Field(ge=1, description="optimizer steps")] = 1000
    batch_size: Annotated[
        int | dict[str, int], AfterValidator(_some), Field(description="global; one number, or one per role")
    ] = 8
    balanced: Annotated[list[str], Field(description="roles of which each class is drawn as often as any other")] = []
    crop: Annotated[int | None, Field(ge=8, description="side of random square crops in pixels; else whole")] = None
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Annotated[
        Literal["poly", "cosine", "constant"], Field(description="learning rate after the warm-up")
    ] = "poly"
    power: Annotated[float, Field(gt=0, description="of the poly schedule")] = 0.9
    warmup: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 0
    log_every: Annotated[int, Field(ge=1, description="steps between log lines")] = 10
    evaluate_every: Annotated[int | None, Field(ge=1, description="steps between evaluations; else at the end")] = None
    checkpoint_every: Annotated[int | None, Field(ge=1, description="steps between checkpoints; else 10 a run")] = None
    best: Annotated[
        str,
        Field(description="validation figure that decides the best checkpoint, of errors (ece) the least; or last"),
    ] = "miou_pooled"
    accumulate: Annotated[int, Field(ge=1, description="parts a batch goes through the network in")] = 1
    clip: Annotated[float | None, Field(gt=0, description="largest norm of the gradient")] = None
    ema: Annotated[float | None, Field(gt=0, lt=1, description="decay of averaged weights, used to evaluate")] = None
    compile: Annotated[bool, Field(description="torch.compile the networks; needs a C++ compiler")] = False
    precision: Annotated[Literal["no", "bf16"], Field(description="mixed precision")] = "no"
    tile: Annotated[
        int | None,
        Field(ge=64, description="side in pixels above which evaluation tiles an image; 1024, or what was trained on"),
    ] = None
    cache: Annotated[bool, Field(description="decode a training set once into a memory-mapped file")] = True
    workers: Annotated[int, Field(ge=0, description="loader processes")] = 0
    count_flops: Annotated[int, Field(ge=0, description="steps whose operations are counted, in whole periods")] = 0

    def tile_for(self, trainer: Trainer) -> int:
        """The side in pixels above which evaluation tiles an image for a trainer."""
        if trainer.sees == "whole":
            return sys.maxsize
        if self.tile is not None:
            return self.tile
        return (self.crop or sys.maxsize) if trainer.sees == "trained" else _TILE

    def batch_of(self, role: str) -> int:
        """The global batch size of a role; raises `ConfigError` where a table of sizes lacks it."""
        if isinstance(self.batch_size, int):
            return self.batch_size
        if role not in self.batch_size:
            raise ConfigError(f"[fit] batch_size has no entry for the role {role!r}")
        return self.batch_size[role]


class ExperimentFile(BaseModel):
    """The top level of an experiment file."""

    model_config = _STRICT

    seed: Annotated[int, Field(ge=0, description="of weights, order, perturbations")] = 0
    modality: Annotated[str | dict[str, Any], Field(description="a modality, by name or spec")]
    data: Annotated[
        dict[str, SourceConfig],
        Field(description="the trainer's roles, 'validation', and test sets ('test', 'test-NAME')"),
    ]
    trainer: Annotated[dict[str, Any], Field(description="a trainer spec")]
    fit: FitConfig = FitConfig()


@dataclass(frozen=True)
class Experiment:
    """A checked experiment: plans for everything, nothing built."""

    name: str
    folder: Path
    file: ExperimentFile
    registry: Registry
    modality: Plan
    trainer: Plan

    @property
    def seed(self) -> int:
        """The run seed."""
        return self.file.seed

    @property
    def fit(self) -> FitConfig:
        """The ``[fit]`` table."""
        return self.file.fit

    def tests(self) -> list[str]:
        """The names of the test sets."""
        return [role for role in self.file.data if role == "test" or role.startswith("test-")]

    def open(self, role: str) -> SampleTable:
        """The samples of a role; raises `ConfigError` where the file does not name it, or only some have a label."""
        if role not in self.file.data:
            raise ConfigError(
                f"{self.name}: the trainer reads the role {role!r}; add a table [data.{role}] "
                f"(there are {', '.join(self.file.data)})"
            )
        table = open_source(self.file.data[role], self.registry, f"[data.{role}]", folder=self.folder)
        if role != "unlabelled" and (lacking := table.partly_labelled()) is not None:
            raise ConfigError(f"[data.{role}] {lacking}: label them, or leave them out with only, exclude or slice")
        return table

    def resolved(self) -> str:
        """The experiment as TOML, with every name, set and default written out: what a run folder keeps."""
        tables = self.file.model_dump(exclude_none=True)
        tables["modality"], tables["trainer"] = self.modality.spec(), self.trainer.spec()
        registered = self.registry.names("dataset")
        for role, source in [(role, one) for role, data in tables["data"].items() for one in _with_more(data)]:
            named = source["source"]
            if isinstance(named, dict) or named in registered:
                source["source"] = self.registry.plan("dataset", named, f"[data.{role}]").spec()
            elif (self.folder / named).exists():
                source["source"] = str((self.folder / named).resolve())
        return tomli_w.dumps(tables)


def _with_more(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A table of data and all that it takes in under ``more``."""
    yield source
    for one in source["more"]:
        yield from _with_more(one)


def read_experiment(path: Path, settings: Sequence[str] = (), *, registry: Registry | None = None) -> Experiment:
    """Read and check an experiment file.

    Args:
        settings: overrides ``"fit.steps=200"``; the value is TOML, or else a string.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, each naming file and key.
        RegistryError: an unknown component or parameter.
    """
    tables = read_toml(path, "experiment file")
    for setting in settings:
        _set(tables, setting)
    return check_experiment(tables, name=path.stem, folder=path.parent, registry=registry, where=str(path))


def check_experiment(
    tables: Mapping[str, Any], *, name: str, folder: Path, registry: Registry | None = None, where: str = "experiment"
) -> Experiment:
    """Check the tables of an experiment and plan its modality and trainer; raises as `read_experiment`."""
    try:
        file = ExperimentFile.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(f"{where}: {sentence(error)}") from None
    registry = current() if registry is None else registry
    modality = registry.plan("modality", file.modality, f"{where} modality")
    trainer = registry.plan("trainer", file.trainer, f"{where} [trainer]")
    return Experiment(name, folder, file, registry, modality, trainer)


def _set(tables: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {setting!r} must read KEY=VALUE, as fit.steps=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    table: Any = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {setting!r}: {parent!r} is a value, not a table")
    table[last] = value


def sentence(error: ValidationError) -> str:
    """The first thing wrong in a file, as one sentence."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent, _, key = path.rpartition(".")
        return f"unknown key {key!r}" + (f" in [{parent}]" if parent else " at the top level")
    if first["type"] == "missing":
        return f"{path} must be given"
    return f"{path} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
