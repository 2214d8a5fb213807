"""Correcting masks: superpixels, clicks, the rest, and what it costs a simulated annotator."""

import json

import numpy as np
import pytest
from lamella.errors import DataError
from lamella_sam.annotate.correct import Click, fill, superpixels
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.review import apply_clicks, draw
from lamella_sam.annotate.simulate import annotate
from PIL import Image
from six_images import CLASSES, command, picture, truth


def test_the_drawn_superpixels_are_those_that_clicks_fill(tmp_path):
    import tifffile

    pixels = (1000 + 150.0 * truth(0) + np.random.default_rng(0).normal(0, 20, (48, 64))).astype(np.uint16)
    pixels[2, 60] = 60000  # one hot pixel, and the 8-bit picture is flat
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.tif"], CLASSES)
    drawn = (np.asarray(Image.open(draw(folder, "a")))[:, -64:] == [255, 220, 0]).all(-1)
    segments = superpixels(folder.image("a"))
    edges = np.zeros(segments.shape, bool)
    edges[1:] |= segments[1:] != segments[:-1]
    edges[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    assert np.array_equal(drawn, edges)


def test_clicks_fill_superpixels_or_objects(folder, run, tmp_path, capsys):
    clicks = tmp_path / "clicks.json"
    clicks.write_text(json.dumps([{"name": "im3", "x": 26, "y": 36, "class": "dot"}]))
    assert command("review", folder.path, "--clicks", clicks) == 0
    label = AnnotationFolder(folder.path).mask("im3")
    assert label[36, 26] == 2 and (label == 2).sum() > 20 and (label == 255).any()
    assert command("review", folder.path, "--clicks", clicks, "--by", "object", "--run", run) == 0
    clicks.write_text(json.dumps([{"name": "im3", "x": 99, "y": 36, "class": "dot"}]))
    capsys.readouterr()
    assert command("review", folder.path, "--clicks", clicks) == 2
    assert "lies outside of the image of 48×64" in capsys.readouterr().err


def test_an_image_is_embedded_once_for_all_its_clicks(folder, run, tmp_path, monkeypatch):
    from lamella_sam.backbone import SamBackbone

    embedded, real = [], SamBackbone.embed
    monkeypatch.setattr(SamBackbone, "embed", lambda self, image: embedded.append(len(image)) or real(self, image))
    clicks = [{"name": name, "x": x, "y": 10, "class": "bar"} for name in ("im3", "im4") for x in (4, 24, 54)]
    (tmp_path / "clicks.json").write_text(json.dumps(clicks))
    apply_clicks(folder, tmp_path / "clicks.json", "object", run)
    assert embedded == [1, 1]


def test_the_size_of_an_image_is_asked_without_its_pixels(folder, monkeypatch):
    monkeypatch.setattr("lamella_sam.annotate.folder.read_image", None)
    assert folder.size("im3") == (48, 64)
    folder.preview("im3").write_bytes(b"no image")
    with pytest.raises(DataError, match="the picture cannot be read"):
        folder.size("im3")


def test_clicks_of_which_one_is_wrong_change_nothing_and_accepted_masks_stay(folder, tmp_path, capsys):
    clicks = tmp_path / "clicks.json"
    good, outside = {"name": "im3", "x": 26, "y": 36, "class": "dot"}, {"name": "im4", "x": 99, "y": 36, "class": "dot"}
    clicks.write_text(json.dumps([good, outside]))
    assert command("review", folder.path, "--clicks", clicks) == 2
    assert not folder.mask_path("im3").is_file()
    folder.write_mask("im4", truth(4))
    assert command("accept", folder.path, "im4") == 0
    clicks.write_text(json.dumps([good, {**outside, "x": 5}]))
    capsys.readouterr()
    assert command("review", folder.path, "--clicks", clicks) == 2
    assert "im4 is accepted: its mask stays" in capsys.readouterr().err
    again = AnnotationFolder(folder.path)
    assert np.array_equal(again.mask("im4"), truth(4)) and not again.mask_path("im3").is_file()


def test_what_is_not_labelled_becomes_the_rest(folder, tmp_path, capsys):
    clicks = tmp_path / "clicks.json"
    clicks.write_text(json.dumps([{"name": "im3", "x": 26, "y": 36, "class": "dot"}]))
    assert command("review", folder.path, "--clicks", clicks) == 0
    dots = AnnotationFolder(folder.path).mask("im3") == 2
    assert command("review", folder.path, "--rest", "ground") == 0
    again = AnnotationFolder(folder.path)
    assert np.array_equal(again.mask("im3"), np.where(dots, 2, 0))
    assert not again.mask_path("im4").is_file()  # nobody named it, and nothing in it is labelled
    assert f"im3: {(~dots).sum()} pixels became ground" in capsys.readouterr().out
    assert command("review", folder.path, "im4", "--rest", "bar") == 0
    assert (AnnotationFolder(folder.path).mask("im4") == 1).all()
    assert command("accept", folder.path, "im4") == 0
    mistakes = {
        ("im4", "--rest", "dot"): "im4 is accepted: its mask stays",
        ("im4",): "for --rest CLASS alone",
        ("--rest", "sky"): "none of the classes ground, bar, dot",
        ("im99", "--rest", "bar"): "no image 'im99'",
    }
    for wrong, said in mistakes.items():
        assert command("review", folder.path, *wrong) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["--by", "object"], "--by says what a click fills; give --clicks FILE too"),
    (["--by", "superpixel"], "--by says what a click fills"),
    (["--clicks", "c.json", "--run", "nowhere"], "--run is whose network sees an object; give --by object too"),
    (["--clicks", "c.json", "--by", "superpixel", "--run", "nowhere"], "--run is whose network"),
    (["--run", "nowhere"], "--run is whose network"),
])  # fmt: skip
def test_options_that_would_not_be_used_are_refused(folder, capsys, words, message):
    assert command("review", folder.path, *words) == 2
    assert message in capsys.readouterr().err


def test_superpixels_keep_to_edges():
    segments = superpixels(picture(0), size=8)
    inside = truth(0)
    purity = sum(np.bincount(inside[segments == s]).max() for s in np.unique(segments)) / inside.size
    assert purity > 0.97 and len(np.unique(segments)) > 20
    filled = fill(np.zeros((48, 64), np.uint8), Click("x", 26, 36, 2), segments)
    assert filled[36, 26] == 2 and (filled[inside != 2] == 2).mean() < 0.02


def test_clicks_nowhere_are_one_sentence(folder, tmp_path, capsys):
    clicks = tmp_path / "clicks.json"
    for x, name in (("Infinity", '"im1"'), ("1", "[]")):
        clicks.write_text(f'[{{"name": {name}, "x": {x}, "y": 1, "class": "dot"}}]')
        assert command("review", folder.path, "--clicks", clicks) == 2
    assert "clicks are a JSON list" in capsys.readouterr().err


def test_the_simulated_annotator_mends_a_mask_and_a_better_start_costs_less():
    label, segments = truth(0), superpixels(picture(0), size=6)
    nothing = annotate(label, np.full_like(label, 255), segments, good=0.02)
    shifted = np.roll(label, 2, axis=1)
    close = annotate(label, shifted, segments, good=0.02)
    right = annotate(label, label, segments, good=0.02)
    assert (right.clicks, right.drawn) == (0, 0)
    assert close.total() < nothing.total()
    for effort in (nothing, close):
        assert effort.wrong == sorted(effort.wrong, reverse=True) and effort.wrong[-1] <= 0.02
        assert (effort.label != label).mean() <= 0.02
