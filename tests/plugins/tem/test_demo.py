"""The demo: its length, by every training that it has."""

from lamella.cli.demo import FILES, _lengthen
from lamella.study.study import Cell, read_study


def steps_of(study):
    """Of the supervised row, of ours, and of what ours begins with."""
    ours = Cell("weak-to-strong", "", 0)
    runs = {name: FILES for name in study.needs(ours)}
    rows = [study.experiment(cell, runs) for cell in (Cell("supervised", "", 0), ours)]
    return [experiment.fit.steps for experiment in (*rows, study.experiment_before("labelled", ours, runs))]


def test_steps_of_every_training_change_in_proportion():
    study = read_study(FILES / "demo.toml")
    assert steps_of(study) == [450, 82, 225]
    _lengthen(study.file, 90)
    assert steps_of(study) == [90, 16, 45]
    _lengthen(study.file, 1)
    assert steps_of(study) == [1, 1, 1]
