"""Masks of an annotation folder to Label Studio and back: brushes, polygons, rectangles, ellipses."""

import json
import math

import numpy as np
import pytest
from lamella.errors import DataError
from lamella_sam.annotate.label_studio import (
    _brush,
    brush_code,
    from_brush_code,
    read_label_studio,
    write_label_studio,
)
from six_images import truth
from tasks import brushed


def test_label_studio_gives_back_uploaded_names_and_skipped_annotations(folder, tmp_path):
    everywhere, relation = np.ones((48, 64), bool), {"type": "relation", "from_id": "a", "to_id": "b"}
    tasks = [
        brushed("/data/upload/1/3f2a9c1d-im0.png", ("bar", truth(0) == 1)),
        brushed("im1.png", ("dot", everywhere), was_cancelled=True),
        {"data": {"image": "im2.png"}, "annotations": [{"result": [relation]}]},
        {"data": {"image": "im3.png"}, "annotations": None},
    ]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    assert read_label_studio(folder, tmp_path / "back.json", print) == ["im0"]
    assert np.array_equal(folder.mask("im0"), np.where(truth(0) == 1, 1, 255))


def taken(folder, tmp_path, *results):
    """The mask of im0 after one annotation with these results, and what was told."""
    task, told = {"data": {"image": "im0.png"}, "annotations": [{"result": list(results)}]}, []
    (tmp_path / "back.json").write_text(json.dumps([task]))
    names = read_label_studio(folder, tmp_path / "back.json", told.append)
    return folder.mask("im0") if names else None, [text.partition("left out: ")[2] for text in told]


def shape(kind, number=None, **value):
    return {"type": kind, "value": value, **({} if number is None else {"id": number})}


def test_label_studio_results_that_are_no_shape_with_a_class_are_told(folder, tmp_path):
    bar = _brush(truth(0) == 1, "bar")
    bare = shape("brush", rle=bar["value"]["rle"])
    point = shape("keypointlabels", x=1, y=1, width=1, keypointlabels=["bar"])
    unlabelled = {**bare, "value": {**bare["value"], "brushlabels": []}}
    mask, told = taken(folder, tmp_path, point, bare, bar, unlabelled, {"type": "relation"})
    assert told == ["brush without a class (2), keypointlabels (1)"]
    assert np.array_equal(mask, np.where(truth(0) == 1, 1, 255))


def test_polygons_rectangles_and_ellipses_of_label_studio_are_taken(folder, tmp_path):
    """Per cent of 64 × 48 pixels; what comes later lies on top."""
    mask, told = taken(
        folder, tmp_path,
        shape("rectanglelabels", x=25, y=25, width=50, height=50, rotation=0, rectanglelabels=["bar"]),
        shape("polygonlabels", points=[[50, 50], [100, 50], [100, 100], [50, 100]], polygonlabels=["dot"]),
        shape("ellipselabels", x=25, y=75, radiusX=12.5, radiusY=12.5, rotation=0, ellipselabels=["dot"]),
    )  # fmt: skip
    y, x = np.mgrid[:48, :64] + 0.5
    expected = np.full((48, 64), 255, np.uint8)
    expected[12:36, 16:48] = 1
    expected[24:, 32:] = 2
    expected[((x - 16) / 8) ** 2 + ((y - 36) / 6) ** 2 <= 1] = 2
    assert not told and np.array_equal(mask, expected)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, -40.0, 200.0])
def test_turned_shapes_of_label_studio_lie_where_its_converter_puts_them(folder, tmp_path, degrees):
    """A rectangle turns about its upper left corner: the centre by the formula of label-studio-converter's utils."""
    left, top, width, height = 28.0, 20.0, 16.0, 8.0
    alpha, beta, radius = math.atan(height / width), math.radians(degrees), math.hypot(height / 2, width / 2)
    centre_x = left - radius * (math.cos(math.pi - alpha - beta) - math.cos(math.pi - alpha)) + width / 2
    centre_y = top + radius * (math.sin(math.pi - alpha - beta) - math.sin(math.pi - alpha)) + height / 2
    y, x = np.mgrid[:48, :64] + 0.5
    along = (x - centre_x) * math.cos(beta) + (y - centre_y) * math.sin(beta)
    across = (y - centre_y) * math.cos(beta) - (x - centre_x) * math.sin(beta)
    percent = {"x": left / 0.64, "y": top / 0.48, "width": width / 0.64, "height": height / 0.48, "rotation": degrees}
    mask, _ = taken(folder, tmp_path, shape("rectanglelabels", **percent, rectanglelabels=["bar"]))
    inside = np.maximum(np.abs(along) - width / 2, np.abs(across) - height / 2)
    assert (mask[inside < -1e-6] == 1).all() and (mask[inside > 1e-6] == 255).all() and (mask == 1).sum() > 90
    percent = {"x": centre_x / 0.64, "y": centre_y / 0.48, "radiusX": 8 / 0.64, "radiusY": 4 / 0.48}
    mask, _ = taken(folder, tmp_path, shape("ellipselabels", **percent, rotation=degrees, ellipselabels=["dot"]))
    assert np.array_equal(mask == 2, (along / 8) ** 2 + (across / 4) ** 2 <= 1)


