"""A folder of image files, and of masks beside them, as a set of samples."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lamella.data.classes import Classes
from lamella.data.config import Patterns, SourceConfig
from lamella.data.formats.files import image_stem, read_micrograph, readable, spelled_as
from lamella.data.formats.micrograph import Facts
from lamella.data.reading import frame_name
from lamella.data.samples import FileRow, Row, SampleTable, sample_key
from lamella.data.views import by_wildcards, matching
from lamella.errors import ConfigError, DataError


def from_folder(folder: Path, config: SourceConfig, classes: Classes | None) -> SampleTable:
    """The images of a folder with their masks, paired by stem.

    Raises:
        ConfigError: a pattern that matches nothing or is not relative, or a group that is found nowhere.
        DataError: an image without its mask, or two of one stem.
    """
    if isinstance(config.images, dict):
        return _from_views(folder, config, config.images, classes)
    images = _matching(folder, config.images or "*", "images")
    masks = _mask_files(folder, config)
    if "labels" in masks and config.images is None:
        taken = set(masks["labels"].values())
        images = [path for path in images if path not in taken]
    if masks:
        _by_stem(images, "images")  # where masks are paired, stems must tell images apart
    marks = {path for files in masks.values() for path in files.values()}
    own = {path.stem for path in images if path not in marks}
    labels, instances = (_paired(masks[what], own, what) if what in masks else None for what in ("labels", "instances"))
    groups = {str(image): _groups(config.group, image.stem) for image in images}
    classes, class_ids = _classes_of(groups, classes)
    rows: list[Row] = []
    home = folder.resolve().name  # of "." too
    for image in images:
        if labels is not None and image.stem not in labels:
            raise DataError(f"{image}: no mask of the same stem matches labels = {config.labels!r}")
        label = class_ids.get(str(image)) if labels is None else labels[image.stem]
        whole = FileRow(image, label, None if instances is None else instances.get(image.stem), config.reading())
        rows += _frames(folder, home, config, whole, groups[str(image)])
    return SampleTable(rows, classes, str(folder))


def _frames(
    folder: Path, home: str, config: SourceConfig, whole: FileRow, groups: dict[str, str]
) -> Iterator[Row]:
    """The rows of a file: one, or one for each frame; ``home`` is what the folder is called."""
    image = whole.image
    assert isinstance(image, Path)
    if config.metadata:
        groups = {**_said(_facts(image).texts()), **groups}
    for frame in whole.reading.frames(image):
        name = frame_name(readable(image.relative_to(folder).as_posix()), frame)
        row = replace(whole, frame=frame)
        yield Row(name, sample_key(home, name), groups, config.pixel_size(), row, whole.label is not None)


def _facts(image: Path) -> Facts:
    """What a header tells; nothing for a file that cannot be read, which says so when it is."""
    try:
        return read_micrograph(image, 0).facts
    except DataError:
        return Facts()


def _from_views(
    folder: Path, config: SourceConfig, patterns: dict[str, Patterns], classes: Classes | None
) -> SampleTable:
    """Objects with an image for each view; ``group`` is looked for in what the wildcards stand for."""
    if config.labels is not None or config.instances is not None:
        raise ConfigError("images by view have no masks: leave out labels and instances")
    objects = by_wildcards(folder, patterns)
    groups = {name: _groups(config.group, name) for name in objects}
    classes, class_ids = _classes_of(groups, classes)
    rows, home = [], folder.resolve().name
    for name, views in objects.items():
        there = {view: views[view] for view in patterns if view in views}
        key, lacking = sample_key(home, readable(name)), tuple(view for view in patterns if view not in views)
        origin = FileRow(there, class_ids.get(name), None, config.reading(), whole=not lacking)
        labelled = name in class_ids
        rows.append(Row(readable(name), key, groups[name], config.pixel_size(), origin, labelled, lacking))
    return SampleTable(rows, classes, str(folder))


def _classes_of(
    groups: Mapping[str, Mapping[str, str]], classes: Classes | None
) -> tuple[Classes | None, dict[str, int]]:
    """The classes and each sample's, where a group is named ``label``; the names found, sorted, unless given."""
    found = {name: values["label"] for name, values in groups.items() if "label" in values}
    if not found:
        return classes, {}
    if unknown := [name for name in groups if name not in found]:
        raise ConfigError(
            f"{unknown[0]}: the group 'label' of its name is empty; let the pattern find a class in every name, or "
            "leave the file out of images"
        )
    classes = classes or Classes.of(sorted(set(found.values())))
    for name, label in found.items():
        if label not in classes.names:
            raise ConfigError(f"{name}: its class {label!r} is none of {', '.join(classes.names)}")
    return classes, {name: classes.names.index(label) for name, label in found.items()}


def _matching(folder: Path, patterns: Patterns, what: str) -> list[Path]:
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found += matching(folder, pattern, what)
    return found


def _by_stem(paths: list[Path], what: str) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise DataError(f"{path}: another of the {what} has the same stem, {stems[path.stem]}")
        stems[path.stem] = path
    return stems


def _mask_files(folder: Path, config: SourceConfig) -> dict[str, dict[str, Path]]:
    """The files that are labels and instances, by stem; only those that are asked for."""
    asked = {"labels": config.labels, "instances": config.instances}
    return {
        what: _by_stem(_matching(folder, patterns, what), what)
        for what, patterns in asked.items()
        if patterns is not None
    }


def _paired(files: Mapping[str, Path], images: Collection[str], what: str) -> dict[str, Path]:
    """Mask files by their own stem; by that without ``_mask`` or the like too, unless it is an image's own."""
    shortened: dict[str, Path] = {}
    files = spelled_as(files, images)
    for stem, path in files.items():
        image = stem if stem in images else image_stem(stem)
        if image in shortened and image in images and image not in files:
            raise DataError(f"{path}: another of the {what} belongs to the same image, {shortened[image]}")
        shortened[image] = path
    return {**shortened, **files}


def _groups(pattern: str | None, stem: str) -> dict[str, str]:
    if pattern is None:
        return {}
    try:
        match = re.search(pattern, stem)
    except re.error as error:
        raise ConfigError(f"group = {pattern!r} is no regular expression: {error}") from error
    if match is None or not match.groupdict():
        raise ConfigError(f"group = {pattern!r} finds no named group, as '(?P<lot>…)', in {stem!r}")
    return _said(match.groupdict())


def _said(groups: Mapping[str, str | None]) -> dict[str, str]:
    """Those that say something: what a group that took no part holds, or an empty one, is unknown."""
    return {name: value for name, value in groups.items() if value}
