"""The experiment files for public sets fit the schema and name components that are there; they were never run."""

from pathlib import Path

import pytest
from lamella.engine.experiment import read_experiment
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "public").glob("*.toml"))


def test_there_are_files_and_the_table_names_each():
    table = (ROOT / "examples" / "public" / "README.md").read_text(encoding="utf-8")
    assert len(FILES) >= 4
    assert all(f"]({path.name})" in table for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_file_for_a_public_set_is_sound(path):
    registry = Registry.load(RegistryFile.read(ROOT / "registry.toml"))
    experiment = read_experiment(path, registry=registry)
    assert "labelled" in experiment.file.data
    assert experiment.tests() == ["test"]
    assert "could not be downloaded where this was written" in path.read_text(encoding="utf-8")
