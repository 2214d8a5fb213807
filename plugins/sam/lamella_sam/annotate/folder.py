"""An annotation folder: images, palette masks, and for every image its status and where its mask came from.

``images/NAME.png`` is what a person looks at: 8 bit, of the size of the original. An original of more than 8 bits
or of another format lies untouched in ``originals/``; ``low`` and ``high`` of its entry say which of its grey
values became 0 and 255. ``masks/NAME.png`` is a palette PNG: the pixel value is the class, 255 is not labelled.
``images/metadata.jsonl`` holds one entry per image and is what the ``datasets`` library reads
(``load_dataset("imagefolder", data_dir=FOLDER / "images")``).
"""

from __future__ import annotations

import copy
import glob
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lamella import IGNORE
from lamella.data.formats.files import SUFFIXES, read_image, read_mask
from lamella.data.formats.raster import LARGEST
from lamella.data.formats.sidecar import sidecar_of
from lamella.engine.inputs import find_images
from lamella.engine.labelmap import save_image
from lamella.engine.pictures import colours
from lamella.engine.whole import write_json, write_text
from lamella.errors import ConfigError, DataError
from PIL import Image

FORMAT = 1
STATUS = ("new", "suggested", "accepted", "locked")
"""Not labelled; labelled by a model; accepted by a person; accepted, and kept apart to measure on."""
_PARTS = ("images", "originals", "masks", "suggested", "review", "runs")
"""What an annotation folder writes into."""


@dataclass
class Entry:
    """One image."""

    name: str
    original: str
    low: float
    high: float
    status: str = "new"
    score: float | None = None
    """Coherence of the suggestion, 0 to 1; the lowest is reviewed first."""
    changed: int | None = None
    """Pixels that differ between what was suggested and what was accepted."""
    provenance: list[dict[str, Any]] = field(default_factory=list)
    """What happened to the mask, oldest first."""


