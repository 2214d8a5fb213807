"""Files that RosettaSciIO reads: Gatan DM3 and DM4, FEI SER and EMI, EMD of NCEM and Velox, MRC, JEOL IMG."""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lamella.data.formats.micrograph import UNKNOWN_NM, Facts, Micrograph, asked, nm_per, positive
from lamella.data.formats.plausible import plausible
from lamella.errors import DataError

READERS = {
    ".dm3": ("digitalmicrograph", "Gatan DM3"), ".dm4": ("digitalmicrograph", "Gatan DM4"),
    ".ser": ("tia", "FEI SER"), ".emi": ("tia", "FEI EMI"), ".emd": ("emd", "EMD"),
    ".mrc": ("mrc", "MRC"), ".img": ("jeol", "JEOL IMG"),
}  # fmt: skip
"""Reader and name of each file type. None of them unpickles or evaluates what is in a file."""
_INSTALL = "install lamella[microscopes] (rosettasciio and h5py) to read it"
_DM = "ImageList.TagGroup0.ImageTags."
_MAGNIFICATION = (
    _DM + "Microscope Info.Indicated Magnification", "Optics.NominalMagnification",
    "ObjectInfo.ExperimentalDescription.Magnification_x",
)  # fmt: skip
_VOLTAGE = (
    (_DM + "Microscope Info.Voltage", 1e-3), ("Optics.AccelerationVoltage", 1e-3),
    ("ObjectInfo.ExperimentalDescription.High tension_kV", 1.0),
)  # fmt: skip
_DETECTOR = (
    _DM + "DataBar.Signal Name", _DM + "DataBar.Device Name", "DetectorMetadata.DetectorName",
    "BinaryResult.Detector", "ObjectInfo.AcquireInfo.CameraNamePath",
)  # fmt: skip
_INSTRUMENT = (
    _DM + "Session Info.Microscope", _DM + "Microscope Info.Microscope", "Instrument.InstrumentModel",
    "ObjectInfo.ExperimentalDescription.Microscope",
)  # fmt: skip


def read_rosetta(path: Path, frame: int | None = None) -> Micrograph:
    """A frame of a microscope's own file with its facts.

    Raises:
        DataError: RosettaSciIO is not installed, or the file holds no image, several, or something else.
        Exception: whatever RosettaSciIO raises on a damaged file.
    """
    signal = _signal(path)
    axes = signal["axes"]
    pictured = [axis for axis in axes if not axis.get("navigate")]
    data, told = signal["data"], signal.get("original_metadata") or {}
    image, frames = _frame(data, axes, frame)
    size = _size(pictured[-2], pictured[-1])
    return Micrograph(_narrowed(image), size, _facts(path, told, signal), None, frames)


def rosetta_frames(path: Path) -> int:
    """How many frames a microscope's own file holds; raises as `read_rosetta`."""
    signal = _signal(path)
    return math.prod(int(axis["size"]) for axis in signal["axes"] if axis.get("navigate"))


def _signal(path: Path) -> dict[str, Any]:
    """The one image, or stack of images, of a file."""
    module, maker = READERS[path.suffix.lower()]
    try:
        import_module("rsciio")
        with _quiet():
            reader = import_module(f"rsciio.{module}")
            _ = import_module("h5py") if module == "emd" else None
    except ImportError as error:
        raise DataError(f"{path}: {maker} files need the package {error.name!r}: {_INSTALL}") from error
    pixels = _pixel_file(path)
    for file in {path, pixels}:
        plausible(file)
    with _quiet():
        signals = reader.file_reader(str(pixels))
    images = [signal for signal in signals if _is_image(signal)]
    if not images:
        raise DataError(f"{path}: it holds no image of a specimen, but {_described(signals)}")
    if len(images) > 1:
        raise DataError(f"{path}: it holds {len(images)} images; save each of them in a file of its own")
    return images[0]


def _pixel_file(path: Path) -> Path:
    """An EMI file with its one SER file; and for that SER file the EMI file, which holds the facts."""
    if path.suffix.lower() != ".ser":
        return path
    stem, _, number = path.stem.rpartition("_")
    emi = path.with_name(f"{stem}.emi")
    alone = stem and number.isdigit() and emi.is_file() and len(list(path.parent.glob(f"{stem}_*.ser"))) == 1
    return emi if alone else path


