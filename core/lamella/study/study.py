"""A study: one base experiment, changed along rows (methods), columns (conditions) and seeds."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamella.engine.experiment import Experiment, check_experiment, sentence
from lamella.errors import ConfigError
from lamella.registry.registry import Registry

_STRICT = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
Tables = dict[str, Any]


class RowConfig(BaseModel):
    """``[rows.NAME]``: a method."""

    model_config = _STRICT

    title: Annotated[str, Field(description="what the table calls it; else its name")] = ""
    like: Annotated[str | None, Field(description="another row, whose changes come first")] = None
    set: Annotated[Tables, Field(description="changes to the base experiment")] = {}
    cost_of: Annotated[
        str | None, Field(description="a row whose floating-point operations this one may spend: sets fit.steps")
    ] = None
    columns: Annotated[list[str] | None, Field(description="only in these columns")] = None
    seeds: Annotated[int | None, Field(ge=1, description="only the first so many seeds")] = None


class ColumnConfig(BaseModel):
    """``[columns.NAME]``: a condition."""

    model_config = _STRICT

    title: Annotated[str, Field(description="what the table calls it; else its name")] = ""
    set: Annotated[Tables, Field(description="changes to the base experiment, after the row's")] = {}
    labels: Annotated[float | None, Field(description="number of labels, for the curve over them")] = None
    seeds: Annotated[int | None, Field(ge=1, description="only the first so many seeds")] = None


class BeforeConfig(BaseModel):
    """``[before.NAME]``: a training that rows build on; ``{NAME}`` in a row's text becomes its run folder."""

    model_config = _STRICT

    base: Annotated[str | None, Field(description="experiment file; else the study's, with the study's own set")] = None
    like: Annotated[str | None, Field(description="another training before, whose base and changes come first")] = None
    set: Annotated[Tables, Field(description="changes to it")] = {}
    sizes: Annotated[dict[str, Tables], Field(description="changes by size, after those of the study's size")] = {}
    once: Annotated[bool, Field(description="trained once, with the first seed, for the rows of every seed")] = False
    per_column: Annotated[bool, Field(description="trained for each column, with the column's changes last")] = False


class StudyFile(BaseModel):
    """The top level of a study file."""

    model_config = _STRICT

    title: str
    base: Annotated[str, Field(description="experiment file beside this one; may lack what the rows give")]
    set: Annotated[Tables, Field(description="changes to it for every row, before the size's and the row's")] = {}
    seeds: Annotated[list[int], Field(min_length=1, description="each is a subset and an initialisation")] = [0]
    seeded: Annotated[list[str], Field(description="keys that take the seed")] = ["seed"]
    rows: dict[str, RowConfig]
    columns: dict[str, ColumnConfig] = {"": ColumnConfig()}
    before: dict[str, BeforeConfig] = {}
    sets: Annotated[list[str], Field(min_length=1, description="test sets that are reported, headline first")] = [
        "test"
    ]
    figures: Annotated[dict[str, str], Field(min_length=1, description="title → figure, as 'iou:defect'")]
    groups: Annotated[str | None, Field(description="group column that intervals resample, as 'lot'")] = None
    reference: Annotated[str | None, Field(description="row that the others are compared with, pair by pair")] = None
    paper: Annotated[dict[str, dict[str, dict[str, float]]], Field(description="row → column → figure: published")] = {}
    sizes: Annotated[dict[str, Tables], Field(description="changes to the base by size; the first is the default")] = {}
    pictures: Annotated[str | None, Field(description="test set on whose images rows are shown side by side")] = None
    shown: Annotated[list[str], Field(description="the rows shown there; else all")] = []
    note: Annotated[str, Field(description="what a reader has to know; stands under the table")] = ""


class Cell(NamedTuple):
    """One run of a study: which row, column and seed."""

    row: str
    column: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where it is kept, below the study's folder."""
        return Path(f"seed-{self.seed}") / (self.column or "all") / self.row


