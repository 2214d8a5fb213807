"""Several images of one object (a defect at two magnifications, say) as one sample."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from lamella.data.formats.files import SUFFIXES, image_files
from lamella.data.grey import grey_levels
from lamella.errors import ConfigError, DataError

Stacked = tuple[np.ndarray, tuple[str, ...]]


def stacked(images: Mapping[str, np.ndarray | None], name: str) -> Stacked:
    """The views that are there as one image (H, W, V), colours averaged, with their names in that order.

    Args:
        images: (H, W) or (H, W, C) by the name of the view; None where one is missing.
        name: what to call the sample in an error message.

    Raises:
        DataError: no view at all, or views of different sizes or types.

    >>> image, views = stacked({"high": np.zeros((4, 6), np.uint8), "low": None}, "D1")
    >>> image.shape, views
    ((4, 6, 1), ('high',))
    """
    there = {view: image for view, image in images.items() if image is not None}
    if not there:
        raise DataError(f"{name}: none of its views ({', '.join(images)}) is there")
    kinds = {(image.shape[:2], image.dtype.str) for image in there.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{view} {i.shape[0]}×{i.shape[1]} {i.dtype}" for view, i in there.items())
        raise DataError(f"{name}: the views of one object need one size and type, these are {listed}")
    return np.stack([grey_levels(image) for image in there.values()], 2), tuple(there)


def by_wildcards(folder: Path, patterns: Mapping[str, str | list[str]]) -> dict[str, dict[str, Path]]:
    """Files of one object by view: those whose wildcards stand for the same text belong together.

    With ``high/*.png`` and ``low/*.png`` that is the stem, with ``*_H.png`` and ``*_L.png`` what comes before the
    ending; several wildcards are joined by "/".

    Raises:
        ConfigError: a pattern without a wildcard, or one that no image file matches.
        DataError: two files for the same view of one object, or a file that is two views.
    """
    objects: dict[str, dict[str, Path]] = {}
    taken: dict[Path, str] = {}
    for view, several in patterns.items():
        for pattern in [several] if isinstance(several, str) else several:
            for name, path in _named(folder, pattern, view).items():
                views, called = objects.setdefault(name, {}), f"the view {view!r} of {name!r}"
                if path in taken:
                    raise DataError(f"{path}: it is {taken[path]} by one pattern and {called} by another")
                if view in views:
                    raise DataError(f"{path}: another file is {called}, {views[view]}")
                views[view], taken[path] = path, called
    return dict(sorted(objects.items()))


def matching(folder: Path, pattern: str, key: str) -> list[Path]:
    """The image files in a folder that match a pattern; raises `ConfigError` naming the key where there are none."""
    if PurePath(pattern).anchor:
        raise ConfigError(
            f"{key} = {pattern!r}: patterns are relative to the source, here {folder}; name the folder as source, and "
            "write the pattern of lamella predict --view relative to the folder of the images"
        )
    try:
        found = image_files(folder.glob(pattern))
    except ValueError as error:
        raise ConfigError(f"{key} = {pattern!r} is no pattern of files ({error})") from None
    if not found:
        raise ConfigError(f"{folder}: no image file matches {key} = {pattern!r} ({', '.join(SUFFIXES)})")
    return found


def _named(folder: Path, pattern: str, view: str) -> dict[str, Path]:
    if not re.search(r"[*?\[]", pattern):
        raise ConfigError(f"images.{view} = {pattern!r} needs a wildcard, as '*_H.png' or 'high/*.png'")
    pattern = PurePosixPath(pattern).as_posix()  # without ./
    found = matching(folder, pattern, f"images.{view}")
    expression = re.compile(_expression(pattern))
    named: dict[str, Path] = {}
    for path in found:
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        assert match is not None, f"{pattern!r} found {path} and does not describe it"
        name = "/".join(part.strip("/") for part in match.groups())
        if name in named:
            raise DataError(f"{path}: another file is the view {view!r} of {name!r}, {named[name]}")
        named[name] = path
    return named


def _expression(pattern: str) -> str:
    """A regular expression for a glob pattern, with a group for every wildcard."""
    out, i = "", 0
    while i < len(pattern):
        end = pattern.find("]", i + 2) if pattern[i] == "[" else -1
        if pattern.startswith("**/", i):
            out, i = out + "((?:[^/]+/)*)", i + 3
        elif end > 0:
            inside = pattern[i + 1 : end]
            out, i = out + f"([{'^' + inside[1:] if inside[0] == '!' else inside}])", end + 1
        else:
            out += {"*": "([^/]*)", "?": "([^/])"}.get(pattern[i]) or re.escape(pattern[i])
            i += 1
    return out
