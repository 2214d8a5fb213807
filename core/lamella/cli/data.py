"""``lamella data inspect`` and ``lamella data push``."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lamella.cli.tables import counted
from lamella.errors import ConfigError

data = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True,
    help="Look into a data set, or push one to the Hub.",
)  # fmt: skip
_MOST = 20
_SPLIT = re.compile(r"\w+(\.\w+)*", re.ASCII)
_ONE = "data"
"""What a set is called that is no role of an experiment."""

Source = Annotated[
    str, typer.Argument(help="folder, parquet file, Hub id, registered dataset (or its table); or an experiment file")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="a key of [data.ROLE], as labels='masks/*' or split=test"),
]


@data.command(name="inspect")
def inspect(
    source: Source,
    settings: Settings = None,
    limit: Annotated[int | None, typer.Option(min=1, help="look at so many samples, evenly spread")] = None,
    sheet: Annotated[Path | None, typer.Option(help="contact sheet to write (PNG or JPEG)")] = None,
    files: Annotated[bool, typer.Option("--files", help="a line for every sample")] = False,
    alike: Annotated[float, typer.Option(min=0.5, max=1, help="correlation of near-duplicates")] = 0.96,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what is in a data set: columns, sizes, classes, groups, pixel sizes, oddities, near-duplicates.

    Of an experiment file every role is looked at, and what roles share that they should not.
    """
    from lamella.engine.contact_sheet import check_sheet
    from lamella.engine.inspection import inspect as look
    from lamella.engine.inspection import shared

    if sheet is not None:
        check_sheet(sheet)
    tables = _tables(source, settings or [])
    found = {role: look(table, limit=limit, alike=alike) for role, table in tables.items()}
    across = shared(found, alike=alike) if len(found) > 1 else []
    if sheet is not None:
        _write_sheet(tables, sheet)
    if as_json:
        print(json.dumps({"sets": {role: one.facts() for role, one in found.items()}, "shared": across}, indent=2))
        return
    for role, one in found.items():
        print(_said(one.facts(), role if len(found) > 1 else "", files))
    for line in [f"{len(across)} shared between roles:", *(f"    {line}" for line in across[:_MOST])] if across else []:
        print(line)
    if sheet is not None:
        print(f"contact sheet: {sheet}")


@data.command(name="push")
def push(
    source: Source,
    repository: Annotated[str, typer.Argument(help="the set on the Hub, as org/name")],
    settings: Settings = None,
    split: Annotated[
        str | None, typer.Option(help="what the samples of one source become a split of, train unless given")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="a repository of your own eyes")] = False,
    licence: Annotated[str, typer.Option("--license", help="as the Hub names it, cc-by-4.0 say")] = "",
    note: Annotated[str, typer.Option(help="what the card says first")] = "",
    out: Annotated[Path | None, typer.Option(help="write the files and the card here, and push nothing")] = None,
) -> None:
    """Write a data set as parquet files with a card, and push it to the Hub (token: HF_TOKEN).

    An experiment file becomes a set whose splits are its roles.
    """
    from lamella.engine.inspection import inspect as look
    from lamella.engine.publish import card, check_card, write_card, write_set
    from lamella.engine.publish import push as upload

    if repository.count("/") != 1:
        raise ConfigError(f"{repository!r} must read org/name")
    if out is not None:
        check_card(out)
    if split is not None and not _SPLIT.fullmatch(split):
        raise ConfigError(f"--split {split!r}: the Hub takes letters, digits, _ and single dots inside alone")
    tables = _tables(source, settings or [])
    if split is not None and _ONE not in tables:
        raise ConfigError("--split goes with one source; the splits of an experiment file are its roles")
    splits = {(split or "train") if role == _ONE else role.replace("-", "_"): table for role, table in tables.items()}
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) if out is None else out
        written = [path for name, table in splits.items() for path in write_set(table, folder, name)]
        first = look(next(iter(splits.values())), alike=0.96)
        sizes = {name: len(table) for name, table in splits.items()}
        write_card(folder, card(first, repository, sizes, licence=licence, note=note))
        samples = counted(sum(map(len, splits.values())), "sample")
        print(f"{samples} in {counted(len(written), 'parquet file')}")
        if out is not None:
            print(f"wrote {out / 'README.md'}; nothing was pushed")
            return
        print(f"pushed to {upload(folder, repository, private=private, message='Pushed by lamella data push')}")


