"""A set of samples that are read when they are asked for, and where their pixels are."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.contracts.data import Sample
from lamella.data.classes import Classes
from lamella.data.formats.files import Frame, checked, files_of, read_encoded
from lamella.data.formats.micrograph import UNKNOWN_NM, Micrograph
from lamella.data.formats.raster import pixels
from lamella.data.reading import AS_TOLD, Reading, with_scale_bar
from lamella.data.views import stacked
from lamella.errors import ConfigError, DataError, LamellaError

_NAMED = 3


class SampleTable:
    """A set of samples that are read when they are asked for."""

    def __init__(self, rows: Sequence[Row], classes: Classes | None, origin: str):
        self.rows, self.classes, self.origin = list(rows), classes, origin

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labelled(self) -> bool:
        """Whether its samples have labels, or some of them; `partly_labelled` tells of those."""
        return any(row.labelled for row in self.rows)

    def keys(self) -> list[int]:
        """The stable identity of every row."""
        return [row.key for row in self.rows]

    def read(self, index: int, visit: int = 0) -> Sample:
        """Row ``index`` decoded; raises `DataError` naming the file."""
        return self.rows[index].read(self.classes, visit)

    def take(self, indices: Sequence[int]) -> SampleTable:
        """The rows at ``indices``, in that order."""
        return SampleTable([self.rows[i] for i in indices], self.classes, self.origin)

    def partly_labelled(self) -> str | None:
        """How many samples lack the label that others have, and which, in a sentence; None where all are alike."""
        lacking = [row.name for row in self.rows if not row.labelled]
        if len(lacking) in (0, len(self)):
            return None
        named = ", ".join(lacking[:_NAMED]) + (" …" if len(lacking) > _NAMED else "")
        return f"{len(lacking)} of {len(self)} have no label ({named})"

    def incomplete(self) -> str | None:
        """How many samples lack a view, and which, in a sentence; None where every sample has all of its views."""
        lacking = Counter(view for row in self.rows for view in row.missing)
        if not lacking:
            return None
        return ", ".join(f"{count} of {len(self)} have no {view!r} image" for view, count in sorted(lacking.items()))


@dataclass(frozen=True)
class Row:
    """One sample before it is read."""

    name: str
    key: int
    groups: Mapping[str, str]
    pixel_nm: tuple[float, float]
    origin: Origin
    labelled: bool
    missing: tuple[str, ...] = ()
    """The views that it lacks."""

    def read(self, classes: Classes | None, visit: int) -> Sample:
        """The sample, decoded."""
        image, mask, instance, pixel_nm, meta, views = self.origin.arrays()
        label: np.ndarray | int | None = None
        if isinstance(mask, int):
            label = mask if mask >= 0 else IGNORE  # the Hub's −1 is no label
        elif isinstance(mask, np.ndarray) and self.origin.decoded:
            label = mask
        elif isinstance(mask, np.ndarray):
            if classes is None:
                raise ConfigError(f"{self.name}: it has a mask, but the classes are not named; write classes = [ … ]")
            label = classes.ids(mask, self.name)
        for what, array in (("mask", label), ("instance map", instance)):
            if isinstance(array, np.ndarray) and array.shape != image.shape[:2]:
                raise DataError(
                    f"{self.name}: the {what} is {array.shape[0]}×{array.shape[1]} pixels, "
                    f"its image {image.shape[0]}×{image.shape[1]}"
                )
        known = self.pixel_nm if math.isnan(pixel_nm[0]) else pixel_nm  # what the file says comes first
        return Sample(image, label, instance, self.key, visit, known, meta, self.name, self.groups, views)


Arrays = tuple[
    np.ndarray, np.ndarray | int | None, np.ndarray | None, tuple[float, float], dict[str, float], tuple[str, ...]
]


class Origin(Protocol):
    """Where a sample's pixels are."""

    decoded: ClassVar[bool]
    """Whether its mask holds class ids already."""

    def arrays(self) -> Arrays:
        """Image, mask, instances, pixel size, metadata and the names of views, decoded."""


