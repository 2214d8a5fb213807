"""Masks of an annotation folder to other tools and back: what COCO and Label Studio have in common."""

import json

import numpy as np
import pytest
from lamella.data.formats.files import read_micrograph
from lamella.errors import DataError
from lamella_sam.annotate.coco import read_coco, write_coco
from lamella_sam.annotate.exchange import image_name
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.label_studio import read_label_studio, write_label_studio
from PIL import Image
from six_images import CLASSES, command, picture, truth
from tasks import brushed


@pytest.mark.parametrize("write, read", [
    (write_coco, read_coco), (write_label_studio, read_label_studio),
])  # fmt: skip
def test_masks_go_to_other_tools_and_come_back_the_same(folder, tmp_path, write, read):
    label = truth(1)
    label[:4] = 255
    folder.write_mask("im1", label)
    folder.accept("im1", by="test")
    assert write(folder, tmp_path / "out.json") == 1
    folder.mask_path("im1").unlink()
    folder.entry("im1").status = "new"
    assert read(folder, tmp_path / "out.json", print) == ["im1"]
    assert np.array_equal(folder.mask("im1"), label)


@pytest.mark.parametrize("write, read", [
    (write_coco, read_coco), (write_label_studio, read_label_studio),
])  # fmt: skip
def test_accepted_images_stay_and_the_others_are_taken(folder, tmp_path, write, read):
    for name in ("im0", "im1", "im2"):
        folder.write_mask(name, truth(1))
        folder.accept(name, by="test", lock=name == "im2")
    write(folder, tmp_path / "out.json")
    folder.entry("im1").status = "new"
    for name in ("im0", "im1", "im2"):
        folder.write_mask(name, truth(0))
    told = []
    assert read(folder, tmp_path / "out.json", told.append) == ["im1"]
    assert [text.partition("json: ")[2] for text in told] == [
        "the masks of im0, im2 were accepted and stay as they are",
        "the masks of im1 were changed by hand; what is imported lies on top of them",
    ]
    for name, number in (("im0", 0), ("im1", 1), ("im2", 0)):
        assert np.array_equal(folder.mask(name), truth(number))


@pytest.mark.parametrize("option", ["--coco", "--label-studio"])
def test_an_export_replaces_no_file_and_is_never_empty(folder, tmp_path, capsys, option):
    mine = tmp_path / "mine.json"
    assert command("export", folder.path, option, mine) == 2
    assert "nothing to export" in capsys.readouterr().err and not mine.exists()
    folder.write_mask("im0", truth(0))
    folder.accept("im0", by="test")
    mine.write_text("annotations")
    assert command("export", folder.path, option, mine) == 2
    assert f"{mine} exists; choose another name" in capsys.readouterr().err and mine.read_text() == "annotations"
    assert command("export", folder.path, option, tmp_path) == 2
    assert f"{tmp_path} is a folder; name a file" in capsys.readouterr().err
    assert command("export", folder.path, option, tmp_path / "new.json") == 0


