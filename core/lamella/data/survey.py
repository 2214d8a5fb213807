"""What is in a folder of images and a folder of masks: pairs, sizes, bit depths, classes, groups."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.data.burnt_in.databar import find_bar
from lamella.data.duplicates import clusters, near_duplicates, thumbnail
from lamella.data.formats.files import image_stem, images_in, readable, spelled_as
from lamella.data.formats.micrograph import Micrograph
from lamella.data.reading import AS_TOLD, Reading
from lamella.errors import DataError, LamellaError

_MOST_COLOURS, _MANY = 32, 16
_PREFIX = re.compile(r"^[^\W\d_]+(?:[_ -]|(?=\d))")
_SEPARATORS = ("_", "-", " ", ".")


@dataclass
class Survey:
    """What was found; `problems` is what a person should look at."""

    images: Path
    masks: Path | None
    pairs: dict[str, tuple[Path, Path | None]] = field(default_factory=dict)
    """Image and mask by stem; the mask is None where there is none."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """How many images have which pixel type and channels, as ``uint8`` or ``uint8 × 3``."""
    marks: Counter[int | str] = field(default_factory=Counter)
    """Pixels of each grey value or colour of the masks; ``rest`` for the grey ground of an overlay."""
    pixel_nm: Counter[tuple[float, float] | None] = field(default_factory=Counter)
    """How many images have which pixel size (nm, y and x); None where the file does not say."""
    makers: Counter[str] = field(default_factory=Counter)
    """How many images are of which microscope's format, as far as it says."""
    thumbnails: dict[str, np.ndarray] = field(default_factory=dict)
    """What stands for each image, by stem, to tell near-duplicates."""
    bars: int = 0
    """How many images still show what looks like a data bar."""
    greys: Counter[int] = field(default_factory=Counter)
    """Pixels of each grey value in masks with colours: what ``rest`` is made of."""
    shown: dict[str, set[int | str]] = field(default_factory=dict)
    """The grey values and colours of each mask, by stem; beside colours the greys of ``rest`` too."""
    problems: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> list[str]:
        """The stems that have a mask, in order."""
        return [stem for stem, (_, mask) in self.pairs.items() if mask is not None]

    @property
    def numbered(self) -> int | None:
        """The highest value where values look like numbers of objects: many, one after the other, not in all alike."""
        greys = [mask for mask in self.shown.values() if all(isinstance(value, int) for value in mask)]
        ends = {_end({value for value in mask if isinstance(value, int)}) for mask in greys}
        highest = max((end for end in ends if end is not None), default=0)
        return highest if None not in ends and len(ends) > 1 and highest > _MANY else None

    @property
    def smoothed(self) -> int | None:
        """How many values masks have where these look smoothed or compressed: many, and not one after the other."""
        values = {mark for mark in self.marks if isinstance(mark, int)}
        return len(values) if len(values) > _MOST_COLOURS and _end(values) is None else None

    def alike(self) -> list[set[str]]:
        """The stems of images that show the same thing, set by set."""
        stems = list(self.thumbnails)
        pairs = near_duplicates(list(self.thumbnails.values()))
        return [{stems[i] for i in group} for group in clusters(pairs, len(stems))]

    def count(self, stem: str, one: Micrograph) -> None:
        """Add an image's size, type, pixel size, maker and thumbnail."""
        self.thumbnails[stem] = thumbnail(one.image)
        self.bars += find_bar(one.image) is not None
        image, (y, x) = one.image, one.pixel_nm
        self.sizes[image.shape[0], image.shape[1]] += 1
        self.kinds[str(image.dtype) + (f" × {image.shape[2]}" if image.ndim == 3 else "")] += 1
        self.pixel_nm[None if math.isnan(y) else (float(f"{y:.6g}"), float(f"{x:.6g}"))] += 1
        self.makers.update([one.facts.maker] if one.facts.maker else [])


