"""Masks of an annotation folder to COCO and back."""

import json
import tracemalloc

import numpy as np
import pytest
from lamella.engine.export import run_lengths
from lamella.errors import DataError
from lamella_sam.annotate.coco import from_compressed, from_run_lengths, read_coco, write_coco
from lamella_sam.annotate.folder import AnnotationFolder
from PIL import Image
from six_images import CLASSES


def test_regions_of_coco_are_those_of_whole_masks_without_holding_them(tmp_path):
    near = np.arange(512) % 32 < 8
    label = np.where(near[:, None] & near, 2, 0).astype(np.uint8)
    label[:4] = 255
    Image.fromarray(label).save(tmp_path / "a.png")
    folder = AnnotationFolder.create(tmp_path / "work", [tmp_path / "a.png"], CLASSES)
    folder.write_mask("a", label)
    folder.accept("a", by="test")
    tracemalloc.start()
    write_coco(folder, tmp_path / "out.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert len(found) == 257 and peak < 100 * label.size  # a mask for each were 257 times as many
    covered = np.full_like(label, 255)
    for number, one in enumerate(found, start=1):
        mask = from_run_lengths(one["segmentation"]["counts"], 512, 512)
        assert one["segmentation"]["counts"] == run_lengths(mask, 0, 0, mask.shape)
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
    assert read_coco(folder, tmp_path / "coco.json", told.append) == ["im0"]
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
    assert read_coco(folder, tmp_path / "coco.json", print) == []
    data["annotations"][0]["image_id"] = 1
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="pixels there, and 48×64 here"):
        read_coco(folder, tmp_path / "coco.json", print)
    assert not folder.mask_path("im0").exists()


def test_boxes_without_a_mask_are_told_and_leave_no_empty_mask(folder, tmp_path):
    box, speck = {"bbox": [1, 1, 5, 5]}, [[1.6, 1.6, 1.9, 1.6, 1.9, 1.9]]
    data = {
        "images": [{"id": 0, "file_name": "im0.png"}, {"id": 1, "file_name": "im1.png"}],
        "categories": [{"id": 3, "name": "dot"}],
        "annotations": [
            {"image_id": 0, "category_id": 3, **box, **more}
            for more in (
                {}, {"segmentation": []}, {"segmentation": None}, {"segmentation": speck}, {"segmentation": [[]]},
                {"segmentation": [[1, 1, 9, 9]]},
            )
        ] + [{"image_id": 1, "category_id": 3, "segmentation": [[10, 5, 20, 5, 20, 15]]}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    told = []
    assert read_coco(folder, tmp_path / "coco.json", told.append) == ["im1"]
    assert len(told) == 1 and told[0].endswith("regions that cover no pixel, such as boxes alone, are left out: 6")
    assert not folder.mask_path("im0").exists() and not folder.entry("im0").provenance


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
        read_coco(folder, tmp_path / "coco.json", print)


def test_run_lengths_are_those_of_coco():
    mask = np.array([[1, 0, 0], [1, 1, 0]], bool)
    assert run_lengths(mask, 0, 0, mask.shape) == [0, 2, 1, 1, 2]  # columns: 11 01 00
    assert np.array_equal(from_run_lengths([0, 2, 1, 1, 2], 2, 3), mask)
    with pytest.raises(DataError, match="add up to 5"):
        from_run_lengths([0, 5], 2, 3)


# What pycocotools writes for squares of five pixels in images of 25 × 25, and for a whole one.
@pytest.mark.parametrize("text, first, after", [
    ("05d00000000d?", 0, 5), ("R45d00000000b;", 5, 10), ("X`05d00000000", 20, 25), ("0ac0", 0, 25),
])  # fmt: skip
def test_compressed_run_lengths_are_those_of_pycocotools(text, first, after):
    expected = np.zeros((25, 25), bool)
    expected[first:after, first:after] = True
    assert np.array_equal(from_run_lengths(from_compressed(text), 25, 25), expected)


@pytest.mark.parametrize("counts, text", [
    ([0, 6, 1, 3], "061M"), ([0, 6, 1], "061"), ([0, 6, 1, 1], "061K"), ([0, 6, 1, 6], "0610"),
    ([0, 1, 1, 2, 1, 3, 1, 4, 1], "011101010"), ([0, 1024], "0PP1"),
])  # fmt: skip
def test_compressed_run_lengths_count_on_from_the_fourth(counts, text):
    assert from_compressed(text) == counts


def test_compressed_run_lengths_of_a_file_are_taken(folder, tmp_path):
    data = {
        "images": [{"id": 1, "file_name": "im0.png"}], "categories": [{"id": 2, "name": "dot"}],
        "annotations": [{"image_id": 1, "category_id": 2, "segmentation": {"size": [48, 64], "counts": "05ko2"}}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    assert read_coco(folder, tmp_path / "coco.json", print) == ["im0"]
    expected = np.full((48, 64), 255, np.uint8)
    expected[:5, 0] = 2
    assert np.array_equal(folder.mask("im0"), expected)
    data["annotations"][0]["segmentation"]["counts"] = "05ko"
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="cut short"):
        read_coco(folder, tmp_path / "coco.json", print)


@pytest.mark.parametrize("text, message", [("0PP", "cut short"), ("0 1", "no character"), ("0~1", "no character")])
def test_what_is_no_compressed_run_length_is_one_sentence(text, message):
    with pytest.raises(DataError, match=message):
        from_compressed(text)
