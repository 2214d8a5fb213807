"""From a table in an experiment file to a set of samples: Hub id, folder, parquet file or registered dataset."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lamella.data.classes import Classes
from lamella.data.files import SUFFIXES, image_stem, readable
from lamella.data.samples import UNKNOWN_NM, FileRow, Row, SampleTable, TableRow, sample_key
from lamella.data.splits import by_group, by_slice, nested_subset
from lamella.data.views import by_wildcards
from lamella.errors import ConfigError, DataError
from lamella.registry.registry import Plan, Registry

Patterns = str | list[str]
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


class SourceConfig(BaseModel):
    """One ``[data.ROLE]`` table of an experiment file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: Annotated[str | dict[str, Any], Field(description="registered dataset, folder, parquet file or Hub id")]
    images: Annotated[
        Patterns | dict[str, Patterns] | None,
        Field(description="pattern(s) of image files, as 'images/*.png'; by view for several images of one object"),
    ] = None
    labels: Annotated[Patterns | None, Field(description="pattern(s) of mask files; paired by stem")] = None
    instances: Annotated[Patterns | None, Field(description="pattern(s) of object-id files; paired by stem")] = None
    classes: Annotated[
        list[str] | dict[str, int | str] | None,
        Field(description="names, or a table of names with their grey value, '#rrggbb' colour, or 'rest'"),
    ] = None
    group: Annotated[
        str | None,
        Field(description="regular expression with named groups, on the file's stem; one named 'label' is the class"),
    ] = None
    columns: Annotated[
        dict[str, str | dict[str, str]],
        Field(description="what the set calls image (one column, or one by view), label, instance, name"),
    ] = {}
    config: Annotated[str | None, Field(description="configuration of a Hub dataset")] = None
    split: Annotated[str, Field(description="split of a Hub dataset")] = "train"
    revision: Annotated[str | None, Field(description="revision of a Hub dataset")] = None
    data_files: Annotated[str | list[str] | None, Field(description="files of a Hub dataset")] = None
    pixel_nm: Annotated[
        float | list[float] | None, Field(description="nm per pixel (or [y, x]) where the files do not say")
    ] = None
    only: Annotated[dict[str, str | list[str]], Field(description="keep rows whose group column holds this")] = {}
    exclude: Annotated[dict[str, str | list[str]], Field(description="drop rows whose group column holds this")] = {}
    slice: Annotated[str | None, Field(description="rows by position, as '0:60'")] = None
    subset: Annotated[int | None, Field(description="so many rows, chosen by subset_seed; nested")] = None
    subset_seed: Annotated[int, Field(description="seed of the subset")] = 0


