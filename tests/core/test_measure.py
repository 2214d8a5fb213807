"""Measurements from label maps against shapes that are known, and against scikit-image."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lamella.engine.export import run_lengths, write_coco, write_table
from lamella.engine.journal import Journal, entries, measured
from lamella.errors import ConfigError
from lamella.measure.columns import columns
from lamella.measure.instances import instances
from lamella.measure.tables import TABLES, measure, measure_lengths, parse_structures, schema
from lamella.measure.thickness import _across, chords, thickness
from scipy import ndimage
from skimage import measure as peer

Y, X = np.mgrid[:200, :240].astype(float)


def of(found, label):
    return [one for one in found if one.label == label]


# Thickness


@pytest.mark.parametrize("angle", [0, 7, 30, 45, 72, 90])
@pytest.mark.parametrize("nm", [3.0, 9.5, 25.0])
def test_a_straight_layer_is_as_thick_as_it_is_whichever_way_it_lies(angle, nm):
    t = np.deg2rad(angle)
    distance = np.abs((Y - 100.2) * 0.5 * np.cos(t) - (X - 120.3) * 0.5 * np.sin(t))
    middle, spread = thickness(distance < nm / 2, (0.5, 0.5))
    assert middle == pytest.approx(nm, abs=0.25)  # half a pixel
    assert spread < 1.0


@pytest.mark.parametrize("pixels", [(0.5, 0.5), (0.5, 0.8), (1.3, 0.4)])
def test_pixels_need_not_be_square(pixels):
    for angle in (0, 35, 90):
        t = np.deg2rad(angle)
        distance = np.abs((Y - 100.2) * pixels[0] * np.cos(t) - (X - 120.3) * pixels[1] * np.sin(t))
        assert thickness(distance < 8, pixels)[0] == pytest.approx(16, abs=0.5 * max(pixels))


def test_a_ring_and_a_liner_are_measured_across_and_not_along():
    radius = np.hypot(Y - 100, X - 120)
    assert thickness((radius > 40) & (radius < 46), (1.0, 1.0))[0] == pytest.approx(6, abs=0.5)
    trench = np.maximum(np.abs(X - 120.3) - 30.1, Y - 150.2)
    assert thickness((trench > 0) & (trench < 5), (1.0, 1.0))[0] == pytest.approx(5, abs=0.5)


def test_a_rough_layer_has_its_mean_thickness_and_its_spread():
    random = np.random.default_rng(0)
    smooth = np.convolve(random.normal(0, 1, 400), np.hanning(25) / np.linalg.norm(np.hanning(25)), "same")[:240]
    top, bottom = 80 + 1.5 * smooth, 110 + 0.3 * smooth
    mask = (top < Y) & (bottom > Y)
    middle, spread = thickness(mask, (1.0, 1.0))
    assert middle == pytest.approx(float((bottom - top).mean()), abs=0.5)
    assert spread == pytest.approx(3 * float((bottom - top).std()), rel=0.35)


def followed(mask, point, direction, scale, most):
    """The length of one ray, sample by sample; None for one that does not count."""
    step = 0.25 * scale.min()
    reach = np.arange(-1.5 * scale.max(), most + step, step)
    inside = [
        float(ndimage.map_coordinates(mask.astype(np.float32), (point + direction * r / scale)[:, None], order=1,
                                      mode="nearest")[0])
        for r in reach
    ]  # fmt: skip
    ends = []
    for k in range(len(reach)):
        if (inside[k] >= 0.5) != (len(ends) == 1):
            if k == 0:
                return None
            ends.append(reach[k - 1] + (0.5 - inside[k - 1]) / (inside[k] - inside[k - 1]) * (reach[k] - reach[k - 1]))
        if len(ends) == 2:
            last = point + direction * ends[1] / scale
            there = all(-0.5 <= at <= side - 0.5 for at, side in zip(last, mask.shape, strict=True))
            return ends[1] - ends[0] if there and ends[1] - ends[0] <= most else None
    return None


@pytest.mark.parametrize(("smooth", "size"), [(1.0, 20), (12.0, 90)])
def test_rays_that_go_on_together_are_as_long_as_each_by_itself(smooth, size, monkeypatch):
    monkeypatch.setattr("lamella.measure.thickness._STRIDE", 5)
    random = np.random.default_rng(3)
    mask = ndimage.gaussian_filter(random.normal(0, 1, (size, size)), smooth) > 0
    points, angle = random.uniform(0, size, (60, 2)), random.uniform(0, 2 * np.pi, 60)
    direction, scale, widest = np.stack([np.sin(angle), np.cos(angle)], 1), np.array([0.5, 0.8]), 0.6 * size
    each = [followed(mask, *ray, scale, 1.3 * widest + 2 * 0.8) for ray in zip(points, direction, strict=True)]
    expected = [length for length in each if length is not None]
    assert 5 < len(expected) < 60
    assert max(expected) > 5  # some strides long
    assert _across(mask, points, direction, scale, widest) == pytest.approx(expected, abs=1e-4)


def test_a_ray_that_leaves_the_image_does_not_count():
    """In a corner of a disc rays would go on along the border."""
    radius = np.hypot(Y[:80, :80] - 40, X[:80, :80])
    assert math.isnan(thickness(radius < 15, (1.0, 1.0))[0])


def test_what_leaves_the_image_has_no_thickness():
    assert math.isnan(thickness(Y > 150, (1.0, 1.0))[0])
    assert math.isnan(thickness(np.ones((9, 9), bool), (1.0, 1.0))[0])
    assert math.isnan(thickness(np.zeros((9, 9), bool), (1.0, 1.0))[0])
    assert len(chords(np.zeros((9, 9), bool), (1.0, 1.0))) == 0


@given(st.integers(3, 30), st.integers(3, 30), st.floats(0.1, 5), st.integers(0, 9))
def test_any_map_is_measured_without_trouble(height, width, nm, seed):
    label = np.random.default_rng(seed).integers(0, 3, (height, width)).astype(np.uint8)
    rows = measure(label, ["a", "b", "c"], (nm, nm), {"ab": ["a", "b"]})
    assert sum(row["area_px"] for row in rows["measurements"] if row["class"] != "ab") == label.size
    for table in TABLES:
        assert all({"image", "pixel_y_nm", "pixel_x_nm", *row} == set(schema(table)) for row in rows[table])


def test_lengths_alone_are_those_of_the_whole_measurement():
    label = np.zeros((60, 80), np.uint8)
    label[10:50, 8:20] = label[12:52, 40:50] = 1
    label[8:10, 8:20] = 2
    label[54:57] = 3
    parts = {"capped": ["fin", "cap"], "fin": ["fin"], "floor": ["floor"]}
    classes, nm = ["ground", "fin", "cap", "floor"], (0.5, 0.25)
    found = measure_lengths(label, classes, nm, parts)
    whole = {row["class"]: row for row in measure(label, classes, nm, {"capped": parts["capped"]})["measurements"]}
    assert [row["class"] for row in found] == list(parts)
    assert found[0]["cd_mid_nm"] > 0 and found[2]["thickness_nm"] > 0
    for row in found:
        np.testing.assert_equal(row, {name: whole[row["class"]][name] for name in row})


# Objects


@pytest.mark.parametrize("pixels", [(1.0, 1.0), (0.5, 2.0)])
def test_objects_are_those_of_scikit_image(pixels):
    random = np.random.default_rng(1)
    label = (random.normal(0, 1, (60, 80)) > 1.1).astype(np.uint8)
    label[20:35, 10:70] = 1
    found = of(instances(label, ["ground", "spot"], pixels), "spot")
    theirs = {tuple(r.bbox): r for r in peer.regionprops(peer.label(label, connectivity=2)) if r.area >= 4}
    assert len(found) == len(theirs) > 10
    assert [one.area_px for one in found] == sorted((r.area for r in theirs.values()), reverse=True)
    for one in found:
        other = theirs[one.top, one.left, one.bottom, one.right]
        assert (one.area_px, one.y, one.x) == (other.area, *map(pytest.approx, other.centroid))
        assert one.area_nm2 == pytest.approx(other.area * pixels[0] * pixels[1])
        assert one.diameter_nm == pytest.approx(other.equivalent_diameter_area * math.sqrt(pixels[0] * pixels[1]))


def test_an_object_at_the_border_says_so_and_an_unknown_pixel_size_stays_unknown():
    label = np.zeros((30, 30), np.uint8)
    label[0:5, 10:20] = label[12:18, 10:20] = 1
    found = of(instances(label, ["ground", "spot"], (math.nan, math.nan)), "spot")
    assert [(one.area_px, one.on_border) for one in found] == [(60, False), (50, True)]
    assert all(math.isnan(one.area_nm2) and math.isnan(one.thickness_nm) for one in found)


def test_of_very_many_objects_the_largest_are_listed_and_all_are_counted(monkeypatch):
    monkeypatch.setattr("lamella.measure.instances.MOST", 3)
    label = np.zeros((40, 40), np.uint8)
    for k in range(6):
        label[6 * k : 6 * k + 3 + (k == 4), 5:10] = 1
    found = measure(label, ["ground", "spot"], (1.0, 1.0))
    assert [one["area_px"] for one in found["instances"] if one["class"] == "spot"] == [20, 15, 15]
    assert {row["class"]: row["objects"] for row in found["measurements"]} == {"ground": 1, "spot": 6}


# Upright structures


def lines(widths, *, lean=0.0, foot=0.0):
    """Lines 40 px apart from row 20 to row 180, of the given widths, leaning and widening downwards (px per row)."""
    label = np.zeros((200, 240), np.uint8)
    for k, width in enumerate(widths):
        middle = 40 + 40 * k + lean * (Y - 100)
        half = (width + foot * (Y - 100)) / 2
        label[(np.abs(X - middle) < half) & (Y >= 20) & (Y < 180)] = 1
    return label


def test_critical_dimensions_pitch_and_height():
    found = of(columns(lines([10, 12, 14, 11]), ["space", "line"], (2.0, 0.5)), "line")
    assert [one.number for one in found] == [1, 2, 3, 4]
    assert [one.cd_mid_nm for one in found] == pytest.approx([5, 6, 7, 5.5], abs=0.5)
    assert [one.height_nm for one in found] == [320.0] * 4
    assert [one.pitch_nm for one in found[:3]] == pytest.approx([20.0] * 3, abs=0.26)
    assert math.isnan(found[3].pitch_nm)


def test_a_taper_is_seen_at_top_and_bottom_and_as_an_angle():
    found = of(columns(lines([16], foot=0.05), ["space", "line"], (1.0, 1.0)), "line")
    one = found[0]
    assert (one.cd_top_nm, one.cd_mid_nm, one.cd_bottom_nm) == pytest.approx((12.8, 16, 19.2), abs=0.5)
    assert one.sidewall_deg == pytest.approx(math.degrees(math.atan(2 / 0.05)), abs=0.3)


def test_roughness_is_three_sigma_without_the_rounding_to_pixels():
    random = np.random.default_rng(2)
    kernel = np.hanning(15) / np.linalg.norm(np.hanning(15))
    edges = [np.convolve(random.normal(0, 1, 400), kernel, "same")[:200] for _ in range(2)]
    label = ((80.2 + edges[0][:, None] + 0.02 * Y < X) & (130.7 + edges[1][:, None] + 0.02 * Y > X)).astype(np.uint8)
    one = max(of(columns(label, ["space", "line"], (1.0, 1.0)), "line"), key=lambda one: one.height_nm)
    body = slice(20, 180)
    at = np.linspace(-1, 1, 160)

    def sigma(values):
        return (values[body] - np.polyval(np.polyfit(at, values[body], 1), at)).std()

    assert one.cut_off
    assert one.ler_nm == pytest.approx(3 * math.sqrt((sigma(edges[0]) ** 2 + sigma(edges[1]) ** 2) / 2), rel=0.08)
    assert one.lwr_nm == pytest.approx(3 * sigma(edges[1] - edges[0]), rel=0.08)


def test_a_straight_edge_has_no_roughness_and_no_sign():
    label = np.zeros((40, 60), np.uint8)
    label[:, 20:40] = 1
    one = of(columns(label, ["space", "line"], (1.0, 1.0)), "line")[0]
    assert [str(value) for value in (one.ler_nm, one.lwr_nm)] == ["0.0", "0.0"]


def test_short_structures_are_as_rough_as_long_ones():
    random, label = np.random.default_rng(0), np.zeros((20 * 16, 40 * 20), bool)
    for top in range(4, len(label), 16):  # 10 of 12 rows are measured
        for x in range(4, label.shape[1], 20):
            edges = np.round(np.array([[x], [x + 9]]) + random.random() + random.normal(0, 1, (2, 12))).astype(int)
            for row, (left, right) in enumerate(edges.T, top):
                label[row, left:right] = True
    found = [one for one in of(columns(label, ["space", "line"], (1.0, 1.0)), "line") if not one.cut_off]
    assert len(found) > 700
    assert math.sqrt(np.mean([one.ler_nm**2 for one in found])) == pytest.approx(3, rel=0.03)
    assert math.sqrt(np.mean([one.lwr_nm**2 for one in found])) == pytest.approx(3 * math.sqrt(2), rel=0.03)


def test_smooth_edges_have_no_roughness():
    one = of(columns(lines([10]), ["space", "line"], (1.0, 1.0)), "line")[0]
    assert (one.ler_nm, one.lwr_nm) == (0.0, 0.0)


def test_chains_end_where_runs_fork_join_or_touch_the_side():
    label = np.zeros((100, 120), np.uint8)
    label[60:] = 1  # a comb: three teeth on a ground
    for left in (10, 50, 90):
        label[10:60, left : left + 8] = 1
    label[20:100, 0:5] = 1
    found = of(columns(label, ["space", "comb"], (1.0, 1.0)), "comb")
    assert [(one.top, one.bottom, one.cd_mid_nm) for one in found] == [(10, 60, 8.0)] * 3


def test_several_classes_make_one_structure():
    label = lines([20])
    label[(label == 1) & (np.abs(X - 40) < 6)] = 2
    found = columns(label, ["space", "liner", "metal"], (1.0, 1.0), {"gate": ["liner", "metal"]})
    assert of(found, "gate")[0].cd_mid_nm == pytest.approx(20, abs=1)
    assert of(found, "metal")[0].cd_mid_nm == pytest.approx(11, abs=1)
    assert parse_structures(["gate=liner+metal"], ["space", "liner", "metal"]) == {"gate": ["liner", "metal"]}


def test_the_objects_of_a_structure_are_those_of_its_classes_together():
    label = np.zeros((60, 90), np.uint8)
    label[10:50, 20:40] = label[10:50, 60:80] = 1
    label[12:50, 24:36] = 2
    label[0, 0] = 2
    rows = measure(label, ["space", "liner", "metal"], (1.0, 1.0), {"gate": ["liner", "metal"]})["measurements"]
    assert {row["class"]: row["objects"] for row in rows} == {"space": 1, "liner": 2, "metal": 1, "gate": 2}


def test_structures_are_numbered_without_those_that_are_too_wide():
    label = np.zeros((60, 120), np.uint8)
    label[30:45, 5:50] = label[5:55, 60:70] = label[5:55, 80:90] = 1
    assert [one.number for one in of(columns(label, ["space", "fin"], (1.0, 1.0)), "fin")] == [1, 2]


def test_structures_that_share_just_half_of_their_rows_have_a_pitch():
    label = np.zeros((40, 60), np.uint8)
    label[5:15, 10:14] = label[10:20, 30:34] = 1
    assert of(columns(label, ["space", "fin"], (1.0, 1.0)), "fin")[0].pitch_nm == 20


@pytest.mark.parametrize("text", ["gate", "=liner", "liner=metal", "gate=liner+gold", "gate="])
def test_a_structure_that_cannot_be_is_said(text):
    with pytest.raises(ConfigError, match="--structure"):
        parse_structures([text], ["space", "liner", "metal"])


# What is written


def test_tables_are_the_same_as_text_and_as_parquet(tmp_path):
    from pyarrow import parquet

    columns = {"image": str, "n": int, "nm": float, "cut": bool}
    rows = [
        {"image": f'a{i}, "b"', "n": i, "nm": i / 7 if i % 3 else math.nan, "cut": i % 2 == 0} for i in range(25_000)
    ]
    write_table(tmp_path / "t", columns, iter(rows))
    table = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        text = list(csv.DictReader(file))
    assert len(table) == len(text) == 25_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]
    for i in (0, 1, 3, 9_999, 10_000, 24_999):
        assert table[i] == {**rows[i], "nm": None if i % 3 == 0 else rows[i]["nm"]}
        assert (text[i]["image"], int(text[i]["n"])) == (rows[i]["image"], i)
        assert text[i]["nm"] == ("" if i % 3 == 0 else f"{i / 7:.6g}")


def test_an_empty_table_has_its_columns(tmp_path):
    write_table(tmp_path / "t", {"image": str, "nm": float}, [])
    assert (tmp_path / "t.csv").read_text() == "image,nm\n"


def decoded(mask):
    """A COCO mask from its run lengths, the slow way."""
    flat, value = [], 0
    for count in mask["counts"]:
        flat += [value] * count
        value = 1 - value
    return np.array(flat, bool).reshape(mask["size"][::-1]).T


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4), st.integers(0, 10**6))
def test_run_lengths_give_back_the_mask(height, width, top, left, seed):
    here = np.random.default_rng(seed).random((height, width)) > 0.4
    if not here.any():
        here[0, 0] = True
    whole = np.zeros((height + top + 2, width + left + 1), bool)
    whole[top : top + height, left : left + width] = here
    lengths = run_lengths(here, top, left, whole.shape)
    assert (decoded({"size": whole.shape, "counts": lengths}) == whole).all()


def test_coco_holds_every_object_with_its_mask(tmp_path):
    label = (np.random.default_rng(0).random((30, 40)) > 0.75).astype(np.uint8) * 2
    label[5:15, 8:20] = 1
    count = write_coco(
        tmp_path / "coco.json", [("one", "one.tif", label), ("two", "two.tif", label[:9])], ["a", "b", "c"]
    )
    found = json.loads((tmp_path / "coco.json").read_text())
    assert count == len(found["annotations"]) > 20
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(1, "a"), (2, "b"), (3, "c")]
    assert [(i["file_name"], i["height"], i["width"]) for i in found["images"]] == [
        ("one.tif", 30, 40),
        ("two.tif", 9, 40),
    ]
    assert [a["id"] for a in found["annotations"]] == list(range(1, count + 1))
    for annotation in found["annotations"]:
        mask, image = decoded(annotation["segmentation"]), label if annotation["image_id"] == 1 else label[:9]
        left, top, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] >= 4
        assert (image[mask] == annotation["category_id"] - 1).all()
        rows, across = np.nonzero(mask)
        assert (rows.min(), across.min(), np.ptp(rows) + 1, np.ptp(across) + 1) == (top, left, height, width)


def test_the_journal_takes_the_latest_and_survives_lines_that_were_cut(tmp_path):
    with Journal(tmp_path, 0) as journal:
        journal.note({"name": "a", "failed": "gone"})
        journal.note({"name": "b", "pixels": [1]}, {"pixel_nm": (1.0, 1.0), "instances": [{"n": 1}]})
    for kind in ("journal", "measured"):
        with (tmp_path / f"{kind}-0.jsonl").open("a") as file:
            file.write('{"name": "c", "pix')
    with Journal(tmp_path, 0) as journal:
        journal.note({"name": "d", "pixels": [2]}, {"pixel_nm": (1.0, 2.0), "instances": []})
        journal.note({"name": "b", "pixels": [3]}, {"pixel_nm": (1.0, 1.0), "instances": [{"n": 2}, {"n": 3}]})
    with Journal(tmp_path, 1) as journal:
        journal.note({"name": "a", "pixels": [4]}, {"pixel_nm": (0.5, 0.5), "instances": [{"n": 9}]})
    assert {name: entry.get("pixels") for name, entry in entries(tmp_path).items()} == {"a": [4], "b": [3], "d": [2]}
    rows = list(measured(tmp_path, ["d", "b", "a", "nobody"], "instances"))
    assert [(row["image"], row["n"], row["pixel_x_nm"]) for row in rows] == [
        ("b", 2, 1.0),
        ("b", 3, 1.0),
        ("a", 9, 0.5),
    ]


def wide(shape, thick):
    """A band that slants across a large map, ``thick`` pixels across."""
    rows, columns_ = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    return np.abs(rows - shape[0] / 2 - 0.05 * columns_ + 0.025 * shape[1]) < thick / 2


@pytest.mark.parametrize("thick", [4, 40, 700])
def test_a_large_map_is_measured_in_parts_as_it_would_be_whole(thick, monkeypatch):
    mask = wide((2304, 2048), thick)
    parts = thickness(mask, (0.5, 0.5))
    monkeypatch.setattr("lamella.measure.thickness._LARGE", mask.size * 2)
    whole = thickness(mask, (0.5, 0.5))
    assert parts[0] == pytest.approx(whole[0], rel=2e-3)
    assert parts[0] == pytest.approx(0.5 * thick / np.hypot(1, 0.05), abs=0.3)


def test_the_pitch_is_the_way_to_the_nearest_of_its_kind():
    chance = np.random.default_rng(0)
    label = np.zeros((80, 3000), np.uint8)
    lefts = np.cumsum(chance.integers(14, 30, 150))
    for left in lefts[lefts < 2960]:
        top = int(chance.integers(2, 40))
        label[top : top + int(chance.integers(20, 38)), left : left + int(chance.integers(4, 12))] = 1
    found = sorted(
        (one for one in columns(label, ["ground", "fin"], (1.0, 1.0)) if one.label == "fin"), key=lambda c: c.x
    )

    def alike(one, other):
        shared = min(one.bottom, other.bottom) - max(one.top, other.top)
        wide_, narrow = max(one.cd_mid_nm, other.cd_mid_nm), min(one.cd_mid_nm, other.cd_mid_nm)
        return shared >= 0.5 * max(one.height_nm, other.height_nm) and wide_ <= 1.5 * narrow

    assert len(found) > 100
    for number, one in enumerate(found):
        beside = [other.x - one.x for other in found[number + 1 :] if alike(one, other)]
        assert one.pitch_nm == pytest.approx(min(beside, default=np.nan), nan_ok=True)


def test_run_lengths_join_at_the_foot_and_the_head_of_columns():
    here = np.array([[1, 1, 0], [1, 1, 1]], bool)
    assert run_lengths(here, 0, 0, (2, 3)) == [0, 4, 1, 1, 0]
    assert run_lengths(here, 1, 1, (4, 5)) == [5, 2, 2, 2, 3, 1, 5]
