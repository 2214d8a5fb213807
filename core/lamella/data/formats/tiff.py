"""TIFF files with what their makers write into them: pixel size, magnification, voltage, detector, data bar."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from lamella.data.formats.micrograph import UNKNOWN_NM, Facts, Micrograph, asked, nm_per, positive, quantity
from lamella.data.formats.plausible import MOST_PER_BYTE, ends, plausible
from lamella.data.formats.raster import read_raster
from lamella.errors import DataError

SIS_TAGS = (33560, 33471)
_Size = tuple[float, float]
_Told = tuple[_Size, Facts, int | None]
"""nm per pixel in y and x, facts, rows of the specimen."""


def read_tiff(path: Path, frame: int | None = None) -> Micrograph:
    """A frame of a TIFF file with its maker's facts; raises what tifffile raises, and `DataError`."""
    import tifffile

    plausible(path)
    with tifffile.TiffFile(path) as file:
        page, series = _picture(file)
        _fits(file, series, str(path))
        image, frames = _pixels(series, path, str(path), frame)
        size, facts, rows = _told(file, page)
    return Micrograph(image, size, facts, rows if rows is not None and 0 < rows < image.shape[0] else None, frames)


def read_values(path: Path) -> np.ndarray:
    """The values of a TIFF as they are, for a mask; raises what tifffile raises, and `DataError`."""
    import tifffile

    plausible(path)
    with tifffile.TiffFile(path) as file:
        return _values(file, path, str(path))


def read_tiff_bytes(encoded: bytes, name: str, *, as_values: bool = False) -> np.ndarray:
    """The pixels of a TIFF that lies in a table: as `read_tiff` gives a file's, or as `read_values`.

    Args:
        name: what to call it in an error message.

    Raises:
        DataError: as those two, and for a stack of frames.
        Exception: what tifffile raises.
    """
    import tifffile

    ends(BytesIO(encoded), name, len(encoded))
    with tifffile.TiffFile(BytesIO(encoded)) as file:
        if as_values:
            return _values(file, encoded, name)
        _, series = _picture(file)
        _fits(file, series, name)
        image, frames = _pixels(series, encoded, name, None)
    if frames > 1:
        raise DataError(f"{name}: a stack of {frames} frames; a row of a table holds one")
    return image


def _values(file: Any, source: Path | bytes, name: str) -> np.ndarray:
    _fits(file, file.series[0], name)
    return _decoded(file.series[0], source, name, palette_as_index=True)[0]


def tiff_frames(path: Path) -> int:
    """How many frames a TIFF file holds; raises as `read_tiff`."""
    import tifffile

    plausible(path)
    with tifffile.TiffFile(path) as file:
        shape, plane = _shape(_picture(file)[1])
        return math.prod(shape[: len(shape) - plane])


def _picture(file: Any) -> tuple[Any, Any]:
    """(page, series) of the specimen: Olympus puts a small preview before it."""
    for series in file.series:
        if any(tag in series.pages[0].tags for tag in SIS_TAGS):
            return series.pages[0], series
    whole = [series for series in file.series if not getattr(series.pages[0], "is_reduced", False)]
    series = (whole or file.series)[0]
    return series.pages[0], series


def _shape(series: Any) -> tuple[tuple[int, ...], int]:
    """The shape of a series, and how many of its last axes make one frame."""
    shape = tuple(series.shape)
    if _planar(series):
        return (*shape[:-3], *shape[-2:], shape[-3]), 3
    return shape, 3 if len(shape) >= 3 and series.axes.endswith("S") else 2


def _planar(series: Any) -> bool:
    """Whether colours lie one plane after the other."""
    return series.axes.endswith("SYX") and series.pages[0].planarconfig == 2


def _fits(file: Any, series: Any, name: str) -> None:
    """Raise `DataError` where the header promises more pixels than the file can hold."""
    page = series.pages[0]
    promised = math.prod(series.shape) * min(page.bitspersample, 8 * series.dtype.itemsize) // 8
    per_byte = 1 if page.compression == 1 else MOST_PER_BYTE
    if promised > per_byte * file.filehandle.size + 65536:
        raise DataError(
            f"{name}: its header promises {promised} bytes of pixels, the file has {file.filehandle.size}; "
            "it is damaged or cut short"
        )


