"""The data engine: folder, suggestions, corrections, exchange with other tools, and the gate."""

import json

import numpy as np
import pytest
import torch
from lamella.cli.main import main
from lamella.engine.experiment import check_experiment, read_experiment
from lamella.engine.fit import fit
from lamella.errors import ConfigError, DataError
from lamella_sam.annotate import exchange, retrain, suggest
from lamella_sam.annotate.correct import Click, fill, superpixels
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.gate import judge
from lamella_sam.annotate.retrain import locked_figures, promote
from lamella_sam.annotate.review import draw
from lamella_sam.annotate.simulate import annotate
from PIL import Image

CLASSES = ["ground", "bar", "dot"]


def truth(number):
    label = np.zeros((48, 64), np.uint8)
    label[8:20, 4 + number : 50] = 1
    label[30:42, 20:32] = 2
    return label


def picture(number, dtype=np.uint8):
    noise = np.random.default_rng(number).integers(0, 12, (48, 64))
    return ((truth(number) * 90 + noise) * (257 if dtype == np.uint16 else 1)).astype(dtype)


def six_images(path):
    """A folder of six images, one of them a 16-bit TIFF."""
    import tifffile

    given = path / "given"
    given.mkdir()
    for number in range(5):
        Image.fromarray(picture(number)).save(given / f"im{number}.png")
    tifffile.imwrite(given / "im5.tif", picture(5, np.uint16))
    return AnnotationFolder.create(path / "work", [given], CLASSES)


@pytest.fixture
def folder(tmp_path):
    """Six images without masks."""
    return six_images(tmp_path)


def accept_two(folder):
    for number in range(2):
        folder.write_mask(f"im{number}", truth(number))
        folder.accept(f"im{number}", by="test")


