"""Masks of an annotation folder to other tools and back: what COCO and Label Studio have in common."""

import json

import numpy as np
import pytest
from lamella_sam.annotate.coco import read_coco, write_coco
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
        "the masks of im0, im2 were accepted and stay as they are"
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
