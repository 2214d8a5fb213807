"""The studies of the paper's tables: each can be begun in each size, and starts from what PROTOCOL.md says."""

import tomllib
from pathlib import Path

import pytest
from lamella.study.study import read_study

PAPER = Path(__file__).parents[2] / "examples" / "paper"
STUDIES = {path.stem: path for path in sorted(PAPER.glob("*.toml")) if "rows" in tomllib.loads(path.read_text())}


@pytest.mark.parametrize("name", STUDIES)
def test_every_size_of_a_study_can_be_begun(name):
    """Each of its experiments is whole: its text, which a run keeps, names every component."""
    for size in tomllib.loads(STUDIES[name].read_text()).get("sizes", {"": {}}):
        study = read_study(STUDIES[name], size or None)
        assert study.cells()
        for cell in study.cells():
            if cell.seed == study.file.seeds[0]:
                runs = {before: PAPER for before in study.needs(cell)}
                assert study.experiment(cell, runs).resolved()
                assert all(study.experiment_before(before, cell, runs).resolved() for before in runs)


@pytest.mark.parametrize("name", [name for name, path in STUDIES.items() if 'base = "start.toml"' in path.read_text()])
def test_the_shared_start_learns_as_long_as_its_own_file_says(name):
    """A study's size has its own number of steps, which is not for the start."""
    study = read_study(STUDIES[name])
    found = study.experiment_before("start", study.cells()[0], {}).fit
    assert found.steps == tomllib.loads((PAPER / "start.toml").read_text())["fit"]["steps"]
    assert "start" in study.needs(study.cells()[0])


@pytest.mark.parametrize("name", ["table4", "table5", "label-cost"])
def test_pairs_of_one_size_alone_are_tested_where_the_size_changes_it(name):
    study = read_study(STUDIES[name], "paper")
    for cell in study.cells():
        test = study.experiment(cell, {}).file.data["test"]
        assert [(one.source["size"], one.more) for one in (test, *test.more)] == [(224, [])]


@pytest.mark.parametrize("size", ["small", "paper"])
def test_a_column_learns_from_as_many_labels_as_it_says(size):
    study = read_study(STUDIES["label-cost"], size)
    for cell in study.cells():
        labelled = study.experiment(cell, {}).file.data["labelled"]
        assert (labelled.subset or labelled.source["count"]) == study.file.columns[cell.column].labels