@dataclass(frozen=True)
class Study:
    """A checked study: what it runs, in which order, and what of each."""

    name: str
    folder: Path
    file: StudyFile
    size: str
    registry: Registry

    def cells(self) -> list[Cell]:
        """Every run, seeds outermost, so that what is done at any time is paired."""
        return [
            Cell(row, column, seed)
            for place, seed in enumerate(self.file.seeds)
            for column, condition in self.file.columns.items()
            for row, method in self.file.rows.items()
            if (method.columns is None or column in method.columns)
            and place < min(method.seeds or len(self.file.seeds), condition.seeds or len(self.file.seeds))
        ]

    def experiment(self, cell: Cell, runs: Mapping[str, Path], steps: int | None = None) -> Experiment:
        """The experiment of a cell.

        Args:
            runs: run folders of what comes before, by name.
            steps: overrides ``fit.steps``.
        """
        changes = [*self._row_changes(cell.row), self.file.columns[cell.column].set]
        fit: Tables = {"count_flops": 4, **({} if steps is None else {"steps": steps})}
        return self._experiment(None, [*changes, {"fit": fit}], cell.seed, runs, f"row {cell.row!r}")

    def experiment_before(self, name: str, cell: Cell, runs: Mapping[str, Path]) -> Experiment:
        """The experiment of a training that ``cell`` builds on; ``runs`` as in `experiment`."""
        base, changes = self._before_changes(name)
        config = self.file.before[name]
        seed = self.file.seeds[0] if config.once else cell.seed
        condition = self.file.columns[cell.column].set if config.per_column else {}
        return self._experiment(
            base, [*changes, condition, {"fit": {"count_flops": 4}}], seed, runs, f"[before.{name}]"
        )

    def before_folder(self, name: str, cell: Cell) -> Path:
        """Where a training that ``cell`` builds on is kept, below the study's folder."""
        config = self.file.before[name]
        column = cell.column if config.per_column else ""
        return Path("." if config.once else f"seed-{cell.seed}") / "before" / column / name

    def needs(self, cell: Cell) -> list[str]:
        """The names of the trainings that a cell builds on, each after those that it builds on itself."""
        return self._named_in(str([*self._own_set(None), *self._row_changes(cell.row)]), ())

    def _named_in(self, text: str, trail: tuple[str, ...]) -> list[str]:
        found: dict[str, None] = {}
        for name, config in self.file.before.items():
            if "{" + name + "}" not in text:
                continue
            if name in trail:
                circle = " → ".join([*trail, name])
                raise ConfigError(f"{self.name}: trainings build on each other in a circle: {circle}")
            base, changes = self._before_changes(name)
            inner = self._named_in(str([*self._own_set(base), *changes]), (*trail, name))
            if config.once and (many := [other for other in inner if not self.file.before[other].once]):
                raise ConfigError(
                    f"{self.name}: [before.{name}] is trained once and builds on [before.{many[0]}], "
                    "which is trained for every seed; say once = true there too"
                )
            if not config.per_column and (many := [other for other in inner if self.file.before[other].per_column]):
                raise ConfigError(
                    f"{self.name}: [before.{name}] is one for all columns and builds on [before.{many[0]}], "
                    "which is trained for each; say per_column = true here too"
                )
            found.update(dict.fromkeys([*inner, name]))
        return list(found)

    def _row_changes(self, row: str) -> list[Tables]:
        config = self.file.rows[row]
        return [*([] if config.like is None else self._row_changes(config.like)), config.set]

    def _before_changes(self, name: str) -> tuple[str | None, list[Tables]]:
        """The experiment file of a training before, and the changes to it: of what it is like, then its own."""
        config = self.file.before[name]
        base, changes = (None, []) if config.like is None else self._before_changes(config.like)
        return config.base or base, [*changes, config.sizes.get(self.size, {}), config.set]

    def _own_set(self, base: str | None) -> list[Tables]:
        """The study's own changes: to its own base, not to that of a training before it."""
        return [self.file.set] if base is None else []

    def _experiment(
        self, base: str | None, changes: list[Tables], seed: int, runs: Mapping[str, Path], what: str
    ) -> Experiment:
        path = self.folder / (base or self.file.base)
        tables = _read_tables(path)
        size = self.file.sizes.get(self.size, {})
        for change in [*self._own_set(base), size if base is None else _of_its_roles(size, tables), *changes]:
            tables = merged(tables, change)
        for key in self.file.seeded:
            _assign(tables, key, seed)
        tables = _filled(tables, {name: str(folder.resolve()) for name, folder in runs.items()})
        return check_experiment(
            tables, name=path.stem, folder=path.parent, registry=self.registry, where=f"{self.name}: {what}"
        )