def experiment_tables(folder, **trainer):
    return {
        "modality": {"name": "tem", "intensity": "image"},
        "data": {"labelled": folder.source(folder.of("accepted"))},
        "trainer": {
            "name": "sesami", "backbone": {"name": "sam-nano", "weights": "none"}, "prompts": 2, "corrections": 0,
            **trainer,
        },
        "fit": {"steps": 2, "batch_size": 2, "log_every": 1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on two accepted images."""
    path = tmp_path_factory.mktemp("trained")
    folder = six_images(path)
    accept_two(folder)
    fit(check_experiment(experiment_tables(folder), name="tiny", folder=path), path / "run")
    return path / "run"


@pytest.fixture
def run(folder, trained):
    """That run, with the same two images accepted in this test's folder."""
    accept_two(folder)
    return trained


def command(*words):
    try:
        main(["annotate", *map(str, words)])
    except SystemExit as end:
        return end.code or 0
    return 0


def test_originals_stay_and_the_preview_maps_back_exactly(folder):
    entry = folder.entry("im5")
    assert entry.original == "originals/im5.tif" and folder.image("im5").dtype == np.uint16
    assert np.array_equal(folder.image("im5"), picture(5, np.uint16))
    shown = np.asarray(Image.open(folder.preview("im5")))
    assert shown.dtype == np.uint8 and shown.shape == (48, 64)
    back = entry.low + shown / 255 * (entry.high - entry.low)
    assert np.abs(back - folder.image("im5")).max() <= (entry.high - entry.low) / 255 / 2 + 1e-9
    assert folder.entry("im0").original == "images/im0.png"


def test_images_among_what_the_folder_writes_are_refused_untouched(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(picture(0, np.uint16)).save(tmp_path / "images" / "a.png")
    before = (tmp_path / "images" / "a.png").read_bytes()
    for given in (tmp_path / "images", tmp_path / "images" / "a.png"):
        with pytest.raises(ConfigError, match="keeps its own files"):
            AnnotationFolder.create(tmp_path, [given], CLASSES)
    assert (tmp_path / "images" / "a.png").read_bytes() == before and len(list(tmp_path.rglob("*"))) == 2


def test_the_text_file_of_the_microscope_comes_along(tmp_path):
    import tifffile

    told = "[SemImageFile]\nPixelSize=2.5\nDataSize=64x40\n"
    tifffile.imwrite(tmp_path / "a.tif", picture(0))
    Image.fromarray(picture(1)).save(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text(told)
    (tmp_path / "b.png.txt").write_text(told)
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.tif", tmp_path / "b.png"], CLASSES)
    for name in ("a", "b"):
        folder.write_mask(name, truth(0))
        folder.accept(name, by="test")
    table = check_experiment(experiment_tables(folder), name="x", folder=tmp_path).open("labelled")
    for number in range(2):
        sample = table.read(number)
        assert sample.image.shape == (40, 64) and sample.pixel_nm == (2.5, 2.5)


def test_names_with_brackets_are_names(tmp_path):
    for name, grey in (("die[1]", 200), ("die1", 50)):
        Image.fromarray(np.full((32, 32), grey, np.uint8)).save(tmp_path / f"{name}.png")
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "die[1].png", tmp_path / "die1.png"], CLASSES)
    folder.write_mask("die[1]", np.ones((32, 32), np.uint8))
    folder.accept("die[1]", by="test")
    sample = check_experiment(experiment_tables(folder), name="x", folder=tmp_path).open("labelled").read(0)
    assert sample.image[0, 0] == 200 and sample.label[0, 0] == 1


def test_an_init_that_was_stopped_can_be_begun_again(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("lamella_sam.annotate.folder.write_text", full)
        AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png"], CLASSES)
    assert list(AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png"], CLASSES).entries) == ["a"]


def test_two_who_have_a_folder_open_keep_what_each_changed(folder):
    first, second = AnnotationFolder(folder.path), AnnotationFolder(folder.path)
    first.entry("im0").score, first.facts["promoted"] = 0.5, "runs/a"
    second.entry("im1").score, second.facts["zero_shot"] = 0.25, {}
    first.save()
    second.save()
    again = AnnotationFolder(folder.path)
    assert (again.entry("im0").score, again.entry("im1").score) == (0.5, 0.25)
    assert again.facts == second.facts == {**folder.facts, "promoted": "runs/a", "zero_shot": {}}


def test_the_folder_is_read_by_datasets(folder):
    from datasets import load_dataset

    found = load_dataset("imagefolder", data_dir=str(folder.path / "images"), split="train")
    assert sorted(found["name"]) == [f"im{number}" for number in range(6)]
    assert set(found["status"]) == {"new"} and found[0]["image"].size == (64, 48)


def test_masks_are_palette_files_whose_value_is_the_class(folder):
    folder.write_mask("im0", truth(0))
    with Image.open(folder.mask_path("im0")) as opened:
        assert opened.mode == "P" and np.array_equal(np.asarray(opened), truth(0))
    assert np.array_equal(folder.mask("im0"), truth(0))


def test_suggestions_of_any_run_queue_by_coherence_and_hands_are_respected(folder, run, capsys):
    folder.write_mask("im4", truth(4))  # drawn by hand, not accepted yet
    assert command("suggest", folder.path, "--run", run) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "coherence" in line]
    again = AnnotationFolder(folder.path)
    assert [e.status for e in again.of("suggested")] == ["suggested"] * 3
    assert np.array_equal(again.mask("im4"), truth(4)) and again.entry("im4").status == "new"
    scores = [again.entry(line.partition(":")[0]).score for line in lines]
    known = [score for score in scores if score is not None]
    assert len(known) == 3 and known == sorted(known) and all(0 <= score <= 1 for score in known)
    assert again.entry("im3").provenance[-1]["suggested"] == str(run)
    assert command("review", folder.path) == 0
    assert (folder.path / "review" / "im3.png").is_file()


def test_a_mask_accepted_while_it_is_suggested_anew_stays(folder, run, monkeypatch, capsys):
    folder.write_mask("im3", truth(3), suggested=True)
    folder.entry("im3").status = "suggested"
    folder.save()

    def meanwhile(self, pixels, name):
        if name == "im3":
            AnnotationFolder(folder.path).accept("im3", by="ann")
        if name == "im4":
            AnnotationFolder(folder.path).write_mask("im4", truth(4))
        return np.zeros((48, 64), np.uint8), 0.5

    monkeypatch.setattr("lamella_sam.annotate.suggest.Suggester.suggest", meanwhile)
    assert command("suggest", folder.path, "--run", run) == 0
    again = AnnotationFolder(folder.path)
    assert again.entry("im3").status == "accepted" and np.array_equal(again.mask("im3"), truth(3))
    assert again.entry("im4").status == "new" and np.array_equal(again.mask("im4"), truth(4))
    said = capsys.readouterr().out
    assert "im3: it is accepted by now" in said and "im4: its mask was changed by hand" in said


@pytest.mark.parametrize("round_", [1, 2])
def test_a_suggestion_that_was_stopped_is_made_again(folder, monkeypatch, round_):
    from lamella_sam.annotate import folder as module

    for number in range(round_ - 1):
        folder.write_mask("im0", np.full((48, 64), number, np.uint8), suggested=True)
    real, written = module.save_image, []

    def stopped(image, path):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        real(image, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "save_image", stopped)
        folder.write_mask("im0", truth(0), suggested=True)
    assert not suggest._touched(folder, "im0")


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


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_labelled(folder, run, capsys):
    spoiled = folder.path / folder.entry("im3").original
    spoiled.write_bytes(b"no image")
    assert command("suggest", folder.path, "--run", run) == 0
    assert f"{spoiled}: " in capsys.readouterr().out
    again = AnnotationFolder(folder.path)
    assert [e.name for e in again.of("suggested")] == ["im2", "im4", "im5"] and again.entry("im3").status == "new"
    mask = again.mask_path("im2").read_bytes()
    for name in ("im2", "im4", "im5"):
        (folder.path / folder.entry(name).original).write_bytes(b"no image")
    assert command("suggest", folder.path, "--run", run) != 0
    assert "can read none of the images that wait" in capsys.readouterr().err
    assert again.mask_path("im2").read_bytes() == mask


def test_accepting_counts_what_was_corrected(folder, run, capsys):
    assert command("suggest", folder.path, "--run", run) == 0
    again = AnnotationFolder(folder.path)
    wrong = int((again.mask("im2") != truth(2)).sum())
    again.write_mask("im2", truth(2))  # what an editor would do
    assert command("accept", folder.path, "im2", "--by", "ann") == 0
    entry = AnnotationFolder(folder.path).entry("im2")
    assert entry.status == "accepted" and entry.changed == wrong
    assert entry.provenance[-1] == {"accepted": "ann", "changed": wrong}
    assert f"{wrong} pixels corrected" in capsys.readouterr().out


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


def test_superpixels_keep_to_edges():
    segments = superpixels(picture(0), size=8)
    inside = truth(0)
    purity = sum(np.bincount(inside[segments == s]).max() for s in np.unique(segments)) / inside.size
    assert purity > 0.97 and len(np.unique(segments)) > 20
    filled = fill(np.zeros((48, 64), np.uint8), Click("x", 26, 36, 2), segments)
    assert filled[36, 26] == 2 and (filled[inside != 2] == 2).mean() < 0.02


@pytest.mark.parametrize("write, read", [
    (exchange.write_coco, exchange.read_coco), (exchange.write_label_studio, exchange.read_label_studio),
])  # fmt: skip
def test_masks_go_to_other_tools_and_come_back_the_same(folder, tmp_path, write, read):
    label = truth(1)
    label[:4] = 255
    folder.write_mask("im1", label)
    folder.accept("im1", by="test")
    assert write(folder, tmp_path / "out.json") == 1
    with pytest.raises(DataError, match="im1 is accepted: its mask stays"):
        read(folder, tmp_path / "out.json", print)
    folder.mask_path("im1").unlink()
    folder.entry("im1").status = "new"
    assert read(folder, tmp_path / "out.json", print) == ["im1"]
    assert np.array_equal(folder.mask("im1"), label)


def test_polygons_of_coco_are_read(folder, tmp_path):
    corners = [10, 5, 20, 5, 20, 15, 10, 15]  # x, y of the corners of pixels 10 to 19, 5 to 14
    data = {
        "images": [{"id": 7, "file_name": "some/where/im0.png"}, {"id": 8, "file_name": "no.png"}],
        "categories": [{"id": 3, "name": "dot"}, {"id": 4, "name": "Dot"}],
        "annotations": [
            {"image_id": i, "category_id": c, "segmentation": [corners]} for i, c in ((7, 3), (7, 4), (8, 3))
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(data))
    told = []
    assert exchange.read_coco(folder, tmp_path / "coco.json", told.append) == ["im0"]
    assert [text.partition("have the ")[2] for text in told] == [
        "images no; they are left out", "classes Dot; they are left out",
    ]  # fmt: skip
    expected = np.full((48, 64), 255, np.uint8)
    expected[5:15, 10:20] = 2
    assert np.array_equal(folder.mask("im0"), expected)


def brushed(name, *annotations, **more):
    """A task of Label Studio: for each annotation its class and its pixels."""
    results = [[exchange._brush(mask, label)] for label, mask in annotations]
    return {"data": {"image": name}, "annotations": [{"result": result, **more} for result in results]}


def test_label_studio_gives_back_uploaded_names_and_skipped_annotations(folder, tmp_path):
    everywhere, relation = np.ones((48, 64), bool), {"type": "relation", "from_id": "a", "to_id": "b"}
    tasks = [
        brushed("/data/upload/1/3f2a9c1d-im0.png", ("bar", truth(0) == 1)),
        brushed("im1.png", ("dot", everywhere), was_cancelled=True),
        {"data": {"image": "im2.png"}, "annotations": [{"result": [relation]}]},
        {"data": {"image": "im3.png"}, "annotations": None},
    ]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    assert exchange.read_label_studio(folder, tmp_path / "back.json", print) == ["im0"]
    assert np.array_equal(folder.mask("im0"), np.where(truth(0) == 1, 1, 255))


def test_label_studio_gets_every_mask_there_is(folder, tmp_path):
    folder.write_mask("im0", truth(0))  # begun by hand
    folder.write_mask("im1", truth(1), suggested=True)
    folder.entry("im1").status = folder.entry("im2").status = "suggested"  # of im2 the mask was taken away
    assert exchange.write_label_studio(folder, tmp_path / "out.json") == 2
    tasks = json.loads((tmp_path / "out.json").read_text())
    assert [list(task)[1] for task in tasks] == ["annotations", "predictions"]


@pytest.mark.parametrize("segmentation", [
    [5, 5, 40, 5, 40, 20], [[5, 5, 40]], {"counts": [48 * 64]}, {"counts": ["a"], "size": [48, 64]}, None,
])  # fmt: skip
def test_segmentations_that_are_not_of_coco_are_one_sentence(folder, tmp_path, segmentation):
    data = {
        "images": [{"id": 1, "file_name": "im2.png"}], "categories": [{"id": 2, "name": "dot"}],
        "annotations": [{"image_id": 1, "category_id": 2, "segmentation": segmentation}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="not a COCO file"):
        exchange.read_coco(folder, tmp_path / "coco.json", print)


@pytest.mark.parametrize("tasks", [
    [{"data": {"image": None}}], ["im1.png"],
    [{"data": {"image": "im1.png"}, "annotations": [{"result": [{"value": {"rle": ["a"], "brushlabels": ["dot"]}}]}]}],
])  # fmt: skip
def test_tasks_that_are_not_of_label_studio_are_one_sentence(folder, tmp_path, tasks):
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(DataError, match="not a Label Studio export"):
        exchange.read_label_studio(folder, tmp_path / "tasks.json", print)


@pytest.mark.parametrize("name, spoil, message", [
    ("images/metadata.jsonl", lambda text: text[:-20], "one JSON entry for each image"),
    ("images/metadata.jsonl", lambda text: text.replace('"score"', '"lot": 1, "score"'), "one JSON entry for each"),
    ("annotate.json", lambda text: "[]", "written in format None"),
    ("annotate.json", lambda text: '{"format": 1, "classes": []}', "lacks the classes or the rounds"),
])  # fmt: skip
def test_a_spoiled_folder_is_one_sentence(folder, name, spoil, message):
    file = folder.path / name
    file.write_text(spoil(file.read_text()))
    with pytest.raises(DataError, match=message):
        AnnotationFolder(folder.path)


def test_clicks_nowhere_are_one_sentence(folder, tmp_path, capsys):
    clicks = tmp_path / "clicks.json"
    for x, name in (("Infinity", '"im1"'), ("1", "[]")):
        clicks.write_text(f'[{{"name": {name}, "x": {x}, "y": 1, "class": "dot"}}]')
        assert command("review", folder.path, "--clicks", clicks) == 2
    assert "clicks are a JSON list" in capsys.readouterr().err


def test_run_lengths_are_those_of_coco():
    mask = np.array([[1, 0, 0], [1, 1, 0]], bool)
    assert exchange.run_lengths(mask) == [0, 2, 1, 1, 2]  # columns: 11 01 00
    assert np.array_equal(exchange.from_run_lengths([0, 2, 1, 1, 2], 2, 3), mask)
    with pytest.raises(DataError, match="add up to 5"):
        exchange.from_run_lengths([0, 5], 2, 3)


def test_a_brush_mask_is_read_bit_by_bit():
    one_pixel = "0" * 29 + "100" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    text = one_pixel + "0" * (-len(one_pixel) % 8)
    code = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert exchange.brush_code(np.ones((1, 1), bool)) == code
    assert exchange.from_brush_code(code, 1, 1).all()
    with pytest.raises(DataError, match="cut short"):
        exchange.from_brush_code(code[:-2], 1, 1)


def figures(miou, **iou):
    return {"miou_pooled": miou, "iou": iou}


def test_the_gate_wants_better_than_each_and_no_collapse():
    others = {"zero-shot": figures(0.5, a=0.6, b=0.4), "round-1": figures(0.6, a=0.7, b=0.5)}
    assert judge(figures(0.61, a=0.72, b=0.5), others).promoted
    assert not judge(figures(0.6, a=0.7, b=0.5), others).promoted  # as good is not better
    worse = judge(figures(0.55, a=0.6, b=0.5), others)
    assert not worse.promoted and "does not beat 0.6000 of round-1" in worse.reasons[0]
    collapsed = judge(figures(0.9, a=0.99, b=0.1), others)
    assert not collapsed.promoted and collapsed.alarms[0].startswith("class b collapsed: IoU 0.1000")
    assert not judge(figures(None, a=None, b=None), others).promoted


TEMPLATE = """
modality = { name = "tem", intensity = "image" }
[data.labelled]
source = "x"
[trainer]
name = "sesami"
backbone = { name = "sam-nano", weights = "none" }
prompts = 2
corrections = 0
[fit]
steps = 1
batch_size = 1
log_every = 1
"""


def test_what_is_accepted_while_a_round_trains_stays_accepted(folder, run, tmp_path, monkeypatch):
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", locked=True)
    (tmp_path / "template.toml").write_text(TEMPLATE)

    def slowly(experiment, where):
        other = AnnotationFolder(folder.path)
        other.write_mask("im3", truth(3))
        other.accept("im3", by="ann")
        return fit(experiment, where)

    monkeypatch.setattr(retrain, "fit", slowly)
    retrain.retrain(folder, tmp_path / "template.toml")
    again = AnnotationFolder(folder.path)
    assert [e.name for e in again.of("accepted")] == ["im0", "im1", "im3"]
    assert again.entry("im3").provenance == [{"accepted": "ann", "changed": None}]
    assert len(again.facts["rounds"]) == 1 and again.facts["rounds"][0]["accepted"] == 2


def scores(monkeypatch, **runs):
    """Let each run have a figure for each image."""
    monkeypatch.setattr(retrain, "locked_figures", lambda folder, run: figures(
        float(np.mean([runs[run.name.replace("-", "_")][entry.name] for entry in folder.of("locked")]))
    ))  # fmt: skip


def test_a_round_is_compared_on_the_locked_images_of_now(folder, tmp_path, monkeypatch):
    scores(
        monkeypatch, zero={"im0": 0.2, "im1": 0.2}, round_1={"im0": 0.9, "im1": 0.1}, round_2={"im0": 0.8, "im1": 0.6}
    )
    folder.write_mask("im0", truth(0))
    folder.accept("im0", by="test", locked=True)
    folder.facts["zero_shot"] = {"run": str(tmp_path / "zero"), "figures": figures(0.2), "locked": ["im0"]}
    assert promote(folder, tmp_path / "round-1").promoted
    folder.write_mask("im1", truth(1))
    folder.accept("im1", by="test", locked=True)
    assert promote(folder, tmp_path / "round-2").promoted
    noted = AnnotationFolder(folder.path).facts["rounds"]
    assert [entry["figures"]["miou_pooled"] for entry in noted] == [0.5, 0.7]
    assert [entry["locked"] for entry in noted] == [["im0", "im1"]] * 2


def test_grey_level_is_that_of_the_locked_images_of_now(folder, tmp_path, monkeypatch):
    scores(monkeypatch, round_1={"im0": 0.5}, round_2={"im0": 0.5, "im1": 0.5})
    for number in (1, 2):
        folder.write_mask(f"im{number - 1}", truth(0))
        folder.accept(f"im{number - 1}", by="test", locked=True)
        run = tmp_path / f"round-{number}"
        run.mkdir()
        results = {"sets": {"test": {"grey_level": {"miou_pooled": 0.6 / number}}}}
        (run / "results.json").write_text(json.dumps(results))
        folder.facts.setdefault("zero_shot", {"figures": {}})
        assert promote(folder, run).promoted is (number == 2)


def test_a_promoted_run_goes_with_the_folder(folder, tmp_path, monkeypatch):
    scores(monkeypatch, zero={"im0": 0.2}, round_1={"im0": 0.9})
    folder.write_mask("im0", truth(0))
    folder.accept("im0", by="test", locked=True)
    monkeypatch.chdir(tmp_path)
    here = AnnotationFolder(folder.path.relative_to(tmp_path))
    here.facts["zero_shot"] = {"run": here.note(tmp_path / "zero"), "figures": {}}
    assert promote(here, here.path / "runs" / "round-1").promoted
    folder.path.rename(tmp_path / "moved")
    assert AnnotationFolder(tmp_path / "moved").promoted == tmp_path / "moved" / "runs" / "round-1"
    assert here.run(here.facts["zero_shot"]["run"]) == tmp_path / "zero"


def test_a_zero_shot_run_of_other_classes_is_refused_before_the_training(folder, run, tmp_path, capsys):
    other = AnnotationFolder.create(tmp_path / "other", [tmp_path / "given"], ["bar", "ground", "dot"])
    for number in (0, 1):
        other.write_mask(f"im{number}", truth(number))
        other.accept(f"im{number}", by="test", locked=number == 1)
    (tmp_path / "template.toml").write_text(TEMPLATE)
    assert command("retrain", other.path, "--experiment", tmp_path / "template.toml", "--zero-shot", run) == 2
    assert "tells the classes ground, bar, dot, the folder has bar, ground, dot" in capsys.readouterr().err
    assert not (other.path / "runs").exists()


def test_other_roles_of_the_template_stay_and_are_found_beside_it(folder, run, tmp_path):
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", locked=True)
    (tmp_path / "template.toml").write_text(
        TEMPLATE.replace("[trainer]", '[data.validation]\nsource = "work"\nimages = ["images/im0.png"]\n'
                         f'labels = ["masks/im0.png"]\nclasses = {CLASSES}\n[trainer]')
    )  # fmt: skip
    made, _ = retrain.retrain(folder, tmp_path / "template.toml")
    data = read_experiment(made / "experiment.toml").file.data
    assert list(data) == ["labelled", "validation", "test"] and len(data["labelled"].images) == 2
    assert data["validation"].source == str(folder.path)


def test_a_bad_adapter_is_refused_and_a_better_run_promoted(folder, run, tmp_path):
    for number in (2, 3):
        folder.write_mask(f"im{number}", truth(number))
        folder.accept(f"im{number}", by="test", locked=True)
    template = tmp_path / "template.toml"
    tables = experiment_tables(folder, semantic="exemplars")
    fit(check_experiment(tables, name="good", folder=tmp_path), tmp_path / "good")
    ranked = sorted([run, tmp_path / "good"], key=lambda path: locked_figures(folder, path)["miou_pooled"])
    worst, best = ranked[0], ranked[-1]
    assert best == tmp_path / "good"  # a discriminant on random features beats untrained tokens
    folder.facts["zero_shot"] = {"run": str(worst), "figures": locked_figures(folder, worst)}
    verdict = promote(folder, best)
    assert verdict.promoted and AnnotationFolder(folder.path).facts["promoted"] == str(best)
    refused = promote(folder, worst)
    assert not refused.promoted and "does not beat" in refused.reasons[0]
    assert AnnotationFolder(folder.path).facts["promoted"] == str(best)
    template.write_text(TEMPLATE)
    assert command("retrain", folder.path, "--experiment", template) == 0
    rounds = AnnotationFolder(folder.path).facts["rounds"]
    assert [entry["promoted"] for entry in rounds] == [True, False, False] and rounds[2]["accepted"] == 2


def test_without_a_zero_shot_run_the_first_round_has_to_beat_grey_level(folder, tmp_path, capsys):
    accept_two(folder)
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", locked=True)
    template = tmp_path / "template.toml"
    template.write_text(TEMPLATE)
    assert command("retrain", folder.path, "--experiment", template) == 0
    assert "of grey level alone" in capsys.readouterr().out
    first = AnnotationFolder(folder.path).facts
    results = json.loads((folder.path / "runs" / "round-1" / "results.json").read_text())
    assert first["zero_shot"]["figures"]["miou_pooled"] == results["sets"]["test"]["grey_level"]["miou_pooled"] > 0.3
    assert "promoted" not in first and len(first["rounds"]) == 1


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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: Image.fromarray(np.zeros((4, 4), np.uint8)).save(f.mask_path("im0")), "the mask is 4×4 pixels"),
        (lambda f: Image.fromarray(np.full((48, 64), 9, np.uint8)).save(f.mask_path("im0")), "holds the value 9"),
        (lambda f: Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(f.mask_path("im0")), "this one has colours"),
        (lambda f: f.mask_path("im0").write_bytes(b"\x89PNG"), "damaged or cut short"),
        (lambda f: f.write_mask("im0", np.full((48, 64), 255, np.uint8)), "nothing is labelled in it"),
    ],
)
def test_spoiled_masks_are_one_sentence(folder, spoil, message):
    folder.write_mask("im0", truth(0))
    spoil(folder)
    with pytest.raises(DataError, match=message):
        folder.accept("im0", by="test")


def test_mistakes_end_in_a_sentence(folder, tmp_path, capsys):
    for words, message in [
        (["suggest", tmp_path / "none"], "this is no annotation folder"),
        (["suggest", folder.path], "no run is promoted yet"),
        (["init", folder.path, tmp_path / "given", "--classes", "a,b"], "is there already"),
        (["init", tmp_path / "new", tmp_path / "given"], "Missing option '--classes'"),
        (["init", tmp_path / "new", tmp_path / "given", "--classes", "a"], "name two or more"),
        (["init", tmp_path / "new", tmp_path / "given", "--classes", "a,b,"], "none empty"),
        (["accept", folder.path], "name the images, or give --all"),
        (["accept", folder.path, "im9"], "there is no image 'im9'"),
        (["retrain", folder.path], "Missing option '--experiment'"),
        (["export", folder.path], "needs --coco FILE or --label-studio FILE"),
        (["export", folder.path, "--coco", "a", "--label-studio", "b"], "one of the two"),
        (["accept", folder.path, "--all", "--coco", "a"], "No such option"),
        (["import", folder.path, "--coco", tmp_path / "no.json"], "cannot be read"),
    ]:
        assert command(*words) == 2
        assert message in capsys.readouterr().err


def test_an_image_of_one_row_is_refused(tmp_path):
    Image.fromarray(np.zeros((1, 64), np.uint8)).save(tmp_path / "row.png")
    with pytest.raises(DataError, match="1×64 pixels are too few"):
        AnnotationFolder.create(tmp_path / "work", [tmp_path / "row.png"], CLASSES)
    with pytest.raises(ConfigError, match="none twice"):
        AnnotationFolder.create(tmp_path / "work", [tmp_path / "row.png"], ["a", "a"])


def test_the_coherence_of_a_model_that_says_the_same_is_one(folder, run, monkeypatch):
    from lamella_sam.annotate.suggest import Suggester

    suggester = Suggester(run, CLASSES)
    monkeypatch.setattr(
        suggester.trainer, "predict", lambda batch: torch.cat([1 - batch.image, batch.image * 0, batch.image], 1)
    )
    pixels = picture(0)
    pixels[:] = np.where(truth(0) == 2, 250, 5)
    label, score = suggester.suggest(pixels, "im0")
    assert score == pytest.approx(1.0) and np.array_equal(label == 2, truth(0) == 2)
    with pytest.raises(ConfigError, match="tells the classes"):
        Suggester(run, ["a", "b"])
