"""The studies of the paper's tables: each can be read in each size, and starts from what PROTOCOL.md says."""

import tomllib
from pathlib import Path

import pytest
from lamella.study.study import read_study

PAPER = Path(__file__).parents[2] / "examples" / "paper"
STUDIES = {path.stem: path for path in sorted(PAPER.glob("*.toml")) if "rows" in tomllib.loads(path.read_text())}


@pytest.mark.parametrize("name", STUDIES)
def test_every_size_of_a_study_can_be_read(name):
    sizes = tomllib.loads(STUDIES[name].read_text()).get("sizes", {"": {}})
    assert all(read_study(STUDIES[name], size or None).cells() for size in sizes)


@pytest.mark.parametrize("name", [name for name, path in STUDIES.items() if 'base = "start.toml"' in path.read_text()])
def test_the_shared_start_learns_as_long_as_its_own_file_says(name):
    """A study's size has its own number of steps, which is not for the start."""
    study = read_study(STUDIES[name])
    found = study.experiment_before("start", study.cells()[0], {}).fit
    assert found.steps == tomllib.loads((PAPER / "start.toml").read_text())["fit"]["steps"]
    assert "start" in study.needs(study.cells()[0])