def read_beside(path: Path) -> list[Path]:
    """The other files that one is read with: the EMI file of a SER file, and the SER files of an EMI file."""
    if path.suffix.lower() == ".emi":
        return sorted(path.parent.glob(f"{glob.escape(path.stem)}_[0-9].ser"))
    emi = _pixel_file(path)
    return [] if emi == path else [emi]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the readers' remarks about tags they do not know."""
    log = logging.getLogger("rsciio")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _is_image(signal: Mapping[str, Any]) -> bool:
    """Two picture axes, neither an energy nor a reciprocal length."""
    pictured = [axis for axis in signal["axes"] if not axis.get("navigate")]
    return len(pictured) >= 2 and not any(_strange(axis) for axis in pictured[-2:]) and signal["data"].ndim >= 2


def _strange(axis: Mapping[str, Any]) -> bool:
    unit = str(axis.get("units") or "").strip().lower()
    return unit in ("ev", "kev", "s", "ms", "rad", "mrad", "deg") or unit.startswith("1/") or "^-1" in unit


def _described(signals: list[dict[str, Any]]) -> str:
    if not signals:
        return "nothing"
    axes = [axis for axis in signals[0]["axes"] if not axis.get("navigate")]
    units = " × ".join(f"{axis.get('size')} ({axis.get('units') or 'no unit'})" for axis in axes)
    kind = "a spectrum" if len(axes) < 2 else "a diffraction pattern" if any("1" in str(a.get("units")) for a in axes) else "data"  # noqa: E501  # fmt: skip
    return f"{kind} of {units}"


def _frame(data: Any, axes: list[dict[str, Any]], frame: int | None) -> tuple[np.ndarray, int]:
    """The pixels, and how many frames they are."""
    data = np.asarray(data)
    if data.dtype.names is not None:  # colours come as records
        data = np.stack([data[name] for name in data.dtype.names[:3]], -1)
    stacked = sum(bool(axis.get("navigate")) for axis in axes)
    data = data.reshape(-1, *data.shape[stacked:])
    if frame is not None:
        return data[frame], 1
    return (data[0], 1) if len(data) == 1 else (data, len(data))


def _narrowed(image: np.ndarray) -> np.ndarray:
    """Counts in a type that modalities know: 8 and 16 bit as they are, all others as float32.

    By the type alone, not by the values, so that all files of a camera are of one type.
    """
    native = image.astype(image.dtype.newbyteorder("="), copy=False)
    if native.dtype in (np.uint8, np.uint16) or native.dtype.kind not in "iuf":
        return native
    return native.astype(np.float32)


def _size(*axes: Mapping[str, Any]) -> tuple[float, float]:
    """nm per pixel along y and x; nan where the unit is no length, or the file leaves the scale at 1 of nothing."""
    y, x = (positive(axis.get("scale")) * (nm_per(axis.get("units")) or math.nan) for axis in axes)
    return UNKNOWN_NM if math.isnan(y) or math.isnan(x) else (y, x)


def _facts(path: Path, told: Any, signal: Mapping[str, Any]) -> Facts:
    mapped: Any = asked(lambda: signal["metadata"]["Acquisition_instrument"], {}) or {}
    scope: Any = next(iter(mapped.values()), {}) if isinstance(mapped, Mapping) else {}
    maker = READERS[path.suffix.lower()][1]
    voltages = [positive(_at(told, place)) * factor for place, factor in _VOLTAGE]
    return Facts(
        _first_number([*(positive(_at(told, place)) for place in _MAGNIFICATION), _number(scope, "magnification")]),
        _first_number([*voltages, _number(scope, "beam_energy")]),
        next((text for place in _DETECTOR if (text := _text(_at(told, place)))), "") or _title(path, signal),
        next((text for place in _INSTRUMENT if (text := _text(_at(told, place)))), "").removeprefix("Microscope "),
        ("Velox EMD" if "Optics" in told else "NCEM EMD") if path.suffix.lower() == ".emd" else maker,
    )


def _title(path: Path, signal: Mapping[str, Any]) -> str:
    """A Velox file is titled with its detector."""
    if path.suffix.lower() != ".emd" or "Optics" not in (signal.get("original_metadata") or {}):
        return ""
    return _text(asked(lambda: signal["metadata"]["General"]["title"], ""))


def _at(told: Any, place: str) -> Any:
    for key in place.split("."):
        told = asked(lambda told=told, key=key: told[key], None)  # type: ignore[misc]
        if told is None:
            return None
    return told


def _text(value: Any) -> str:
    """A readable text, or nothing: empty lists stand for missing texts."""
    return value.strip() if isinstance(value, str) else ""


def _number(table: Any, name: str) -> float:
    return positive(asked(lambda: table[name], None))


def _first_number(numbers: list[float]) -> float:
    return next((number for number in numbers if not math.isnan(number)), math.nan)
