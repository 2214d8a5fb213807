"""A study: one base experiment, changed along rows (methods), columns (conditions) and seeds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lamella.engine.experiment import Experiment, check_experiment
from lamella.errors import ConfigError
from lamella.registry.registry import Registry
from lamella.registry.tomlfile import read_toml
from lamella.study.file import StudyFile, Tables, read_study_file

_PLACEHOLDER = re.compile(r"\{([\w-]+)\}")
"""Of a training before, as it stands in a text."""


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
        """Every run, seeds outermost, so that what is done is paired; a row after those whose cost it waits for."""
        rows = {name: self.file.rows[name] for name in self._in_order()}
        return [
            Cell(row, column, seed)
            for place, seed in enumerate(self.file.seeds)
            for column, condition in self.file.columns.items()
            for row, method in rows.items()
            if (method.columns is None or column in method.columns)
            and place < min(method.seeds or len(self.file.seeds), condition.seeds or len(self.file.seeds))
        ]

    def _in_order(self) -> list[str]:
        found: dict[str, None] = {}

        def add(row: str) -> None:
            for other in self.file.rows[row].spends:
                add(other)
            found[row] = None

        for row in self.file.rows:
            add(row)
        return list(found)

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

    def tests(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What a run measured on the study's test sets, of those that it has."""
        return [result["sets"][test] for test in self.file.sets if test in result["sets"]]

    def lacking(self, results: Iterable[Mapping[str, Any]]) -> list[str]:
        """The figures ``results:NAME`` that none of these results has; none while nothing was measured."""
        found = [test for result in results for test in self.tests(result)]
        asked = [text for text in self.file.figures.values() if text.startswith("results:")]
        return [text for text in asked if found and not any(has(one, text.removeprefix("results:")) for one in found)]

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
        tables = read_toml(path, "base experiment file")
        own, size = self._own_set(base), self.file.sizes.get(self.size, {})
        for change in (tables, *own, size, *changes):
            _check_tables(change, f"{self.name}: {what}")
        roles = {role for table in (tables, *own, *changes) for role in table.get("data", {})}
        for change in [*own, _of_roles(size, roles), *changes]:
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
        ConfigError: an unreadable file, unknown key, row, column, test set or size.
        RegistryError: an unknown component or parameter in any of its experiments.
    """
    from lamella.registry.registry import current

    file = read_study_file(path)
    size = next(iter(file.sizes), "") if size is None else size
    if size and size not in file.sizes:
        raise ConfigError(f"{path}: there is no size {size!r}; it has {', '.join(file.sizes) or 'none'}")
    study = Study(path.stem, path.parent, file, size, current() if registry is None else registry)
    first, cells = file.seeds[0], set(study.cells())
    measured: set[str] = set()
    experiments: list[Experiment] = []
    for cell in study.cells():
        _check_cost(study, cell, cells)
        if cell.seed == first:
            places = {name: path.parent for name in study.needs(cell)}
            experiment = study.experiment(cell, places)
            _check_filled(study, cell, experiment)
            measured |= {"validation", *experiment.tests()} & experiment.file.data.keys()
            befores = {f"[before.{name}]": study.experiment_before(name, cell, places) for name in places}
            for what, one in {f"the row {cell.row!r}": experiment, **befores}.items():
                _check_placeholders(study, what, one)
            experiments += [experiment, *befores.values()]
    if cells:
        _check_sets(study, measured)
        _check_changed(study, [experiment.file.model_dump() for experiment in experiments])
    return study


def _check_tables(change: Tables, where: str) -> None:
    """Raise `ConfigError` where ``[data]``, a role of it or ``[fit]`` is a value, which what comes later discards."""
    found: Tables = {key: change[key] for key in ("data", "fit") if key in change}
    if isinstance(roles := found.get("data"), Mapping):
        found |= {f"data.{role}": value for role, value in roles.items()}
    for key, value in found.items():
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} = {value!r} is a value, not a table, as in {key}.KEY = VALUE")


def _check_filled(study: Study, cell: Cell, experiment: Experiment) -> None:
    """Raise `ConfigError` where a column or a size names a training before: what a row builds on its own set says."""
    text = experiment.resolved() if study.file.before else ""
    for name in study.file.before:
        if "{" + name + "}" in text:
            raise ConfigError(
                f"{study.name}: {{{name}}} stands in a column or a size, where the row {cell.row!r} does not look for "
                "what it builds on; write it into the set of the rows or of the study"
            )


def _check_placeholders(study: Study, what: str, experiment: Experiment) -> None:
    """Raise `ConfigError` where ``{NAME}`` stands for no training before, as in a misspelt one."""
    left = _PLACEHOLDER.findall(experiment.resolved()) if study.file.before else []
    if unknown := [name for name in left if not name.isdigit()]:  # which a regular expression may have
        known = ", ".join(study.file.before)
        raise ConfigError(f"{study.name}: {{{unknown[0]}}} in {what} is no training before the rows ({known})")


def _check_sets(study: Study, measured: Collection[str]) -> None:
    pictures = study.file.pictures
    named = [("sets", name) for name in study.file.sets] + ([] if pictures is None else [("pictures", pictures)])
    for key, name in named:
        if name not in measured:
            known = ", ".join(sorted(measured)) or "none"
            raise ConfigError(f"{study.name}: {key} names the test set {name!r}, which is not there ({known})")


def _check_changed(study: Study, experiments: Collection[Tables]) -> None:
    """Raise `ConfigError` where no experiment has a key that takes the seed, or a role that the size changes."""
    roles = study.file.sizes.get(study.size, {}).get("data", {})
    changed = [(f"[sizes.{study.size}]", f"data.{role}") for role in roles]
    for where, key in [*(("seeded", key) for key in study.file.seeded), *changed]:
        if not any(has(tables, key) for tables in experiments):
            known = ", ".join(sorted({role for tables in experiments for role in tables["data"]}))
            raise ConfigError(
                f"{study.name}: {where} names {key!r}, which none of its experiments has (they have the roles {known})"
            )


def _check_cost(study: Study, cell: Cell, cells: Collection[Cell]) -> None:
    """Raise `ConfigError` where a cell's steps depend on the cost of one that the study does not train."""
    for other in study.file.rows[cell.row].spends:
        if cell._replace(row=other) not in cells:
            where = f"in the column {cell.column!r} " if cell.column else ""
            raise ConfigError(
                f"{study.name}: [rows.{cell.row}] cost_of needs what the row {other!r} costs "
                f"{where}with the seed {cell.seed}, which its columns or seeds leave out"
            )


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


