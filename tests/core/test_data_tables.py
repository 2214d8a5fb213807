"""Columns of parquet files and other tables: numbers of whole images become classes, keys that do not fit are told."""

import io

import datasets
import numpy as np
import pandas
import pyarrow as pa
import pytest
import tifffile
from kornia_rs.io import write_image_png_u16
from lamella import IGNORE
from lamella.data.cache import cached
from lamella.data.classes import Classes
from lamella.data.formats.files import read_image, read_mask
from lamella.data.sources import SourceConfig, open_source
from lamella.data.tables import from_dataset
from lamella.engine.experiment import read_experiment
from lamella.errors import ConfigError, DataError
from PIL import Image
from pyarrow import parquet


def write(path, labels, kind):
    """A parquet file with a black image for each label."""
    black = Image.fromarray(np.zeros((4, 5), np.uint8))
    rows = [{"image": black, "label": label, "name": f"n{i}"} for i, label in enumerate(labels)]
    features = datasets.Features({"image": datasets.Image(), "label": kind, "name": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


def stored(path, columns, **features):
    """A parquet file of image files as they are, by column; ``features`` are those that are no images."""
    kinds = {name: features.get(name, datasets.Image()) for name in columns}
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).to_parquet(path)


def encoded(pixels, kind="PNG", **how):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def opened(folder, registry, **table):
    config = SourceConfig.model_validate({"source": "set.parquet", **table})
    return open_source(config, registry, "[data.x]", folder=folder)


def labels(table):
    return [table.read(i).label for i in range(len(table))]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["dark", "grey", "bright"], [0, 1, 2, IGNORE]),
        ({"bright": 2, "grey": 1, "dark": 0}, [2, 1, 0, IGNORE]),
        ({"bright": 2, "others": "rest"}, [1, 1, 0, IGNORE]),
    ],
)
def test_numbers_of_whole_images_are_classes_by_their_mark(tmp_path, tiny_registry, classes, expected):
    write(tmp_path / "set.parquet", [0, 1, 2, -1], datasets.Value("int64"))
    table = opened(tmp_path, tiny_registry, classes=classes)
    assert (table.classes.names, labels(table)) == (tuple(classes), expected)


def test_names_that_masks_are_numbered_by_are_found_in_any_order(tmp_path, tiny_registry):
    """Other names than those declared are new ones for 0, 1, …"""
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    features = datasets.Features({
        "image": datasets.Image(), "label": datasets.Image(),
        "classes": datasets.List(datasets.ClassLabel(names=["ground", "bar", "dot"])),
    })  # fmt: skip
    row = {"image": Image.fromarray(mask), "label": Image.fromarray(mask), "classes": [0, 1, 2]}
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "set.parquet")
    for classes, expected in [
        (None, [0, 1, 2, IGNORE]), (["dot", "ground", "bar"], [1, 2, 0, IGNORE]), (["a", "b", "c"], [0, 1, 2, IGNORE]),
    ]:  # fmt: skip
        table = opened(tmp_path, tiny_registry, **({} if classes is None else {"classes": classes}))
        assert table.read(0).label.tolist() == [expected]
        assert table.classes.names == tuple(classes or ("ground", "bar", "dot"))


def test_255_is_no_label_unless_a_class_claims_it(tmp_path, tiny_registry):
    write(tmp_path / "set.parquet", [0, 255], datasets.Value("int64"))
    assert labels(opened(tmp_path, tiny_registry, classes=["dark"])) == [0, IGNORE]
    assert labels(opened(tmp_path, tiny_registry, classes={"bright": 255, "dark": 0})) == [1, 0]


def test_a_number_that_no_class_claims_names_the_sample(tmp_path, tiny_registry):
    write(tmp_path / "set.parquet", [1, 2], datasets.Value("int64"))
    table = opened(tmp_path, tiny_registry, classes=["a", "b"])
    assert table.read(0).label == 1
    with pytest.raises(DataError, match=r"n1: its label is 2, which no class claims \(a = 0, b = 1\)"):
        table.read(1)