def survey(images: Path, masks: Path | None = None, *, reading: Reading = AS_TOLD, rest: bool = False) -> Survey:
    """Look at every image, and at every mask if there are any; damaged files become problems, not ends.

    Args:
        rest: whether a class is ``rest``, so that masks may hold any number of values.

    Raises:
        DataError: a folder that is missing or holds no image.
    """
    found = Survey(images, masks)
    stems = _stems(images, found)
    mask_stems: dict[str, Path] = {}
    if masks is not None and masks.resolve() == images.resolve():  # no file is its own mask
        endings = {stem: path for stem, path in stems.items() if image_stem(stem) in stems.keys() - {stem}}
        stems = {stem: path for stem, path in stems.items() if stem not in endings}
        mask_stems = _paired(endings, stems, found)
    elif masks is not None:
        mask_stems = _paired(_stems(masks, found), stems, found)
    for stem, path in stems.items():
        try:
            one = reading.micrograph(path, reading.frames(path)[0])
        except DataError as error:
            found.problems.append(str(error))
            continue
        mask = mask_stems.get(stem)
        if masks is not None and mask is None:
            found.problems.append(f"{path}: there is no mask of this stem; the image counts as unlabelled")
        if mask is not None and not _count_mask(stem, mask, one, found, reading, rest):
            mask = None
        found.count(stem, one)
        found.pairs[stem] = (path, mask)
    if set(found.greys) == {0, 255}:  # black and white are drawn; the ground of an overlay has more greys
        found.marks["#ffffff"] = found.greys.pop(255)
        found.marks["rest"] -= found.marks["#ffffff"]
        for shown in found.shown.values():
            shown ^= {255, "#ffffff"} if 255 in shown else set()
    return found


def _paired(masks: Mapping[str, Path], images: Mapping[str, Path], found: Survey) -> dict[str, Path]:
    """The masks by the stem of their image: one of the same stem before one of that stem and an ending like _mask."""
    paired: dict[str, Path] = {}
    masks = spelled_as(masks, images)
    for stem, path in masks.items():
        image = stem if stem in images else image_stem(stem)
        if image not in images:
            found.problems.append(f"{path}: no image has this stem")
        elif image in paired or (image in masks and stem != image):
            other = paired.get(image, masks.get(image, path))
            found.problems.append(f"{path}: {other.name} belongs to the same image; this one is left out")
        else:
            paired[image] = path
    if not paired and (told := _prefixed(masks, images)) is not None:
        rule = "masks have the image's name, or NAME_mask"
        found.problems.insert(0, f"{told[0]} and {told[1]} differ only in the prefix; {rule}")
    return paired


def _prefixed(masks: Iterable[str], images: Iterable[str]) -> tuple[str, str] | None:
    """The first stems of a mask and an image that are equal but for a prefix; None where there are none.

    >>> _prefixed(["mask_0", "mask_1"], ["img_1"])
    ('mask_1', 'img_1')
    """
    ends = {_PREFIX.sub("", stem): stem for stem in images} | {stem: stem for stem in images}
    pairs = ((stem, end) for stem in masks for end in (stem, _PREFIX.sub("", stem)) if end in ends)
    return next(((stem, ends[end]) for stem, end in pairs), None)


def _stems(folder: Path, found: Survey) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    files = images_in(folder, "give one of these; an experiment file can name several, as images = [{those}]")
    stems: dict[str, Path] = {}
    for path in files:
        if readable(path.name) != path.name:
            found.problems.append(f"{readable(str(path))}: no experiment file can hold a name that is no UTF-8")
        elif path.stem in stems:
            found.problems.append(f"{path}: {stems[path.stem].name} has the same stem; this one is left out")
        else:
            stems[path.stem] = path
    return stems


