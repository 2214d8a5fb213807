"""Experiment files: checked through and through, overridden from the command line, written out resolved."""

import sys
import tomllib
from pathlib import Path

import pytest
from lamella import Trainer
from lamella.engine.experiment import FitConfig, check_experiment, read_experiment
from lamella.errors import ConfigError, LamellaError
from lamella.registry.component import Component
from lamella.registry.registry import current
from PIL import Image


@pytest.fixture
def read(tiny_file, tiny_registry):
    """Read the tiny experiment with a piece of its text replaced, or with settings."""

    def reading(old="", new="", *settings):
        text = tiny_file.read_text()
        assert old in text
        tiny_file.write_text(text.replace(old, new, 1) if old else text + new)
        return read_experiment(tiny_file, settings, registry=tiny_registry)

    return reading


def test_a_file_becomes_plans_without_anything_being_built(read, monkeypatch):
    monkeypatch.setattr(Component, "make", lambda component, values: pytest.fail(f"{component.name} was built"))
    experiment = read()
    assert (experiment.name, experiment.seed, experiment.tests()) == ("tiny", 0, ["test"])
    assert experiment.trainer.component.full_name == "tiny_plugin:tiny-plain"
    assert experiment.fit.steps == 20


BROKEN = {
    "unknown key at the top": ("modality =", "steeps = 3\nmodality =", "'steeps' at the top"),
    "unknown key in fit": ("steps = 20", "steeps = 20", r"'steeps' in \[fit\]"),
    "unknown key in the optimizer": ("lr = 0.03", "rate = 0.03", r"'rate' in \[fit\.optimizer\]"),
    "unknown key in data": ("[data.test]", "[data.test]\nfolder = 'x'", r"'folder' in \[data\.test\]"),
    "text for a number": ("steps = 20", "steps = '20'", r"fit\.steps = '20'"),
    "fraction for a count": ("steps = 20", "steps = 2.5", r"fit\.steps = 2\.5"),
    "below its bound": ("steps = 20", "steps = 0", r"fit\.steps = 0"),
    "negative rate": ("lr = 0.03", "lr = -1.0", r"fit\.optimizer\.lr = -1\.0"),
    "unknown choice": ("steps = 20", "schedule = 'linear'", r"fit\.schedule = 'linear'.*poly"),
    "no modality": ('modality = "tiny-grey"', "", "modality must be given"),
    "no source": ('source = { name = "tiny-squares", count = 4, seed = 1 }', "", r"data\.test\.source must be given"),
    "no trainer": ('[trainer]\nname = "tiny-plain"\nbackbone = { name = "tiny-conv" }', "", "trainer must be given"),
    "unknown modality": ('"tiny-grey"', '"tiny-gray"', "modality.*'tiny-gray'.*did you mean 'tiny-grey'"),
    "unknown trainer": ('"tiny-plain"', '"plain"', r"trainer.*'plain'"),
    "unknown backbone": ('"tiny-conv"', '"conv"', r"backbone 'conv'"),
    "unknown parameter": ('"tiny-plain"', '"tiny-plain"\nbad_stop = 3', r"\[trainer\].*'bad_stop'.*bad_step"),
    "unknown nested parameter": ('"tiny-conv"', '"tiny-conv", widht = 3', r"\[trainer\]\.backbone.*'widht'.*'width'"),
    "wrong nested type": ('"tiny-conv"', '"tiny-conv", width = "x"', r"\[trainer\]\.backbone.*width = 'x'"),
    "no TOML": ("[fit]", "[fit", "not a TOML file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_one_sentence_that_names_file_and_key(read, tiny_file, case):
    old, new, said = BROKEN[case]
    with pytest.raises(LamellaError, match=said) as raised:
        read(old, new)
    assert "\n" not in str(raised.value)
    if case not in ("unknown modality", "unknown trainer", "unknown backbone"):
        assert str(tiny_file) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path, tiny_registry):
    with pytest.raises(ConfigError, match=r"gone\.toml: the experiment file cannot be read: No such file"):
        read_experiment(tmp_path / "gone.toml", registry=tiny_registry)


def test_settings_override_what_the_file_says(read):
    experiment = read(
        "", "", "fit.steps=7", "seed=5", "fit.optimizer.lr=1e-2", "fit.schedule=cosine", "trainer.backbone.width=4",
        "fit.batch_size={ labelled = 2 }", "data.test.slice='0:2'", "data.test-more.source=tiny-squares",
    )  # fmt: skip
    assert (experiment.fit.steps, experiment.seed, experiment.fit.optimizer.lr) == (7, 5, 0.01)
    assert (experiment.fit.schedule, experiment.trainer.parameters["backbone"].parameters) == ("cosine", {"width": 4})
    assert experiment.fit.batch_of("labelled") == 2
    assert experiment.file.data["test"].slice == "0:2"
    assert experiment.tests() == ["test", "test-more"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("fit.steps", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("fit.steeps=3", "steeps"),
        ("fit.steps=many", r"fit\.steps = 'many'"),
        ("fit.steps.more=3", "'steps' is a value, not a table"),
        ("trainer.backbone.widht=3", "widht"),
        ("fit.optimizer.betas=[0.9, 1.0]", r"fit\.optimizer\.betas\.1 = 1\.0: input should be less than 1"),
        ("fit.batch_size=0", r"fit\.batch_size = 0: a batch holds 1 image or more"),
        ("fit.batch_size={ labelled = -2 }", r"fit\.batch_size = {'labelled': -2}: a batch holds 1 image or more"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(read, setting, said):
    with pytest.raises(LamellaError, match=said):
        read("", "", setting)


def test_a_batch_size_for_every_role_but_one_is_noticed(read):
    experiment = read("batch_size = 4", "batch_size = { unlabelled = 2 }")
    with pytest.raises(ConfigError, match=r"batch_size.*'labelled'"):
        experiment.fit.batch_of("labelled")


@pytest.mark.parametrize(
    ("given", "sees", "expected"),
    [
        ({}, "tiles", 1024), ({"crop": 96}, "tiles", 1024), ({"tile": 300}, "tiles", 300),
        ({}, "trained", sys.maxsize), ({"crop": 96}, "trained", 96), ({"crop": 96, "tile": 300}, "trained", 300),
        ({"crop": 96, "tile": 300}, "whole", sys.maxsize),
    ],
)  # fmt: skip
def test_a_trainer_is_evaluated_on_as_much_of_an_image_as_it_wants_to_see(given, sees, expected):
    trainer = Trainer()
    trainer.sees = sees
    assert FitConfig(**given).tile_for(trainer) == expected


def test_a_role_without_a_table_says_what_to_add(read):
    experiment = read()
    with pytest.raises(ConfigError, match=r"\[data\.unlabelled\].*labelled, test"):
        experiment.open("unlabelled")


def test_the_resolved_experiment_reads_back_to_the_same(read, tiny_registry, tmp_path):
    experiment = read("", "", "seed=4", "trainer.bad_step=3", "trainer.loss={ name = 'tiny-loss', factor = 2.0 }")
    again = tmp_path / "run" / "experiment.toml"
    again.parent.mkdir()
    again.write_text(experiment.resolved(), encoding="utf-8")
    other = read_experiment(again, registry=tiny_registry)
    assert other.resolved() == experiment.resolved()
    assert other.seed == experiment.seed == 4
    assert other.fit == experiment.fit and other.trainer.spec()["bad_step"] == 3
    opened = [{role: len(one.open(role)) for role in one.file.data} for one in (experiment, other)]
    assert opened[0] == opened[1]


def test_the_resolved_experiment_names_plugins_in_full_and_folders_absolutely(read, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "pictures" / "a.png")
    experiment = read('source = { name = "tiny-squares", count = 4, seed = 1 }', 'source = "pictures"')
    tables = tomllib.loads(experiment.resolved())
    assert tables["trainer"]["name"] == "tiny_plugin:tiny-plain"
    assert tables["trainer"]["backbone"]["name"] == "tiny_plugin:tiny-conv"
    assert tables["modality"] == {"name": "tiny_plugin:tiny-grey", "stretch": False}
    assert tables["data"]["test"]["source"] == str(tmp_path / "pictures")


def test_what_more_takes_in_is_named_absolutely_too(read, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    more = 'more = [{ source = "one", more = [{ source = "two" }] }]'
    experiment = read('source = { name = "tiny-squares", count = 4, seed = 1 }', f'source = "one"\n{more}')
    first = tomllib.loads(experiment.resolved())["data"]["test"]["more"][0]
    assert [first["source"], first["more"][0]["source"]] == [str(tmp_path / "one"), str(tmp_path / "two")]


def test_a_folder_named_like_a_dataset_does_not_take_its_place(read, tmp_path):
    (tmp_path / "tiny-squares").mkdir()
    experiment = read('source = { name = "tiny-squares", count = 4, seed = 1 }', 'source = "tiny-squares"')
    assert len(experiment.open("test")) == 8
    assert tomllib.loads(experiment.resolved())["data"]["test"]["source"]["name"] == "tiny_plugin:tiny-squares"


def test_sets_are_stored_expanded():
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": "synth-tem"}},
        "trainer": {"name": "supervised", "backbone": "deeplabv3plus", "augment": "machine"},
    }
    experiment = check_experiment(tables, name="x", folder=Path())
    stored = tomllib.loads(experiment.resolved())["trainer"]["augment"]
    expected = [current().get("perturbation", spec["name"]).full_name for spec in current().sets["machine"]]
    assert [spec["name"] for spec in stored] == expected
    again = check_experiment(tomllib.loads(experiment.resolved()), name="x", folder=Path())
    assert again.trainer.spec() == experiment.trainer.spec()
