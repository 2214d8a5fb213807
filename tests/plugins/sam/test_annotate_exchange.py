"""Masks of an annotation folder to other tools and back."""

import json
import tracemalloc

import numpy as np
import pytest
from lamella.errors import DataError
from lamella_sam.annotate import exchange
from lamella_sam.annotate.folder import AnnotationFolder
from PIL import Image
from six_images import CLASSES, command, picture, truth


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
    folder.entry("im1").status = "new"
    assert read(folder, tmp_path / "out.json", print) == ["im1"]
    assert np.array_equal(folder.mask("im1"), label)


@pytest.mark.parametrize("write, read", [
    (exchange.write_coco, exchange.read_coco), (exchange.write_label_studio, exchange.read_label_studio),
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


def test_what_a_person_corrected_comes_back_from_label_studio(folder, tmp_path):
    for name in ("im1", "im2"):
        folder.write_mask(name, truth(2), suggested=True)
        folder.entry(name).status = "suggested"
    folder.save()
    folder.write_mask("im1", truth(1))  # as clicks and editors do
    exchange.write_label_studio(folder, tmp_path / "out.json")
    folder.mask_path("im1").unlink()
    assert exchange.read_label_studio(folder, tmp_path / "out.json", print) == ["im1"]
    assert np.array_equal(folder.mask("im1"), truth(1))


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
        assert exchange.read_coco(folder, tmp_path / "coco.json", print) == [name]
        for given in (file, f"/data/upload/1/3f2a9c1d-{file.rpartition('/')[2]}"):
            (tmp_path / "back.json").write_text(json.dumps([brushed(given, ("bar", truth(0) == 1))]))
            assert exchange.read_label_studio(folder, tmp_path / "back.json", print) == [name]


def test_regions_of_coco_are_those_of_whole_masks_without_holding_them(tmp_path):
    near = np.arange(512) % 32 < 8
    label = np.where(near[:, None] & near, 2, 0).astype(np.uint8)
    label[:4] = 255
    Image.fromarray(label).save(tmp_path / "a.png")
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png"], CLASSES)
    folder.write_mask("a", label)
    folder.accept("a", by="test")
    tracemalloc.start()
    exchange.write_coco(folder, tmp_path / "out.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert len(found) == 257 and peak < 100 * label.size  # a mask for each were 257 times as many
    covered = np.full_like(label, 255)
    for number, one in enumerate(found, start=1):
        mask = exchange.from_run_lengths(one["segmentation"]["counts"], 512, 512)
        assert one["segmentation"]["counts"] == exchange.run_lengths(mask)
        assert one["id"] == number and one["image_id"] == 1 and one["area"] == mask.sum()
        y, x = np.nonzero(mask)
        assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert (covered[mask] == 255).all()
        covered[mask] = one["category_id"] - 1
    assert np.array_equal(covered, label)


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


@pytest.mark.parametrize("size", [{"height": 96, "width": 128}, {"width": 63}])
def test_polygons_of_an_image_of_another_size_are_refused(folder, tmp_path, size):
    data = {
        "images": [{"id": 1, "file_name": "im0.png", **size}, {"id": 2, "file_name": "no.png", **size}],
        "categories": [{"id": 3, "name": "dot"}],
        "annotations": [{"image_id": 2, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(data))
    assert exchange.read_coco(folder, tmp_path / "coco.json", print) == []
    data["annotations"][0]["image_id"] = 1
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="pixels there, the image here 48×64"):
        exchange.read_coco(folder, tmp_path / "coco.json", print)
    assert not folder.mask_path("im0").exists()


def test_boxes_without_a_mask_are_told_and_leave_no_empty_mask(folder, tmp_path):
    box, speck = {"bbox": [1, 1, 5, 5]}, [[1.6, 1.6, 1.9, 1.6, 1.9, 1.9]]
    data = {
        "images": [{"id": 0, "file_name": "im0.png"}, {"id": 1, "file_name": "im1.png"}],
        "categories": [{"id": 3, "name": "dot"}],
        "annotations": [
            {"image_id": 0, "category_id": 3, **box, **more}
            for more in ({}, {"segmentation": []}, {"segmentation": None}, {"segmentation": speck})
        ] + [{"image_id": 1, "category_id": 3, "segmentation": [[10, 5, 20, 5, 20, 15]]}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    told = []
    assert exchange.read_coco(folder, tmp_path / "coco.json", told.append) == ["im1"]
    assert len(told) == 1 and told[0].endswith("regions that cover no pixel, such as boxes alone, are left out: 4")
    assert not folder.mask_path("im0").exists() and not folder.entry("im0").provenance


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


def test_label_studio_results_that_are_no_labelled_brush_are_told(folder, tmp_path):
    bar = exchange._brush(truth(0) == 1, "bar")
    bare = {"type": "brush", "value": {"format": "rle", "rle": bar["value"]["rle"]}}
    polygon = {"type": "polygonlabels", "value": {"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": ["bar"]}}
    results = [polygon, bare, bar, {**bare, "value": {**bare["value"], "brushlabels": []}}, {"type": "relation"}]
    task = {"data": {"image": "im0.png"}, "annotations": [{"result": results}]}
    (tmp_path / "back.json").write_text(json.dumps([task]))
    told = []
    assert exchange.read_label_studio(folder, tmp_path / "back.json", told.append) == ["im0"]
    assert [text.partition("left out: ")[2] for text in told] == ["brush without a label (2), polygonlabels (1)"]
    assert np.array_equal(folder.mask("im0"), np.where(truth(0) == 1, 1, 255))


@pytest.mark.parametrize("image", [
    "/data/local-files/?d=im0.png", "/data/local-files/?d=lot%207/im0.png", "http://here/data/local-files/?d=%69m0.png",
])  # fmt: skip
def test_local_files_of_label_studio_are_found_and_a_byte_order_mark_is_read(folder, tmp_path, image):
    (tmp_path / "back.json").write_text(json.dumps([brushed(image, ("bar", truth(0) == 1))]), encoding="utf-8-sig")
    assert exchange.read_label_studio(folder, tmp_path / "back.json", print) == ["im0"]


def test_label_studio_gets_every_mask_there_is(folder, tmp_path):
    folder.write_mask("im0", truth(0))  # begun by hand
    folder.write_mask("im1", truth(1), suggested=True)
    folder.entry("im1").status = folder.entry("im2").status = "suggested"  # of im2 the mask was taken away
    assert exchange.write_label_studio(folder, tmp_path / "out.json") == 2
    tasks = json.loads((tmp_path / "out.json").read_text())
    assert [list(task)[1] for task in tasks] == ["annotations", "predictions"]


@pytest.mark.parametrize("segmentation", [
    [5, 5, 40, 5, 40, 20], [[5, 5, 40]], {"counts": [48 * 64]}, {"counts": ["a"], "size": [48, 64]}, 7,
])  # fmt: skip
def test_segmentations_that_are_not_of_coco_are_one_sentence(folder, tmp_path, segmentation):
    data = {
        "images": [{"id": 1, "file_name": "im2.png"}], "categories": [{"id": 2, "name": "dot"}],
        "annotations": [{"image_id": 1, "category_id": 2, "segmentation": segmentation}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="not a COCO file"):
        exchange.read_coco(folder, tmp_path / "coco.json", print)


NINE_BITS = "".join(f"{number:0{width}b}" for number, width in [
    (48 * 64 * 4, 32), (8, 5), (2, 4), (3, 4), (7, 4), (15, 4), (7, 3), (48 * 64 * 4 - 1, 16), (300, 9), (0, 7),
])  # fmt: skip
TOO_LARGE = [int(NINE_BITS[i : i + 8], 2) for i in range(0, len(NINE_BITS), 8)]


@pytest.mark.parametrize("tasks", [
    [{"data": {"image": "im1.png"}, "annotations": [{"result": [{"value": {
        "rle": TOO_LARGE, "brushlabels": ["dot"],
    }}]}]}],
    [{"data": {"image": None}}], ["im1.png"],
    [{"data": {"image": "im1.png"}, "annotations": [{"result": [{"value": {"rle": ["a"], "brushlabels": ["dot"]}}]}]}],
])  # fmt: skip
def test_tasks_that_are_not_of_label_studio_are_one_sentence(folder, tmp_path, tasks):
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(DataError, match="not a Label Studio export"):
        exchange.read_label_studio(folder, tmp_path / "tasks.json", print)


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
