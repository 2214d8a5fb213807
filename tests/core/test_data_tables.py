"""Columns of parquet files and other tables: numbers of whole images become classes, keys that do not fit are told."""

import datasets
import numpy as np
import pandas
import pytest
from lamella import IGNORE
from lamella.data.cache import cached
from lamella.data.sources import SourceConfig, open_source
from lamella.errors import ConfigError, DataError
from PIL import Image


def write(path, labels, kind):
    """A parquet file with a black image for each label."""
    black = Image.fromarray(np.zeros((4, 5), np.uint8))
    rows = [{"image": black, "label": label, "name": f"n{i}"} for i, label in enumerate(labels)]
    features = datasets.Features({"image": datasets.Image(), "label": kind, "name": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


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
