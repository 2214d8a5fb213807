"""What the values or colours of masks are called: from the command line, or from a file beside the masks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamella.contracts.batch import IGNORE
from lamella.data.classes import REST, Classes
from lamella.data.formats.files import readable
from lamella.data.survey import Survey, class_table
from lamella.errors import ConfigError, DataError

FILES = ("classes.json", "classes.txt", "labels.txt", "labelmap.txt")
"""Where names are looked for, in the folder of the masks and in that above it."""
AS_TWO = "as two classes they are --classes background=0,particle=rest"
"""What to do with masks whose values are numbers of objects."""
_LONGEST = 1 << 20
_CVAT = re.compile(r"(?P<name>[^:#]+):(?P<red>\d{1,3}),(?P<green>\d{1,3}),(?P<blue>\d{1,3}):")
Names = Sequence[str] | Mapping[str, int | str]
"""Names in order, or with the grey value or colour of each."""


def parse_names(text: str) -> Names:
    """``"background, oxide"``, or ``"background=0, oxide=#00a0ff"``; raises `ConfigError`.

    >>> parse_names("background, oxide")
    ['background', 'oxide']
    >>> parse_names("background=rest, oxide=#00a0ff, gate=7")
    {'background': 'rest', 'oxide': '#00a0ff', 'gate': 7}
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    names = [part.partition("=")[0].strip() for part in parts]
    marked = ["=" in part for part in parts]
    twice = len(set(names)) < len(names)
    if not parts or not all(names) or any(marked) != all(marked) or twice or readable(text) != text:
        raise ConfigError(f"--classes {text!r} must be names, each once, as 'background,oxide', or all with their "
                          "mark, as 'background=0,oxide=128'")  # fmt: skip
    if not any(marked):
        return names
    return {name: _mark(part.partition("=")[2].strip()) for name, part in zip(names, parts)}


def _mark(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def find_names(masks: Path) -> tuple[Path, Names] | None:
    """The names that a file beside the masks gives, and that file; None where there is none.

    Raises:
        DataError: a file of that name that says something else.
    """
    for folder in (masks, masks.resolve().parent):
        for name in FILES:
            path = folder / name
            if path.is_file() and 0 < path.stat().st_size <= _LONGEST:
                return path, _read(path)
    return None


def _read(path: Path) -> Names:
    """A JSON list or object, CVAT's ``NAME:R,G,B:…`` lines, or a name a line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _of_json(json.loads(text)) if path.suffix == ".json" else _of_lines(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: the names of classes cannot be read ({error})") from error
    if not found or len(set(found)) < len(found):
        raise DataError(f"{path}: it names no classes, or one twice; write names, or names with their value or colour")
    return found


def _of_json(told: Any) -> Names | None:
    """``["a", "b"]``, ``{"a": 0}``, ``{"0": "a"}``, ``{"a": [255, 0, 0]}`` or ``{"a": "#ff0000"}``."""
    if isinstance(told, list):
        return told if all(isinstance(name, str) and name for name in told) else None
    if not isinstance(told, dict):
        return None
    if all(isinstance(value, str) and key.isdecimal() for key, value in told.items()):
        return {name: int(value) for value, name in told.items()}
    marks = {name: _told(value) for name, value in told.items()}
    return {n: m for n, m in marks.items() if m is not None} if None not in marks.values() else None


def _told(value: Any) -> int | str | None:
    if isinstance(value, list) and len(value) >= 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return _hex(value[:3])
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def _of_lines(text: str) -> Names:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    cvat = [_CVAT.match(line) for line in lines]
    if lines and all(cvat):
        return {m["name"].strip(): _hex([min(int(m[c]), 255) for c in ("red", "green", "blue")]) for m in cvat if m}
    return lines


def name_classes(found: Survey, names: Names, where: str) -> dict[str, int | str]:
    """A table of classes by their names, as an experiment file has it.

    Names alone belong to the values 0, 1, 2, … where the masks hold no others, else to the values or colours that
    were found, in the order in which `class_table` lists them. What is named but was not found stays in the table.

    Args:
        where: what to call the names in an error message.

    Raises:
        ConfigError: more or fewer names than classes, or a class that was found and has no name.
    """
    marks = list(class_table(found).values())
    listed = ", ".join(map(str, marks))
    if not isinstance(names, Mapping):
        counted = all(isinstance(mark, int) and mark < len(names) for mark in marks)
        if not counted and len(names) != len(marks):
            ignored = IGNORE in found.marks and IGNORE not in marks
            hint = f"; {IGNORE} is no class unless it is named, as NAME={IGNORE}" if ignored else ""
            hint += "" if found.numbered is None else f"; these look like numbers of objects: {AS_TWO}"
            told = f"{len(names)} names ({', '.join(names)}) for {len(marks)} classes ({listed})"
            raise ConfigError(f"{where}: {told}{hint}")
        return dict(zip(names, range(len(names)) if counted else marks))
    table = _beside_rest(names, marks)
    Classes.of(table)
    if REST not in table.values() and (unnamed := [mark for mark in marks if mark not in table.values()]):
        raise ConfigError(f"{where}: the masks also hold {', '.join(map(str, unnamed))}, which has no name")
    return table


def _beside_rest(names: Mapping[str, int | str], marks: Sequence[int | str]) -> dict[str, int | str]:
    """Colours in small letters; black is the rest where the masks are colours on a grey ground."""
    table = {name: mark.lower() if isinstance(mark, str) else mark for name, mark in names.items()}
    if REST in marks and REST not in table.values():
        return {name: REST if mark in ("#000000", 0) else mark for name, mark in table.items()}
    grey = all(isinstance(mark, int) for mark in marks)
    levels = {_hex([mark] * 3): mark for mark in marks if isinstance(mark, int) and mark < 256}
    return {name: levels.get(str(mark), mark) if grey else mark for name, mark in table.items()}
