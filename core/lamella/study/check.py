"""What a study asks of its test sets, held against them before anything is trained."""

from lamella.data.samples import SampleTable
from lamella.study.figures import figure
from lamella.study.groups import check_column, group_figure
from lamella.study.pictures import mapped
from lamella.study.study import Study


def check_data(study: Study) -> None:
    """Raise `ConfigError` where the headline test set lacks classes or group columns of the figures, or that of the
    pictures lacks label maps. Both are opened, but for what only a training before makes.
    """
    cell, file = study.cells()[0], study.file
    experiment = study.experiment(cell, {})
    for test in dict.fromkeys([file.sets[0], file.pictures]):
        data = experiment.file.data.get(test or "")
        if test is None or data is None or any("{" + name + "}" in str(data) for name in study.needs(cell)):
            continue
        table = experiment.open(test)
        if test == file.sets[0]:
            _check_figures(study, table)
        if test == file.pictures:
            mapped(table.read(0), study)


def _check_figures(study: Study, table: SampleTable) -> None:
    counted = [text for text in study.file.figures.values() if not text.startswith("results:")]
    if table.classes is None or not counted:
        return
    columns = table.rows[0].groups
    if study.file.groups not in (None, "name"):
        check_column(columns, str(study.file.groups), f"groups = {study.file.groups!r}")
    for text in counted:
        asked = group_figure(text)
        figure(text if asked is None else asked.figure, table.classes.names)
        if asked is not None:
            check_column(columns, asked.column, f"figure by {asked.column!r}")