def _count_mask(stem: str, path: Path, one: Micrograph, found: Survey, reading: Reading, rest: bool) -> bool:
    """Add a mask's values to the survey; False, with a problem noted, where it cannot serve."""
    try:
        mask, size = reading.mask(path, one), one.image.shape
        if mask.shape[:2] != size[:2]:
            raise DataError(f"{path}: the mask is {mask.shape[0]}×{mask.shape[1]}, its image {size[0]}×{size[1]}")
        marks, greys = _marks(mask, path, rest)
    except LamellaError as error:
        found.problems.append(str(error))
        return False
    found.marks.update(marks)
    found.greys.update(greys)
    found.shown[stem] = {*marks, *greys}
    return True


def _end(values: set[int]) -> int | None:
    """The highest of these grey values where they hold all from 0 or 1 up to it.

    >>> _end({0, 1, 2}), _end({1, 2}), _end({0, 2})
    (2, 2, None)
    """
    least, most = min(values), max(values)
    return most if len(values) == most - least + 1 and least < 2 else None


def _marks(mask: np.ndarray, path: Path, rest: bool) -> tuple[Counter[int | str], Counter[int]]:
    """Pixels of each grey value; or of each colour, and of the grey values among them."""
    if mask.ndim == 3 and (mask[..., :3] == mask[..., :1]).all():
        mask = mask[..., 0]
    if mask.dtype.kind not in "iub":
        raise DataError(f"{path}: a mask of type {mask.dtype} has no classes; use whole numbers or colours")
    if mask.ndim == 2:
        values, counts = np.unique(mask, return_counts=True)
        if len(values) >= IGNORE and not rest:
            told = "is this an image, or numbers of objects (then --classes background=0,particle=rest)?"
            raise DataError(f"{path}: {len(values)} different grey values are no classes; {told}")
        if not 0 <= values[0] <= values[-1] <= 65535:
            odd = int(values[0] if values[0] < 0 else values[-1])
            raise DataError(f"{path}: the mask holds {odd}; grey values of classes are 0 to 65535")
        return Counter({int(v): int(n) for v, n in zip(values, counts)}), Counter()
    rgb = mask[..., :3].reshape(-1, 3)
    grey = (rgb == rgb[:, :1]).all(1)
    colours, counts = np.unique(rgb[~grey], axis=0, return_counts=True)
    if len(colours) > _MOST_COLOURS:
        raise DataError(f"{path}: {len(colours)} different colours are no classes; is this an image, or a JPEG?")
    found: Counter[int | str] = Counter({f"#{r:02x}{g:02x}{b:02x}": int(n) for (r, g, b), n in zip(colours, counts)})
    if grey.any():
        found["rest"] = int(grey.sum())
    levels, counts = np.unique(rgb[grey, 0], return_counts=True)
    return found, Counter({int(level): int(n) for level, n in zip(levels, counts)})


def class_table(found: Survey) -> dict[str, int | str]:
    """A name for every value or colour: ``background`` for 0 or the rest, ``foreground`` for a lone other."""
    marks = sorted((m for m in found.marks if m != IGNORE or set(found.marks) <= {0, IGNORE}), key=str)
    marks.sort(key=lambda mark: (mark not in (0, "rest"), isinstance(mark, str), mark if isinstance(mark, int) else 0))
    names = {}
    for number, mark in enumerate(marks):
        if mark in (0, "rest"):
            name = "background"
        else:
            name = "foreground" if len(marks) == 2 else f"class-{number}"
        names[name] = mark
    return names


def name_groups(stems: Sequence[str]) -> dict[str, list[str]] | None:
    """The stems by what stands before their first separator, where that looks like a group; else None.

    It looks like one (a specimen, a lot, a wafer) if it parts the stems into two groups or more, and fewer
    than there are stems.

    >>> name_groups(["a1_x", "a1_y", "b2_x"])
    {'a1': ['a1_x', 'a1_y'], 'b2': ['b2_x']}
    """
    for separator in _SEPARATORS:
        groups: dict[str, list[str]] = {}
        for stem in stems:
            groups.setdefault(stem.partition(separator)[0], []).append(stem)
        if all(separator in stem for stem in stems) and 2 <= len(groups) < len(stems):
            return groups
    return None