def test_names_that_a_column_declares_are_found_in_any_order(tmp_path, tiny_registry):
    write(tmp_path / "set.parquet", [0, 1, -1], datasets.ClassLabel(names=["dark", "bright"]))
    write(tmp_path / "turned.parquet", [1, 0, -1], datasets.ClassLabel(names=["bright", "dark"]))
    for classes, expected in ((["dark", "bright"], [0, 1, IGNORE]), (["bright", "dark"], [1, 0, IGNORE])):
        more = [{"source": "turned.parquet", "classes": classes}]
        assert labels(opened(tmp_path, tiny_registry, classes=classes, more=more)) == 2 * expected
    assert labels(opened(tmp_path, tiny_registry)) == [0, 1, IGNORE]
    assert labels(opened(tmp_path, tiny_registry, classes={"Riss": 1, "Grund": 0})) == [1, 0, IGNORE]
    with pytest.raises(DataError, match=r"n0: its label is 0, which no class claims \(bright = 1\)"):
        labels(opened(tmp_path, tiny_registry, classes=["bright"]))


@pytest.mark.parametrize(
    ("classes", "said"),
    [(["dark", "light"], "declares the classes dark, bright, not 'light'"), ({"bright": 0, "dark": 1}, "must be 1")],
)
def test_names_against_those_that_a_column_declares_are_refused(tmp_path, tiny_registry, classes, said):
    write(tmp_path / "set.parquet", [0, 1], datasets.ClassLabel(names=["dark", "bright"]))
    with pytest.raises(ConfigError, match=said):
        opened(tmp_path, tiny_registry, classes=classes)


def test_the_decoded_copy_is_of_these_classes(tmp_path, tiny_registry):
    write(tmp_path / "set.parquet", [0, 1], datasets.ClassLabel(names=["dark", "bright"]))
    for classes, expected in (({"a": 0, "b": 1}, [0, 1]), ({"a": 1, "b": 0}, [1, 0])):
        table = opened(tmp_path, tiny_registry, classes=classes)
        assert labels(cached(table, folder=tmp_path / "cache")) == expected


@pytest.mark.parametrize(
    ("key", "value", "kinds"),
    [
        ("split", "test", "Hub dataset"),
        ("config", "tem", "Hub dataset"),
        ("revision", "v1", "Hub dataset"),
        ("data_files", "a.parquet", "Hub dataset"),
        ("streaming", True, "Hub dataset"),
        ("images", "*.png", "folder of images"),
        ("labels", "masks/*.png", "folder of images"),
        ("instances", "objects/*.png", "folder of images"),
        ("group", "(?P<lot>.)", "folder of images"),
        ("data_bar", "find", "folder of images"),
        ("stack", "each", "folder of images"),
        ("metadata", True, "folder of images"),
        ("columns", {"image": "picture"}, "registered dataset or a parquet file or a Hub dataset"),
    ],
)
def test_keys_of_other_kinds_of_source_are_refused(tmp_path, tiny_registry, key, value, kinds):
    write(tmp_path / "set.parquet", [0, 1], datasets.Value("int64"))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    sources = {"parquet file": "set.parquet", "registered dataset": "tiny-squares", "folder of images": ".",
               "Hub dataset": "lab/squares"}  # fmt: skip
    refusing = {kind: source for kind, source in sources.items() if kind not in kinds}
    assert len(refusing) in (1, 3)
    for kind, source in refusing.items():
        with pytest.raises(ConfigError) as raised:
            opened(tmp_path, tiny_registry, source=source, **{key: value})
        assert str(raised.value) == f"[data.x]: {key} = {value!r} is for a {kinds}; {source!r} is a {kind}"


def test_a_named_column_that_is_missing_is_refused(tmp_path, tiny_registry):
    write(tmp_path / "set.parquet", [0, 1], datasets.Value("int64"))
    for what in ("image", "label", "instance", "name"):
        with pytest.raises(ConfigError, match=rf"no column 'klass'; the columns are .*columns = {{ {what} = "):
            opened(tmp_path, tiny_registry, columns={what: "klass"})
    renamed = datasets.Dataset.from_parquet(str(tmp_path / "set.parquet")).remove_columns("label")
    renamed.to_parquet(tmp_path / "bare.parquet")
    assert not opened(tmp_path, tiny_registry, source="bare.parquet").labelled