def open_source(config: SourceConfig, registry: Registry, where: str, *, folder: Path) -> SampleTable:
    """The set a ``[data.ROLE]`` table names, with its filters applied.

    Args:
        where: what to call the table in an error message.
        folder: what relative paths are relative to (the experiment file's folder).

    Raises:
        ConfigError: nothing of that name, or keys that do not fit the kind of source.
        DataError: the source is there and cannot be read.
    """
    classes = None if config.classes is None else Classes.of(config.classes)
    source = config.source
    if isinstance(source, dict) or source in registry.names("dataset") or re.fullmatch(r"[\w-]+:[\w-]+", source):
        plan: Plan = registry.plan("dataset", source, where)
        with _quiet():
            table = _from_dataset(plan.build(), config, classes, plan.component.full_name)
    elif (folder / source).is_dir():
        table = _from_folder(folder / source, config, classes)
    elif (folder / source).is_file():
        table = _from_parquet(folder / source, config, classes)
    elif _HUB.fullmatch(source) and not source.startswith("."):
        table = _from_hub(config, classes)
    else:
        known = ", ".join(registry.names("dataset")) or "none"
        raise ConfigError(
            f"{where}: source = {source!r} is no registered dataset ({known}), no folder or parquet file "
            f"under {folder}, and no Hub id like 'org/name'"
        )
    return choose(table, config)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of ``datasets`` where there is no terminal to draw them on."""
    import datasets

    if sys.stderr.isatty() or not datasets.utils.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def choose(table: SampleTable, config: SourceConfig) -> SampleTable:
    """The rows that filters, slice and subset of ``config`` leave, in that order."""
    chosen = by_group([row.groups for row in table.rows], config.only, config.exclude)
    if config.slice is not None:
        chosen = by_slice(chosen, config.slice)
    if config.subset is not None:
        keys = [table.rows[i].key for i in chosen]
        chosen = [chosen[i] for i in nested_subset(keys, config.subset, config.subset_seed)]
    if not chosen:
        raise ConfigError(f"{table.origin}: no image is left after only, exclude and slice")
    return table.take(chosen)


def _pixel_size(config: SourceConfig) -> tuple[float, float]:
    size = config.pixel_nm
    if size is None:
        return UNKNOWN_NM
    values = [size, size] if isinstance(size, float | int) else size
    if len(values) != 2 or not all(value > 0 for value in values):
        raise ConfigError(f"pixel_nm = {size!r} must be one positive number, or two for y and x")
    return float(values[0]), float(values[1])


def _from_folder(folder: Path, config: SourceConfig, classes: Classes | None) -> SampleTable:
    if isinstance(config.images, dict):
        return _from_views(folder, config, config.images, classes)
    images = _matching(folder, config.images or "*", "images")
    labels, instances = (
        None if patterns is None else _masks(folder, patterns, what)
        for patterns, what in ((config.labels, "labels"), (config.instances, "instances"))
    )
    if labels is not None and config.images is None:
        taken = set(labels.values())
        images = [path for path in images if path not in taken]
    rows, pixel_nm = [], _pixel_size(config)
    by_stem = _by_stem(images, "images")
    groups = {stem: _groups(config.group, stem) for stem in by_stem}
    classes, class_ids = _classes_of(groups, classes)
    for stem, image in by_stem.items():
        if labels is not None and stem not in labels:
            raise DataError(f"{image}: no mask of the same stem matches labels = {config.labels!r}")
        name = readable(image.relative_to(folder).as_posix())
        label = class_ids.get(stem) if labels is None else labels[stem]
        origin = FileRow(image, label, None if instances is None else instances.get(stem))
        key = sample_key(folder.name, name)
        rows.append(Row(name, key, groups[stem], pixel_nm, origin, label is not None))
    return SampleTable(rows, classes, str(folder))


def _from_views(
    folder: Path, config: SourceConfig, patterns: dict[str, Patterns], classes: Classes | None
) -> SampleTable:
    """Objects with an image for each view; ``group`` is looked for in what the wildcards stand for."""
    if config.labels is not None or config.instances is not None:
        raise ConfigError("images by view have no masks: leave out labels and instances")
    objects = by_wildcards(folder, patterns)
    groups = {name: _groups(config.group, name) for name in objects}
    classes, class_ids = _classes_of(groups, classes)
    rows = []
    for name, views in objects.items():
        origin = FileRow({view: views[view] for view in patterns if view in views}, class_ids.get(name), None)
        key, lacking = sample_key(folder.name, readable(name)), tuple(view for view in patterns if view not in views)
        labelled = name in class_ids
        rows.append(Row(readable(name), key, groups[name], _pixel_size(config), origin, labelled, lacking))
    return SampleTable(rows, classes, str(folder))


def _classes_of(
    groups: Mapping[str, Mapping[str, str]], classes: Classes | None
) -> tuple[Classes | None, dict[str, int]]:
    """The classes and each sample's, where a group is named ``label``; the names found, sorted, unless given."""
    found = {name: values["label"] for name, values in groups.items() if "label" in values}
    if not found:
        return classes, {}
    classes = classes or Classes.of(sorted(set(found.values())))
    for name, label in found.items():
        if label not in classes.names:
            raise ConfigError(f"{name}: its class {label!r} is none of {', '.join(classes.names)}")
    return classes, {name: classes.names.index(label) for name, label in found.items()}


def _matching(folder: Path, patterns: Patterns, what: str) -> list[Path]:
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        here = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file())
        if not here:
            raise ConfigError(f"{folder}: no image file matches {what} = {pattern!r} ({', '.join(SUFFIXES)})")
        found += here
    return found


