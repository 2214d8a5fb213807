"""From a table in an experiment file to a set of samples: Hub id, folder, parquet file or registered dataset."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lamella.data.classes import Classes
from lamella.data.config import SourceConfig
from lamella.data.folders import from_folder
from lamella.data.hub import from_hub
from lamella.data.samples import SampleTable
from lamella.data.splits import by_fold, by_group, by_slice, nested_subset
from lamella.data.tables import from_dataset, from_parquet
from lamella.errors import ConfigError
from lamella.registry.registry import Plan, Registry

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FOLDER_KEYS = ("images", "labels", "instances", "group", "data_bar", "stack", "metadata")
_HUB_KEYS = ("config", "split", "revision", "data_files", "streaming")
_KEYS = {
    "registered dataset": ("columns",),
    "folder of images": _FOLDER_KEYS,
    "parquet file": ("columns",),
    "Hub dataset": ("columns", *_HUB_KEYS),
}
"""The keys that only some kinds of source have, by kind."""


def open_source(config: SourceConfig, registry: Registry, where: str, *, folder: Path) -> SampleTable:
    """The set a ``[data.ROLE]`` table names, with its filters applied, and what its ``more`` adds.

    Args:
        where: what to call the table in an error message.
        folder: what relative paths are relative to (the experiment file's folder).

    Raises:
        ConfigError: nothing of that name, or keys that do not fit the kind of source.
        DataError: the source is there and cannot be read.
    """
    table = _open_one(config, registry, where, folder)
    others = [
        open_source(other, registry, f"{where} more {number + 1}", folder=folder)
        for number, other in enumerate(config.more)
    ]
    return joined([table, *others], where) if others else table


def joined(tables: Sequence[SampleTable], where: str) -> SampleTable:
    """The samples of several sets, one set after the other; raises `ConfigError` where they name other classes."""
    first = tables[0]
    for other in tables[1:]:
        names = [None if table.classes is None else table.classes.names for table in (first, other)]
        if names[0] != names[1] or first.labelled != other.labelled:
            listed = "; ".join("unlabelled" if not t.labelled else str(n) for t, n in zip((first, other), names))
            raise ConfigError(f"{where}: {first.origin} and {other.origin} cannot be one set: {listed}")
        if first.labelled and first.classes != other.classes:
            raise ConfigError(
                f"{where}: the masks of {first.origin} and {other.origin} mark the same classes by other values; "
                "one set is read with one table of classes, so bring the masks to the same values first"
            )
    rows = [row for table in tables for row in table.rows]
    return SampleTable(rows, first.classes, " + ".join(dict.fromkeys(table.origin for table in tables)))


def _open_one(config: SourceConfig, registry: Registry, where: str, folder: Path) -> SampleTable:
    classes = None if config.classes is None else Classes.of(config.classes)
    source = config.source
    if isinstance(source, dict) or source in registry.names("dataset") or re.fullmatch(r"[\w.-]+:[\w-]+", source):
        _check_keys(config, "registered dataset", where)
        plan: Plan = registry.plan("dataset", source, where)
        with _quiet():
            table = from_dataset(plan.build(), config, classes, plan.component.full_name)
    elif (folder / source).is_dir():
        _check_keys(config, "folder of images", where)
        table = from_folder(folder / source, config, classes)
    elif (folder / source).is_file():
        _check_keys(config, "parquet file", where)
        table = from_parquet(folder / source, config, classes)
    elif _HUB.fullmatch(source) and not source.startswith("."):
        _check_keys(config, "Hub dataset", where)
        table = from_hub(config, classes)
    else:
        known = ", ".join(registry.names("dataset")) or "none"
        raise ConfigError(
            f"{where}: source = {source!r} is no registered dataset ({known}), no folder or parquet file "
            f"under {folder}, and no Hub id like 'org/name'"
        )
    return choose(table, config)


def _check_keys(config: SourceConfig, kind: str, where: str) -> None:
    """Raise `ConfigError` for a key that a source of this kind would pass over."""
    for key in ("columns", *_FOLDER_KEYS, *_HUB_KEYS):
        value = getattr(config, key)
        if key not in _KEYS[kind] and value != SourceConfig.model_fields[key].default:
            kinds = " or a ".join(other for other, keys in _KEYS.items() if key in keys)
            raise ConfigError(f"{where}: {key} = {value!r} is for a {kinds}; {config.source!r} is a {kind}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of ``datasets`` where there is no terminal to draw them on."""
    import datasets

    if sys.stderr.isatty() or not datasets.utils.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def choose(table: SampleTable, config: SourceConfig) -> SampleTable:
    """The rows that filters, fold, slice and subset of ``config`` leave, in that order."""
    chosen = by_group([row.groups for row in table.rows], config.only, config.exclude)
    if config.fold is not None:
        kept = [table.rows[i].groups for i in chosen]
        chosen = [chosen[i] for i in by_fold(kept, config.fold.column, config.fold.of, config.fold.take)]
    if config.slice is not None:
        chosen = by_slice(chosen, config.slice)
    if config.subset is not None:
        keys = [table.rows[i].key for i in chosen]
        chosen = [chosen[i] for i in nested_subset(keys, config.subset, config.subset_seed)]
    if not chosen:
        raise ConfigError(f"{table.origin}: no image is left after only, exclude, fold and slice")
    return table.take(chosen)