@pytest.mark.parametrize("first", ["shape", "labels"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_class_of_a_labels_tag_goes_to_the_shape_of_its_id(folder, tmp_path, first, whole):
    """`<Brush>` or `<Polygon>` beside `<Labels>`: two results of one id, the second with the shape once more or not."""
    square = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]]}
    pair = [shape("polygon", "a", **square), shape("labels", "a", **(square if whole else {}), labels=["dot"])]
    nameless = shape("polygon", "b", **square)
    mask, told = taken(folder, tmp_path, *(pair if first == "shape" else pair[::-1]), nameless)
    expected = np.full((48, 64), 255, np.uint8)
    expected[:24, :32] = 2
    assert told == ["polygon without a class (1)"] and np.array_equal(mask, expected)


def test_a_shape_that_comes_twice_lies_where_it_came_first(folder, tmp_path):
    below, above = ({"points": [[0, 0], [size, 0], [size, 50], [0, 50]]} for size in (50, 25))
    mask, _ = taken(
        folder, tmp_path, shape("polygon", "a", **below), shape("polygon", "b", **above),
        shape("labels", "b", **above, labels=["bar"]), shape("labels", "a", **below, labels=["dot"]),
    )  # fmt: skip
    assert (mask[:24, :16] == 1).all() and (mask[:24, 16:32] == 2).all()


def test_a_shape_on_another_image_of_the_task_is_told_and_left_out(folder, tmp_path):
    here = {**_brush(truth(0) == 1, "bar"), "to_name": "img1"}
    there = {**_brush(truth(0) == 2, "dot"), "to_name": "img2"}
    mask, told = taken(folder, tmp_path, here, there)
    assert told == ["brushlabels on another image (1)"]
    assert np.array_equal(mask, np.where(truth(0) == 1, 1, 255))


def test_a_brush_mask_of_a_turned_frame_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="im0: the image is 64×48 pixels in Label Studio, and 48×64 here"):
        taken(folder, tmp_path, _brush(truth(0).T == 1, "bar"))


@pytest.mark.parametrize("value", [
    {"points": [], "polygonlabels": ["bar"]}, {"points": [[1, 1], [9, 9]], "polygonlabels": ["bar"]},
    {"x": 10, "y": 10, "radiusX": 0, "radiusY": 5, "ellipselabels": ["bar"]},
])  # fmt: skip
def test_shapes_without_an_area_cover_no_pixel(folder, tmp_path, value):
    told = []
    task = {"data": {"image": "im0.png"}, "annotations": [{"result": [shape("some", **value)]}]}
    (tmp_path / "back.json").write_text(json.dumps([task]))
    assert read_label_studio(folder, tmp_path / "back.json", told.append) == []
    assert told[0].endswith("such as boxes alone, are left out: 1")


def test_an_image_that_was_turned_in_label_studio_is_refused(folder, tmp_path):
    result = {**_brush(truth(0) == 1, "bar"), "image_rotation": 90}
    with pytest.raises(DataError, match="im0: it was turned by 90° in Label Studio"):
        taken(folder, tmp_path, result)
    assert not folder.mask_path("im0").exists()


@pytest.mark.parametrize("image", [
    "/data/local-files/?d=im0.png", "/data/local-files/?d=lot%207/im0.png", "http://here/data/local-files/?d=%69m0.png",
])  # fmt: skip
def test_local_files_of_label_studio_are_found_and_a_byte_order_mark_is_read(folder, tmp_path, image):
    (tmp_path / "back.json").write_text(json.dumps([brushed(image, ("bar", truth(0) == 1))]), encoding="utf-8-sig")
    assert read_label_studio(folder, tmp_path / "back.json", print) == ["im0"]


def test_label_studio_gets_every_mask_there_is(folder, tmp_path):
    folder.write_mask("im0", truth(0))  # begun by hand
    folder.write_mask("im1", truth(1), suggested=True)
    folder.entry("im1").status = folder.entry("im2").status = "suggested"  # of im2 the mask was taken away
    assert write_label_studio(folder, tmp_path / "out.json") == 2
    tasks = json.loads((tmp_path / "out.json").read_text())
    assert [list(task)[1] for task in tasks] == ["annotations", "predictions"]


def test_what_a_person_corrected_comes_back_from_label_studio(folder, tmp_path):
    for name in ("im1", "im2"):
        folder.write_mask(name, truth(2), suggested=True)
        folder.entry(name).status = "suggested"
    folder.save()
    folder.write_mask("im1", truth(1))  # as clicks and editors do
    write_label_studio(folder, tmp_path / "out.json")
    folder.mask_path("im1").unlink()
    assert read_label_studio(folder, tmp_path / "out.json", print) == ["im1"]
    assert np.array_equal(folder.mask("im1"), truth(1))


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
        read_label_studio(folder, tmp_path / "tasks.json", print)


def test_a_brush_mask_is_read_bit_by_bit():
    one_pixel = "0" * 29 + "100" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    text = one_pixel + "0" * (-len(one_pixel) % 8)
    code = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert brush_code(np.ones((1, 1), bool)) == code
    assert from_brush_code(code, 1, 1).all()
    with pytest.raises(DataError, match="cut short"):
        from_brush_code(code[:-2], 1, 1)
