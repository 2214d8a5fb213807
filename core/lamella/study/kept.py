"""The JSON files that a study's folder keeps, with one sentence where one of them is damaged."""

import json
from pathlib import Path
from typing import Any

from lamella.errors import RunError


def read_kept(path: Path, *keys: str) -> dict[str, Any]:
    """A file that a study or a run of it wrote.

    Raises:
        RunError: it is cut short, or lacks one of ``keys``.
        OSError: it is not there.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, dict) or not set(keys) <= found.keys():
        raise damaged(path, f"it must be a table{' with ' * bool(keys)}{', '.join(keys)}")
    return found


def damaged(path: Path, why: str) -> RunError:
    """What to raise of a file that is not as it was written."""
    return RunError(f"{path}: this file is damaged ({why}); remove it, and it is made again")
