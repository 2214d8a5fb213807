"""A decoded copy of a set in one memory-mapped file, so that a training step reads crops and decodes nothing.

The file is named by a hash of what it holds (the bytes of every image and mask, and how masks are read), so a
changed image makes another file and two sets never meet. It is written beside and renamed when whole: a killed
writer leaves nothing behind that is read, several processes may write the same one, and where the disk is full
the set is simply read without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lamella.contracts.data import Sample
from lamella.data.samples import Arrays, FileRow, SampleTable, TableRow

_FORMAT = "lamella-cache-7"
_MARGIN = 1.2  # of the free space that a cache may not take


def cache_folder() -> Path:
    """``LAMELLA_CACHE``, else ``~/.cache/lamella``."""
    named = os.environ.get("LAMELLA_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "lamella"


def cached(
    table: SampleTable, *, folder: Path | None = None, limit: int = 8 << 30, tell: Callable[[str], None] = warnings.warn
) -> SampleTable:
    """The same set reading from its decoded copy, made now if need be; the set itself where there is no room.

    Args:
        limit: sets that are larger than so many bytes when decoded are not copied but streamed.
        tell: is told, in a sentence, why there is no copy.
    """
    folder = cache_folder() if folder is None else folder
    key = _content(table)
    index = folder / f"{key}.json"
    if not (index.is_file() and (folder / f"{key}.bin").is_file()):
        reason = _write(table, folder, key, limit)
        if reason is not None:
            tell(f"{table.origin}: read without a decoded copy: {reason}")
            return table
    entries = json.loads(index.read_text(encoding="utf-8"))
    rows = [
        replace(row, origin=CachedRow(folder / f"{key}.bin", _freeze(entry))) for row, entry in zip(table.rows, entries)
    ]
    return SampleTable(rows, table.classes, table.origin)


@dataclass(frozen=True)
class CachedRow:
    """A sample in the decoded copy; its arrays are views of the mapped file."""

    path: Path
    entry: tuple[tuple[str, Any], ...]

    decoded: ClassVar[bool] = True

    def arrays(self) -> Arrays:
        """Image, class ids, instances, pixel size, metadata, views; no pixel is read until it is used."""
        entry = dict(self.entry)
        label = entry["label"]
        return (
            _view(self.path, entry["image"]),
            label if isinstance(label, int) or label is None else _view(self.path, label),
            None if entry["instance"] is None else _view(self.path, entry["instance"]),
            (entry["pixel_nm"][0], entry["pixel_nm"][1]),
            dict(entry["meta"]),
            tuple(entry["views"]),
        )


@lru_cache(maxsize=64)
def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, mode="r")


def _view(path: Path, place: tuple[int, tuple[int, ...], str]) -> np.ndarray:
    offset, shape, dtype = place
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.asarray(_mapped(path)[offset : offset + count]).view(dtype).reshape(shape)


def _freeze(entry: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(entry.items())


def _content(table: SampleTable) -> str:
    """A hash of everything the decoded copy depends on."""
    digest = hashlib.blake2b(repr((_FORMAT, table.classes)).encode(), digest_size=16)
    for row in table.rows:
        origin = row.origin
        if isinstance(origin, FileRow):
            named = None if isinstance(origin.image, Path) else list(origin.image)
            label = origin.label if not isinstance(origin.label, Path) else "a mask"
            read = origin.reading, origin.frame, origin.whole
            digest.update(repr((named, label, origin.instance is None, *read)).encode())
            for path in origin.files():
                digest.update(hashlib.blake2b(path.read_bytes()).digest())
        elif isinstance(origin, TableRow):
            views = sorted((origin.views or {}).items())
            columns, how = sorted(origin.columns.items()), (views, origin.scale_bar, origin.numbers)
            digest.update(repr((origin.dataset._fingerprint, origin.index, columns, *how)).encode())
            for path in origin.files:
                digest.update(hashlib.blake2b(path.read_bytes()).digest())
        digest.update(repr((row.name, row.pixel_nm)).encode())
    return digest.hexdigest()


def _write(table: SampleTable, folder: Path, key: str, limit: int) -> str | None:
    """Write the copy; returns why it was not, or None."""
    beside = folder / f".{key}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(folder).free / _MARGIN
        expected = len(table) * _size(table.read(0))
        if expected > min(limit, room):
            most = "the room on the disk" if room < limit else "the limit"
            return f"{expected / 2**30:.1f} GiB are more than {most} ({min(limit, room) / 2**30:.1f} GiB)"
        entries: list[dict[str, Any]] = []
        with beside.open("wb") as file:
            for i in range(len(table)):
                if file.tell() > limit:
                    return f"it is larger than the limit ({limit / 2**30:.1f} GiB)"
                entries.append(_append(file, table.read(i)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, folder / f"{key}.bin")
        index = folder / f".{key}.json.{os.getpid()}"
        index.write_text(json.dumps(entries), encoding="utf-8")
        os.replace(index, folder / f"{key}.json")
    except OSError as error:
        return f"{error.strerror or error} in {folder}"
    finally:
        beside.unlink(missing_ok=True)
    return None


def _size(sample: Sample) -> int:
    arrays = [a for a in (sample.image, sample.label, sample.instance) if isinstance(a, np.ndarray)]
    return sum(array.nbytes for array in arrays)


def _append(file: Any, sample: Sample) -> dict[str, Any]:
    def put(array: np.ndarray) -> tuple[int, tuple[int, ...], str]:
        offset = file.tell()
        file.write(np.ascontiguousarray(array).data)
        file.write(bytes(-file.tell() % 8))  # arrays start on multiples of their item size
        return offset, array.shape, array.dtype.str

    label = sample.label
    return {
        "image": put(sample.image),
        "label": put(label) if isinstance(label, np.ndarray) else label,
        "instance": None if sample.instance is None else put(_narrow(sample.instance)),
        "pixel_nm": sample.pixel_nm,
        "meta": dict(sample.meta),
        "views": sample.views,
    }


def _narrow(instance: np.ndarray) -> np.ndarray:
    """Object ids in 16 bits where they fit."""
    fits = instance.size and instance.min() >= 0 and instance.max() < 65536
    return instance.astype(np.uint16) if fits else instance
