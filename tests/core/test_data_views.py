"""Several images of one object: paired by what wildcards stand for, or by columns; a missing one is named."""

import math

import datasets
import numpy as np
import pytest
import tifffile
from lamella.data.cache import cached
from lamella.data.sources import SourceConfig, open_source
from lamella.data.tables import from_dataset
from lamella.data.views import by_wildcards, stacked
from lamella.engine.doubts import doubts
from lamella.errors import ConfigError, DataError
from PIL import Image


def grey(seed, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def write(folder, *names, shape=(6, 8)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(sum(name.encode()), shape)).save(path)


def opened(folder, registry, **table):
    return open_source(SourceConfig.model_validate({"source": "set", **table}), registry, "[data.x]", folder=folder)


FOLDERS = {"high": "high/*.png", "low": "low/*.png"}


@pytest.mark.parametrize(
    ("patterns", "names", "expected"),
    [
        (FOLDERS, ["high/a.png", "high/b.png", "low/a.png", "low/b.png"], ["a", "b"]),
        ({"high": "./high/*.png", "low": "low/*.png"}, ["high/a.png", "low/a.png"], ["a"]),
        ({"high": "*_H.png", "low": "*_L.png"}, ["a_H.png", "a_L.png", "b_H.png", "b_L.png"], ["a", "b"]),
        ({"high": "*/*-50k.png", "low": "*/*-5k.png"}, ["x/1-50k.png", "x/1-5k.png"], ["x/1"]),
        ({"high": "**/?_H.png", "low": "**/?_L.png"}, ["x/y/1_H.png", "x/y/1_L.png"], ["x/y/1"]),
        ({"high": "[ab]_*.png", "low": "low_[ab]_*.png"}, ["a_1.png", "low_a_1.png"], ["a/1"]),
        ({"high": ["p_*.png", "q_*.png"], "low": "l_*.png"}, ["p_1.png", "q_2.png", "l_1.png", "l_2.png"], ["1", "2"]),
    ],
)
def test_files_whose_wildcards_agree_are_views_of_one_object(tmp_path, patterns, names, expected):
    write(tmp_path, *names)
    found = by_wildcards(tmp_path, patterns)
    assert list(found) == expected
    assert all(set(views) == {"high", "low"} for views in found.values())
    assert sorted(p.relative_to(tmp_path).as_posix() for v in found.values() for p in v.values()) == sorted(names)


def test_a_sample_holds_its_views_in_the_order_of_the_table(tmp_path, tiny_registry):
    write(tmp_path / "set", "high/a.png", "low/a.png")
    table = opened(tmp_path, tiny_registry, images=FOLDERS)
    sample = table.read(0)
    assert (sample.views, sample.image.shape, sample.name) == (("high", "low"), (6, 8, 2), "a")
    assert (sample.image[..., 1] == grey(sum(b"low/a.png"))).all()
    turned = opened(tmp_path, tiny_registry, images=dict(reversed(FOLDERS.items())))
    assert (turned.read(0).views, turned.read(0).key) == (("low", "high"), sample.key)


def test_what_is_missing_is_counted_and_named(tmp_path, tiny_registry):
    write(tmp_path / "set", "high/a.png", "low/a.png", "high/b.png", "low/c.png")
    table = opened(tmp_path, tiny_registry, images=FOLDERS)
    assert table.incomplete() == "1 of 3 have no 'high' image, 1 of 3 have no 'low' image"
    assert [table.read(i).views for i in range(3)] == [("high", "low"), ("high",), ("low",)]
    assert table.read(2).image.shape == (6, 8, 1)
    assert opened(tmp_path, tiny_registry, images="high/*.png").incomplete() is None


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_colours_become_their_mean_in_the_type_of_the_image(kind):
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(kind)
    image, _ = stacked({"high": colour, "low": colour[..., 0]}, "D1")
    mean = colour.mean(2, dtype=np.float64)
    assert image.dtype == kind and (image[..., 1] == colour[..., 0]).all()
    assert np.abs(image[..., 0] - mean).max() < (0.34 if np.issubdtype(kind, np.integer) else 1e-4)


def test_a_group_named_label_is_the_class(tmp_path, tiny_registry):
    write(tmp_path / "set", "high/open-1.png", "low/open-1.png", "high/bridge-2.png", "low/bridge-2.png")
    table = opened(tmp_path, tiny_registry, images=FOLDERS, group=r"(?P<label>\w+)-(?P<die>\d)")
    assert (table.classes.names, table.labelled) == (("bridge", "open"), True)
    assert [(s.label, s.groups["die"]) for s in (table.read(0), table.read(1))] == [(0, "2"), (1, "1")]
    plain = opened(tmp_path, tiny_registry, images="high/*.png", group=r"(?P<label>\w+)-", classes=["open", "bridge"])
    assert [plain.read(i).label for i in range(2)] == [1, 0]
    with pytest.raises(ConfigError, match=r"class 'bridge' is none of open"):
        opened(tmp_path, tiny_registry, images=FOLDERS, group=r"(?P<label>\w+)-", classes=["open"])


def test_the_decoded_copy_keeps_views_groups_and_classes(tmp_path, tiny_registry):
    write(tmp_path / "set", "high/open-1.png", "low/open-1.png", "high/bridge-2.png")
    table = opened(tmp_path, tiny_registry, images=FOLDERS, group=r"(?P<label>\w+)-(?P<die>\d)")
    copy = cached(table, folder=tmp_path / "cache")
    for i in range(2):
        before, after = table.read(i, 3), copy.read(i, 3)
        assert (before.image == after.image).all()
        assert before._replace(image=None) == after._replace(image=None, pixel_nm=before.pixel_nm)
    assert copy.incomplete() == table.incomplete()
    other = opened(tmp_path, tiny_registry, images=dict(reversed(FOLDERS.items())), group=r"(?P<label>\w+)-(?P<die>\d)")
    assert cached(other, folder=tmp_path / "cache").read(1).views == ("low", "high")


def test_each_view_says_its_pixel_size_and_all_together_where_they_agree(tmp_path, tiny_registry):
    (tmp_path / "set").mkdir()
    sizes = {"a_H": 2, "a_L": 12, "b_L": 12, "c_H": 2, "d_H": 2, "d_L": 2}
    for name, nm in sizes.items():
        told = {"imagej": True, "resolution": (1 / nm, 1 / nm), "metadata": {"unit": "nm"}}
        tifffile.imwrite(tmp_path / "set" / f"{name}.tif", grey(nm), **told)
    images = {"high": "*_H.tif", "low": "*_L.tif"}
    table = opened(tmp_path, tiny_registry, images=images)
    for found in (table, cached(table, folder=tmp_path / "cache")):
        samples = [found.read(i) for i in range(4)]
        assert [sample.meta for sample in samples] == [
            pytest.approx(meta) for meta in ({"high_nm": 2, "low_nm": 12}, {"low_nm": 12}, {"high_nm": 2},
                                             {"high_nm": 2, "low_nm": 2})
        ]  # fmt: skip
        told = [sample.pixel_nm for sample in samples]
        assert [math.isnan(y) and math.isnan(x) for y, x in told[:3]] == [True] * 3 and told[3] == pytest.approx((2, 2))
    alone = opened(tmp_path, tiny_registry, images={"low": "*_L.tif"})
    assert alone.read(0).pixel_nm == pytest.approx((12, 12))
    whole = cached(alone, folder=tmp_path / "cache").read(1)
    assert whole.pixel_nm == pytest.approx((12, 12))
    assert opened(tmp_path, tiny_registry, images=images, pixel_nm=5.0).read(1).pixel_nm == (5, 5)


def test_columns_by_view_and_a_row_without_one(tmp_path):
    rows = [{"big": grey(1), "small": grey(2), "label": 0}, {"big": grey(3), "small": None, "label": 1}]
    features = datasets.Features(
        {"big": datasets.Image(), "small": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    pictures = [
        {**row, **{k: None if row[k] is None else Image.fromarray(row[k]) for k in ("big", "small")}} for row in rows
    ]
    dataset = datasets.Dataset.from_list(pictures, features=features)
    config = SourceConfig(source="x", columns={"image": {"high": "big", "low": "small"}})
    table = from_dataset(dataset, config, None, "set")
    assert [table.read(i).views for i in range(2)] == [("high", "low"), ("high",)]
    assert (table.read(0).image[..., 1] == grey(2)).all()
    assert table.incomplete() == "1 of 2 have no 'low' image"
    with pytest.raises(ConfigError, match="no column 'tiny'"):
        from_dataset(dataset, SourceConfig(source="x", columns={"image": {"high": "tiny"}}), None, "set")
    with pytest.raises(ConfigError, match="only the image may have several"):
        from_dataset(dataset, SourceConfig(source="x", columns={"label": {"high": "big"}}), None, "set")


def test_a_crop_of_several_views_is_doubted_before_it_is_trained_on(tmp_path, tiny_registry):
    write(tmp_path / "set", "high/b.png", "low/a.png", "low/b.png")
    pairs = {"unlabelled": opened(tmp_path, tiny_registry, images=FOLDERS)}
    single = {"unlabelled": opened(tmp_path, tiny_registry, images="high/*.png")}
    assert [list(doubts(tables, crop, classes=False)) for tables, crop in ((single, 4), (pairs, None))] == [[], []]
    (said,) = doubts(pairs, 4, classes=False)
    assert said.startswith("[fit] crop = 4 cuts the same window out of every image of a sample, which shows one place")


def test_mistakes_are_named(tmp_path, tiny_registry):
    write(tmp_path / "set", "high/a.png", "low/a.png", "one/a.png", "one/b.png")
    write(tmp_path / "set", "wide/a.png", shape=(6, 9))
    with pytest.raises(ConfigError, match=r"images.low = 'none/\*.png'"):
        opened(tmp_path, tiny_registry, images={**FOLDERS, "low": "none/*.png"})
    for beside in (FOLDERS["low"], str(tmp_path / "set" / "low" / "*.png")):
        patterns = {"high": str(tmp_path / "set" / "high" / "*.png"), "low": beside}
        with pytest.raises(ConfigError, match=r"images.high = .*: patterns are relative to the source, here .*set; "):
            opened(tmp_path, tiny_registry, images=patterns)
    with pytest.raises(ConfigError, match="needs a wildcard"):
        opened(tmp_path, tiny_registry, images={**FOLDERS, "low": "low/a.png"})
    with pytest.raises(DataError, match="another file is the view 'low' of 'a'"):
        opened(tmp_path, tiny_registry, images={**FOLDERS, "low": ["low/*.png", "one/*.png"]})
    for low in ("high/*.png", "high/?.*", ["low/*.png", "hi*/a.png"]):
        with pytest.raises(DataError, match=r"h.a\.png: it is the view 'high' of 'a' by one pattern and the view"):
            opened(tmp_path, tiny_registry, images={**FOLDERS, "low": low})
    with pytest.raises(DataError, match="need one size and type, these are high 6×8 uint8, low 6×9 uint8"):
        opened(tmp_path, tiny_registry, images={**FOLDERS, "low": "wide/*.png"}).read(0)
    with pytest.raises(ConfigError, match="have no masks"):
        opened(tmp_path, tiny_registry, images=FOLDERS, labels="one/*.png")
    with pytest.raises(DataError, match=r"none of its views \(high, low\)"):
        stacked({"high": None, "low": None}, "D1")
