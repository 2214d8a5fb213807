"""TOML files, with one sentence for each way in which one cannot be read."""

import tomllib
from pathlib import Path
from typing import Any

from lamella.errors import ConfigError


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a file, unchecked.

    Args:
        what: the kind of file, as "experiment file".

    Raises:
        ConfigError: a file that cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the {what} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
