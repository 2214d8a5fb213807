"""The SEM modality: pairs as two batches with equal keys, whatever the source calls them."""

import math

import datasets
import numpy as np
import pytest
import tifffile
import torch
from lamella import IGNORE, Sample
from lamella.data.loaders import cropped
from lamella.data.sources import SourceConfig, open_source
from lamella.errors import ConfigError, DataError
from lamella.registry.registry import current
from lamella.testing import modality_contract
from lamella_sem.modality import SemModality
from PIL import Image


def sample(image, *, label=None, key=0, meta=None, groups=None, views=(), pixel_nm=(math.nan, math.nan)):
    return Sample(image, label, None, key, 2, pixel_nm, meta or {}, f"D{key}", groups or {}, views)


def pair(high=10, low=200, dtype=np.uint8):
    return np.stack([np.full((6, 8), high, dtype), np.full((6, 8), low, dtype)], 2)


def random_pairs(dtype):
    random, top = np.random.default_rng(0), np.iinfo(dtype).max
    return [
        sample(random.integers(0, top, (12, 10, 2)).astype(dtype), label=i % 2, key=5 + i, groups={"die": f"D{i // 2}"})
        for i in range(4)
    ]


test_pairs_keep_the_contract = modality_contract(SemModality, samples=random_pairs)
test_pairs_mapped_by_image_keep_the_contract = modality_contract(
    lambda: SemModality(intensity="image"), samples=random_pairs
)
test_single_images_keep_the_contract = modality_contract(SemModality)


def test_stacked_images_are_high_then_low():
    batch = SemModality().collate([sample(pair(), label=3, key=7)])
    assert list(batch) == ["high", "low"]
    assert [one.image.unique().item() for one in batch.values()] == pytest.approx([10 / 255, 200 / 255])
    for one in batch.values():
        assert (one.key.tolist(), one.label.tolist(), one.visit.tolist()) == ([7], [3], [2])


def test_named_views_are_found_by_name():
    batch = SemModality().collate([sample(pair(), views=("low", "high"))])
    assert batch["low"].image.unique().item() == pytest.approx(10 / 255)
    with pytest.raises(DataError, match="knows the views high and low, not 'tilted'"):
        SemModality().collate([sample(pair(), views=("tilted", "high"))])


def test_a_missing_magnification_is_black_and_not_present():
    only_low = sample(pair()[..., 1:], views=("low",), key=1)
    batch = SemModality().collate([sample(pair()), only_low, sample(pair()[..., 0], key=2)])
    assert batch["high"].meta["present"].tolist() == [1, 0, 1]
    assert batch["low"].meta["present"].tolist() == [1, 1, 0]
    assert (batch["high"].image[1] == 0).all() and (batch["low"].image[2] == 0).all()


def test_defects_on_one_pattern_share_a_number_that_says_so_where_none_is_known():
    groups = [{"pattern": "line"}, {"pattern": "via"}, {"pattern": "line"}, {}]
    alike = SemModality().collate([sample(pair(), key=i, groups=g) for i, g in enumerate(groups)])["low"].meta["alike"]
    assert alike[0] == alike[2] != alike[1] and alike[3] == -1
    by_tool = SemModality(alike="tool").collate([sample(pair(), key=9, groups={"pattern": "line"})])
    assert by_tool["high"].meta["alike"].tolist() == [-1]


def test_defects_of_one_die_share_a_number_and_others_have_their_own():
    groups = [{"die": "W1-D1"}, {"die": "W1-D2"}, {"die": "W1-D1"}, {}, {}]
    batch = SemModality().collate([sample(pair(), key=i, groups=g) for i, g in enumerate(groups)])
    dies = batch["high"].meta["die"]
    assert dies.dtype == torch.int64 and dies[0] == dies[2] and len(set(dies.tolist())) == 4
    by_wafer = SemModality(same="wafer").collate([sample(pair(), key=9, groups={"die": "a"})])
    assert by_wafer["low"].meta["die"].tolist() == [9]


def test_defects_whose_die_and_pattern_no_one_knows_are_of_no_group(tmp_path):
    kinds = {"image": datasets.Image(), **dict.fromkeys(("die", "pattern", "name"), datasets.Value("string"))}
    black = Image.fromarray(np.zeros((6, 8), np.uint8))
    rows = [{"image": black, "die": die, "pattern": None, "name": f"p{i}"} for i, die in enumerate([None, None, "D1"])]
    datasets.Dataset.from_list(rows, features=datasets.Features(kinds)).to_parquet(tmp_path / "set.parquet")
    for name in ("1-a_H", "2-a_H"):
        (tmp_path / "set").mkdir(exist_ok=True)
        black.save(tmp_path / "set" / f"{name}.png")
    files = {"source": "set", "images": {"high": "*_H.png"}, "group": r"^(?P<die>X\d+)?"}
    for config in ({"source": "set.parquet"}, files):
        table = open_source(SourceConfig(**config), current(), "[data.x]", folder=tmp_path)
        meta = SemModality().collate([table.read(i) for i in range(len(table))])["high"].meta
        assert len(set(meta["die"].tolist())) == len(table)
        assert set(meta["alike"].tolist()) == {-1}