def _pixels(series: Any, source: Path | bytes, name: str, frame: int | None) -> tuple[np.ndarray, int]:
    """The pixels as they are seen, and how many frames they are."""
    image, by_pillow = _decoded(series, source, name)
    if by_pillow:
        return image, 1
    shape, plane = _shape(series)
    image = _seen(image.reshape(-1, *shape[len(shape) - plane :]), series.pages[0])
    if frame is not None:
        return image[frame], 1
    return (image[0], 1) if len(image) == 1 else (image, len(image))


def _decoded(
    series: Any, source: Path | bytes, name: str, *, palette_as_index: bool = False
) -> tuple[np.ndarray, bool]:
    """The values of a series; and whether Pillow decoded them, which knows what white and a palette are."""
    try:
        pixels = np.asarray(series.asarray())
        return np.moveaxis(pixels, -3, -1) if _planar(series) else pixels, False
    except (ValueError, ImportError) as error:
        if (isinstance(error, ValueError) and "imagecodecs" not in str(error)) or len(series.pages) > 1:
            raise
        reason = str(error) if isinstance(error, ValueError) else "its compression is not known here"
        return _by_pillow(source, name, reason, palette_as_index), True


def _seen(image: np.ndarray, page: Any) -> np.ndarray:
    """Frames (F, H, W) or (F, H, W, C) as they look: palettes and inks as colours, white bright, grey without alpha."""
    if page.photometric == 0 and image.dtype.kind in "ub":  # white is zero
        return ~image
    if page.photometric == 3 and page.colormap is not None:  # a palette of 16-bit colours
        return (page.colormap[:, image] >> 8).astype(np.uint8).transpose(1, 2, 3, 0)
    if page.photometric == 5 and image.shape[-1] == 4 and image.dtype.kind == "u":  # cyan, magenta, yellow, black
        most = np.iinfo(image.dtype).max
        light = (1 - image[..., :3] / most) * (1 - image[..., 3:] / most)
        return (light * most).round().astype(image.dtype)
    if image.ndim == 4 and image.shape[-1] == 2 and page.extrasamples and page.photometric == 1:
        return image[..., 0]
    return image


def _by_pillow(source: Path | bytes, name: str, reason: str, palette_as_index: bool) -> np.ndarray:
    """Pillow decodes the common compressions of single grey or colour pages without further packages."""
    try:
        return read_raster(source, name, palette_as_index=palette_as_index)
    except OSError as error:
        raise DataError(f"{name}: {reason}; install imagecodecs, or save the file without compression") from error


def _told(file: Any, page: Any) -> _Told:
    """Pixel size, facts and rows of the specimen, by the first maker whose mark the file carries."""
    for knows in (_fei, _zeiss, _tvips, _olympus, _jeol, _gatan, _imagej, _ome):
        found = asked(lambda knows=knows: knows(file, page), None)  # type: ignore[misc]
        if found is not None:
            return found
    return UNKNOWN_NM, Facts(), None


def _both(y: Any, x: Any, factor: float = 1.0) -> _Size:
    return positive(y) * factor, positive(x) * factor


def _fei(file: Any, page: Any) -> _Told | None:
    """FEI and Thermo Fisher: metres, and the rows of the scan without the data bar."""
    told = file.fei_metadata
    if not told:
        return None
    scan, image = told.get("Scan", {}), told.get("Image", {})
    size = _both(scan.get("PixelHeight"), scan.get("PixelWidth"), 1e9)
    if math.isnan(size[0]):
        beam = told.get("IRBeam") or told.get("EBeam") or {}
        size = _both(
            asked(lambda: beam["VFW"] / image["ResolutionY"], None),
            asked(lambda: beam["HFW"] / image["ResolutionX"], None), 1e9,
        )  # fmt: skip
    beam = told.get("EBeam") or told.get("Beam") or {}
    canvas = positive(image.get("MagCanvasRealWidth")) / positive(scan.get("HorFieldsize"))
    facts = Facts(
        canvas,
        positive(beam.get("HV")) / 1000,
        str(told.get("Detectors", {}).get("Name", "")),
        str(told.get("System", {}).get("SystemType", "")).replace('"', ""),
        "FEI/Thermo Fisher TIFF",
    )
    return size, facts, asked(lambda: int(image["ResolutionY"]), None)