def read_study(path: Path, size: str | None = None, *, registry: Registry | None = None) -> Study:
    """Read a study and check every experiment in it.

    Raises:
        ConfigError: an unreadable file, unknown key, row, column or size.
        RegistryError: an unknown component or parameter in any of its experiments.
    """
    from lamella.registry.registry import current

    try:
        file = StudyFile.model_validate(_read_tables(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {sentence(error)}") from None
    size = next(iter(file.sizes), "") if size is None else size
    if size and size not in file.sizes:
        raise ConfigError(f"{path}: there is no size {size!r}; it has {', '.join(file.sizes) or 'none'}")
    study = Study(path.stem, path.parent, file, size, current() if registry is None else registry)
    _check_names(study)
    first = file.seeds[0]
    for cell in study.cells():
        if cell.seed == first:
            places = {name: path.parent for name in study.needs(cell)}
            study.experiment(cell, places)
            for name in places:
                study.experiment_before(name, cell, places)
    return study


def _check_names(study: Study) -> None:
    """Raise `ConfigError` where a row or column is named that is not there, or a row is like itself."""
    file = study.file
    rows: dict[str, list[str | None]] = {
        "reference": [file.reference], "paper": [*file.paper], "shown": [*file.shown]
    }  # fmt: skip
    for name, row in file.rows.items():
        rows[f"[rows.{name}] like"], rows[f"[rows.{name}] cost_of"] = [row.like], [row.cost_of]
        _follow(file.rows, name)
        for column in row.columns or []:
            if column not in file.columns:
                raise ConfigError(f"{study.name}: [rows.{name}] names the column {column!r}, which is not there")
        if row.cost_of is not None and row.like is None:
            raise ConfigError(f"{study.name}: [rows.{name}] cost_of needs like: a row that tells what a step costs")
    for name, before in file.before.items():
        if before.like is not None and before.like not in file.before:
            known = ", ".join(file.before)
            raise ConfigError(
                f"{study.name}: [before.{name}] like names the training {before.like!r}, which is not there ({known})"
            )
        _follow(file.before, name)
        for size in before.sizes:
            if size not in file.sizes:
                raise ConfigError(f"{study.name}: [before.{name}] has the size {size!r}, which the study has not")
    for where, named in rows.items():
        for other in named:
            if other is not None and other not in file.rows:
                known = ", ".join(file.rows)
                raise ConfigError(f"{study.name}: {where} names the row {other!r}, which is not there ({known})")


def _follow(named: Mapping[str, RowConfig] | Mapping[str, BeforeConfig], name: str) -> None:
    seen, at = [name], named[name].like
    while at is not None and at in named:
        if at in seen:
            raise ConfigError(f"rows or trainings that are like each other in a circle: {' → '.join([*seen, at])}")
        seen.append(at)
        at = named[at].like


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Tables:
    """``one`` with the entries of ``other`` laid over it, table by table; lists are replaced.

    >>> merged({"fit": {"steps": 5, "crop": 64}}, {"fit": {"steps": 9}})
    {'fit': {'steps': 9, 'crop': 64}}
    """
    out = dict(one)
    for key, value in other.items():
        mine = out.get(key)
        out[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return out


def _read_tables(path: Path) -> Tables:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error


def _of_its_roles(size: Tables, base: Tables) -> Tables:
    """A size's changes less those to ``[data]`` roles that another experiment than the study's own does without.

    >>> _of_its_roles({"fit": {}, "data": {"test": 1, "labelled": 2}}, {"data": {"labelled": 0}})
    {'fit': {}, 'data': {'labelled': 2}}
    """
    roles = {role: change for role, change in size.get("data", {}).items() if role in base.get("data", {})}
    return {**size, "data": roles} if "data" in size else size


def _assign(tables: Tables, key: str, value: Any) -> None:
    """Set a dotted key; a table on its way that is not there is left alone, as a role that a row does without."""
    *parents, last = key.split(".")
    at: Any = tables
    for parent in parents:
        at = at.get(parent) if isinstance(at, dict) else None
    if isinstance(at, dict):
        at[last] = value


def _filled(value: Any, runs: Mapping[str, str]) -> Any:
    """``{name}`` in every text replaced by the run folder of that name."""
    if isinstance(value, str):
        return re.sub(r"\{([\w-]+)\}", lambda match: runs.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: _filled(item, runs) for key, item in value.items()}
    return [_filled(item, runs) for item in value] if isinstance(value, list) else value