@dataclass(frozen=True)
class FileRow:
    """A sample in files."""

    image: Path | Mapping[str, Path]
    """One file, or those of several views by name."""
    label: Path | int | None
    instance: Path | None
    reading: Reading = AS_TOLD
    frame: Frame = None
    whole: bool = True
    """Whether all of its views are there."""

    decoded: ClassVar[bool] = False

    def arrays(self) -> Arrays:
        """Image, mask, instances, pixel size, metadata and the names of views, decoded."""
        if not isinstance(self.image, Path):
            return self._of_views(self.image)
        found = self.reading.micrograph(self.image, self.frame)
        label, instance = (
            self.reading.mask(mask, found, self.frame) if isinstance(mask, Path) else mask
            for mask in (self.label, self.instance)
        )
        return found.image, label, _objects(instance), found.pixel_nm, found.facts.numbers(), ()

    def _of_views(self, files: Mapping[str, Path]) -> Arrays:
        """The pixel size is that of the views where all are there and agree; the metadata hold each one's own."""
        found = {view: self.reading.micrograph(path) for view, path in files.items()}
        image, views = stacked({view: one.image for view, one in found.items()}, str(next(iter(files.values()))))
        sizes = {view: one.pixel_nm for view, one in found.items()}
        meta = {f"{view}_nm": y for view, (y, x) in sizes.items() if math.isclose(y, x, rel_tol=1e-4)}
        pixel_nm = next(iter(sizes.values())) if self.whole and len(set(sizes.values())) == 1 else UNKNOWN_NM
        assert not isinstance(self.label, Path)
        return image, self.label, None, pixel_nm, meta, views

    def files(self) -> list[Path]:
        """Every file that the sample depends on."""
        images = [self.image] if isinstance(self.image, Path) else list(self.image.values())
        read = [path for image in images for path in files_of(image)]
        return [*read, *(mask for mask in (self.label, self.instance) if isinstance(mask, Path))]


@dataclass(frozen=True)
class TableRow:
    """A sample in a ``datasets.Dataset``."""

    dataset: Any
    index: int
    columns: Mapping[str, str]
    name: str
    views: Mapping[str, str] | None = None
    """The columns of several views, by name; else the column of the image is all."""
    scale_bar: bool = False
    """Whether the pixel size is read from a burnt-in scale bar where the row does not say it."""
    numbers: Classes | None = None
    """Which class a number in the column of the label is; without it the number itself."""
    files: tuple[Path, ...] = ()
    """Of images that the row names and does not hold."""

    decoded: ClassVar[bool] = False

    def arrays(self) -> Arrays:
        """Image, mask, instances, pixel size, metadata and the names of views, decoded."""
        try:
            row = self.dataset[self.index]
            image, views = self._image(row)
            label, instance = (self._mask(row.get(self.columns[what])) for what in ("label", "instance"))
        except LamellaError:
            raise
        except Exception as error:  # the decoder's own, of many kinds
            raise DataError(f"{self.name} (row {self.index}): it cannot be decoded ({error})") from error
        size = row.get("pixel_nm")
        taken = {*self.columns.values(), "classes", "pixel_nm"}
        meta = {n: float(value) for n, value in row.items() if isinstance(value, int | float) and n not in taken}
        pixel_nm = _size_of(size, self.name)
        if self.scale_bar and not views:
            found = with_scale_bar(Micrograph(image, pixel_nm), self.name)
            pixel_nm, meta = found.pixel_nm, {**meta, **found.facts.numbers()}
        return image, self._class(label), _objects(instance), pixel_nm, meta, views

    def _image(self, row: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
        if self.views is None:
            return self._decoded(row[self.columns["image"]]), ()
        found = {view: row[column] for view, column in self.views.items()}
        return stacked({v: None if image is None else self._decoded(image) for v, image in found.items()}, self.name)

    def _decoded(self, image: Any) -> np.ndarray:
        if isinstance(image, Mapping):
            return read_encoded(_encoded(image), self.name)
        return checked(pixels(image) if hasattr(image, "mode") else np.asarray(image), self.name)

    def _mask(self, label: Any) -> np.ndarray | int | None:
        if label is None or isinstance(label, int):
            return label
        if isinstance(label, Mapping):
            return read_encoded(_encoded(label), self.name, as_mask=True)
        return np.asarray(label)

    def _class(self, label: np.ndarray | int | None) -> np.ndarray | int | None:
        return self.numbers.id_of(label, self.name) if isinstance(label, int) and self.numbers is not None else label


def _encoded(stored: Mapping[str, Any]) -> bytes:
    """What an image file holds, of which ``datasets`` keeps the bytes or the path."""
    import fsspec

    if (held := stored.get("bytes")) is not None:
        return bytes(held)
    with fsspec.open(stored["path"], "rb") as file:  # a file of this machine, or an address
        return bytes(file.read())


def _objects(instance: Any) -> np.ndarray | None:
    """An instance map's ids as int64; what is negative there, as −1 where nothing is, is no object: 0."""
    return None if instance is None else np.asarray(instance).astype(np.int64).clip(min=0)


def _size_of(told: Any, name: str) -> tuple[float, float]:
    """nm per pixel in y and x, as a column ``pixel_nm`` tells it: two numbers, one for both, or nothing."""
    values = list(told) if isinstance(told, list | tuple | np.ndarray) else [told] * 2
    try:
        y, x = (math.nan if value is None else float(value) for value in values)
    except (TypeError, ValueError):
        raise DataError(f"{name}: pixel_nm = {told!r} must be nm per pixel in y and x, or one number") from None
    return (y, x) if y > 0 and x > 0 else UNKNOWN_NM


def sample_key(origin: str, name: str) -> int:
    """A stable 63-bit identity for a sample of a named set."""
    digest = hashlib.blake2b(f"{origin}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