def test_files_of_one_stem_are_told_apart_by_their_endings(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    Image.fromarray(picture(1)).save(tmp_path / "a.tif")
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png", tmp_path / "a.tif"], CLASSES)
    assert list(folder.entries) == ["a", "a.tif"]
    for file, name in (("a.tif", "a.tif"), ("some/where/a.png", "a"), ("a.tif.png", "a.tif"), ("a.jpg", "a")):
        data = {
            "images": [{"id": 1, "file_name": file}], "categories": [{"id": 1, "name": "bar"}],
            "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[5, 5, 20, 5, 20, 15]]}],
        }  # fmt: skip
        (tmp_path / "coco.json").write_text(json.dumps(data))
        assert read_coco(folder, tmp_path / "coco.json", print) == [name]
        for given in (file, f"/data/upload/1/3f2a9c1d-{file.rpartition('/')[2]}"):
            (tmp_path / "back.json").write_text(json.dumps([brushed(given, ("bar", truth(0) == 1))]))
            assert read_label_studio(folder, tmp_path / "back.json", print) == [name]


def test_two_files_of_one_name_come_back_each_to_its_own(tmp_path):
    for lot in (0, 1):
        (tmp_path / f"lot{lot}").mkdir()
        Image.fromarray(picture(lot)).save(tmp_path / f"lot{lot}" / "im.png")
    lots = [tmp_path / "lot0", tmp_path / "lot1"]
    folder = AnnotationFolder.create(tmp_path / "work", lots, CLASSES)
    for lot, name in enumerate(folder.entries):
        folder.write_mask(name, truth(lot))
        folder.accept(name, by="test")
    for kind, (write, read) in {"c": (write_coco, read_coco), "l": (write_label_studio, read_label_studio)}.items():
        write(folder, tmp_path / f"{kind}.json")
        again = AnnotationFolder.create(tmp_path / kind, lots, CLASSES)
        assert read(again, tmp_path / f"{kind}.json", print) == ["im", "im.png"]
        assert [np.array_equal(again.mask(name), truth(lot)) for lot, name in enumerate(again.entries)] == [True] * 2


@pytest.mark.parametrize("which", ["first", "second"])
def test_the_text_file_of_one_is_not_that_of_another_of_its_name(tmp_path, which):
    for lot in ("first", "second"):
        (tmp_path / lot).mkdir()
        Image.fromarray(picture(0)).save(tmp_path / lot / "im.png")
    (tmp_path / which / "im.txt").write_text("[SemImageFile]\nDataSize=64x40\nPixelSize=2.5\n")
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "first", tmp_path / "second"], CLASSES)
    rows = {name: read_micrograph(folder.original(name)).rows for name in folder.entries}
    assert rows == {"im": 40 if which == "first" else None, "im.png": 40 if which == "second" else None}


@pytest.mark.parametrize("write, read", [
    (write_coco, read_coco), (write_label_studio, read_label_studio),
])  # fmt: skip
def test_what_was_erased_in_the_other_tool_is_gone_and_work_by_hand_is_not(folder, tmp_path, write, read):
    """Two versions of a file: the second has less of the bar, and no dot."""
    less = np.where(truth(1) == 2, 255, truth(1))
    less[:, :20] = 255
    for number, label in enumerate((truth(1), less)):
        folder.write_mask("im1", label)
        folder.accept("im1", by="test")
        write(folder, tmp_path / f"{number}.json")
    folder.entry("im1").status = "suggested"
    folder.write_mask("im1", truth(1), suggested=True)
    told = []
    assert read(folder, tmp_path / "1.json", told.append) == ["im1"]  # over a suggestion
    assert np.array_equal(folder.mask("im1"), less)
    read(folder, tmp_path / "0.json", told.append)
    read(folder, tmp_path / "1.json", told.append)  # over what was imported
    assert np.array_equal(folder.mask("im1"), less) and not told
    mine = less.copy()
    mine[40:, :10] = 2  # where the file has nothing
    folder.write_mask("im1", mine)
    read(folder, tmp_path / "1.json", told.append)
    assert np.array_equal(folder.mask("im1"), mine) and "im1 were changed by hand" in told[0]


@pytest.mark.parametrize("file, name", [
    ("/data/upload/1/3f2a9c1d-m%C3%BCller.png", "müller"), ("/data/upload/1/3f2a9c1d-im_1.png", "im 1"),
    ("s3://b/im%201.png", "im 1"), ("images/3f2a9c1d-plain.png", "plain"), ("images\\3f2a9c1d-plain.png", "plain"),
    ("sub\\plain.png", "plain"), ("a%2520b.png", "a%20b"), ("a%20b.png", "a%20b"), ("3f2a9c1d-new.png", None),
])  # fmt: skip
def test_names_are_found_as_other_tools_write_them(tmp_path, file, name):
    given = [tmp_path / f"{one}.png" for one in ("müller", "im 1", "plain", "a%20b")]
    for path in given:
        Image.fromarray(picture(0)).save(path)
    folder = AnnotationFolder.create(tmp_path / "work", given, CLASSES)
    assert image_name(folder, file) == (name or "3f2a9c1d-new")


def test_what_is_wrong_with_a_region_names_the_file_and_the_image(folder, tmp_path):
    data = {
        "images": [{"id": 1, "file_name": "im2.png"}], "categories": [{"id": 2, "name": "dot"}],
        "annotations": [{"image_id": 1, "category_id": 2, "segmentation": {"size": [48, 64], "counts": [5]}}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"coco\.json: im2: COCO run lengths add up to 5"):
        read_coco(folder, tmp_path / "coco.json", print)
