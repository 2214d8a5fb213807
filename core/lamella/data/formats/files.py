"""Reading image and mask files: PNG, JPEG, TIFF and the formats of microscopes, in the bit depth they have."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar
from unicodedata import normalize

import numpy as np

from lamella.data.formats.micrograph import UNKNOWN_NM, Micrograph, asked, positive
from lamella.data.formats.raster import read_raster
from lamella.data.formats.rosetta import READERS, read_beside, read_rosetta, rosetta_frames
from lamella.data.formats.sidecar import read_sidecar, sidecar_of
from lamella.data.formats.tiff import read_tiff, read_tiff_bytes, read_values, tiff_frames
from lamella.errors import DataError, LamellaError

MASKS = (".png", ".bmp", ".tif", ".tiff")
"""What masks are in."""
LOSSY = (".jpg", ".jpeg")
"""What images may be in and masks may not: it changes values along every edge."""
SUFFIXES = (".png", *LOSSY, *MASKS[1:], *READERS)
"""What images are in."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""What TIFF begins with, of both byte orders and in its large kind."""
Frame = int | Literal["mean"] | None
"""Which frame of a stack: its number, the mean of all, or None where a file holds one image."""
_T = TypeVar("_T")
_NAMED = 5
_HINTS = {".gz": "unpack it first", ".zip": "unpack it first", ".elid": "export the images of a Phenom project as TIFF"}
_MASK_ENDING = re.compile(r"[_-](mask|masks|label|labels|seg|segmentation|gt|annot|annotation)$", re.IGNORECASE)


def image_stem(mask_stem: str) -> str:
    """The stem of the image a mask belongs to: its own, without an ending like ``_mask`` or ``-label``.

    >>> image_stem("spot3_0d_3_mask"), image_stem("spot3_0d_3")
    ('spot3_0d_3', 'spot3_0d_3')
    """
    return _MASK_ENDING.sub("", mask_stem)


def spelled_as(stems: Mapping[str, Path], images: Collection[str]) -> dict[str, Path]:
    """Masks by the stems that their images spell: an ä is one character or two, by the system that named the file.

    Args:
        stems: masks by their own stems.
        images: the stems of the images.

    >>> spelled_as({"Gera\u0308t_mask": Path("m.png")}, {"Ger\u00e4t"}) == {"Ger\u00e4t_mask": Path("m.png")}
    True
    """
    known = {normalize("NFC", stem): stem for stem in images}
    spelled = {}
    for stem, path in stems.items():
        bare = image_stem(stem)
        own, of = known.get(normalize("NFC", stem)), known.get(normalize("NFC", bare))
        name = own or (of + stem[len(bare) :] if of else stem)
        spelled[stem if name in stems else name] = path  # two that differ in that alone stay two
    return spelled


def readable(name: str) -> str:
    """A file name as text that can be printed and written: bytes that are no UTF-8 as ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Those of some paths that are image files, sorted; an EMI file counts as its SER file where that is there.

    What macOS keeps beside a file, under its name with ``._`` before it, is none.
    """
    found = sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith("._") and p.is_file())
    series = {path.parent / path.stem.rpartition("_")[0] for path in found if path.suffix.lower() == ".ser"}
    return [path for path in found if path.suffix.lower() != ".emi" or path.with_suffix("") not in series]


def images_in(folder: Path, advice: str) -> list[Path]:
    """The image files in a folder itself.

    Args:
        advice: what to do where they are in folders below; ``{those}`` stands for patterns of two.

    Raises:
        DataError: there is none.
    """
    found = image_files(folder.iterdir())
    if found:
        return found
    below = [readable(path.name) for path in sorted(folder.iterdir()) if _holds_images(path)]
    if not below:
        raise DataError(f"{folder}: the folder holds no image ({', '.join(SUFFIXES)})")
    named = ", ".join(below[:_NAMED]) + (f" and {len(below) - _NAMED} more" if len(below) > _NAMED else "")
    told = advice.format(those=", ".join(f'"{name}/*"' for name in below[:2]))
    raise DataError(f"{folder}: the folder holds no image itself, only below it, in {named}: {told}")


def _holds_images(path: Path) -> bool:
    with suppress(OSError):  # of folders that may not be read
        return path.is_dir() and bool(image_files(path.iterdir()))
    return False


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W) or (H, W, C), uint8, uint16 or float32, with its data bar if it has one.

    Raises:
        DataError: missing, empty, truncated, of an unknown kind, a stack, or holding NaN.
    """
    return read_micrograph(path).image


def read_micrograph(path: Path, frame: Frame = None) -> Micrograph:
    """An image file with what it, or a text file beside it, says of pixel size and exposure.

    Args:
        frame: which frame of a stack; without it a stack is refused.

    Raises:
        DataError: as `read_image`.
    """
    if frame == "mean":
        return _mean(path)
    found = _guarded(path, lambda: _opened(path, frame))
    if found.frames > 1:
        raise DataError(
            f"{path}: a stack of {found.frames} frames, {found.image.shape}, is neither (H, W) nor (H, W, channels); "
            "stack = 'each' or 'mean', in [data.ROLE] of the experiment or as predict --stack, says what to do with it"
        )
    size = found.pixel_nm if not np.isnan(found.pixel_nm).any() else UNKNOWN_NM  # of one direction alone it is no size
    return _with_sidecar(replace(found, image=checked(found.image, str(path)), pixel_nm=size), path)


def count_frames(path: Path) -> int:
    """How many frames a file holds; raises as `read_image`."""
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return _guarded(path, lambda: tiff_frames(path))
    return _guarded(path, lambda: rosetta_frames(path)) if suffix in READERS else 1


def _mean(path: Path) -> Micrograph:
    """Of the frames' own type, so that its range stays known; float32 where they are of several."""
    first = read_micrograph(path, 0)
    total = first.image.astype(np.float64)
    count, kinds = count_frames(path), {first.image.dtype}
    for frame in range(1, count):
        image = read_micrograph(path, frame).image
        total += image
        kinds.add(image.dtype)
    kind = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
    mean = total / count
    return replace(first, image=(np.rint(mean) if kind.kind == "u" else mean).astype(kind))