def _zeiss(file: Any, page: Any) -> _Told | None:
    """Carl Zeiss: the unnamed entry holds metres per pixel of a display 1024 pixels wide."""
    told = file.sem_metadata
    if not told:
        return None
    per_pixel = positive(asked(lambda: told[""][3], None)) * 1024 / page.shape[1] * 1e9

    def says(*names: str) -> Any:
        return next((told[name][1] for name in names if name in told), "")

    voltage = quantity(says("ap_actualkv", "ap_manualkv"))
    instrument = " ".join(str(part) for part in (says("dp_sem"), says("sv_serial_number")) if part)
    facts = Facts(
        quantity(says("ap_mag")), voltage, str(says("dp_detector_channel", "dp_detector_type")), instrument,
        "Zeiss SEM TIFF",
    )  # fmt: skip
    return (per_pixel, per_pixel), facts, None


def _tvips(file: Any, page: Any) -> _Told | None:
    """TVIPS EM-MENU: nm."""
    told = file.tvips_metadata
    if not told:
        return None
    size = _both(told.get("PixelSizeY"), told.get("PixelSizeX"))
    if told.get("TemMode") == 3:  # diffraction: the pixel size is no length
        size = UNKNOWN_NM
    facts = Facts(
        positive(told.get("TemMagnification")), positive(told.get("TemHighTension")) / 1000,
        str(told.get("CameraType", "")), str(told.get("TemType", "")), "TVIPS TIFF",
    )  # fmt: skip
    return size, facts, None


def _olympus(file: Any, page: Any) -> _Told | None:
    """Olympus Soft Imaging Solutions: metres."""
    told = next((page.tags[tag].value for tag in SIS_TAGS if tag in page.tags), None)
    if not told:
        return None
    model = str(page.tags["Model"].value) if "Model" in page.tags else ""
    facts = Facts(positive(told.get("magnification")), detector=str(told.get("cameraname", "") or model),
                  instrument=model, maker="Olympus SIS TIFF")  # fmt: skip
    return _both(told["pixelsizey"], told["pixelsizex"], 1e9), facts, None


def _jeol(file: Any, page: Any) -> _Told | None:
    """JEOL SightX: the print resolution divided by the magnification."""
    if "Make" not in page.tags or "JEOL" not in str(page.tags["Make"].value):
        return None
    import xml.etree.ElementTree as tree

    text = str(page.tags["ImageDescription"].value).strip(" \r\n\t\x01\x00")
    told = {node.tag: (node.text or "").strip() for node in tree.fromstring(text).iter()}
    inch = page.tags["ResolutionUnit"].value == 2 if "ResolutionUnit" in page.tags else True
    magnification = positive(told.get("SelectorValue")) if told.get("ModeString") == "MAG" else math.nan
    per_dot = (0.0254 if inch else 0.01) * 1e9 / magnification
    size = tuple(per_dot * _dot(page, name) for name in ("YResolution", "XResolution"))
    facts = Facts(magnification, positive(told.get("AccelerationVoltage")) / 1000,
                  instrument=told.get("Instruments", ""), maker="JEOL SightX TIFF")  # fmt: skip
    return (size[0], size[1]), facts, None


def _dot(page: Any, name: str) -> float:
    over, under = page.tags[name].value
    return positive(under / over)


def _gatan(file: Any, page: Any) -> _Told | None:
    """TIFF written by DigitalMicrograph: 65003–65010 hold units and scales."""
    if 65009 not in page.tags:
        return None
    y, x = (
        asked(lambda unit=unit, scale=scale: nm_per(page.tags[unit].value) * positive(page.tags[scale].value), math.nan)  # type: ignore[misc, operator]
        for unit, scale in ((65003, 65009), (65004, 65010))
    )
    return (y, x), Facts(maker="Gatan TIFF"), None


def _imagej(file: Any, page: Any) -> _Told | None:
    """ImageJ: the unit stands in the description, pixels per unit in the resolution."""
    told = file.imagej_metadata
    if not told:
        return None
    nm = nm_per(told.get("unit"))
    size = UNKNOWN_NM if nm is None else (nm * _dot(page, "YResolution"), nm * _dot(page, "XResolution"))
    return size, Facts(maker="ImageJ TIFF"), None


def _ome(file: Any, page: Any) -> _Told | None:
    """OME-TIFF: physical sizes in the XML of the first page."""
    if not file.ome_metadata:
        return None
    import tifffile

    image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    told = (image[0] if isinstance(image, list) else image)["Pixels"]
    y, x = (
        positive(told.get(f"PhysicalSize{axis}")) * (nm_per(told.get(f"PhysicalSize{axis}Unit", "um")) or math.nan)
        for axis in "YX"
    )
    return (y, x), Facts(maker="OME-TIFF"), None