def _of_roles(size: Tables, roles: Collection[str]) -> Tables:
    """A size's changes less those to ``[data]`` roles that an experiment of the study does without.

    >>> _of_roles({"fit": {}, "data": {"test": 1, "labelled": 2}}, {"labelled"})
    {'fit': {}, 'data': {'labelled': 2}}
    """
    return {**size, "data": {r: c for r, c in size["data"].items() if r in roles}} if "data" in size else size


def _assign(tables: Tables, key: str, value: Any) -> None:
    """Set a dotted key; a table on its way that is not there is left alone, as a role that a row does without."""
    *parents, last = key.split(".")
    at: Any = tables
    for parent in parents:
        at = at.get(parent) if isinstance(at, dict) else None
    if isinstance(at, dict):
        at[last] = value


def has(tables: Any, key: str) -> bool:
    """Whether a dotted key is there, whatever it is.

    >>> has({"fit": {"crop": None}}, "fit.crop"), has({"fit": {"crop": None}}, "fit.corp")
    (True, False)
    """
    first, _, rest = key.partition(".")
    return isinstance(tables, Mapping) and first in tables and (not rest or has(tables[first], rest))


def at(tables: Any, key: str) -> Any:
    """What stands at a dotted key; None where nothing does.

    >>> at({"fit": {"crop": 64}}, "fit.crop"), at({"fit": 3}, "fit.crop")
    (64, None)
    """
    for part in key.split("."):
        tables = tables.get(part) if isinstance(tables, Mapping) else None
    return tables


def _filled(value: Any, runs: Mapping[str, str]) -> Any:
    """``{name}`` in every text replaced by the run folder of that name."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: runs.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: _filled(item, runs) for key, item in value.items()}
    return [_filled(item, runs) for item in value] if isinstance(value, list) else value
