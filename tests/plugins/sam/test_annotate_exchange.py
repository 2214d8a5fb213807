"""Masks of an annotation folder to other tools and back."""

import json

import numpy as np
import pytest
from lamella.errors import DataError
from lamella_sam.annotate import exchange
from six_images import truth


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