def test_what_is_null_or_empty_is_no_group(tmp_path, tiny_registry):
    dies = ["D1", None, "", float("nan"), "D2", "D1"]
    frame = pandas.DataFrame({"image": range(6), "die": dies, "name": list("abcdef")})
    kinds = {"image": datasets.Value("int64"), "die": datasets.Value("string"), "name": datasets.Value("string")}
    datasets.Dataset.from_pandas(frame, features=datasets.Features(kinds)).to_parquet(tmp_path / "set.parquet")

    def names(**table):
        return "".join(row.name for row in opened(tmp_path, tiny_registry, **table).rows)

    groups = [row.groups for row in opened(tmp_path, tiny_registry).rows]
    assert groups == [{"die": "D1"}, {}, {}, {}, {"die": "D2"}, {"die": "D1"}]
    assert names(only={"die": "D1"}) == "af" and names(exclude={"die": "D1"}) == "bcde"
    with pytest.raises(ConfigError, match="column 'die' never holds 'None'; it holds D1, D2"):
        names(only={"die": "None"})
    fold = {"column": "die", "of": 2, "take": [0]}
    with pytest.raises(ConfigError, match=r"fold.column = 'die': 3 of 6 samples have no 'die', .* only = \{ die ="):
        names(fold=fold)
    assert names(fold=fold, only={"die": ["D1", "D2"]}) == "af"
