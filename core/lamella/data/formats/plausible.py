"""Whether the header of a microscope's file promises more than the file can hold: asked before memory is taken."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from lamella.errors import DataError

MOST_PER_BYTE = 1100
"""Bytes of pixels that a byte of a compressed file can stand for; a header that promises more is damaged."""
_SPARE = 65536
_MRC_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2, 16: 3, 17: 3}
"""Bytes of a pixel by MRC's mode."""


def plausible(path: Path) -> None:
    """Raise `DataError` for a file whose header promises more than it can hold, or whose pages go round in a circle."""
    checks = {".ser": _ser, ".mrc": _mrc, ".emd": _emd, ".img": _img, ".tif": _tif, ".tiff": _tif}
    check = checks.get(path.suffix.lower())
    if check is not None:
        check(path, path.stat().st_size)


def _refuse(path: Path, promised: str, size: int) -> None:
    raise DataError(f"{path}: its header promises {promised}, the file has {size} bytes; it is damaged or cut short")


def _ser(path: Path, size: int) -> None:
    """Every element has an offset of 4 bytes at least; every dimension has two texts of a length that is told."""
    head = _head(path, 22)
    total, valid = struct.unpack_from("<2I", head, 14)
    if 4 * max(total, valid) > size:
        _refuse(path, f"{max(total, valid)} images", size)
    wide = struct.unpack_from("<H", head, 4)[0] >= 0x220  # offsets of 8 bytes
    with path.open("rb") as file:
        file.seek(30 if wide else 26)
        for _ in range(min(struct.unpack("<I", file.read(4))[0], 16)):
            file.seek(24, 1)
            for _ in ("description", "units"):
                length = struct.unpack("<I", file.read(4))[0]
                if length > size:
                    _refuse(path, f"a text of {length} bytes", size)
                file.seek(length, 1)


def _mrc(path: Path, size: int) -> None:
    head = _head(path, 16)
    little, big = struct.unpack("<4i", head), struct.unpack(">4i", head)
    *shape, mode = little if 0 <= little[3] < 65536 else big
    if min(shape) < 1 or math.prod(shape) * _MRC_BYTES.get(mode, 1) > size:
        _refuse(path, f"{' × '.join(map(str, shape))} pixels", size)


def _emd(path: Path, size: int) -> None:
    import h5py

    def look(name: str, item: Any) -> None:
        shape = item.shape if isinstance(item, h5py.Dataset) else None
        if shape is not None and math.prod(shape) * item.dtype.itemsize > MOST_PER_BYTE * size + _SPARE:
            _refuse(path, f"{' × '.join(map(str, shape))} values in {name}", size)

    with h5py.File(path, "r") as file:
        file.visititems(look)


def _img(path: Path, size: int) -> None:
    """JEOL: a keyword ``Size`` with width and height."""
    data, key = path.read_bytes(), b"\x05\0\0\0Size\0\x08\0\0\0\x08\0\0\0"
    at = data.find(key)
    while at >= 0 and at + len(key) + 8 <= size:
        width, height = struct.unpack_from("<2i", data, at + len(key))
        if width * height > size or min(width, height) < 1:
            _refuse(path, f"{height} × {width} pixels", size)
        at = data.find(key, at + 1)


def _tif(path: Path, size: int) -> None:
    with path.open("rb") as file:
        ends(file, str(path), size)


def ends(file: BinaryIO, name: str, size: int) -> None:
    """Raise `DataError` where the chain of a TIFF's pages has no end: tifffile follows a circle for ever."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return
    large = struct.unpack_from(f"{order}H", head, 2)[0] == 43
    count, offset, entry = ("Q", "Q", 20) if large else ("H", "I", 12)
    at, seen = struct.unpack_from(f"{order}{offset}", head, 8 if large else 4)[0], set[int]()
    while 0 < at < size and at not in seen:
        seen.add(at)
        file.seek(at)
        raw = file.read(struct.calcsize(count))
        if len(raw) < struct.calcsize(count):
            return
        file.seek(at + len(raw) + entry * struct.unpack(order + count, raw)[0])
        raw = file.read(struct.calcsize(offset))
        if len(raw) < struct.calcsize(offset):
            return
        at = struct.unpack(order + offset, raw)[0]
    if at in seen:
        raise DataError(f"{name}: its pages follow each other in a circle; it is damaged")


def _head(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        head = file.read(count)
    if len(head) < count:
        _refuse(path, "a header", path.stat().st_size)
    return head
