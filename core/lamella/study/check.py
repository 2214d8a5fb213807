"""What a study asks of its test sets, held against them before anything is trained."""

from collections.abc import Callable, Iterable, Mapping

from lamella.data.samples import SampleTable
from lamella.engine.experiment import Experiment
from lamella.errors import ConfigError, LamellaError
from lamella.study.figures import figure
from lamella.study.groups import check_column, check_groups, group_figure
from lamella.study.pictures import mapped
from lamella.study.study import Cell, Study


def check_data(study: Study, tell: Callable[[str], None] = print) -> None:
    """Raise `ConfigError` where test sets lack classes, group columns or groups of the figures, or that of the pictures
    label maps; tell where a difference or an interval cannot be had.

    A set is opened as each row, column and seed has it, but for what only a training before makes.
    """
    file = study.file
    experiments = {cell: study.experiment(cell, {}) for cell in study.cells()}
    for test in dict.fromkeys([*file.sets, *([] if file.pictures is None else [file.pictures])]):
        ways = _ways(experiments, test)
        known = {way: experiments[cells[0]] for way, cells in ways.items() if not _made_before(way, study)}
        tables = _opened(known, test)
        if test in file.sets:
            for table in tables.values():
                _check_figures(study, test, table)
            if len(tables) == len(ways):
                _check_groups(study, test, tables.values())
            if file.groups is not None and _counted(study):
                units = {way: _units(table, file.groups) for way, table in tables.items()}
                _tell_apart(study, test, {cell: own for way, own in units.items() for cell in ways[way]}, tell)
        if test == file.pictures and tables:
            mapped(next(iter(tables.values())).read(0), study)


def _ways(experiments: Mapping[Cell, Experiment], test: str) -> dict[str, list[Cell]]:
    """The ways in which a study's trainings have a test set, as texts of its source, each with the trainings."""
    found: dict[str, list[Cell]] = {}
    for cell, experiment in experiments.items():
        if test in experiment.file.data:
            found.setdefault(str(experiment.file.data[test]), []).append(cell)
    return found


def _made_before(way: str, study: Study) -> bool:
    """Whether a test set is of what a training before the rows makes."""
    return any("{" + name + "}" in way for name in study.file.before)


def _opened(experiments: Mapping[str, Experiment], test: str) -> dict[str, SampleTable]:
    """A test set by the way it is had; one that cannot be opened, after the first, is left to its run to tell."""
    found: dict[str, SampleTable] = {}
    for way, experiment in experiments.items():
        try:
            found[way] = experiment.open(test)
        except LamellaError:
            if not found:
                raise
    return found


def _check_figures(study: Study, test: str, table: SampleTable) -> None:
    counted = _counted(study)
    if table.classes is None or not counted:
        return
    if study.file.groups not in (None, "name"):
        _check_column(table, str(study.file.groups), f"groups = {study.file.groups!r}", test)
    for text in counted:
        asked = group_figure(text)
        figure(text if asked is None else asked.figure, table.classes.names)
        if asked is not None:
            _check_column(table, asked.column, f"figure by {asked.column!r}", test, some=bool(asked.groups))


def _check_column(table: SampleTable, column: str, what: str, test: str, *, some: bool = False) -> None:
    """Raise `ConfigError` where a test set has no such group column, or unless for ``some`` groups, images without."""
    check_column(dict.fromkeys(name for row in table.rows for name in row.groups), column, what, test)
    lacking = sum(column not in row.groups for row in table.rows)
    if lacking and not some:
        raise ConfigError(
            f"{what}: {lacking} of {len(table)} images of the test set {test!r} have no {column!r}; give them one, or "
            f"choose the others with only = {{ {column} = [ … ] }}"
        )


def _units(table: SampleTable, column: str) -> set[str]:
    """The groups that intervals resample."""
    return {row.name if column == "name" else row.groups.get(column, "") for row in table.rows}


def _tell_apart(study: Study, test: str, units: Mapping[Cell, set[str]], tell: Callable[[str], None]) -> None:
    """Tell which rows are tested on other groups than the reference, or with one seed on others than with another."""
    said: dict[str, None] = {}
    for cell, own in units.items():
        where = f"row {cell.row!r} is tested{cell.column and f' in column {cell.column!r}'} on other groups in {test!r}"
        against = cell._replace(row=study.file.reference or cell.row)
        if units.get(against, own) != own:
            said[f"{where} than row {against.row!r}: their difference stays out of the table"] = None
        if any(units.get(cell._replace(seed=seed), own) != own for seed in study.file.seeds):
            said[f"{where} with each seed: its figures have no interval"] = None
    for line in said:
        tell(line)


def _check_groups(study: Study, test: str, tables: Iterable[SampleTable]) -> None:
    """Whether the groups that figures name are in a test set, as one experiment or another has it."""
    figures = [asked for text in _counted(study) if (asked := group_figure(text)) is not None and asked.groups]
    if not figures:
        return
    rows = [row for table in tables for row in table.rows]
    for asked in figures:
        check_groups({row.groups[asked.column] for row in rows if asked.column in row.groups}, asked, test)


def _counted(study: Study) -> list[str]:
    """The figures that are taken from counts."""
    return [text for text in study.file.figures.values() if not text.startswith("results:")]