def _tables(source: str, settings: Sequence[str]) -> dict[str, Any]:
    """The set by the name `_ONE`, or those of an experiment file by role."""
    from pydantic import ValidationError

    from lamella.data.sources import SourceConfig, open_source
    from lamella.engine.experiment import read_experiment, sentence
    from lamella.registry.registry import current

    if source.endswith(".toml") and Path(source).is_file():
        if settings:
            raise ConfigError("--set goes with one source; an experiment file has its own keys")
        experiment = read_experiment(Path(source))
        return {role: experiment.open(role) for role in experiment.file.data}
    table = source.lstrip().startswith("{")
    keys = dict([_setting(f"source={source}") if table else ("source", source), *map(_setting, settings)])
    if Path(source).is_dir() and "images" not in keys and "labels" not in keys:
        keys["images"] = "**/*"
    try:
        config = SourceConfig.model_validate(keys)
    except ValidationError as error:
        raise ConfigError(f"source {source!r}: {sentence(error)}") from None
    return {_ONE: open_source(config, current(), f"source {source!r}", folder=Path())}


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} must read KEY=VALUE, as split=test")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _said(facts: dict[str, Any], role: str, files: bool) -> str:
    lines = [f"{f'[{role}] ' if role else ''}{facts['origin']}: {counted(facts['samples'], 'sample')}"]
    if facts["columns"]:
        lines.append("columns:")
        lines += [f"    {name:<16} {kind}" for name, kind in facts["columns"].items()]
    for title, key in (("sizes", "sizes"), ("pixels", "pixels"), ("pixel size", "pixel_nm")):
        lines.append(f"{title}: {_counts(facts[key])}")
    lines += [f"{column}: {_counts(values)}" for column, values in facts["groups"].items()]
    lines += ["classes:"] if facts["classes"] else []
    for name, one in facts["classes"].items():
        bar = "#" * max(round(40 * one["share"]), 1)
        lines.append(f"    {name:<16} {one['share']:8.3%}  in {counted(round(one['samples']), 'sample')}  {bar}")
    lines += _listed("to look at", facts["suspicious"])
    pairs = facts["near_duplicates"]
    lines += _listed("near-duplicates", [
        f"{p['first']} and {p['second']} ({p['likeness']:.2f}{', turned' if p['turned'] else ''})" for p in pairs
    ])  # fmt: skip
    lines += [_row(row) for row in facts["rows"]] if files else []
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    more = f", … ({len(ordered)} in all)" if len(ordered) > 8 else ""
    return ", ".join(f"{value or '(empty)'} ({count})" for value, count in ordered[:8]) + more


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"    … and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return [f"{len(lines)} {title}:", *(f"    {line}" for line in lines[:_MOST]), *more]


def _row(row: dict[str, Any]) -> str:
    extra = "  ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
                      if key not in ("name", "size", "pixels", "pixel_nm", "mean") and value != "")  # fmt: skip
    return f"{row['name']}: {row['size']}  {row['pixels']}  pixel {row['pixel_nm']}  {extra}".rstrip()


def _write_sheet(tables: dict[str, Any], path: Path) -> None:
    """Up to 24 samples of every set, evenly spread; those that cannot be read are left out."""
    from lamella.engine.contact_sheet import contact_sheet, save_sheet
    from lamella.errors import LamellaError

    samples = []
    for table in tables.values():
        for place in range(0, len(table), max(-(-len(table) // 24), 1)):
            try:
                samples.append(table.read(place))
            except LamellaError:
                continue
    names = next((table.classes.names for table in tables.values() if table.classes is not None), ())
    if not samples:
        raise ConfigError(f"{path}: no sample can be read for a contact sheet")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(contact_sheet(samples, names), path)