def _by_stem(paths: list[Path], what: str) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise DataError(f"{path}: another of the {what} has the same stem, {stems[path.stem]}")
        stems[path.stem] = path
    return stems


def _masks(folder: Path, patterns: Patterns, what: str) -> dict[str, Path]:
    """Mask files by their own stem, and by that of their image where it ends in ``_mask`` or the like."""
    exact, shortened = _by_stem(_matching(folder, patterns, what), what), dict[str, Path]()
    for stem, path in exact.items():
        image = image_stem(stem)
        if image in shortened and image not in exact:
            raise DataError(f"{path}: another of the {what} belongs to the same image, {shortened[image]}")
        shortened[image] = path
    return {**shortened, **exact}


def _groups(pattern: str | None, stem: str) -> dict[str, str]:
    if pattern is None:
        return {}
    try:
        match = re.search(pattern, stem)
    except re.error as error:
        raise ConfigError(f"group = {pattern!r} is no regular expression: {error}") from error
    if match is None or not match.groupdict():
        raise ConfigError(f"group = {pattern!r} finds no named group, as '(?P<lot>…)', in {stem!r}")
    return {name: value or "" for name, value in match.groupdict().items()}


def _from_dataset(dataset: Any, config: SourceConfig, classes: Classes | None, origin: str) -> SampleTable:
    features = dataset.features
    columns, views = _columns(config)
    for column in [columns["image"]] if views is None else views.values():
        if column not in features:
            raise ConfigError(
                f"{origin}: there is no column {column!r}; the columns are {', '.join(features)}. "
                'Write columns = { image = "…" }'
            )
    classes = classes or _named_classes(features, columns)
    texts = [n for n, f in features.items() if getattr(f, "dtype", None) == "string" and n != columns["name"]]
    plain = dataset.select_columns([n for n in (columns["name"], *texts) if n in features])
    names = plain[columns["name"]] if columns["name"] in features else [f"{i:06d}" for i in range(len(dataset))]
    groups = {text: list(plain[text]) for text in texts}
    pixel_nm, labelled = _pixel_size(config), columns["label"] in features
    present = {} if views is None else {view: _there(dataset, column) for view, column in views.items()}
    rows = [
        Row(
            name,
            sample_key(origin, name),
            {text: str(groups[text][i]) for text in texts},
            pixel_nm,
            TableRow(dataset, i, columns, name, views),
            labelled,
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


def _there(dataset: Any, column: str) -> list[bool]:
    """Which rows have something in a column, without decoding it."""
    plain = dataset.select_columns([column]).with_format("arrow")
    return [valid for part in plain.iter(batch_size=1000) for valid in part.column(column).is_valid().to_pylist()]


def _named_classes(features: Any, columns: Mapping[str, str]) -> Classes | None:
    """The names a set declares: of its ``classes`` column, or of a ``ClassLabel`` label."""
    label = features.get(columns["label"])
    if hasattr(label, "names"):
        return Classes.of(list(label.names))
    names = getattr(getattr(features.get("classes"), "feature", None), "names", None)
    return None if names is None else Classes.of(list(names))


def _from_parquet(path: Path, config: SourceConfig, classes: Classes | None) -> SampleTable:
    import datasets

    if path.suffix.lower() != ".parquet":
        raise ConfigError(f"{path}: a file given as source must be .parquet; give images as their folder")
    try:
        dataset = datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # pyarrow's and datasets' own, of many kinds
        raise DataError(f"{path}: the parquet file cannot be read ({error})") from error
    return _from_dataset(dataset, config, classes, path.stem)


def _from_hub(config: SourceConfig, classes: Classes | None) -> SampleTable:
    import datasets

    try:
        dataset = datasets.load_dataset(
            str(config.source),
            config.config,
            split=config.split,
            revision=config.revision,
            data_files=config.data_files,
        )
    except Exception as error:  # network, authentication, missing repository: one sentence each
        raise DataError(
            f"Hub dataset {config.source!r} (split {config.split!r}) cannot be loaded: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
        ) from error
    return _from_dataset(dataset, config, classes, str(config.source))
