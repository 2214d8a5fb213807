"""The scripts of examples/: each can be imported, and its options are those that the pages and it itself name."""

import argparse
import csv
import json
import re
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from lamella import Batch
from PIL import Image
from public_stand_ins import picture, save

HOME = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (HOME / "examples").rglob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
TEXTS = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md")), *SCRIPTS]
COMMAND = re.compile(r"(`)?python (examples/[\w/]+\.py)((?(1)[^`]*|(?:\\\n|[^\n#])*))")
PARSING = {path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")}
COMMANDS = [
    pytest.param(script, options, id=f"{text.stem}: {Path(script).stem} {number}")
    for text in TEXTS
    for number, (_, script, options) in enumerate(COMMAND.findall(text.read_text(encoding="utf-8")))
    if HOME / script in PARSING or not (HOME / script).is_file()
]


class Parsed(Exception):
    """The options were understood."""


def _loaded(path: Path):
    spec = spec_from_file_location(f"script_{path.stem}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_imported_and_says_how_it_is_called(path):
    assert f"python {path.relative_to(HOME)}" in _loaded(path).__doc__


@pytest.mark.parametrize("script, options", COMMANDS)
def test_a_command_that_is_written_down_has_options_that_exist(script, options, monkeypatch):
    module, parse = _loaded(HOME / script), argparse.ArgumentParser.parse_args

    def understood(parser):
        parse(parser)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood)
    words = re.sub(r"[\[\]]", "", options).replace("\\\n", " ")
    monkeypatch.setattr(sys, "argv", [script, *shlex.split(words)])
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("factor", [2, 3])
def test_shrunk_images_and_masks_stay_of_one_size(tmp_path, factor):
    script = _loaded(HOME / "examples" / "ebc1_leave_one_specimen_out.py")
    for part in ("train", "train_annot"):
        (tmp_path / "whole" / part).mkdir(parents=True)
        Image.new("L", (32, 20)).save(tmp_path / "whole" / part / "s1_1.png")
    out = script.shrunk(tmp_path / "whole", factor, tmp_path / "small")
    for path in (out / "train" / "s1_1.png", out / "train_annot" / "s1_1.png"):
        with Image.open(path) as small:
            assert small.size == (32 // factor, 20 // factor)


def test_images_shrunk_otherwise_are_not_put_in_the_place_of_those_that_runs_have_seen(tmp_path):
    script = _loaded(HOME / "examples" / "ebc1_leave_one_specimen_out.py")
    save(tmp_path / "whole" / "train" / "s1_1.png", picture(24, 36))
    for _ in range(2):
        script.shrunk(tmp_path / "whole", 2, tmp_path / "small")
    with pytest.raises(SystemExit, match="small has images of another size; choose another --out"):
        script.shrunk(tmp_path / "whole", 3, tmp_path / "small")


@pytest.fixture
def called(monkeypatch):
    """Calls a script of examples/, with the words of its command and names in it replaced."""

    def call(name, *words, **replaced):
        module = _loaded(HOME / "examples" / name)
        for known, value in replaced.items():
            monkeypatch.setattr(module, known, value)
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        module.main()

    return call


def test_answers_on_real_images_are_of_the_settings_that_are_asked_for(called, tmp_path, capsys):
    emps, out = tmp_path / "emps", tmp_path / "out"
    particles = np.arange(4, dtype=np.uint8).reshape(2, 2).repeat(32, 0).repeat(32, 1)
    for number in range(5):
        save(emps / "images" / f"{number}.png", picture(64, 64))
        save(emps / "segmaps" / f"{number}.png", particles)
    with (emps / "doi.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filename", "doi"], *([f"{n}.png", f"article {n}"] for n in range(5))])

    def fit(experiment, run):
        run.mkdir(parents=True)
        (run / "experiment.toml").write_text(experiment.resolved(), encoding="utf-8")
        figures = {f"miou_{kind}": experiment.fit.steps / 100 for kind in ("point", "box", "mask", "pooled")}
        (run / "results.json").write_text(json.dumps({"sets": {"test": figures}}), encoding="utf-8")

    words = ("emps", emps, "--out", out, "--size", 64, "--crop", 64, "--few", 1, "--tests", 1)
    for _ in range(2):  # what is there is shown again
        called("sam_real_images.py", *words, "--steps", 2, fit=fit)
        assert "0.020" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="emps-lora-0 was trained with other settings; choose another --out"):
        called("sam_real_images.py", *words, "--steps", 4, fit=fit)
    with pytest.raises(SystemExit, match="emps-nothing-0 was trained with other settings; choose another --out"):
        called("sam_real_images.py", *words, "--steps", 2, "--skip", 1, fit=fit)


def test_a_gauge_study_is_held_against_exposures(called, tmp_path, capsys):
    from lamella.engine.experiment import check_experiment
    from lamella.engine.fit import fit

    source = {"name": "synth-tem", "preset": "demo-finfet", "count": 4, "size": 64}
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": source}},
        "trainer": {"name": "supervised", "backbone": {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100"}},
        "fit": {"steps": 20, "batch_size": 4, "optimizer": {"lr": 1e-2}},
    }
    fit(check_experiment(tables, name="tiny", folder=tmp_path), tmp_path / "run")
    words = ("--preset", "demo-finfet", "--images", 2, "--exposures", 4, "--size", 64)
    called("gauge_against_truth.py", tmp_path / "run", *words)
    assert "median ratio" in capsys.readouterr().out


def test_pixels_without_a_label_are_no_defects_that_are_invented(monkeypatch):
    script = _loaded(HOME / "examples" / "paper" / "defect_sizes.py")
    label, said = torch.zeros(1, 20, 20, dtype=torch.long), torch.zeros(1, 2, 20, 20)
    label[:, 2:6, 2:6], label[:, 2, 12], label[:, 10:] = 1, 1, 255
    said[:, 1, 2:6, 2:5], said[:, 1, 12:18, 12:18] = 1.0, 1.0  # of a defect, and where there is no label
    trainer = argparse.Namespace(predict=lambda batch: said)
    opened = argparse.Namespace(open=lambda role: None), trainer, None, {"data": {"class_names": ["ground", "defect"]}}
    batches = [(Batch.of(torch.zeros(1, 1, 20, 20), label=label), ["one"])]
    monkeypatch.setattr(script, "open_run", lambda run: opened)
    monkeypatch.setattr(script, "evaluation_batches", lambda *given: batches)
    found = script.counted(Path(), "test", "defect", large=10)
    assert found["IoU"] == 12 / 17
    assert found["false objects per image"] == found["false pixels per defect pixel"] == 0


def test_no_image_of_the_magnification_series_is_in_two_pairs():
    pairs = _loaded(HOME / "examples" / "sem_magnification_series.py").PAIRS
    images = [image for pair in pairs.values() for image in pair]
    assert len(set(images)) == len(images) == 2 * 8
