"""Predicted into a folder that holds predictions already: what stays, what is replaced, what is refused."""

import csv
import json
import shutil

import numpy as np
import pytest
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.engine.journal import Journal, measured
from lamella.engine.predict import Wanted, predict
from lamella.errors import RunError
from PIL import Image


@pytest.fixture(autouse=True)
def registry_in_force(tiny_registry_file, monkeypatch):
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))


@pytest.fixture
def images(tmp_path):
    """Writes images of noise into a folder of their own: their names and sizes."""

    def write(folder="images", /, **sizes):
        (tmp_path / folder).mkdir(exist_ok=True)
        for seed, (name, size) in enumerate(sizes.items()):
            pixels = np.random.default_rng(seed).integers(0, 255, size, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
        return tmp_path / folder

    return write


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path):
    """How many pixels a table has of every image."""
    found = {}
    for row in rows_of(path):
        found[row["image"]] = found.get(row["image"], 0) + int(row["area_px"])
    return found


def test_measurements_are_of_the_image_that_is_there_whichever_process_measured_it(tiny_run, images, tmp_path):
    out, wanted = tmp_path / "out", Wanted(measurements=True, pixel_nm=1.0)
    predict(tiny_run, [images(a=(24, 24), b=(24, 24))], out, wanted=wanted)
    for kind in ("journal", "measured"):  # as two processes leave them
        first, second = (out / f"{kind}-0.jsonl").read_text().splitlines(keepends=True)
        (out / f"{kind}-0.jsonl").write_text(first)
        (out / f"{kind}-1.jsonl").write_text(second)
    assert predict(tiny_run, [images(b=(40, 30))], out, wanted=wanted)["done"] == ["b"]
    assert pixels(out / "measurements.csv") == {"a": 24 * 24, "b": 40 * 30}


def test_measurements_of_earlier_versions_are_read_and_older_than_all_others(tmp_path):
    size = {"pixel_nm": [1.0, 1.0]}
    for rank in (0, 1):
        with Journal(tmp_path, rank) as journal:
            for name in "ab":
                journal.note({"name": name}, {**size, "columns": [{"rank": rank}]})
    lines = [json.loads(line) for line in (tmp_path / "measured-1.jsonl").read_text().splitlines()]
    without = [{key: value for key, value in line.items() if key != "at"} for line in lines]
    (tmp_path / "measured-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in without[:1] + lines[1:]))
    assert [row["rank"] for row in measured(tmp_path, ["b", "a"], "columns")] == [1, 0]
    (tmp_path / "measured-0.jsonl").unlink()
    assert [row["image"] for row in measured(tmp_path, ["a", "b"], "columns")] == ["a", "b"]


def test_a_run_deleted_and_trained_again_is_another(tiny_file, tiny_registry, images, tmp_path):
    def trained(seed):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        experiment = read_experiment(tiny_file, ["fit.steps=1", "fit.ema=0.5", f"seed={seed}"], registry=tiny_registry)
        fit(experiment, tmp_path / "run")
        return tmp_path / "run"

    out, given = tmp_path / "out", [images(a=(24, 24))]
    predict(trained(0), given, out)
    with pytest.raises(RunError, match="predictions of another run or checkpoint"):
        predict(trained(1), given, out)
    assert predict(trained(0), given, out)["skipped"] == ["a"]  # the same to the bit
    note = json.loads((out / "predicted-by.json").read_text())
    del note["weights"]  # as earlier versions wrote it
    (out / "predicted-by.json").write_text(json.dumps(note))
    assert predict(trained(0), given, out)["skipped"] == ["a"]
    with pytest.raises(RunError, match="another run"):
        predict(trained(1), given, out)
