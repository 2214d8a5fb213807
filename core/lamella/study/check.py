"""What a study asks of its test sets, held against them before anything is trained."""

from lamella.data.samples import SampleTable
from lamella.engine.experiment import Experiment
from lamella.study.figures import figure
from lamella.study.groups import check_column, check_groups, group_figure
from lamella.study.pictures import mapped
from lamella.study.study import Study


def check_data(study: Study) -> None:
    """Raise `ConfigError` where test sets lack classes, group columns or groups of the figures, or that of the pictures
    label maps.

    A set is opened as the first experiment has it, and where figures name groups also as others do, but for what only a
    training before makes.
    """
    file = study.file
    experiments = [study.experiment(cell, {}) for cell in study.cells() if cell.seed == file.seeds[0]]
    for test in dict.fromkeys([*file.sets, *([] if file.pictures is None else [file.pictures])]):
        texts = {str(one.file.data[test]): one for one in experiments if test in one.file.data}
        there = [one for text, one in texts.items() if not any("{" + name + "}" in text for name in file.before)]
        if not there:
            continue
        table = there[0].open(test)
        if test in file.sets:
            _check_figures(study, test, table)
            if len(there) == len(texts):
                _check_groups(study, test, table, there[1:])
        if test == file.pictures:
            mapped(table.read(0), study)


def _check_figures(study: Study, test: str, table: SampleTable) -> None:
    counted = _counted(study)
    if table.classes is None or not counted:
        return
    columns = table.rows[0].groups
    if study.file.groups not in (None, "name"):
        check_column(columns, str(study.file.groups), f"groups = {study.file.groups!r}", test)
    for text in counted:
        asked = group_figure(text)
        figure(text if asked is None else asked.figure, table.classes.names)
        if asked is not None:
            check_column(columns, asked.column, f"figure by {asked.column!r}", test)


def _check_groups(study: Study, test: str, table: SampleTable, others: list[Experiment]) -> None:
    """Whether the groups that figures name are in a test set, the table or as another experiment has it."""
    figures = [asked for text in _counted(study) if (asked := group_figure(text)) is not None and asked.groups]
    if not figures:
        return
    rows = [row for one in (table, *(experiment.open(test) for experiment in others)) for row in one.rows]
    for asked in figures:
        check_groups({row.groups[asked.column] for row in rows if asked.column in row.groups}, asked, test)


def _counted(study: Study) -> list[str]:
    """The figures that are taken from counts."""
    return [text for text in study.file.figures.values() if not text.startswith("results:")]
