"""New images through a trained run: label maps, overlays, areas, and what to do with files that cannot be read."""

import csv
import json
import math
import os
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import Sample
from lamella.data.formats.files import read_mask, read_micrograph
from lamella.engine import experiment, predictor
from lamella.engine import predict as module
from lamella.engine.evaluate import predict_whole
from lamella.engine.inputs import find_images
from lamella.engine.large import predict_large
from lamella.engine.pictures import colours
from lamella.engine.predict import Wanted, predict
from lamella.engine.run import open_run
from lamella.errors import DataError, RunError
from lamella.measure.instances import instances
from PIL import Image
from tiny_plugin import CLASSES, Conv, Grey, Plain, squares


@pytest.fixture(autouse=True)
def registry_in_force(tiny_registry_file, monkeypatch):
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))


@pytest.fixture
def pictures(tmp_path):
    """Three images of different sizes and kinds, and a damaged one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (20, 30), np.uint8)).save(folder / "a.png")
    Image.fromarray(random.integers(0, 255, (33, 17, 3), np.uint8)).save(folder / "b.png")
    Image.fromarray(random.integers(0, 255, (40, 40), np.uint8)).save(folder / "c.tif")
    (folder / "d.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def expected(run, path):
    """The label map by the trainer of the opened run."""
    _, trainer, modality, _ = open_run(run)
    sample = Sample(np.asarray(Image.open(path)), None, None, 0, 0, (math.nan,) * 2, {}, "x")
    with torch.inference_mode():
        return trainer.predict(modality.collate([sample]))[0].argmax(0).numpy()


def test_every_image_gets_a_label_map_of_its_size_with_the_classes_as_values(tiny_run, pictures, tmp_path):
    outcome = predict(tiny_run, [pictures], tmp_path / "out")
    assert sorted(outcome["done"]) == ["a", "b", "c"]
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {name: i for i, name in enumerate(CLASSES)}
    for name in ("a.png", "b.png", "c.tif"):
        with Image.open(tmp_path / "out" / f"{name[0]}.label.png") as label:
            assert label.mode == "P"
            assert label.getpalette()[:9] == [part for colour in colours(CLASSES) for part in colour]
            assert (np.asarray(label) == expected(tiny_run, pictures / name)).all()
        with Image.open(tmp_path / "out" / f"{name[0]}.overlay.png") as overlay, Image.open(pictures / name) as image:
            assert (overlay.mode, overlay.size) == ("RGB", image.size)


def test_a_file_that_cannot_be_read_is_listed_and_does_not_stop_the_rest(tiny_run, pictures, tmp_path):
    outcome = predict(tiny_run, [pictures], tmp_path / "out")
    assert list(outcome["failed"]) == ["d"]
    assert "0 bytes" in outcome["failed"]["d"]
    assert json.loads((tmp_path / "out" / "failed.json").read_text()) == outcome["failed"]


@pytest.mark.parametrize("pixel_nm", [None, 0.5])
def test_areas_are_pixels_and_with_a_pixel_size_square_nanometres(tiny_run, pictures, tmp_path, pixel_nm):
    predict(tiny_run, [pictures], tmp_path / "out", wanted=Wanted(pixel_nm=pixel_nm))
    with (tmp_path / "out" / "areas.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["a", "b", "c"]
    counts = np.bincount(expected(tiny_run, pictures / "a.png").ravel(), minlength=3)
    for number, name in enumerate(CLASSES):
        assert int(rows["a"][f"{name} (px)"]) == counts[number]
        if pixel_nm is None:
            assert f"{name} (nm²)" not in rows["a"]
        else:
            assert float(rows["a"][f"{name} (nm²)"]) == pytest.approx(counts[number] * 0.25, rel=1e-5)


def test_probabilities_are_written_on_request(tiny_run, pictures, tmp_path):
    predict(tiny_run, [pictures / "a.png"], tmp_path / "out", wanted=Wanted(probabilities=True))
    maps = [np.asarray(Image.open(tmp_path / "out" / f"a.p-{name}.png")).astype(int) for name in CLASSES]
    assert {m.shape for m in maps} == {(20, 30)}
    assert abs(sum(maps) - 255).max() <= 2


def test_a_prediction_that_was_stopped_goes_on_with_what_is_missing(tiny_run, pictures, tmp_path, monkeypatch):
    honest, seen = module.Predictor.predict, []

    def watched(self, name, path):
        if name == "c" and not seen.count("stopped"):
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.append(name)
        return honest(self, name, path)

    monkeypatch.setattr(module.Predictor, "predict", watched)
    with pytest.raises(KeyboardInterrupt):
        predict(tiny_run, [pictures], tmp_path / "out")
    outcome = predict(tiny_run, [pictures], tmp_path / "out")
    assert [name for name in seen if name in "abc"] == ["a", "b", "c"]
    assert (outcome["done"], outcome["skipped"]) == (["c"], ["a", "b"])
    with (tmp_path / "out" / "areas.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a", "b", "c"]


def test_images_of_one_stem_get_names_of_their_own(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / folder / "a.png")
        Image.new("L", (4, 4)).save(tmp_path / folder / "a.tif")
    named = find_images([tmp_path / "x", tmp_path / "y"])
    assert len(named) == 4
    assert set(named.values()) == set(tmp_path.glob("?/a.*"))


@pytest.mark.parametrize("what", ["nowhere", "empty"])
def test_nothing_to_predict_is_said(tiny_run, tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=what):
        predict(tiny_run, [tmp_path / what], tmp_path / "out")


def test_a_folder_that_is_no_run_is_said(pictures, tmp_path):
    with pytest.raises(RunError, match=r"no run folder"):
        predict(pictures, [pictures], tmp_path / "out")


def test_a_damaged_file_whose_name_is_no_utf8_is_listed_too(tiny_run, pictures, tmp_path):
    (pictures / os.fsdecode(b"e\xff.png")).write_bytes(b"")
    outcome = predict(tiny_run, [pictures], tmp_path / "out")
    assert sorted(outcome["done"]) == ["a", "b", "c"] and len(outcome["failed"]) == 2
    assert len(json.loads((tmp_path / "out" / "failed.json").read_text())) == 2


@pytest.fixture(scope="module")
def trainer():
    torch.manual_seed(0)
    return Plain(backbone=Conv(channels=1, classes=3), class_names=list(CLASSES)).eval()


class Dimmest(Plain):
    """One class per grey level: sees one pixel and nothing else."""

    def predict(self, batch):
        return torch.stack([1 - (batch.image[:, 0] - level).abs() for level in (0.0, 0.5, 1.0)], 1)


@given(st.integers(1, 150), st.integers(1, 150), st.integers(8, 64), st.integers(0, 99))
def test_in_strips_every_pixel_is_what_it_is_in_one_piece(height, width, tile, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width), np.uint8)
    sample = Sample(pixels, None, None, 0, 0, (math.nan,) * 2, {}, "x")
    dimmest = Dimmest(backbone=Conv(channels=1, classes=3), class_names=list(CLASSES)).eval()
    with torch.inference_mode():
        label = predict_large(dimmest, sample, Grey(), tile=tile, device=torch.device("cpu"))
        whole = dimmest.predict(Grey().collate([sample]))[0].argmax(0).numpy()
    unclear = np.abs(pixels / 255 - 0.25) < 1e-3, np.abs(pixels / 255 - 0.75) < 1e-3
    assert (label == whole)[~(unclear[0] | unclear[1])].all()


@pytest.mark.parametrize(("height", "width"), [(200, 131), (90, 300), (113, 64)])
def test_strips_blend_as_the_tiles_of_a_whole_image_do(trainer, height, width):
    pixels = np.random.default_rng(1).integers(0, 255, (height, width), np.uint8)
    sample = Sample(pixels, None, None, 0, 0, (math.nan,) * 2, {}, "x")
    with torch.inference_mode():
        label = predict_large(trainer, sample, Grey(), tile=64, device=torch.device("cpu"))
        likely = predict_whole(trainer, Grey().collate([sample]), 64)[0]
    clear = likely.topk(2, 0).values.diff(dim=0)[0].abs().numpy() > 1e-5
    assert clear.mean() > 0.99
    assert (label == likely.argmax(0).numpy())[clear].all()


def test_large_images_go_through_strips_and_come_out_whole(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "LARGE", 64)
    monkeypatch.setattr(experiment, "_TILE", 64)
    monkeypatch.setattr(predictor, "_OVERLAY_SIDE", 50)
    strips = Mock(side_effect=predict_large)
    monkeypatch.setattr(predictor, "predict_large", strips)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 70), np.uint8)).save(tmp_path / "big.png")
    assert predict(tiny_run, [tmp_path / "big.png"], tmp_path / "out")["done"] == ["big"]
    with Image.open(tmp_path / "out" / "big.label.png") as label, Image.open(tmp_path / "out" / "big.overlay.png") as o:
        assert (label.size, o.size) == ((70, 100), (35, 50))
        assert (np.asarray(label) == expected(tiny_run, tmp_path / "big.png")).mean() > 0.98
    strips.assert_called_once()


# Pixel sizes, measurements, stacks and bars


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sized(tmp_path):
    """Two images that say their pixel size (not square), and one that does not."""
    folder = tmp_path / "sized"
    folder.mkdir()
    for name, size in (("a", (0.5, 0.25)), ("b", (2.0, 2.0))):
        image = squares(count=1, seed=ord(name), size=64)[0]["image"]
        tifffile.imwrite(folder / f"{name}.tif", np.asarray(image), imagej=True,
                         resolution=(1 / size[1], 1 / size[0]), metadata={"unit": "nm"})  # fmt: skip
    squares(count=1, seed=9, size=64)[0]["image"].save(folder / "c.png")
    return folder


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_label_maps_keep_classes_and_pixel_size(tiny_run, sized, tmp_path, form):
    predict(tiny_run, [sized], tmp_path / "out", wanted=Wanted(label_format=form))
    for name, size in (("a", (0.5, 0.25)), ("b", (2.0, 2.0))):
        path = tmp_path / "out" / f"{name}.label.{'png' if form == 'png' else 'tif'}"
        assert read_micrograph(path).pixel_nm == pytest.approx(size, rel=1e-6)
        assert (read_mask(path) == expected(tiny_run, sized / f"{name}.tif")).all()
        assert read_micrograph(tmp_path / "out" / f"{name}.overlay.png").pixel_nm == pytest.approx(size, rel=1e-6)
    assert math.isnan(read_micrograph(next((tmp_path / "out").glob("c.label.*"))).pixel_nm[0])


def test_overlays_have_a_scale_bar_where_the_pixel_size_is_known(tiny_run, sized, tmp_path):
    known, unknown = tmp_path / "known", tmp_path / "unknown"
    predict(tiny_run, [sized / "c.png"], known, wanted=Wanted(pixel_nm=1.0))
    predict(tiny_run, [sized / "c.png"], unknown)
    one, other = (np.asarray(Image.open(out / "c.overlay.png")).astype(int) for out in (known, unknown))
    changed = np.argwhere((one != other).any(2))
    white = (one == 255).all(2) & (other != 255).any(2)
    assert changed[:, 0].min() >= 30
    assert max(white.sum(1)) >= 10  # 64 px at 1 nm: a bar of 10 nm


def test_measurements_use_each_files_own_pixel_size(tiny_run, sized, tmp_path):
    out = tmp_path / "out"
    predict(tiny_run, [sized], out, wanted=Wanted(measurements=True, coco=True, structures=["thing=square+disc"]))
    found = {(row["image"], row["class"]): row for row in rows_of(out / "measurements.csv")}
    assert len(found) == 3 * 4
    for name, square in (("a", 0.125), ("b", 4.0)):
        counts = np.bincount(expected(tiny_run, sized / f"{name}.tif").ravel(), minlength=3)
        for number, label in enumerate(CLASSES):
            row = found[name, label]
            assert int(row["area_px"]) == counts[number]
            assert float(row["area_nm2"]) == pytest.approx(counts[number] * square, rel=1e-5)
        assert int(found[name, "thing"]["area_px"]) == counts[1] + counts[2]
    assert (found["c", "square"]["area_nm2"], found["c", "square"]["pixel_x_nm"]) == ("", "")
    objects = rows_of(out / "instances.csv")
    for name in ("a", "b", "c"):
        mine = [row for row in objects if row["image"] == name]
        label = read_mask(out / f"{name}.label.png")
        truth = [one.area_px for one in instances(label, CLASSES, (math.nan, math.nan))]
        assert [int(row["area_px"]) for row in mine] == truth
    assert len(json.loads((out / "coco.json").read_text())["annotations"]) == len(objects)
    areas = {row["image"]: row for row in rows_of(out / "areas.csv")}
    assert (areas["c"]["square (nm²)"], areas["a"]["square (nm²)"]) == ("", found["a", "square"]["area_nm2"])
    assert {path.stem for path in out.glob("*.parquet")} == {"areas", "measurements", "instances", "columns"}


def test_measurements_of_a_prediction_that_was_stopped_are_whole(tiny_run, sized, tmp_path, monkeypatch):
    straight, stopped, wanted = tmp_path / "straight", tmp_path / "stopped", Wanted(measurements=True)
    predict(tiny_run, [sized], straight, wanted=wanted)
    honest = module.Journal.note

    def killed(self, entry, measured=None):
        honest(self, entry, measured)
        if entry["name"] == "a":
            (stopped / "journal-0.jsonl").write_text("")  # as if killed between measurements and journal
            raise KeyboardInterrupt

    monkeypatch.setattr(module.Journal, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(tiny_run, [sized], stopped, wanted=wanted)
    monkeypatch.setattr(module.Journal, "note", honest)
    assert predict(tiny_run, [sized], stopped, wanted=wanted)["done"] == ["a", "b", "c"]
    assert (stopped / "measured-0.jsonl").read_text().count('"name": "a"') == 2
    for table in ("measurements", "instances", "columns", "areas"):
        assert (stopped / f"{table}.csv").read_text() == (straight / f"{table}.csv").read_text()


def test_a_folder_begun_with_other_settings_is_refused(tiny_run, sized, tmp_path):
    predict(tiny_run, [sized], tmp_path / "out")
    with pytest.raises(RunError, match="measurements = False, not True"):
        predict(tiny_run, [sized], tmp_path / "out", wanted=Wanted(measurements=True))
    with pytest.raises(RunError, match="pixel_nm = None, not 2"):
        predict(tiny_run, [sized], tmp_path / "out", wanted=Wanted(pixel_nm=2.0))


def test_what_is_there_already_is_what_was_predicted_from_this_file(tiny_run, pictures, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    predict(tiny_run, [pictures], out)
    Image.fromarray(np.zeros((50, 60), np.uint8)).save(pictures / "a.png")
    assert predict(tiny_run, [pictures], out)["done"] == ["a"]
    assert read_mask(out / "a.label.png").shape == (50, 60)
    outcome = predict(tiny_run, [pictures], out, wanted=Wanted(probabilities=True))
    assert outcome["done"] == ["a", "b", "c"] and len(list(out.glob("*.p-*.png"))) == 3 * len(CLASSES)
    other.mkdir()
    Image.fromarray(np.ones((20, 30), np.uint8)).save(other / "a.png")
    with pytest.raises(RunError, match=r"pictures/a\.png, and .*other/a\.png would take its name.*another --out"):
        predict(tiny_run, [other], out)
    with pytest.raises(RunError, match="data_bar = None, not 'find'"):
        predict(tiny_run, [pictures], out, wanted=Wanted(data_bar="find"))


def test_another_image_of_the_same_name_size_and_time_is_not_taken_for_done(tiny_run, tmp_path):
    for lot in ("a", "b"):
        (tmp_path / lot).mkdir()
        tifffile.imwrite(tmp_path / lot / "001.tif", np.full((20, 20), ord(lot), np.uint8))
        os.utime(tmp_path / lot / "001.tif", (1e9, 1e9))
    predict(tiny_run, [tmp_path / "a"], tmp_path / "out")
    with pytest.raises(RunError, match=r"a/001\.tif, and .*b/001\.tif would take its name"):
        predict(tiny_run, [tmp_path / "b"], tmp_path / "out")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert predict(tiny_run, [tmp_path / "moved"], tmp_path / "out")["skipped"] == ["001"]


def test_nothing_is_predicted_into_the_folder_of_the_images(tiny_run, pictures, tmp_path):
    with pytest.raises(RunError, match=r"holds the images.*choose another --out"):
        predict(tiny_run, [pictures], tmp_path / "other" / ".." / "pictures")
    with pytest.raises(RunError, match=r"holds the images.*choose another --out"):
        predict(tiny_run, sorted(pictures.iterdir()), pictures)
    assert len(list(pictures.iterdir())) == 5


def test_probabilities_of_a_large_image_are_those_of_the_whole(tiny_run, tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 90), np.uint8)).save(tmp_path / "a.png")
    predict(tiny_run, [tmp_path / "a.png"], tmp_path / "whole", wanted=Wanted(probabilities=True))
    monkeypatch.setattr(predictor, "LARGE", 64)
    monkeypatch.setattr(experiment, "_TILE", 64)
    predict(tiny_run, [tmp_path / "a.png"], tmp_path / "strips", wanted=Wanted(probabilities=True))
    for name in CLASSES:
        one, two = (read_mask(tmp_path / way / f"a.p-{name}.png").astype(int) for way in ("whole", "strips"))
        assert abs(one - two).mean() < 3  # strips blend wider than tiles


def test_a_class_may_have_a_name_that_no_file_can_have(tiny_run, tmp_path):
    one = predictor.Predictor(Mock(), Mock(), Mock(), ["Si/Ge", "SiO2"], 64, tmp_path)
    assert [one.map_path("a", number).name for number in (0, 1)] == ["a.p-Si_Ge.png", "a.p-SiO2.png"]


def test_every_frame_of_a_stack_is_predicted_on_request(tiny_run, tmp_path):
    frames = np.stack([np.asarray(row["image"]) for row in squares(count=3, seed=4)])
    tifffile.imwrite(tmp_path / "s.tif", frames, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "nm"})
    assert "stack of 3 frames" in predict(tiny_run, [tmp_path / "s.tif"], tmp_path / "no")["failed"]["s"]
    outcome = predict(tiny_run, [tmp_path / "s.tif"], tmp_path / "out", wanted=Wanted(stack="each"))
    assert outcome["done"] == ["s-f0000", "s-f0001", "s-f0002"]
    Image.fromarray(frames[1]).save(tmp_path / "one.png")
    label = tmp_path / "out" / "s-f0001.label.png"
    assert (read_mask(label) == expected(tiny_run, tmp_path / "one.png")).all()
    assert read_micrograph(label).pixel_nm == pytest.approx((0.5, 0.5))
    assert predict(tiny_run, [tmp_path / "s.tif"], tmp_path / "mean", wanted=Wanted(stack="mean"))["done"] == ["s"]


def test_a_data_bar_is_cut_as_in_training_or_as_told(tiny_run, tmp_path):
    pixels = np.random.default_rng(0).integers(70, 180, (100, 120), np.uint8)
    pixels[80:] = 0
    pixels[86:94, 10:60:3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for name, wanted, height in (("as", Wanted(), 100), ("find", Wanted(data_bar="find"), 80)):
        predict(tiny_run, [tmp_path / "a.png"], tmp_path / name, wanted=wanted)
        assert read_mask(tmp_path / name / "a.label.png").shape == (height, 120)


def test_a_scale_bar_is_read_where_the_training_read_it(tiny_run, tmp_path, monkeypatch):
    from lamella.data import reading

    monkeypatch.setattr(reading, "with_scale_bar", lambda whole, path: replace(whole, pixel_nm=(3.0, 3.0)))
    told = tmp_path / "told"
    shutil.copytree(tiny_run, told)
    text = (told / "experiment.toml").read_text()
    (told / "experiment.toml").write_text(text.replace("[data.labelled]", '[data.labelled]\npixel_nm = "scale-bar"', 1))
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(picture)
    for name, one, size in (("told", told, 3.0), ("plain", tiny_run, math.nan)):
        predict(one, [picture], tmp_path / name)
        entry = json.loads((tmp_path / name / "journal-0.jsonl").read_text().splitlines()[0])
        assert entry["pixel_nm"][0] == pytest.approx(size, nan_ok=True)