class AnnotationFolder:
    """Reads and writes an annotation folder; every change is on disk when a method returns.

    Raises:
        DataError: a folder that is none, or of another format.
    """

    def __init__(self, path: Path):
        self.path = path
        self.facts: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        self.read()
        self.classes: list[str] = self.facts["classes"]

    @classmethod
    def create(cls, path: Path, images: Sequence[Path], classes: Sequence[str]) -> AnnotationFolder:
        """Begin a folder with images.

        Raises:
            ConfigError: a folder that is there already, images that lie where it keeps its own, files of others there,
                classes of which one is empty or named twice, or more than 255 of them.
            DataError: an image that cannot be read, or has too few pixels.
        """
        if (path / "annotate.json").exists():
            raise ConfigError(f"{path}: an annotation folder is there already")
        if len(classes) < 2 or len(set(classes)) < len(classes) or "" in classes:
            raise ConfigError(f"classes {', '.join(classes) or 'none'}: name two or more, none twice and none empty")
        if len(classes) > IGNORE:
            raise ConfigError(f"{len(classes)} classes: a mask tells {IGNORE} at most (0 to 254; 255 is unlabelled)")
        found = find_images(images)
        own = [(path / part).resolve() for part in _PARTS]
        for image in found.values():
            if any(image.parent.resolve().is_relative_to(part) for part in own):
                raise ConfigError(f"{image}: it lies where {path} keeps its own files; begin the folder elsewhere")
        for part in own:
            if part.name != "runs" and part.exists() and (part.is_file() or any(part.iterdir())):
                raise ConfigError(
                    f"{part}: it is not empty, and an annotation folder keeps files of its own there; begin the folder "
                    "elsewhere, or move what is in the way"
                )
        for image in found.values():
            _pixels(image)
        try:
            entries = [_take_in(path, name, image) for name, image in found.items()]
            write_text(path / "images" / "metadata.jsonl", "".join(_line(entry) for entry in entries))
            write_json(path / "annotate.json", {"format": FORMAT, "classes": list(classes), "rounds": []})
        except BaseException:  # it can be begun again
            for written in ("images", "originals"):
                shutil.rmtree(path / written, ignore_errors=True)
            raise
        return cls(path)

    def read(self) -> None:
        """Take ``entries`` and ``facts`` as they are on disk by now; raises `DataError`."""
        self.facts, self.entries = _facts(self.path), _entries(self.path)
        self._read = copy.deepcopy((self.facts, self.entries))

    def save(self) -> None:
        """Write the ``entries`` and ``facts`` that changed since they were read; others stay as they are on disk."""
        (facts, entries), ours = self._read, (self.facts, self.entries)
        self.read()
        self.facts |= {key: value for key, value in ours[0].items() if key not in facts or facts[key] != value}
        self.entries |= {name: entry for name, entry in ours[1].items() if entries.get(name) != entry}
        write_text(self.path / "images" / "metadata.jsonl", "".join(map(_line, self.entries.values())))
        write_json(self.path / "annotate.json", self.facts)
        self._read = copy.deepcopy((self.facts, self.entries))

    def run(self, noted: str) -> Path:
        """Where a run lies that `note` has noted."""
        return self.path / noted

    def note(self, run: Path) -> str:
        """A run as ``facts`` name it: by its place in this folder, which may be moved, or by its whole path."""
        run, home = run.resolve(), self.path.resolve()
        return run.relative_to(home).as_posix() if run.is_relative_to(home) else str(run)

    @property
    def promoted(self) -> Path | None:
        """The run in force."""
        return self.run(self.facts["promoted"]) if "promoted" in self.facts else None

    def entry(self, name: str) -> Entry:
        """The entry of that name; raises `DataError`."""
        if name not in self.entries:
            raise DataError(f"{self.path}: there is no image {name!r}")
        return self.entries[name]

    def of(self, *status: str) -> list[Entry]:
        """The entries of some statuses, by name."""
        return [self.entries[name] for name in sorted(self.entries) if self.entries[name].status in status]

    def queue(self) -> list[Entry]:
        """What waits for a person, least coherent first; what no model has seen comes last."""
        waiting = self.of("suggested", "new")
        return sorted(waiting, key=lambda entry: (entry.score is None, entry.score or 0.0, entry.name))

    def original(self, name: str) -> Path:
        """The file that was taken in."""
        return self.path / self.entry(name).original

    def image(self, name: str) -> np.ndarray:
        """The original's pixels, in its own depth."""
        return read_image(self.original(name))

    def preview(self, name: str) -> Path:
        """The 8-bit picture."""
        return self.path / "images" / f"{name}.png"

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of an image, from the header of its picture; raises `DataError`."""
        Image.MAX_IMAGE_PIXELS = LARGEST
        try:
            with Image.open(self.preview(name)) as opened:
                return opened.height, opened.width
        except OSError as error:
            raise DataError(f"{self.preview(name)}: the picture cannot be read ({error})") from error

    def mask_path(self, name: str) -> Path:
        """Where the mask is, or will be."""
        return self.path / "masks" / f"{name}.png"

    def suggestion_path(self, name: str) -> Path:
        """Where the mask as it was suggested is kept."""
        return self.path / "suggested" / f"{name}.png"

    def mask(self, name: str, *, suggested: bool = False) -> np.ndarray:
        """(H, W) uint8 class ids or 255; raises `DataError` for a mask that an editor has spoiled."""
        path = self.suggestion_path(name) if suggested else self.mask_path(name)
        found = read_mask(path)
        height, width = self.size(name)
        if found.ndim != 2:
            raise DataError(f"{path}: a mask is a palette or grey PNG, one number per pixel; this one has colours")
        if found.shape != (height, width):
            raise DataError(f"{path}: the mask is {found.shape[0]}×{found.shape[1]} pixels, its image {height}×{width}")
        stray = np.setdiff1d(np.unique(found), [*range(len(self.classes)), IGNORE])
        if stray.size:
            known = ", ".join(f"{number} {name}" for number, name in enumerate(self.classes))
            raise DataError(f"{path}: the mask holds the value {stray[0]}, which is no class ({known}, 255 unlabelled)")
        return found.astype(np.uint8)

    def digest(self, name: str) -> str:
        """What tells the mask of an image, as it lies on disk, from another; of none where there is none."""
        path = self.mask_path(name)
        return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()[:16]

    def touched(self, name: str) -> bool:
        """Whether there is a mask, and another than what was suggested."""
        if not self.mask_path(name).is_file():
            return False
        if not self.suggestion_path(name).is_file():
            return True
        return bool((self.mask(name) != self.mask(name, suggested=True)).any())

    def begun(self, name: str) -> np.ndarray:
        """The mask that is to be changed: all unlabelled where there is none; `DataError` where it is accepted."""
        if (status := self.entry(name).status) in ("accepted", "locked"):
            raise DataError(f"{name} is {status}: its mask stays as it was accepted")
        return self.mask(name) if self.mask_path(name).is_file() else np.full(self.size(name), IGNORE, np.uint8)

    def write_mask(self, name: str, label: np.ndarray, *, suggested: bool = False) -> None:
        """Write a mask as a palette PNG in the classes' colours.

        One that is ``suggested`` is kept as such first, and until then there is no mask: whoever is stopped in between
        leaves none that looks as if a person had changed it.
        """
        picture = Image.fromarray(label.astype(np.uint8))
        picture.putpalette(self.palette())
        paths = [self.mask_path(name)]
        if suggested:
            self.mask_path(name).unlink(missing_ok=True)
            paths.insert(0, self.suggestion_path(name))
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(picture, path)

    def palette(self) -> list[int]:
        """768 numbers: the colours of the classes, black for what is unlabelled."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.classes)] = colours(self.classes)
        return table.flatten().tolist()

    def accept(self, name: str, *, by: str, lock: bool | None = None) -> Entry:
        """Take a mask as true, as it is on disk now.

        Args:
            lock: keep the image apart, to measure on (True), or learn from it, though it was locked (False). By
                default one that was not locked is learned from.

        Raises:
            DataError: as `mask`; nothing is labelled; a locked image of which ``lock`` does not say whether it stays
                so; or one to lock that a promoted run has learned from.
        """
        entry = self.entry(name)
        if entry.status == "locked" and lock is None:
            raise DataError(f"{name} is locked, to measure on; --lock accepts its mask anew, --unlock learns from it")
        if lock and entry.status != "locked" and (run := self._learned(name)) is not None:
            raise DataError(f"{name}: {run} is promoted and has learned from it, so it cannot measure; lock another")
        label = self.mask(name)
        if (label == IGNORE).all():
            raise DataError(f"{self.mask_path(name)}: nothing is labelled in it")
        if self.suggestion_path(name).is_file():
            entry.changed = int((self.mask(name, suggested=True) != label).sum())
        entry.status = "locked" if lock else "accepted"
        entry.provenance.append({"accepted": by, "changed": entry.changed})
        self.save()
        return entry

    def _learned(self, name: str) -> str | None:
        """A promoted round that has learned from an image; rounds of earlier versions do not say from which."""
        accepted = self.entry(name).status == "accepted"
        promoted = (entry for entry in self.facts["rounds"] if entry["promoted"])
        return next((e["name"] for e in promoted if (name in e["learned"] if "learned" in e else accepted)), None)

    def source(self, entries: Iterable[Entry]) -> dict[str, Any]:
        """A ``[data.ROLE]`` table of an experiment with these images and their masks."""
        chosen = list(entries)
        if not chosen:
            raise ConfigError(f"{self.path}: there is no accepted or no locked image; accept some first")
        return {
            "source": str(self.path.resolve()),
            "images": [glob.escape(entry.original) for entry in chosen],
            "labels": [glob.escape(f"masks/{entry.name}.png") for entry in chosen],
            "classes": self.classes,
        }