def test_each_magnification_has_its_pixel_size():
    known = sample(pair(), meta={"high_nm": 2.0, "low_nm": 9.0}, pixel_nm=(1.0, 1.0))
    batch = SemModality().collate([known, sample(pair(), pixel_nm=(1.5, 1.0))])
    assert batch["high"].pixel_nm.tolist() == [[2.0, 2.0], [1.5, 1.0]]
    assert batch["low"].pixel_nm[0].tolist() == [9.0, 9.0] and batch["low"].pixel_nm[1].isnan().all()


def test_one_window_out_of_two_magnifications_is_refused():
    registered = {"high_nm": 2.0, "low_nm": 2.0}
    for whole, meta in ((pair(), registered), (pair(), {"high_nm": 2.0}), (pair()[..., :1], {"low_nm": 9.0})):
        views = ("high", "low")[: whole.shape[2]]
        SemModality().collate([cropped(sample(whole, meta=meta, views=views, pixel_nm=(2.0, 2.0)), 4, 0)])
    apart = sample(pair(), meta={"high_nm": 2.0, "low_nm": 9.0})
    SemModality().collate([apart])
    for views in ((), ("high", "low")):
        with pytest.raises(ConfigError, match="shows two places at 2 and 9 nm/px; leave crop out and bring"):
            SemModality().collate([cropped(apart._replace(views=views), 4, 0)])


def test_a_missing_magnification_does_not_get_the_pixel_size_of_the_other(tmp_path):
    (tmp_path / "set").mkdir()
    for name, nm in {"a_H": 2, "a_L": 12, "b_L": 12, "c_H": 2}.items():
        told = {"imagej": True, "resolution": (1 / nm, 1 / nm), "metadata": {"unit": "nm"}}
        tifffile.imwrite(tmp_path / "set" / f"{name}.tif", np.zeros((6, 8), np.uint8), **told)
    config = SourceConfig(source="set", images={"high": "*_H.tif", "low": "*_L.tif"})
    table = open_source(config, current(), "[data.x]", folder=tmp_path)
    batch = SemModality().collate([table.read(i) for i in range(3)])
    assert batch["high"].pixel_nm[:, 0].tolist() == pytest.approx([2, math.nan, 2], nan_ok=True)
    assert batch["low"].pixel_nm[:, 0].tolist() == pytest.approx([12, 12, math.nan], nan_ok=True)


def test_grey_values_by_type_and_by_image():
    wide = pair(1000, 3000, np.uint16)
    wide[0, 0, 0], wide[0, 1, 0] = 0, 4000
    by_type = SemModality().collate([sample(wide)])["high"].image
    assert by_type.amax().item() == pytest.approx(4000 / 65535)
    by_image = SemModality(intensity="image").collate([sample(wide)])["high"].image
    assert (by_image.amin().item(), by_image.amax().item()) == (0.0, 1.0)
    with pytest.raises(DataError, match="no range of their own"):
        SemModality().collate([sample(pair().astype(np.float32))])
    assert SemModality(intensity="image").collate([sample(pair().astype(np.float32))])["low"].image.isfinite().all()


def test_maps_are_labels_too_and_colours_are_averaged():
    label = np.zeros((6, 8), np.uint8)
    label[0] = IGNORE
    colour = np.stack([np.full((6, 8), grey, np.uint8) for grey in (0, 100, 202)], 2)
    batch = SemModality().collate([sample(colour, label=label)])["high"]
    assert batch.label.shape == (1, 6, 8) and (batch.weight[0, 0] == 0).all()
    assert batch.image.unique().item() == pytest.approx(101 / 255)  # rounded, as the mean of frames is


def test_a_folder_for_each_magnification_with_one_image_missing(tmp_path):
    for name, grey in (("hi/a", 10), ("lo/a", 20), ("hi/b", 30)):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), grey, np.uint8)).save(path)
    config = SourceConfig(source="set", images={"high": "hi/*.png", "low": "lo/*.png"})
    table = open_source(config, current(), "[data.x]", folder=tmp_path)
    batch = SemModality().collate([table.read(0), table.read(1)])
    assert (batch["high"].image[:, 0, 0, 0] * 255).round().tolist() == [10, 30]
    assert batch["low"].meta["present"].tolist() == [1, 0]
    assert table.incomplete() == "1 of 2 have no 'low' image"


def test_pairs_of_the_synthetic_set(tmp_path):
    columns = {"image": {"high": "image", "low": "low"}}
    source = {"name": "synth-sem", "count": 3, "size": 32, "layout": "apart"}
    table = open_source(SourceConfig(source=source, columns=columns), current(), "[data.x]", folder=tmp_path)
    batch = SemModality().collate([table.read(i) for i in range(3)])
    assert batch["high"].image.shape == batch["low"].image.shape == (3, 1, 32, 32)
    assert (batch["low"].pixel_nm > 2.9 * batch["high"].pixel_nm).all()
    assert batch["high"].label.max() < 8 and all((one.meta["present"] == 1).all() for one in batch.values())
    assert (batch["high"].image - batch["low"].image).abs().mean() > 0.02
    assert batch["high"].meta["die"].tolist() != batch["high"].key.tolist()


def test_floating_point_images_are_refused_by_default_with_advice():
    with pytest.raises(DataError, match=r"train with intensity = 'image' in the modality \(a run with 'dtype' has"):
        SemModality().collate([sample(pair(dtype=np.float32))])
