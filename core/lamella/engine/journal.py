"""What has been predicted so far, on the disk: killed and started again, nothing is lost and nothing done twice."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO


class Journal:
    """One line per file and process in ``journal-RANK.jsonl``, and its measurements in ``measured-RANK.jsonl``.

    Measurements are written first: a file counts as done by its line in the journal, so a kill in between only
    leaves measurements behind that the next attempt replaces.
    """

    def __init__(self, out: Path, rank: int):
        self.out = out
        self._lines, self._measured = (
            _opened(out / f"{kind}-{rank}.jsonl") for kind in ("journal", "measured")
        )  # fmt: skip

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._measured.close()

    def note(self, entry: dict[str, Any], measured: dict[str, Any] | None = None) -> None:
        """Note a file as done, or as failed where the entry says ``failed``."""
        at = time.time()
        if measured is not None:
            _write(self._measured, {"name": entry["name"], "at": at, **measured})
        _write(self._lines, {**entry, "at": at})


def _opened(path: Path) -> TextIO:
    """To append to, behind a line end: a line that a kill cut short must not swallow the next."""
    file = path.open("a+", encoding="utf-8")
    if file.tell() > 0:
        with path.open("rb") as last:
            last.seek(-1, 2)
            whole = last.read(1) == b"\n"
        if not whole:
            file.write("\n")
    return file


def _write(file: TextIO, entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry) + "\n")
    file.flush()


def entries(out: Path) -> dict[str, dict[str, Any]]:
    """What all processes noted, by name, the latest of each; lines that were cut short do not count."""
    noted = [entry for path in sorted(out.glob("journal-*.jsonl")) for _, entry in _read(path)]
    return {entry["name"]: entry for entry in sorted(noted, key=lambda entry: entry.get("at", 0))}


def failures(noted: Mapping[str, Mapping[str, Any]], given: Collection[str]) -> dict[str, str]:
    """Why files cannot be read, by name: of those ``given``, and of earlier ones that are still where they were."""
    return {
        name: entry["failed"]
        for name, entry in sorted(noted.items())
        if "failed" in entry and (name in given or all(map(os.path.exists, entry.get("paths", [""]))))
    }


def measured(out: Path, names: Sequence[str], table: str) -> Iterator[dict[str, Any]]:
    """The rows of one table for ``names``, in that order, the latest of each, read from the disk one at a time.

    Files of earlier versions do not say when: what they hold is older than all that does.
    """
    places: dict[str, tuple[float, Path, int]] = {}
    wanted = set(names)
    for path in sorted(out.glob("measured-*.jsonl")):
        for offset, entry in _read(path):
            name, at = entry["name"], entry.get("at", 0)
            if name in wanted and (name not in places or at >= places[name][0]):
                places[name] = at, path, offset
    for name in names:
        if name in places:
            _, path, offset = places[name]
            with path.open("rb") as file:
                file.seek(offset)
                found = json.loads(file.readline())
            head = {"image": name, "pixel_y_nm": found["pixel_nm"][0], "pixel_x_nm": found["pixel_nm"][1]}
            yield from ({**head, **row} for row in found[table])


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"}\n"):
                with contextlib.suppress(ValueError):  # the rest of a line whose beginning was lost
                    yield offset, json.loads(line)
            offset += len(line)
