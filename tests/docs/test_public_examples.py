"""The experiment files for public sets: sound, and reading what their downloads hold, on tiny stand-ins of each."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lamella.engine.experiment import read_experiment
from lamella.errors import ConfigError
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry
from public_stand_ins import FOLDERS, HUB, webdataset

ROOT = Path(__file__).parents[2]
PUBLIC = ROOT / "examples" / "public"
FILES = sorted(PUBLIC.glob("*.toml"))
SETS = ["boiko", "carinthia", "carinthia_s", "em3m", "miic", "minitem", "nffa", "warwick_stem"]
SETS += [f"autolamella_{part}" for part in ("liftout", "serial_liftout", "waffle")]


@pytest.fixture(scope="module")
def registry():
    return Registry.load(RegistryFile.read(ROOT / "registry.toml"))


def test_there_is_a_file_for_every_public_set_and_the_table_names_each():
    table = (PUBLIC / "README.md").read_text(encoding="utf-8")
    assert [path.stem for path in FILES] == sorted(SETS)
    assert all(f"]({path.name})" in table for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_file_for_a_public_set_is_sound_and_says_where_the_set_is(path, registry):
    experiment, text = read_experiment(path, registry=registry), path.read_text(encoding="utf-8")
    assert set(experiment.trainer.component.resolve().roles) <= set(experiment.file.data)
    assert "could not be downloaded where this was written" in text
    assert re.search(r"CC BY 4.0|MIT|non-commercial", text) and re.search(r"10\.\d+/|Hub \w+", text)
    assert f"lamella train examples/public/{path.name}" in text


def opened(path, registry, folder):
    """Every sample of every role of a file that lies where its set is."""
    (folder / "examples" / "public").mkdir(parents=True)
    there = shutil.copy(path, folder / "examples" / "public")
    experiment = read_experiment(Path(there), [f"data.{role}.slice=':'" for role in sliced(path)], registry=registry)
    tables = {role: experiment.open(role) for role in experiment.file.data}
    return tables, {role: [table.read(i) for i in range(len(table))] for role, table in tables.items()}


def sliced(path):
    """The roles that take rows by number, of which a stand-in has too few."""
    return [role for role, table in read_experiment(path).file.data.items() if table.slice and not table.streaming]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_download_that_is_unpacked_as_the_file_says_opens(name, registry, tmp_path):
    if name == "carinthia_s":
        FOLDERS[name](tmp_path / "carinthia-s")
    else:
        FOLDERS[name](tmp_path / "download")
        command = [sys.executable, str(PUBLIC / "arrange.py"), name, "download"]
        subprocess.run(command, cwd=tmp_path, check=True)
    tables, samples = opened(PUBLIC / f"{name}.toml", registry, tmp_path)
    if name in ("carinthia", "nffa"):
        found = [tables["labelled"].classes.names[sample.label] for sample in samples["labelled"]]
        assert set(found) == (
            {"1", "2", "3", "4", "5", "6"} if name == "carinthia" else {"Biological", "Fibres", "Tips"}
        )
        assert all(sample.name.startswith(label + "/") for label, sample in zip(found, samples["labelled"]))
        assert len(samples["labelled"]) + len(samples["test"]) == 18
    if name in ("boiko", "minitem"):
        assert {sample.views for role in samples.values() for sample in role} == {("high", "low")}
    if name == "boiko":
        assert (len(samples["unlabelled"]), len(samples["validation"])) == (4, 2)
    if name == "miic":
        assert [(sample.label == 1).sum() for sample in samples["labelled"]] == [20 * 24] * 6
    if name == "minitem":
        assert {sample.image.dtype for sample in samples["unlabelled"]} == {np.dtype(np.uint16)}


@pytest.mark.parametrize(
    "path", [path for path in FILES if re.match("autolamella|em3m", path.stem)], ids=lambda p: p.stem
)
def test_a_set_of_the_hub_with_the_columns_of_its_card_opens(path, registry, tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config, *, split, revision, data_files):
        asked.append((name, config, split))
        column = "mask" if "EM3M" in name else "annotation"
        kinds = datasets.Features({"image": datasets.Image(), column: datasets.Image()})
        return datasets.Dataset.from_dict(HUB[column](), features=kinds)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    tables, samples = opened(path, registry, tmp_path)
    part = path.stem.removeprefix("autolamella_").replace("_", "-") if "auto" in path.stem else None
    assert [(config, split) for _, config, split in asked] == [(part, "train"), (part, "test")]
    assert all(sample.label.max() < len(tables["test"].classes.names) for sample in samples["test"])


def test_the_webdataset_is_read_from_its_beginning(registry, tmp_path, monkeypatch):
    import datasets

    webdataset(tmp_path / "part.tar")
    real = datasets.load_dataset_builder

    def builder(name, config, *, revision, data_files):
        assert name == "Stemson-AI/Warwick-STEM"
        return real("webdataset", data_files={"train": [str(tmp_path / "part.tar")]})

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    _, samples = opened(PUBLIC / "warwick_stem.toml", registry, tmp_path)
    assert [sample.name for sample in samples["unlabelled"]] == ["00000", "00001", "00002"]


def test_where_a_set_is_not_there_a_sentence_says_so(registry, tmp_path):
    (tmp_path / "examples" / "public").mkdir(parents=True)
    there = Path(shutil.copy(PUBLIC / "carinthia.toml", tmp_path / "examples" / "public"))
    with pytest.raises(ConfigError, match="carinthia"):
        read_experiment(there, registry=registry).open("labelled")
