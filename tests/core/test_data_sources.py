"""From a table of an experiment to samples: folders, parquet files, registered datasets and the Hub."""

import math
import shutil
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import tifffile
from lamella.data.samples import sample_key
from lamella.data.sources import SourceConfig, choose, open_source
from lamella.errors import ConfigError, DataError
from PIL import Image
from tiny_plugin import CLASSES, squares

NAMES = ["w1_A_01", "w1_B_02", "w2_A_03", "w2_B_04"]


def grey(seed, shape=(10, 14)):
    return np.random.default_rng(seed).integers(0, 200, shape, np.uint8)


def mask_of(image):
    return (image > 100).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Four images and their masks, in folders beside each other."""
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.fromarray(grey(number)).save(tmp_path / "set" / "images" / f"{name}.png")
        Image.fromarray(mask_of(grey(number))).save(tmp_path / "set" / "masks" / f"{name}.png")
    return tmp_path


def opened(folder, registry, **table):
    """The set of a table; by default the images and masks of the folder."""
    base = {"source": "set", "images": "images/*.png", "labels": "masks/*.png", "classes": ["low", "high"]}
    table = {**base, **table}
    config = SourceConfig.model_validate({key: value for key, value in table.items() if value is not None})
    return open_source(config, registry, "[data.labelled]", folder=folder)


def names(table):
    return [Path(row.name).stem for row in table.rows]


# Folders


def test_a_folder_pairs_images_and_masks_by_stem(folder, tiny_registry):
    table = opened(folder, tiny_registry)
    assert (names(table), table.labelled, table.classes.names) == (NAMES, True, ("low", "high"))
    for number in range(4):
        sample = table.read(number, visit=5)
        assert (sample.image == grey(number)).all()
        assert (sample.label == mask_of(grey(number))).all()
        assert (sample.visit, sample.name) == (5, f"images/{NAMES[number]}.png")


def test_a_sample_is_the_same_however_its_folder_is_named(folder, tiny_registry, monkeypatch):
    keys = opened(folder, tiny_registry).keys()
    for here, source in ((folder / "set", "."), (folder / "set" / "masks", "..")):
        monkeypatch.chdir(here)
        assert opened(Path(), tiny_registry, source=source).keys() == keys


def test_several_patterns_are_read_one_after_the_other(folder, tiny_registry):
    table = opened(folder, tiny_registry, images=["images/w2*.png", "images/w1*.png"])
    assert names(table) == [*NAMES[2:], *NAMES[:2]]


def test_without_masks_a_folder_is_unlabelled(folder, tiny_registry):
    table = opened(folder, tiny_registry, labels=None, classes=None)
    assert not table.labelled
    assert table.read(0).label is None


def test_masks_beside_their_images_are_told_apart_by_their_ending(folder, tiny_registry):
    for name in NAMES:
        shutil.move(folder / "set" / "images" / f"{name}.png", folder / "set" / f"{name}.png")
        shutil.move(folder / "set" / "masks" / f"{name}.png", folder / "set" / f"{name}_mask.png")
    table = opened(folder, tiny_registry, images=None, labels="*_mask.png")
    assert names(table) == NAMES
    assert (table.read(2).label == mask_of(grey(2))).all()


def test_an_image_whose_own_name_ends_like_a_masks_finds_its_mask(folder, tiny_registry):
    for part in ("images", "masks"):
        shutil.copy(folder / "set" / part / f"{NAMES[0]}.png", folder / "set" / part / "odd_seg.png")
    table = opened(folder, tiny_registry, images="images/odd*.png")
    assert (table.read(0).label == mask_of(grey(0))).all()


@pytest.mark.parametrize("images", ["images/odd*.png", "images/odd_mask.png"])
def test_images_that_are_named_as_masks_are_have_a_mask_each(folder, tiny_registry, images):
    for number, name in enumerate(("odd_mask", "odd_label", "odd_seg")):
        for part in ("images", "masks"):
            shutil.copy(folder / "set" / part / f"{NAMES[number]}.png", folder / "set" / part / f"{name}.png")
    table = opened(folder, tiny_registry, images=images, instances="masks/*.png")
    assert len(table.rows) == (3 if "*" in images else 1)
    for row in table.rows:
        assert row.origin.label == row.origin.instance == folder / "set" / "masks" / row.origin.image.name


def test_a_mask_of_an_image_s_own_stem_is_that_image_s_alone(folder, tiny_registry):
    for name in ("odd", "odd_mask"):
        shutil.copy(folder / "set" / "images" / f"{NAMES[0]}.png", folder / "set" / "images" / f"{name}.png")
    for number, name in enumerate(("odd_label", "odd_mask")):
        shutil.copy(folder / "set" / "masks" / f"{NAMES[number]}.png", folder / "set" / "masks" / f"{name}.png")
    table = opened(folder, tiny_registry, images="images/odd*.png")
    assert [row.origin.label.stem for row in table.rows] == ["odd_label", "odd_mask"]
    (folder / "set" / "masks" / "odd_label.png").unlink()
    with pytest.raises(DataError, match=r"odd\.png: no mask of the same stem"):
        opened(folder, tiny_registry, images="images/odd*.png")


def test_masks_beside_their_images_are_no_images_that_other_masks_belong_to(folder, tiny_registry):
    """Objects of another folder are named as the labels, which lie among the images."""
    (folder / "set" / "objects").mkdir()
    for name in NAMES:
        shutil.move(folder / "set" / "images" / f"{name}.png", folder / "set" / f"{name}.png")
        shutil.copy(folder / "set" / "masks" / f"{name}.png", folder / "set" / "objects" / f"{name}_mask.png")
        shutil.move(folder / "set" / "masks" / f"{name}.png", folder / "set" / f"{name}_mask.png")
    for images in (None, "*.png"):
        table = opened(folder, tiny_registry, images=images, labels="*_mask.png", instances="objects/*.png")
        pairs = {row.origin.image.stem: row.origin for row in table.rows}
        assert [pairs[name].label.stem for name in NAMES] == [f"{name}_mask" for name in NAMES]
        assert [pairs[name].instance.parent.name for name in NAMES] == ["objects"] * len(NAMES)


def test_instances_are_paired_by_stem_and_may_be_missing(folder, tiny_registry):
    (folder / "set" / "objects").mkdir()
    Image.fromarray(np.full((10, 14), 700, np.uint16)).save(folder / "set" / "objects" / f"{NAMES[1]}.png")
    table = opened(folder, tiny_registry, instances="objects/*.png")
    assert table.read(0).instance is None
    assert (table.read(1).instance.dtype, table.read(1).instance.max()) == (np.int64, 700)


def test_negative_instance_ids_are_no_objects(folder, tiny_registry):
    (folder / "set" / "objects").mkdir()
    ids = np.full((10, 14), -1, np.int32)
    ids[2:5, 3:6], ids[7:, 9:] = 3, 2**31 - 1
    tifffile.imwrite(folder / "set" / "objects" / f"{NAMES[1]}.tif", ids)
    table = opened(folder, tiny_registry, instances="objects/*.tif")
    np.testing.assert_array_equal(table.read(1).instance, ids.clip(min=0))


def test_masks_coded_by_colour_are_read_through_a_table(folder, tiny_registry):
    palette = np.array([[0, 0, 0], [0, 128, 255]], np.uint8)
    for number, name in enumerate(NAMES):
        Image.fromarray(palette[mask_of(grey(number))]).save(folder / "set" / "masks" / f"{name}.png")
    table = opened(folder, tiny_registry, classes={"low": "rest", "high": "#0080ff"})
    assert (table.read(3).label == mask_of(grey(3))).all()


def test_a_missing_mask_names_the_image(folder, tiny_registry):
    (folder / "set" / "masks" / f"{NAMES[2]}.png").unlink()
    with pytest.raises(DataError, match=rf"{NAMES[2]}\.png: no mask of the same stem"):
        opened(folder, tiny_registry)


def test_a_mask_of_another_size_names_both_sizes(folder, tiny_registry):
    Image.fromarray(np.zeros((10, 15), np.uint8)).save(folder / "set" / "masks" / f"{NAMES[1]}.png")
    with pytest.raises(DataError, match=rf"{NAMES[1]}\.png: the mask is 10×15 pixels, its image 10×14"):
        opened(folder, tiny_registry).read(1)


def test_a_mask_is_cut_only_as_its_image_was(folder, tiny_registry):
    image, mask = (folder / "set" / kind / f"{NAMES[1]}.png" for kind in ("images", "masks"))
    Image.fromarray(np.zeros((30, 14), np.uint8)).save(mask)
    with pytest.raises(DataError, match="the mask is 30×14 pixels, its image 10×14"):
        opened(folder, tiny_registry).read(1)
    pixels = np.random.default_rng(0).integers(70, 180, (100, 120), np.uint8)
    pixels[80:] = 0
    pixels[86:94, 10:60:3] = 255
    Image.fromarray(pixels).save(image)
    for height in (80, 100):
        Image.fromarray(np.zeros((height, 120), np.uint8)).save(mask)
        assert opened(folder, tiny_registry, data_bar="find").read(1).label.shape == (80, 120)
    Image.fromarray(np.zeros((90, 120), np.uint8)).save(mask)
    with pytest.raises(DataError, match="the mask is 90×120 pixels"):
        opened(folder, tiny_registry, data_bar="find").read(1)


def test_two_images_of_one_stem_are_refused(folder, tiny_registry):
    (folder / "set" / "more").mkdir()
    shutil.copy(folder / "set" / "images" / f"{NAMES[0]}.png", folder / "set" / "more" / f"{NAMES[0]}.png")
    with pytest.raises(DataError, match=rf"more/{NAMES[0]}\.png.*same stem.*images/{NAMES[0]}\.png"):
        opened(folder, tiny_registry, images=["images/*.png", "more/*.png"])


def test_two_masks_of_one_image_are_refused(folder, tiny_registry):
    shutil.copy(folder / "set" / "images" / f"{NAMES[0]}.png", folder / "set" / "images" / "x.png")
    for ending in ("mask", "label"):
        (folder / "set" / "masks" / f"x_{ending}.png").write_bytes(b"-")
    with pytest.raises(DataError, match=r"x_mask\.png: another of the labels belongs to the same image"):
        opened(folder, tiny_registry)


def test_a_pattern_that_matches_nothing_is_named(folder, tiny_registry):
    with pytest.raises(ConfigError, match=r"labels = 'mask/\*\.png'"):
        opened(folder, tiny_registry, labels="mask/*.png")


@pytest.mark.parametrize("key", ["images", "labels", "instances"])
def test_a_pattern_that_is_none_is_one_sentence(folder, tiny_registry, key):
    with pytest.raises(ConfigError, match=rf"{key} = '.*': patterns are relative to the source, here .*set; name the"):
        opened(folder, tiny_registry, **{key: str(folder / "set" / "images" / "*.png")})
    with pytest.raises(ConfigError, match=rf"{key} = '\*\*\.png'"):
        opened(folder, tiny_registry, **{key: "**.png"})


def test_masks_without_class_names_are_refused_with_advice(folder, tiny_registry):
    with pytest.raises(ConfigError, match=r"classes = \["):
        opened(folder, tiny_registry, classes=None).read(0)


def test_a_damaged_file_is_named_when_it_is_read(folder, tiny_registry):
    (folder / "set" / "images" / f"{NAMES[3]}.png").write_bytes(b"")
    table = opened(folder, tiny_registry)
    assert table.read(2).image.shape == (10, 14)
    with pytest.raises(DataError, match=rf"{NAMES[3]}\.png.*0 bytes"):
        table.read(3)


@pytest.mark.parametrize(("given", "expected"), [(None, None), (0.5, (0.5, 0.5)), ([1.0, 2.0], (1.0, 2.0))])
def test_the_pixel_size_is_that_of_the_table(folder, tiny_registry, given, expected):
    pixel_nm = opened(folder, tiny_registry, pixel_nm=given).read(0).pixel_nm
    assert pixel_nm == expected if expected else all(map(math.isnan, pixel_nm))


@pytest.mark.parametrize("given", [0.0, -1.0, [1.0], [1.0, 2.0, 3.0]])
def test_a_pixel_size_that_is_none_is_refused(folder, tiny_registry, given):
    with pytest.raises(ConfigError, match="pixel_nm"):
        opened(folder, tiny_registry, pixel_nm=given)


# Which rows


PATTERN = r"^(?P<wafer>w\d)_(?P<lot>[AB])"


def test_groups_come_from_a_regular_expression_and_choose_rows(folder, tiny_registry):
    table = opened(folder, tiny_registry, group=PATTERN)
    assert [row.groups for row in table.rows][1] == {"wafer": "w1", "lot": "B"}
    assert names(opened(folder, tiny_registry, group=PATTERN, only={"lot": "A"})) == [NAMES[0], NAMES[2]]
    assert names(opened(folder, tiny_registry, group=PATTERN, exclude={"wafer": ["w1"]})) == NAMES[2:]
    both = opened(folder, tiny_registry, group=PATTERN, only={"lot": ["A", "B"]}, exclude={"wafer": "w1", "lot": "B"})
    assert names(both) == [NAMES[2]]


def test_a_group_that_took_no_part_is_unknown_and_a_class_has_to_be_found(folder, tiny_registry):
    table = opened(folder, tiny_registry, group=r"^(?P<wafer>w1)?.*_(?P<lot>[AB]?)")
    assert [row.groups.get("wafer") for row in table.rows] == ["w1", "w1", None, None]
    assert all(row.groups.keys() <= {"wafer", "lot"} and all(row.groups.values()) for row in table.rows)
    with pytest.raises(ConfigError, match=r"w2_A_03.png: the group 'label' of its name is empty; let the pattern find"):
        opened(folder, tiny_registry, labels=None, classes=None, group=r"^(?P<label>w1)?")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"only": {"lott": "A"}}, "'lott'; the columns are lot, wafer"),
        ({"only": {"lot": "C"}}, "never holds 'C'; it holds A, B"),
        ({"exclude": {"wafer": ["w1", "w2"]}}, "no image is left"),
        ({"group": "(?P<lot"}, "no regular expression"),
        ({"group": "w1"}, "no named group"),
        ({"slice": "a:b"}, "slice = 'a:b'"),
        ({"slice": "3"}, "slice = '3'"),
        ({"slice": "9:"}, "no image is left"),
        ({"subset": 5}, "subset = 5 must lie within 1 and 4"),
        ({"subset": 0}, "subset = 0"),
    ],
)
def test_a_choice_that_cannot_be_made_says_what_there_is(folder, tiny_registry, table, said):
    with pytest.raises(ConfigError, match=said):
        opened(folder, tiny_registry, **{"group": PATTERN, **table})


@pytest.mark.parametrize(("text", "rows"), [("0:2", [0, 1]), (":1", [0]), ("2:", [2, 3]), ("::2", [0, 2])])
def test_a_slice_is_pythons(folder, tiny_registry, text, rows):
    assert names(opened(folder, tiny_registry, slice=text)) == [NAMES[row] for row in rows]


def test_filters_come_before_the_slice_and_the_subset(folder, tiny_registry):
    table = opened(folder, tiny_registry, group=PATTERN, only={"lot": "A"}, slice="1:", subset=1)
    assert names(table) == [NAMES[2]]


def subset_of(registry, count, seed=0, total=100):
    table = {"source": {"name": "tiny-squares", "count": total, "size": 8}, "subset": count, "subset_seed": seed}
    return set(open_source(SourceConfig(**table), registry, "here", folder=Path()).keys())


def test_smaller_subsets_are_parts_of_larger_ones(tiny_registry):
    few, some, many = (subset_of(tiny_registry, count) for count in (5, 20, 60))
    assert (len(few), len(some), len(many)) == (5, 20, 60)
    assert few < some < many
    assert subset_of(tiny_registry, 20, seed=1) != some


def test_a_subset_does_not_depend_on_the_order_of_the_rows(tiny_registry):
    table = open_source(
        SourceConfig(source={"name": "tiny-squares", "count": 30, "size": 8}), tiny_registry, "here", folder=Path()
    )
    chosen = set(choose(table, SourceConfig(source="-", subset=10)).keys())
    table.rows.reverse()
    assert set(choose(table, SourceConfig(source="-", subset=10)).keys()) == chosen


# Keys


def test_keys_stay_with_the_sample_whatever_is_chosen_and_wherever_the_folder_lies(folder, tiny_registry, tmp_path):
    before = dict(zip(names(opened(folder, tiny_registry)), opened(folder, tiny_registry).keys()))
    shutil.copytree(folder / "set", tmp_path / "elsewhere" / "set")
    moved = opened(tmp_path / "elsewhere", tiny_registry, slice="1:3")
    assert moved.keys() == [before[name] for name in names(moved)]
    assert len(set(before.values())) == 4


def test_keys_are_63_bits_and_fixed_for_all_time():
    assert sample_key("set", "images/one.png") == 5972756116779894100
    assert all(0 <= sample_key("set", str(i)) < 2**63 for i in range(200))


# Registered datasets and parquet


def test_a_registered_dataset_brings_labels_classes_groups_and_pixel_size(tiny_registry):
    config = SourceConfig(source={"name": "tiny-squares", "count": 3, "seed": 4})
    table = open_source(config, tiny_registry, "here", folder=Path())
    assert (len(table), table.classes.names, table.labelled) == (3, CLASSES, True)
    assert [row.groups["lot"] for row in table.rows] == ["A", "B", "A"]
    sample = table.read(2)
    assert (sample.name, sample.pixel_nm, sample.image.shape) == ("s4-0002", (0.5, 0.5), (32, 32))
    assert set(np.unique(sample.label)) == {0, 1, 2}


def test_a_dataset_can_be_named_in_full_and_is_checked(tiny_registry):
    table = open_source(SourceConfig(source="tiny_plugin:tiny-squares"), tiny_registry, "here", folder=Path())
    assert len(table) == 8
    with pytest.raises(Exception, match=r"here.*count"):
        open_source(SourceConfig(source={"name": "tiny-squares", "count": 0}), tiny_registry, "here", folder=Path())


def test_what_a_row_says_of_its_pixel_size_comes_before_the_table(tiny_registry):
    config = SourceConfig(source="tiny-squares", pixel_nm=9.0)
    assert open_source(config, tiny_registry, "here", folder=Path()).read(0).pixel_nm == (0.5, 0.5)


@pytest.fixture
def parquet(tmp_path):
    squares(count=5, seed=2).to_parquet(tmp_path / "five.parquet")
    return tmp_path


def test_a_parquet_file_gives_back_what_was_written(parquet, tiny_registry):
    table = open_source(SourceConfig(source="five.parquet"), tiny_registry, "here", folder=parquet)
    original = open_source(
        SourceConfig(source={"name": "tiny-squares", "count": 5, "seed": 2}), tiny_registry, "here", folder=parquet
    )
    assert table.classes == original.classes
    for one, other in zip(map(table.read, range(5)), map(original.read, range(5)), strict=True):
        assert (one.image == other.image).all()
        assert (one.label == other.label).all()
        assert (one.name, one.pixel_nm) == (other.name, other.pixel_nm)


@pytest.mark.parametrize(
    ("told", "size"),
    [(2.0, (2.0,) * 2), ([1.0, 3.0], (1.0, 3.0)), ([None] * 2, (math.nan,) * 2), ([0.0, 1.0], (math.nan,) * 2)],
)
def test_a_table_may_tell_its_pixel_size_and_names_as_it_likes(tmp_path, tiny_registry, told, size):
    rows = squares(count=2).remove_columns(["pixel_nm", "name"]).add_column("name", [7, 8])
    rows.add_column("pixel_nm", [told, told]).to_parquet(tmp_path / "a.parquet")
    sample = open_source(SourceConfig(source="a.parquet"), tiny_registry, "here", folder=tmp_path).read(1)
    assert sample.name == "8" and np.array_equal(sample.pixel_nm, size, equal_nan=True)


def test_columns_of_other_names_are_mapped(parquet, tiny_registry):
    renamed = squares(count=2).rename_columns({"image": "micrograph", "label": "truth", "name": "file"})
    renamed.to_parquet(parquet / "other.parquet")
    columns = {"image": "micrograph", "label": "truth", "name": "file"}
    table = open_source(SourceConfig(source="other.parquet", columns=columns), tiny_registry, "x", folder=parquet)
    assert (table.labelled, table.read(1).name) == (True, "s0-0001")
    with pytest.raises(ConfigError, match=r"no column 'image'; the columns are micrograph"):
        open_source(SourceConfig(source="other.parquet"), tiny_registry, "x", folder=parquet)
    with pytest.raises(ConfigError, match=r"columns: 'img'"):
        open_source(SourceConfig(source="other.parquet", columns={"img": "a"}), tiny_registry, "x", folder=parquet)


def test_images_in_a_table_are_read_as_those_in_files(tmp_path, tiny_registry):
    """A palette becomes colours, alpha goes, one bit becomes black and white: as in `read_image`."""
    pixels = (np.arange(64, dtype=np.uint8) * 3).reshape(8, 8)
    pictures = [Image.fromarray(pixels).convert(mode) for mode in ("P", "RGBA", "LA", "1")]
    rows = []
    for number, picture in enumerate(pictures):
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}})
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "modes.parquet")
    table = open_source(SourceConfig(source="modes.parquet"), tiny_registry, "here", folder=tmp_path)
    files = open_source(SourceConfig(source=".", images="?.png"), tiny_registry, "here", folder=tmp_path)
    for one, other in zip(map(table.read, range(4)), map(files.read, range(4)), strict=True):
        assert one.image.dtype == other.image.dtype == np.uint8
        assert one.image.tolist() == other.image.tolist()


def test_a_damaged_image_in_a_table_names_the_sample(tmp_path, tiny_registry):
    rows = squares(count=1).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[0]["image"]["bytes"] = rows[0]["image"]["bytes"][:60]
    datasets.Dataset.from_list(rows, features=squares(count=1).features).to_parquet(tmp_path / "cut.parquet")
    table = open_source(SourceConfig(source="cut.parquet"), tiny_registry, "here", folder=tmp_path)
    with pytest.raises(DataError, match=r"s0-0000 \(row 0\).*decoded"):
        table.read(0)


@pytest.mark.parametrize(("name", "error"), [("bad.parquet", DataError), ("notes.txt", ConfigError)])
def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path, tiny_registry, name, error):
    (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(error, match=name):
        open_source(SourceConfig(source=name), tiny_registry, "here", folder=tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "a/b/c", "no such thing"])
def test_a_source_that_is_nothing_says_what_there_could_be(tmp_path, tiny_registry, source):
    with pytest.raises(ConfigError) as raised:
        open_source(SourceConfig(source=source), tiny_registry, "[data.test]", folder=tmp_path)
    assert all(part in str(raised.value) for part in ("[data.test]", repr(source), "tiny-squares", str(tmp_path)))


# The Hub


def test_a_hub_id_is_loaded_with_the_arguments_of_the_table(tmp_path, tiny_registry, monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return squares(count=2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = SourceConfig(
        source="lab/micrographs", config="tem", split="test", revision="v2", data_files=["a.parquet"], slice="1:"
    )
    table = open_source(config, tiny_registry, "here", folder=tmp_path)
    assert asked == [(("lab/micrographs", "tem"), {"split": "test", "revision": "v2", "data_files": ["a.parquet"]})]
    assert (len(table), table.read(0).name) == (1, "s0-0001")
    assert table.keys() == [sample_key("lab/micrographs", "s0-0001")]


def test_a_hub_error_becomes_one_sentence(tmp_path, tiny_registry, monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route to host\nsecond line\nthird line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as raised:
        open_source(SourceConfig(source="lab/micrographs"), tiny_registry, "here", folder=tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    assert all(part in message for part in ("lab/micrographs", "train", "ConnectionError", "no route to host"))


def test_a_folder_comes_before_a_hub_id_of_the_same_name(folder, tiny_registry, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("the Hub was asked"))
    shutil.copytree(folder / "set", folder / "lab" / "set")
    assert len(opened(folder, tiny_registry, source="lab/set")) == 4


# Real micrographs

EBC = Path(__file__).parents[3] / "shared" / "data" / "sem_nasa_superalloy_ebc" / "EBC1"


@pytest.mark.skipif(not EBC.is_dir(), reason="the EBC1 micrographs are not beside this checkout")
def test_the_ebc_micrographs_are_paired_with_their_masks(tiny_registry):
    config = SourceConfig(
        source=str(EBC),
        images=["train/*.png", "val/*.png", "test/*.png"],
        labels=["train_annot/*.png", "val_annot/*.png", "test_annot/*.png"],
        classes=["background", "layer", "crack"],
        group="^(?P<specimen>[^_]+)_",
    )
    table = open_source(config, tiny_registry, "here", folder=Path())
    assert len(table) == 14
    assert "050317#3" in {row.groups["specimen"] for row in table.rows}
    assert {int(value) for i in (0, 13) for value in np.unique(table.read(i).label)} <= {0, 1, 2}
    assert table.read(0).image.shape[:2] == table.read(0).label.shape == (1024, 1024)


def test_more_sources_come_one_after_the_other(tiny_registry, tmp_path):
    tiny = {"name": "tiny-squares", "count": 3}
    config = SourceConfig(
        source=tiny, more=[SourceConfig(source={**tiny, "seed": 1}, subset=2), SourceConfig(source={**tiny, "seed": 2})]
    )
    table = open_source(config, tiny_registry, "[data.unlabelled]", folder=tmp_path)
    names = [row.name for row in table.rows]
    assert len(names) == 8 and names[:3] == ["s0-0000", "s0-0001", "s0-0002"]
    assert {name[:2] for name in names[3:5]} == {"s1"} and {name[:2] for name in names[5:]} == {"s2"}
    assert len(set(table.keys())) == 8
    assert table.read(7).label is not None


def test_more_sources_must_name_the_same_classes(tiny_registry, tmp_path):
    other = SourceConfig(source={"name": "tiny-squares"}, classes=["a", "b", "c"])
    config = SourceConfig(source={"name": "tiny-squares"}, more=[other])
    with pytest.raises(ConfigError, match=r"\[data.labelled\]: .* cannot be one set"):
        open_source(config, tiny_registry, "[data.labelled]", folder=tmp_path)


def test_more_sources_must_mark_the_classes_alike(folder, tiny_registry):
    other = {"source": "set", "labels": "masks/*.png", "images": "images/*.png"}
    one = SourceConfig(**other, classes={"a": 0, "b": 1, "c": 2}, more=[SourceConfig(**other, classes=["a", "b", "c"])])
    two = SourceConfig(**other, classes=["a", "b", "c"], more=[SourceConfig(**other, classes={"a": 2, "b": 1, "c": 0})])
    assert len(open_source(one, tiny_registry, "[data.labelled]", folder=folder)) > 0
    with pytest.raises(ConfigError, match="mark the same classes by other values"):
        open_source(two, tiny_registry, "[data.labelled]", folder=folder)
