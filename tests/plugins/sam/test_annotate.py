"""The data engine: folder, suggestions, corrections, exchange with other tools, and the gate."""

import json

import numpy as np
import pytest
import torch
from lamella.cli.main import main
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.errors import ConfigError, DataError
from lamella_sam.annotate import exchange
from lamella_sam.annotate.correct import Click, fill, superpixels
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.gate import judge
from lamella_sam.annotate.retrain import locked_figures, promote
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
    folder.mask_path("im1").unlink()
    assert read(folder, tmp_path / "out.json") == ["im1"]
    assert np.array_equal(folder.mask("im1"), label)


def test_polygons_of_coco_are_read(folder, tmp_path):
    corners = [10, 5, 20, 5, 20, 15, 10, 15]  # x, y of the corners of pixels 10 to 19, 5 to 14
    data = {
        "images": [{"id": 7, "file_name": "some/where/im0.png", "height": 48, "width": 64}],
        "categories": [{"id": 3, "name": "dot"}, {"id": 4, "name": "unknown"}],
        "annotations": [{"image_id": 7, "category_id": c, "segmentation": [corners]} for c in (3, 4)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(data))
    assert exchange.read_coco(folder, tmp_path / "coco.json") == ["im0"]
    expected = np.full((48, 64), 255, np.uint8)
    expected[5:15, 10:20] = 2
    assert np.array_equal(folder.mask("im0"), expected)


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
    template.write_text(
        'modality = { name = "tem", intensity = "image" }\n[data.labelled]\nsource = "x"\n[trainer]\nname = "sesami"\n'
        'backbone = { name = "sam-nano", weights = "none" }\nprompts = 2\ncorrections = 0\n'
        "[fit]\nsteps = 1\nbatch_size = 1\nlog_every = 1\n"
    )
    assert command("retrain", folder.path, "--experiment", template) == 0
    rounds = AnnotationFolder(folder.path).facts["rounds"]
    assert [entry["promoted"] for entry in rounds] == [True, False, False] and rounds[2]["accepted"] == 2


def test_without_a_zero_shot_run_the_first_round_has_to_beat_grey_level(folder, tmp_path, capsys):
    accept_two(folder)
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", locked=True)
    template = tmp_path / "template.toml"
    template.write_text(
        'modality = { name = "tem", intensity = "image" }\n[data.labelled]\nsource = "x"\n[trainer]\nname = "sesami"\n'
        'backbone = { name = "sam-nano", weights = "none" }\nprompts = 2\ncorrections = 0\n'
        "[fit]\nsteps = 1\nbatch_size = 1\nlog_every = 1\n"
    )
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
