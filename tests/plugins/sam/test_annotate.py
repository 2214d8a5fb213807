"""The annotation folder: originals, status, suggestions and their queue, acceptance."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.errors import ConfigError, DataError
from lamella_sam.annotate.folder import AnnotationFolder
from PIL import Image
from six_images import CLASSES, command, experiment_tables, picture, truth


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


@pytest.mark.parametrize("part", ["images", "originals", "masks", "suggested", "review"])
def test_a_folder_with_files_of_the_user_where_its_own_would_lie_is_refused_untouched(tmp_path, part):
    (tmp_path / "raw").mkdir()
    Image.fromarray(picture(0, np.uint16)).save(tmp_path / "raw" / "a.png")
    (tmp_path / "work" / part).mkdir(parents=True)
    given = [tmp_path / "raw"]
    (tmp_path / "work" / part / "a.png").write_bytes(b"the user's")
    with pytest.raises(ConfigError, match=f"{part}: it is not empty"):
        AnnotationFolder.create(tmp_path / "work", given, CLASSES)
    assert [p.read_bytes() for p in (tmp_path / "work").rglob("*") if p.is_file()] == [b"the user's"]
    (tmp_path / "work" / part / "a.png").unlink()
    (tmp_path / "work" / "runs" / "round-1").mkdir(parents=True)  # never written over
    assert list(AnnotationFolder.create(tmp_path / "work", given, CLASSES).entries) == ["a"]


def test_a_mask_has_room_for_255_classes(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    names = [f"c{number}" for number in range(256)]
    with pytest.raises(ConfigError, match="256 classes: a mask tells 255 at most"):
        AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png"], names)
    assert not (tmp_path / "work").exists()
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png"], names[:255])
    label = np.full((48, 64), 254, np.uint8)
    label[0] = 255
    folder.write_mask("a", label)
    assert np.array_equal(folder.mask("a"), label)


def test_nothing_is_written_before_every_image_is_read(tmp_path):
    (tmp_path / "raw").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "raw" / "a.png")
    (tmp_path / "raw" / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png"):
        AnnotationFolder.create(tmp_path / "work", [tmp_path / "raw"], CLASSES)
    assert not (tmp_path / "work").exists()


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


def test_a_run_that_labels_no_pixels_is_refused(folder, tmp_path, capsys):
    for number in range(6):
        Image.fromarray(picture(number)).save(tmp_path / f"{CLASSES[number % 3]}_{number}.png")
    tables = {
        "modality": "sem",
        "data": {"labelled": {"source": str(tmp_path), "group": "(?P<label>[a-z]+)_", "classes": CLASSES}},
        "trainer": {"name": "classify", "encoder": {"name": "vit", "depth": 1, "width": 24, "heads": 2}},
        "fit": {"steps": 1, "batch_size": 2},
    }
    fit(check_experiment(tables, name="classes", folder=tmp_path), tmp_path / "run")
    assert command("suggest", folder.path, "--run", tmp_path / "run") == 2
    assert "it gives no class to each pixel of an image" in capsys.readouterr().err


def test_a_mask_accepted_while_it_is_suggested_anew_stays(folder, run, monkeypatch, capsys):
    folder.write_mask("im3", truth(3), suggested=True)
    folder.entry("im3").status = "suggested"
    folder.save()

    def meanwhile(self, folder, name):
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
    assert not folder.touched("im0")


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


def test_all_that_is_right_is_accepted_and_drawn_and_what_is_wrong_is_told(folder, capsys):
    for number in (0, 2, 4):
        folder.write_mask(f"im{number}", truth(number))
    for number in (1, 3):
        folder.write_mask(f"im{number}", np.full((48, 64), 77, np.uint8))
    assert command("review", folder.path) == 2
    told = capsys.readouterr()
    assert "2 of 6 images are not drawn" in told.err and "im5: new" in told.out
    assert command("accept", folder.path, "--all") == 2
    told = capsys.readouterr()
    assert told.out.count("holds the value 77") == 2 and "2 of 5 images are not accepted" in told.err
    assert [entry.name for entry in AnnotationFolder(folder.path).of("accepted")] == ["im0", "im2", "im4"]


def test_where_no_mask_waits_it_is_said(folder, capsys):
    assert command("accept", folder.path, "--all") == 0
    assert "no image that waits has a mask in" in capsys.readouterr().out


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
        (["retrain", folder.path], "needs --experiment FILE, or --judge RUN"),
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


def test_a_run_that_suggests_goes_to_the_accelerator(folder, run, monkeypatch):
    """``meta`` stands for a GPU: nothing can be computed there, so what the network answers is made up."""
    from lamella_sam.annotate import suggest

    elsewhere, seen = torch.device("meta"), set()

    def answer(trainer, batch, tile):
        seen.update(one.device for one in [*trainer.parameters(), batch.image, batch.key])
        return torch.ones(1, 3, *batch.image.shape[-2:])

    there = SimpleNamespace(device=elsewhere, autocast=nullcontext)
    monkeypatch.setattr(suggest, "make_accelerator", lambda precision: there)
    monkeypatch.setattr(suggest, "predict_whole", answer)
    suggest.Suggester(run, CLASSES).suggest(folder, "im0")
    assert seen == {elsewhere}


def test_the_coherence_of_a_model_that_says_the_same_is_one(folder, run, monkeypatch):
    from lamella_sam.annotate.suggest import Suggester

    suggester = Suggester(run, CLASSES)
    monkeypatch.setattr(
        suggester.trainer, "predict", lambda batch: torch.cat([1 - batch.image, batch.image * 0, batch.image], 1)
    )
    pixels = picture(0)
    pixels[:] = np.where(truth(0) == 2, 250, 5)
    Image.fromarray(pixels).save(folder.original("im0"))
    label, score = suggester.suggest(folder, "im0")
    assert score == pytest.approx(1.0) and np.array_equal(label == 2, truth(0) == 2)
    with pytest.raises(ConfigError, match="tells the classes"):
        Suggester(run, ["a", "b"])