def _opened(path: Path, frame: int | None) -> Micrograph:
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return read_tiff(path, frame)
    if suffix in READERS:
        return read_rosetta(path, frame)
    image = read_raster(path)
    return Micrograph(image, asked(lambda: _own_size(path), UNKNOWN_NM))


def _own_size(path: Path) -> tuple[float, float]:
    """The pixel size that a PNG of Lamella's own carries."""
    if path.suffix.lower() != ".png":
        return UNKNOWN_NM
    from PIL import Image

    with Image.open(path) as opened:
        y, x = (positive(part) for part in str(opened.info["pixel_nm"]).split())
    return y, x


def files_of(path: Path) -> list[Path]:
    """An image file and those beside it that `read_micrograph` reads with it: an EMI or SER file, a text."""
    told = sidecar_of(path)
    return [path, *read_beside(path), *([] if told is None else [told])]


def _with_sidecar(found: Micrograph, path: Path) -> Micrograph:
    """What the image itself says comes before what is said beside it."""
    beside = sidecar_of(path)
    said = None if beside is None else read_sidecar(beside)
    if said is None:
        return found
    size, facts, rows = said
    rows = rows if rows is not None and 0 < rows < found.image.shape[0] else None
    return replace(
        found,
        pixel_nm=size if math.isnan(found.pixel_nm[0]) else found.pixel_nm,
        facts=found.facts.filled(facts),
        rows=rows if found.rows is None else found.rows,
    )


def checked(image: np.ndarray, name: str) -> np.ndarray:
    """Decoded pixels as `read_image` gives them, without an alpha channel; raises as `read_image`."""
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3)) or image.size == 0:
        raise DataError(f"{name}: an image of shape {image.shape} is neither (H, W) nor (H, W, channels)")
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype.kind not in "iuf":
        raise DataError(f"{name}: pixels of type {image.dtype} are not supported")
    with np.errstate(over="ignore"):
        image = image.astype(np.float32)  # by the type alone, so that all files of a camera are of one type
    if not np.isfinite(image).all():
        raise DataError(f"{name}: the image holds NaN, infinite values, or some that 32-bit floating point cannot hold")
    return image


def read_mask(path: Path) -> np.ndarray:
    """A mask file as (H, W) values or (H, W, 3 or 4) colours; palettes are read as their indices.

    Raises:
        DataError: as `read_image`, and for JPEG.
    """
    if path.suffix.lower() in READERS:
        raise DataError(f"{path}: a mask of type {path.suffix} is not read; use {', '.join(MASKS)}")
    if path.suffix.lower() in LOSSY:
        raise DataError(f"{path}: JPEG changes the values of a mask; save it as PNG from where it was drawn")
    return _guarded(path, lambda: _mask(path))


def _mask(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".tif", ".tiff"):
        return read_values(path)
    return read_raster(path, palette_as_index=True)


def read_encoded(encoded: bytes, name: str, *, as_mask: bool = False) -> np.ndarray:
    """The pixels of an image file that lies in a table, as `read_image` or `read_mask` gives those of a file.

    Raises:
        DataError: a header that promises too much, or a stack of frames.
        Exception: what tifffile or Pillow raises.
    """
    if encoded[:4] in _TIFF:
        image = read_tiff_bytes(encoded, name, as_values=as_mask)
    else:
        image = read_raster(encoded, name, palette_as_index=as_mask)
    return image if as_mask else checked(image, name)


def _guarded(path: Path, read: Callable[[], _T]) -> _T:
    """What ``read`` gives of a file that is there, not empty and of a known type; `DataError` otherwise."""
    if path.is_dir():
        raise DataError(f"{path}: it is a folder; one image file is asked for")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    if path.suffix.lower() not in SUFFIXES:
        hint = _HINTS.get(path.suffix.lower(), f"use {', '.join(SUFFIXES)}")
        raise DataError(f"{path}: files of type {path.suffix or 'none'} are not read; {hint}")
    try:
        return read()
    except LamellaError:
        raise
    except MemoryError as error:
        raise DataError(f"{path}: what its header promises does not fit into memory") from error
    except Exception as error:  # every reader raises a dozen kinds on damaged files
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: the file cannot be read; it may be damaged or cut short ({reason})") from error