def test_colours_of_sixteen_bits_are_whole_as_in_files(tmp_path, tiny_registry):
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 12, 3)).astype(np.uint16)
    write_image_png_u16(str(tmp_path / "a.png"), pixels, "rgb")
    stored(tmp_path / "set.parquet", {"image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}]})
    image = opened(tmp_path, tiny_registry).read(0).image
    assert image.dtype == np.uint16 and (image == pixels).all()


def test_the_order_of_bytes_is_no_part_of_the_type(tmp_path, tiny_registry):
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=">")
    stored(tmp_path / "set.parquet", {"image": [{"bytes": (tmp_path / "a.tif").read_bytes(), "path": None}]})
    for image in (read_image(tmp_path / "a.tif"), opened(tmp_path, tiny_registry).read(0).image):
        assert image.dtype == np.uint16 and (image == pixels).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_is_not_turned_by_how_it_was_held_in_files_and_in_tables(tmp_path, tiny_registry, kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 200, (4, 6), np.uint8)
    held = Image.Exif()
    held[0x0112] = orientation
    more = {"PNG": [{}], "TIFF": [{}, {"compression": "tiff_lzw"}]}[kind]
    files = [encoded(pixels, kind, exif=held, **how) for how in more]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.{kind.lower()}").write_bytes(file)
        assert (read_image(tmp_path / f"{number}.{kind.lower()}") == pixels).all()
        assert (read_mask(tmp_path / f"{number}.{kind.lower()}") == pixels).all()
    both = [{"bytes": file, "path": None} for file in files]
    stored(tmp_path / "set.parquet", {"image": both, "label": both})
    table = opened(tmp_path, tiny_registry, classes=[f"c{value}" for value in range(200)])
    for row in range(len(files)):
        sample = table.read(row)
        assert (sample.image == pixels).all() and (sample.label == pixels).all()


def test_a_set_or_a_column_with_a_way_of_its_own_decodes_so(tmp_path):
    image = encoded(np.full((4, 5), 7, np.uint8))
    for kind, transform, expected in (
        (datasets.Image(mode="RGB"), None, (4, 5, 3)),
        (datasets.Image(), lambda batch: {"image": [np.asarray(one)[1:] for one in batch["image"]]}, (3, 5)),
        (datasets.Image(decode=False), None, (4, 5)),
    ):
        rows = datasets.Dataset.from_dict({"image": [image]}, features=datasets.Features({"image": kind}))
        rows = rows if transform is None else rows.with_transform(transform)
        assert from_dataset(rows, SourceConfig(source="x"), None, "here").read(0).image.shape == expected


@pytest.mark.parametrize("changed", ["image", "mask"])
def test_a_file_that_a_row_names_makes_another_copy_when_it_changes(tmp_path, changed):
    def table():
        paths = {"image": [str(tmp_path / "image.png")], "label": [str(tmp_path / "mask.png")]}
        rows = datasets.Dataset.from_dict(paths, features=datasets.Features(dict.fromkeys(paths, datasets.Image())))
        return from_dataset(rows, SourceConfig(source="x"), Classes.of(["a", "b"]), "here")

    for name in ("image", "mask"):
        (tmp_path / f"{name}.png").write_bytes(encoded(np.zeros((4, 5), np.uint8)))
    assert cached(table(), folder=tmp_path / "cache").read(0).image.max() == 0
    (tmp_path / f"{changed}.png").write_bytes(encoded(np.ones((4, 5), np.uint8)))
    sample = cached(table(), folder=tmp_path / "cache").read(0)
    assert (sample.image.max(), sample.label.max()) == ((1, 0) if changed == "image" else (0, 1))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_texts_of_any_kind_are_names_and_groups(tmp_path, tiny_registry, kind):
    image = pa.array([{"bytes": encoded(np.zeros((4, 5), np.uint8)), "path": None}] * 2)
    columns = {"image": image, "name": pa.array(["n", "m"], kind), "lot": pa.array(["A", "B"], kind)}
    parquet.write_table(pa.table(columns), tmp_path / "set.parquet")
    table = opened(tmp_path, tiny_registry, only={"lot": "B"})
    assert [(row.name, row.groups, table.read(0).image.shape) for row in table.rows] == [("m", {"lot": "B"}, (4, 5))]


def test_rows_in_one_order_only_are_refused():
    rows = datasets.IterableDataset.from_generator(lambda: iter([{"image": None}]))
    with pytest.raises(ConfigError, match=r"here: rows of an IterableDataset .* return a datasets\.Dataset, or"):
        from_dataset(rows, SourceConfig(source="x"), None, "here")


@pytest.mark.parametrize("masks", [True, False])
def test_rows_without_the_label_that_others_have_are_named(tmp_path, tiny_file, tiny_registry, masks):
    image = {"bytes": encoded(np.zeros((4, 5), np.uint8)), "path": None}
    columns = {"image": [image] * 6, "label": [image if masks else 0, *[None] * 4, image if masks else 0],
               "name": [f"n{i}" for i in range(6)], "done": ["yes", *["no"] * 4, "yes"]}  # fmt: skip
    kinds = {"name": datasets.Value("string"), "done": datasets.Value("string")}
    kinds |= {} if masks else {"label": datasets.ClassLabel(names=["ground", "square", "disc"])}
    stored(tiny_file.parent / "set.parquet", columns, **kinds)
    source = "source = 'set.parquet', classes = ['ground', 'square', 'disc']"

    def role(name, more=""):
        settings = [f"data.{name}={{ {source}{more} }}"]
        return read_experiment(tiny_file, settings, registry=tiny_registry).open(name)

    for name in ("labelled", "test"):
        with pytest.raises(ConfigError) as raised:
            role(name)
        said = "4 of 6 have no label (n1, n2, n3 …): label them, or leave them out with only, exclude or slice"
        assert str(raised.value) == f"[data.{name}] {said}"
    assert role("labelled", ", only = { done = 'yes' }").labelled
    assert not role("test", ", only = { done = 'no' }").labelled
    assert len(role("unlabelled")) == 6


TIFFS = {
    "16-bit colour": (np.arange(60, dtype=np.uint16).reshape(4, 5, 3) * 1000, {"photometric": "rgb"}),
    "16-bit grey": (np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000, {}),
    "signed": (np.arange(20, dtype=np.int16).reshape(4, 5) - 9, {}),
    "double": (np.arange(20, dtype=np.float64).reshape(4, 5) / 7, {}),
    "white is 0": (np.arange(20, dtype=np.uint8).reshape(4, 5), {"photometric": "miniswhite"}),
    "big-endian": (np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000, {"byteorder": ">"}),
    "large": (np.arange(20, dtype=np.uint16).reshape(4, 5), {"bigtiff": True}),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_in_a_table_is_read_as_the_file_is(tmp_path, tiny_registry, kind):
    pixels, how = TIFFS[kind]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **how)
    held = {"bytes": (tmp_path / "a.tif").read_bytes(), "path": None}
    stored(tmp_path / "set.parquet", {"image": [held], "label": [held]})
    table = opened(tmp_path, tiny_registry, classes={"low": 0, "other": "rest"})
    seen = table.rows[0].origin.arrays()
    for got, expected in ((seen[0], read_image(tmp_path / "a.tif")), (seen[1], read_mask(tmp_path / "a.tif"))):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_a_tiff_in_a_table_holds_one_image_and_an_end(tmp_path, tiny_registry):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 4, 2), np.uint8), photometric="minisblack")
    whole = (tmp_path / "stack.tif").read_bytes()
    tifffile.imwrite(tmp_path / "one.tif", np.zeros((4, 5), np.uint8))
    circle = bytearray((tmp_path / "one.tif").read_bytes())
    first = int.from_bytes(circle[4:8], "little")
    after = first + 2 + 12 * int.from_bytes(circle[first : first + 2], "little")
    circle[after : after + 4] = circle[4:8]
    for damaged, told in ((whole, "a stack of 3 frames; a row of a table holds one"), (bytes(circle), "in a circle")):
        stored(tmp_path / "set.parquet", {"image": [{"bytes": damaged, "path": None}]})
        with pytest.raises(DataError, match=told):
            opened(tmp_path, tiny_registry).read(0)
