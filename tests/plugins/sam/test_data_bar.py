"""Data bars: whoever asks a run shows it what training and `predict` showed it, the specimen alone."""

import json

import numpy as np
import pytest
from lamella.cli.main import main
from lamella.data import grey
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.errors import DataError
from lamella_sam import segment_command
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.review import apply_clicks
from PIL import Image
from six_images import CLASSES, command, truth


def barred(number):
    """A picture of little contrast, with a black bar of eight rows and white letters below it."""
    noise = np.random.default_rng(number).integers(0, 6, (48, 64))
    bar = np.zeros((8, 64), np.uint8)
    bar[2:6, ::3] = 255
    return np.concatenate([(100 + truth(number) * 12 + noise).astype(np.uint8), bar])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Four images that say where their bar begins."""
    path = tmp_path_factory.mktemp("barred")
    for number in range(4):
        Image.fromarray(barred(number)).save(path / f"im{number}.png")
        (path / f"im{number}.txt").write_text("[SemImageFile]\nDataSize=64x48\nPixelSize=2.0\n")
    return path


def lamella(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert not end.value.code


def begun(path, given):
    folder = AnnotationFolder.create(path / "work", [given], CLASSES)
    for number in range(2):
        folder.write_mask(f"im{number}", np.concatenate([truth(number), np.full((8, 64), 255, np.uint8)]))
        folder.accept(f"im{number}", by="test")
    return folder


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory):
    """A run that has learned from two of them, which maps grey values by the whole image."""
    path = tmp_path_factory.mktemp("trained")
    folder = begun(path, given)
    tables = {
        "modality": {"name": "tem", "intensity": "image"},
        "data": {"labelled": folder.source(folder.of("accepted"))},
        "trainer": {
            "name": "sesami", "adapt": "nothing", "semantic": "exemplars", "backbone": {"name": "sam-nano", "size": 64},
        },
        "fit": {"steps": 2, "batch_size": 2, "log_every": 1},
    }  # fmt: skip
    fit(check_experiment(tables, name="tiny", folder=path), path / "run")
    return path / "run"


def test_a_suggestion_is_what_predict_says(given, trained, tmp_path):
    folder = begun(tmp_path, given)
    assert command("suggest", folder.path, "--run", trained) == 0
    lamella("predict", trained, given, "--out", tmp_path / "predicted")
    for name in ("im2", "im3"):
        predicted = np.asarray(Image.open(tmp_path / "predicted" / f"{name}.label.png"))
        suggested = folder.mask(name)
        assert predicted.shape == (48, 64) and suggested.shape == (56, 64)
        assert np.array_equal(suggested[:48], predicted) and (suggested[48:] == 255).all()


def test_an_object_is_asked_for_without_the_bar(given, trained, tmp_path):
    folder = begun(tmp_path, given)
    (tmp_path / "clicks.json").write_text(json.dumps([{"name": "im2", "x": 26, "y": 36, "class": "dot"}]))
    apply_clicks(folder, tmp_path / "clicks.json", "object", trained)
    assert (folder.mask("im2")[36, 26], (folder.mask("im2")[48:] == 255).all()) == (2, True)
    (tmp_path / "clicks.json").write_text(json.dumps([{"name": "im2", "x": 26, "y": 50, "class": "dot"}]))
    with pytest.raises(DataError, match=r"im2: the click \(x 26, y 50\) lies in the data bar"):
        apply_clicks(folder, tmp_path / "clicks.json", "object", trained)


def test_segment_shows_a_network_the_specimen(given, trained, tmp_path, monkeypatch):
    seen, real = [], segment_command._asked
    monkeypatch.setattr(segment_command, "_asked", lambda net, image, ask: seen.append(image) or real(net, image, ask))
    marks = np.zeros((56, 64), np.uint8)
    marks[10:18, 10:40], marks[50:54, 10:40] = 1, 2  # what is drawn in the bar counts as little as the bar
    Image.fromarray(marks).save(tmp_path / "marks.png")
    for words in (["--box", "20,30,31,41"], ["--mask", tmp_path / "marks.png"]):
        lamella("segment", given / "im2.png", "--out", tmp_path / "out", "--run", trained, *words)
        assert seen[-1].shape[-2:] == (48, 64) and seen[-1].min() == 0 and seen[-1].max() == 1
        assert np.asarray(Image.open(tmp_path / "out" / "im2.instances.png")).shape == (48, 64)


def test_an_image_is_not_mapped_by_the_grey_range_of_another(trained, tmp_path, monkeypatch):
    """Two whose even ground is alike, and whose only particle is not."""
    monkeypatch.setattr(grey, "_known", {})
    seen, real = [], segment_command._asked
    monkeypatch.setattr(segment_command, "_asked", lambda net, image, ask: seen.append(image) or real(net, image, ask))
    for name, level in (("a", 250), ("b", 60)):
        pixels = np.full((512, 512), 20, np.uint8)
        pixels[101:131, 141:171] = level
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = tmp_path / "a.png", tmp_path / "b.png"
    lamella("segment", *files, "--out", tmp_path / "out", "--run", trained, "--box", "5,5,50,50")
    assert [image.max() for image in seen] == [1, 1]
