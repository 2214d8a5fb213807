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


def test_a_text_that_appears_or_changes_beside_an_image_is_read(tiny_run, images, tmp_path):
    out, folder, wanted = tmp_path / "out", images(a=(24, 24), b=(24, 24)), Wanted(measurements=True, pixel_nm=1.0)
    predict(tiny_run, [folder], out, wanted=wanted)
    for rows in (20, 16):
        (folder / "a.txt").write_text(f"[SemImageFile]\nDataSize=24x{rows}\nPixelSize=2.0\n")
        outcome = predict(tiny_run, [folder], out, wanted=wanted)
        assert (outcome["done"], outcome["skipped"]) == (["a"], ["b"])
        assert pixels(out / "measurements.csv") == {"a": rows * 24, "b": 24 * 24}
    assert predict(tiny_run, [folder], out, wanted=wanted)["done"] == []


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


def test_more_images_add_to_the_tables_and_what_is_returned_is_about_the_call(tiny_run, images, tmp_path):
    wanted = Wanted(measurements=True, coco=True, pixel_nm=1.0)
    first, second = images("one", b=(24, 24), d=(20, 20)), images("two", a=(30, 20), c=(16, 16))
    predict(tiny_run, [first, second], tmp_path / "at-once", wanted=wanted)
    out = tmp_path / "out"
    predict(tiny_run, [first], out, wanted=wanted)
    shutil.rmtree(first)  # predicted, the originals are not needed any more
    outcome = predict(tiny_run, [second], out, wanted=wanted)
    assert (outcome["done"], outcome["skipped"], outcome["failed"]) == (["a", "c"], [], {})
    for name in ("areas.csv", "measurements.csv", "instances.csv", "columns.csv", "coco.json", "unlike.json"):
        assert (out / name).read_text() == (tmp_path / "at-once" / name).read_text()
    assert pixels(out / "measurements.csv") == {"a": 600, "b": 576, "c": 256, "d": 400}
    assert predict(tiny_run, [second / "c.png"], out, wanted=wanted)["skipped"] == ["c"]
    (out / "d.label.png").unlink()
    predict(tiny_run, [second / "c.png"], out, wanted=wanted)
    for name in ("areas.csv", "measurements.csv"):
        assert sorted({row["image"] for row in rows_of(out / name)}) == ["a", "b", "c"]


def test_label_maps_of_another_format_stay_in_the_tables(tiny_run, images, tmp_path):
    out = tmp_path / "out"
    predict(tiny_run, [images("one", a=(24, 24))], out)
    predict(tiny_run, [images("two", b=(24, 24))], out, wanted=Wanted(label_format="tiff", coco=True))
    assert [row["image"] for row in rows_of(out / "areas.csv")] == ["a", "b"]
    assert [one["file_name"] for one in json.loads((out / "coco.json").read_text())["images"]] == ["a.png", "b.png"]


def test_what_could_not_be_read_is_listed_while_it_is_there_and_cannot(tiny_run, images, tmp_path):
    def failed():
        return [*json.loads((out / "failed.json").read_text())]

    out, folder, more = tmp_path / "out", images(a=(24, 24)), images("more", z=(24, 24))
    for name in ("b", "c"):
        (folder / f"{name}.png").write_bytes(b"")
    assert [*predict(tiny_run, [folder], out)["failed"]] == failed() == ["b", "c"]
    assert predict(tiny_run, [more], out)["failed"] == {}
    assert failed() == ["b", "c"]
    images(b=(24, 24))
    assert predict(tiny_run, [folder / "b.png"], out)["done"] == ["b"]
    assert failed() == ["c"]
    (folder / "c.png").unlink()
    predict(tiny_run, [more], out)
    assert failed() == []
    assert [row["image"] for row in rows_of(out / "areas.csv")] == ["a", "b", "z"]
    (folder / "a.png").write_bytes(b"")  # it was read once; the file of now cannot be
    predict(tiny_run, [folder / "a.png"], out)
    assert (failed(), [row["image"] for row in rows_of(out / "areas.csv")]) == (["a"], ["b", "z"])
