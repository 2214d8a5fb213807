"""A ``datasets.Dataset`` or a parquet file as a set of samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lamella.data.classes import REST, Classes
from lamella.data.config import SourceConfig
from lamella.data.remote import RemoteTable
from lamella.data.samples import Row, SampleTable, TableRow, sample_key
from lamella.errors import ConfigError, DataError

_TEXT = ("string", "large_string", "string_view")


def from_dataset(dataset: Any, config: SourceConfig, classes: Classes | None, origin: str) -> SampleTable:
    """The rows of a set by their columns; raises `ConfigError` where one it needs or that is named is missing."""
    import datasets

    if isinstance(dataset, datasets.IterableDataset):
        raise ConfigError(
            f"{origin}: rows of an IterableDataset cannot be had in any order; return a datasets.Dataset, or read a "
            "set on the Hub where it lies by its name and streaming = true"
        )
    dataset = _as_stored(dataset)
    features = dataset.features
    columns, views = _columns(config)
    for what, asked in {"image": columns["image"], **config.columns}.items():
        for column in [asked] if isinstance(asked, str) else asked.values():
            if column not in features:
                raise ConfigError(
                    f"{origin}: there is no column {column!r}; the columns are {', '.join(features)}. "
                    f'Write columns = {{ {what} = "…" }}'
                )
    classes = _by_name(features, config) or classes or _named_classes(features, columns)
    numbers = _numbers(features.get(columns["label"]), config, classes, origin)
    texts = [n for n, f in features.items() if getattr(f, "dtype", None) in _TEXT and n != columns["name"]]
    plain = dataset.select_columns([n for n in (columns["name"], *texts) if n in features])
    given = plain[columns["name"]] if columns["name"] in features else (f"{i:06d}" for i in range(len(dataset)))
    names = [str(name) for name in given]
    groups = {text: list(plain[text]) for text in texts}
    pixel_nm, label = config.pixel_size(), columns["label"]
    labelled = _there(dataset, label) if label in features else [False] * len(dataset)
    files = _files(dataset, dict.fromkeys([*columns.values(), *(views or {}).values()]))
    present = {} if views is None else {view: _there(dataset, column) for view, column in views.items()}
    rows = [
        Row(
            name,
            sample_key(origin, name),
            {text: value for text in texts if (value := groups[text][i])},  # null and "" are no group
            pixel_nm,
            TableRow(dataset, i, columns, name, views, config.pixel_nm == "scale-bar", numbers, files.get(i, ())),
            labelled[i],
            tuple(view for view, here in present.items() if not here[i]),
        )
        for i, name in enumerate(names)
    ]
    return SampleTable(rows, classes, origin)


def _columns(config: SourceConfig) -> tuple[dict[str, str], dict[str, str] | None]:
    """What the set calls its columns, and those of the views where the image is several."""
    columns, views = {name: name for name in ("image", "label", "instance", "name")}, None
    for name, column in config.columns.items():
        if name not in columns:
            raise ConfigError(f"columns: {name!r} is not one of image, label, instance, name")
        if isinstance(column, str):
            columns[name] = column
        elif name == "image" and column:
            views, columns[name] = column, next(iter(column.values()))
        else:
            raise ConfigError(f"columns.{name} must be one column; only the image may have several, by view")
    return columns, views


def _as_stored(dataset: Any) -> Any:
    """The set with images as they are stored, so that they are read as files are.

    One with a format of its own, or a column with a mode, keeps its own way of decoding.
    """
    import datasets

    if isinstance(dataset, datasets.Dataset) and dataset.format["type"] is not None:
        return dataset
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image) and feature.decode and feature.mode is None:
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def _there(dataset: Any, column: str) -> list[bool]:
    """Which rows have something in a column, without decoding it."""
    if isinstance(dataset, RemoteTable):
        return dataset.there(column)
    return [valid for part in _parts(dataset, column) for valid in part.is_valid().to_pylist()]


def _files(dataset: Any, columns: Iterable[str]) -> dict[int, tuple[Path, ...]]:
    """By row, the files of this machine that it names for images in place of holding them."""
    import datasets
    from pyarrow import compute

    named: dict[int, tuple[Path, ...]] = {}
    if not isinstance(dataset, datasets.Dataset):
        return named
    for column in columns:
        if not isinstance(dataset.features.get(column), datasets.Image):
            continue
        row = 0
        for part in _parts(dataset, column):
            held, paths = (compute.struct_field(part, name) for name in ("bytes", "path"))
            for i, path in enumerate(compute.if_else(held.is_null(), paths, None).to_pylist(), start=row):
                if path is not None and Path(path).is_file():
                    named[i] = (*named.get(i, ()), Path(path))
            row += len(part)
    return named


def _parts(dataset: Any, column: str) -> Iterator[Any]:
    """A column as it is stored, a thousand rows at a time."""
    plain = dataset.select_columns([column]).with_format("arrow")
    return (part.column(column) for part in plain.iter(batch_size=1000))


def _named_classes(features: Any, columns: Mapping[str, str]) -> Classes | None:
    """The names a set declares: of its ``classes`` column, or of a ``ClassLabel`` label."""
    label = features.get(columns["label"])
    if hasattr(label, "names"):
        return Classes.of(list(label.names))
    names = _of_masks(features)
    return Classes.of(names) if names else None


def _of_masks(features: Any) -> list[str]:
    """The names of the ``classes`` column, whose order masks are numbered in; none where there is no such column."""
    return list(getattr(getattr(features.get("classes"), "feature", None), "names", None) or [])


def _by_name(features: Any, config: SourceConfig) -> Classes | None:
    """Classes that are a list of names which the ``classes`` column declares, in whatever order; None for others."""
    asked, declared = config.classes, _of_masks(features)
    if not isinstance(asked, list) or not set(asked) <= set(declared):
        return None
    return Classes(Classes.of(asked).names, tuple(map(declared.index, asked)))


def _numbers(label: Any, config: SourceConfig, classes: Classes | None, origin: str) -> Classes | None:
    """Which class a number of the label is: by its mark, or of a ``ClassLabel`` by name where ``classes`` is a list."""
    declared = list(getattr(label, "names", None) or [])
    if classes is None or config.classes is None or not declared:
        return classes
    told = f"{origin}: the label declares the classes {', '.join(declared)}"
    if isinstance(config.classes, list):
        if unknown := [name for name in classes.names if name not in declared]:
            raise ConfigError(f"{told}, not {unknown[0]!r}; other names are given as classes = {{ NAME = NUMBER, … }}")
        return Classes(classes.names, tuple(map(declared.index, classes.names)))
    for name, mark in config.classes.items():
        if name in declared and mark not in (REST, declared.index(name)):
            raise ConfigError(f"{told}, so {name} = {mark!r} must be {declared.index(name)}")
    return classes


def from_parquet(path: Path, config: SourceConfig, classes: Classes | None) -> SampleTable:
    """The rows of a parquet file; raises `DataError` where it cannot be read."""
    import datasets

    if path.suffix.lower() != ".parquet":
        raise ConfigError(f"{path}: a file given as source must be .parquet; give images as their folder")
    try:
        dataset = datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # pyarrow's and datasets' own, of many kinds
        raise DataError(f"{path}: the parquet file cannot be read ({error})") from error
    return from_dataset(dataset, config, classes, path.stem)
