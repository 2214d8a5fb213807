"""`lamella predict` of a classifier: a table of classes for pairs, resumed, with what is missing or cannot be read."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from lamella import Sample
from lamella.cli.main import main
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.engine.predict import Wanted, predict
from lamella.engine.run import open_run
from lamella.errors import ConfigError, DataError, RunError
from PIL import Image

CLASSES = ["bridge", "none", "open"]
EXPERIMENT = """
modality = "sem"

[data.labelled]
source = "known"
{images}
group = '(?P<label>[a-z]+)-.*'

[trainer]
name = "classify"
encoder = {{ name = "vit", size = 16, patch = 8, width = 24, depth = 1, heads = 2 }}

[fit]
steps = 2
batch_size = 4
"""


def image(path, seed, size=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8)).save(path)


def trained(folder, images):
    (folder / "run.toml").write_text(EXPERIMENT.format(images=images))
    fit(read_experiment(folder / "run.toml"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(6):
        for place, view in enumerate(("high", "low")):
            image(folder / "known" / view / f"{CLASSES[number % 3]}-{number}.png", 10 * number + place)
    return trained(folder, 'images = { high = "high/*.png", low = "low/*.png" }')


@pytest.fixture
def new(tmp_path):
    """Four whole pairs, a fifth without its low image, a sixth with a damaged one, and a seventh of another size."""
    folder = tmp_path / "new"
    for number in range(4):
        for place, view in enumerate(("high", "low")):
            image(folder / view / f"D{number}.png", 100 + 10 * number + place)
    image(folder / "high" / "D4.png", 7)
    image(folder / "high" / "D5.png", 8)
    (folder / "low" / "D5.png").write_bytes(b"no image")
    for view in ("high", "low"):
        image(folder / view / "D6.png", 9, size=32)
    return folder


def test_what_is_about_label_maps_is_refused_of_a_classifier(run, new, tmp_path, capsys):
    for command in (["calibrate", str(run)], ["gauge", str(run), str(new), "--out", str(tmp_path / "g")]):
        with pytest.raises(SystemExit) as left:
            main(command)
        said = capsys.readouterr().err
        assert left.value.code == 2
        assert "no label maps" in said or "makes none" in said
        assert said.count("\n") == 1
    with pytest.raises(RunError, match="--abstain is about label maps"):
        predict(run, [new], tmp_path / "out", wanted=Wanted(abstain=True))


def table(out):
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_class_and_probabilities_of_every_pair(run, new, tmp_path):
    outcome = predict(run, [new], tmp_path / "out")
    assert outcome["done"] == ["D0", "D1", "D2", "D3", "D4", "D6"] and "D5" in outcome["failed"]["D5"]
    rows = table(tmp_path / "out")
    assert outcome["lacking"] == {"low": 1}
    assert list(rows["D0"]) == ["name", "class", "probability", "p(bridge)", "p(none)", "p(open)", "missing"]
    _, trainer, modality, _ = open_run(run)
    for name in ("D0", "D3"):
        planes = [np.asarray(Image.open(new / view / f"{name}.png")) for view in ("high", "low")]
        sample = Sample(np.stack(planes, 2), None, None, 0, 0, (1.0, 1.0), {}, name, views=("high", "low"))
        with torch.inference_mode():
            wanted = trainer.predict(modality.collate([sample]))[0]
        found = torch.tensor([float(rows[name][f"p({one})"]) for one in CLASSES])
        assert (found - wanted).abs().max() < 1e-5
        assert rows[name]["class"] == CLASSES[wanted.argmax()]
        assert float(rows[name]["probability"]) == pytest.approx(wanted.max().item(), abs=1e-5)
    assert (rows["D4"]["missing"], rows["D0"]["missing"]) == ("low", "")
    same = parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [row["class"] for row in same] == [row["class"] for row in rows.values()]
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {"bridge": 0, "none": 1, "open": 2}


def test_it_goes_on_with_what_is_missing_and_judges_again_what_has_changed(run, new, tmp_path, monkeypatch):
    from lamella.engine import predict_classes as module

    whole = predict(run, [new], tmp_path / "whole")
    honest = module._judged

    def stopped(samples, *rest):
        for place, found in enumerate(honest(samples, *rest)):
            if place == 3:  # behind the damaged one and two others
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(module, "_judged", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(run, [new], tmp_path / "out")
    monkeypatch.setattr(module, "_judged", honest)
    rest = predict(run, [new], tmp_path / "out")
    assert len(rest["skipped"]) == 2 and set(rest["skipped"]) | set(rest["done"]) == set(whole["done"])
    one, other = (table(tmp_path / name) for name in ("out", "whole"))
    assert {name: row["class"] for name, row in one.items()} == {name: row["class"] for name, row in other.items()}
    image(new / "low" / "D4.png", 70)  # the image that was missing comes later
    assert predict(run, [new], tmp_path / "out")["done"] == ["D4"]
    assert table(tmp_path / "out")["D4"]["missing"] == ""
    before = table(tmp_path / "out")["D0"]
    image(new / "high" / "D0.png", 71)  # another picture under the same name
    assert predict(run, [new], tmp_path / "out")["done"] == ["D0"]
    assert table(tmp_path / "out")["D0"]["p(open)"] != before["p(open)"]
    shutil.copytree(new, tmp_path / "another")  # files of the same names, sizes and times may be of other objects
    assert not predict(run, [tmp_path / "another"], tmp_path / "out")["skipped"]


def test_more_pairs_add_to_the_table(run, new, tmp_path):
    predict(run, [new], tmp_path / "whole")
    for number in (0, 1):
        for view in ("high", "low"):
            (tmp_path / "first" / view).mkdir(parents=True, exist_ok=True)
            (new / view / f"D{number}.png").rename(tmp_path / "first" / view / f"D{number}.png")
    assert predict(run, [tmp_path / "first"], tmp_path / "out")["done"] == ["D0", "D1"]
    shutil.rmtree(tmp_path / "first")
    outcome = predict(run, [new], tmp_path / "out")
    assert (outcome["done"], outcome["skipped"]) == (["D2", "D3", "D4", "D6"], [])
    assert table(tmp_path / "out") == table(tmp_path / "whole")
    for view in ("high", "low"):
        (new / view / "D5.png").rename(new / view / "E5.png")
    predict(run, [new], tmp_path / "out")
    assert list(json.loads((tmp_path / "out" / "failed.json").read_text())) == ["E5"]


def test_the_command_line_with_patterns_of_its_own(run, new, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(3):
        for view, ending in (("high", "H"), ("low", "L")):
            shutil.copy(new / view / f"D{number}.png", flat / f"D{number}_{ending}.png")
    out = tmp_path / "out"
    command = ["predict", str(run), str(flat), "--out", str(out), "--view", "high=*_H.png", "--view", "low=*_L.png"]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code in (0, None)
    assert f"table: {out / 'predictions.csv'}" in capsys.readouterr().out
    assert list(table(out)) == ["D0", "D1", "D2"]
    predict(run, [new], tmp_path / "other")
    assert [table(out)[n] for n in ("D0", "D1")] == [table(tmp_path / "other")[n] for n in ("D0", "D1")]


def test_single_images_have_classes_too(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("single")
    for number in range(6):
        image(folder / "known" / f"{CLASSES[number % 3]}-{number}.png", number)
    run = trained(folder, 'images = "*.png"')
    outcome = predict(run, [folder / "known"], tmp_path / "out")
    assert len(outcome["done"]) == 6 and "missing" not in table(tmp_path / "out")["none-1"]


@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        (Wanted(measurements=True), RunError, "--measure is about label maps"),
        (Wanted(coco=True), RunError, "--coco is about label maps"),
        (Wanted(stack="each"), RunError, "is not read from stacks"),
        (Wanted(views={"middle": "*.png"}), RunError, "'middle': this run knows the views high, low"),
        (Wanted(views={"high": "nothing/*.png"}), ConfigError, "no image file matches"),
        (Wanted(views={"high": "high"}), ConfigError, "needs a wildcard"),
    ],
)
def test_what_cannot_be_is_said(run, new, tmp_path, wanted, kind, words):
    with pytest.raises(kind, match=words):
        predict(run, [new], tmp_path / "out", wanted=wanted)


def test_files_of_which_no_two_belong_together_are_refused(run, tmp_path):
    image(tmp_path / "odd" / "high" / "A-high.png", 1)
    image(tmp_path / "odd" / "low" / "A-low.png", 2)
    with pytest.raises(DataError, match=r"none of 2 objects has all of high, low.*high/A-high\.png, low/A-low\.png"):
        predict(run, [tmp_path / "odd"], tmp_path / "out")
    views = {"high": "high/*.png"}  # asked for alone, one magnification is enough
    outcome = predict(run, [tmp_path / "odd"], tmp_path / "alone", wanted=Wanted(views=views))
    assert (outcome["done"], outcome["lacking"]) == (["A-high"], {"low": 1})


def test_a_file_alone_is_no_pair(run, new, tmp_path):
    with pytest.raises(DataError, match="give the folder they are in"):
        predict(run, [new / "high" / "D0.png"], tmp_path / "out")


def test_a_run_on_columns_of_a_dataset_needs_patterns(tmp_path, new):
    text = EXPERIMENT.format(images='columns = { image = { high = "image", low = "low" } }')
    text = text.replace('"known"', '{ name = "synth-sem", count = 8, size = 32, layout = "apart" }')
    text = text.replace("group = '(?P<label>[a-z]+)-.*'", "").replace("size = 16,", "size = 32,")
    (tmp_path / "run.toml").write_text(text)
    fit(read_experiment(tmp_path / "run.toml"), tmp_path / "run")
    with pytest.raises(RunError, match=r"say which files belong together, as --view 'high=high/\*.png'"):
        predict(tmp_path / "run", [new], tmp_path / "out")
    views = {"high": "high/D[0-3].png", "low": "low/D[0-3].png"}
    assert len(predict(tmp_path / "run", [new], tmp_path / "out", wanted=Wanted(views=views))["done"]) == 4