def _facts(path: Path) -> dict[str, Any]:
    """What ``annotate.json`` says."""
    try:
        facts = json.loads((path / "annotate.json").read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{path}: this is no annotation folder; begin one with `lamella annotate init`") from None
    except ValueError as error:
        raise DataError(f"{path / 'annotate.json'}: not JSON: {error}") from error
    written = facts.get("format") if isinstance(facts, dict) else None
    if written != FORMAT:
        raise DataError(f"{path}: written in format {written}, this version reads {FORMAT}")
    if not {"classes", "rounds"} <= facts.keys():
        raise DataError(f"{path / 'annotate.json'}: it lacks the classes or the rounds that `lamella annotate` writes")
    return facts


def _entries(path: Path) -> dict[str, Entry]:
    """The entries of ``images/metadata.jsonl``, by name."""
    file = path / "images" / "metadata.jsonl"
    try:
        return {entry.name: entry for entry in map(_entry, file.read_text(encoding="utf-8").splitlines())}
    except OSError as error:
        raise DataError(f"{file}: it cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: it does not hold one JSON entry for each image ({error})") from error


def _entry(line: str) -> Entry:
    fields = json.loads(line)
    return Entry(**{key: value for key, value in fields.items() if key not in ("file_name", "mask_file_name")})


def _line(entry: Entry) -> str:
    fields = {"file_name": f"{entry.name}.png", **asdict(entry)}
    return json.dumps(fields) + "\n"


def _pixels(image: Path) -> np.ndarray:
    """An image that can be annotated; raises `DataError`."""
    pixels = read_image(image)
    if min(pixels.shape[:2]) < 2:
        raise DataError(f"{image}: {pixels.shape[0]}×{pixels.shape[1]} pixels are too few to annotate")
    return pixels


def _take_in(path: Path, name: str, image: Path) -> Entry:
    """Copy an image with its microscope's text file, and make its 8-bit picture where it is not one itself."""
    pixels = _pixels(image)
    preview = path / "images" / f"{name}.png"
    preview.parent.mkdir(parents=True, exist_ok=True)
    shown = pixels.dtype == np.uint8 and image.suffix.lower() == ".png"
    original = preview if shown else path / "originals" / f"{name}{image.suffix.lower()}"
    original.parent.mkdir(exist_ok=True)
    shutil.copyfile(image, original)
    if (sidecar := sidecar_of(image)) is not None:
        ends = Path(name).suffix.lower() in SUFFIXES  # else it were also the text file of the image of that whole name
        shutil.copyfile(sidecar, original.with_name(f"{original.name if ends else name}{sidecar.suffix}"))
    low, high = (0.0, 255.0) if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
    if not shown:
        scaled = (pixels.astype(np.float64) - low) / max(high - low, 1e-12) * 255
        save_image(Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8).squeeze()), preview)
    return Entry(name, original.relative_to(path).as_posix(), low, high)
