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
        texts = {cell: str(one.file.data[test]) for cell, one in experiments.items() if test in one.file.data}
        first = {text: experiments[cell] for cell, text in reversed(texts.items())}
        there = [text for text in first if not any("{" + name + "}" in text for name in file.before)]
        tables = _opened({text: first[text] for text in reversed(there)}, test)
        for table in tables.values() if test in file.sets else ():
            _check_figures(study, test, table)
        if test in file.sets and len(tables) == len(first):
            _check_groups(study, test, tables.values())
        if test in file.sets and file.groups is not None and _counted(study):
            units = {text: _units(table, file.groups) for text, table in tables.items()}
            _tell_apart(study, test, {cell: units[text] for cell, text in texts.items() if text in units}, tell)
        if test == file.pictures and tables:
            mapped(next(iter(tables.values())).read(0), study)


def _opened(experiments: Mapping[str, Experiment], test: str) -> dict[str, SampleTable]:
    """A test set as each of them has it; one that cannot be opened, after the first, is left to its run to tell."""
    found: dict[str, SampleTable] = {}
    for text, experiment in experiments.items():
        try:
            found[text] = experiment.open(test)
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
