"""The study file: what may stand in it, and that the names in it lead somewhere."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamella.engine.experiment import sentence
from lamella.errors import ConfigError
from lamella.registry.tomlfile import read_toml
from lamella.study.figures import figure
from lamella.study.groups import group_figure

_STRICT = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
Tables = dict[str, Any]
_NO_FOLDER = re.compile(r"[/\\\x00-\x1f\x7f]")
_LONGEST = 200
"""Bytes of a name; file systems take 255, and a lock beside the folder has a few more."""


class RowConfig(BaseModel):
    """``[rows.NAME]``: a method."""

    model_config = _STRICT

    title: Annotated[str, Field(description="what the table calls it; else its name")] = ""
    like: Annotated[str | None, Field(description="another row, whose changes come first")] = None
    set: Annotated[Tables, Field(description="changes to the base experiment")] = {}
    cost_of: Annotated[
        str | None, Field(description="a row whose floating-point operations this one may spend: sets fit.steps")
    ] = None
    columns: Annotated[list[str] | None, Field(description="only in these columns")] = None
    seeds: Annotated[int | None, Field(ge=1, description="only the first so many seeds")] = None

    @property
    def spends(self) -> list[str]:
        """The rows that decide how many steps it takes: whose operations it may spend, and what a step costs."""
        return [] if self.cost_of is None or self.like is None else [self.cost_of, self.like]


class ColumnConfig(BaseModel):
    """``[columns.NAME]``: a condition."""

    model_config = _STRICT

    title: Annotated[str, Field(description="what the table calls it; else its name")] = ""
    set: Annotated[Tables, Field(description="changes to the base experiment, after the row's")] = {}
    labels: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="number of labels, for the curve over them")
    ] = None
    seeds: Annotated[int | None, Field(ge=1, description="only the first so many seeds")] = None


class BeforeConfig(BaseModel):
    """``[before.NAME]``: a training that rows build on; ``{NAME}`` in a row's text becomes its run folder."""

    model_config = _STRICT

    base: Annotated[str | None, Field(description="experiment file; else the study's, with the study's own set")] = None
    like: Annotated[str | None, Field(description="another training before, whose base and changes come first")] = None
    set: Annotated[Tables, Field(description="changes to it")] = {}
    sizes: Annotated[dict[str, Tables], Field(description="changes by size, after those of the study's size")] = {}
    once: Annotated[bool, Field(description="trained once, with the first seed, for the rows of every seed")] = False
    per_column: Annotated[bool, Field(description="trained for each column, with the column's changes last")] = False


class StudyFile(BaseModel):
    """The top level of a study file."""

    model_config = _STRICT

    title: str
    base: Annotated[str, Field(description="experiment file beside this one; may lack what the rows give")]
    set: Annotated[Tables, Field(description="changes to it for every row, before the size's and the row's")] = {}
    seeds: Annotated[
        list[Annotated[int, Field(ge=0)]], Field(min_length=1, description="each is a subset and an initialisation")
    ] = [0]
    seeded: Annotated[list[str], Field(description="keys that take the seed")] = ["seed"]
    rows: Annotated[dict[str, RowConfig], Field(min_length=1)]
    columns: Annotated[dict[str, ColumnConfig], Field(min_length=1)] = {"": ColumnConfig()}
    before: dict[str, BeforeConfig] = {}
    sets: Annotated[list[str], Field(min_length=1, description="test sets that are reported, headline first")] = [
        "test"
    ]
    figures: Annotated[dict[str, str], Field(min_length=1, description="title → figure, as 'iou:defect'")]
    groups: Annotated[str | None, Field(description="group column that intervals resample, as 'lot'")] = None
    reference: Annotated[str | None, Field(description="row that the others are compared with, pair by pair")] = None
    paper: Annotated[dict[str, dict[str, dict[str, float]]], Field(description="row → column → figure: published")] = {}
    sizes: Annotated[dict[str, Tables], Field(description="changes to the base by size; the first is the default")] = {}
    pictures: Annotated[str | None, Field(description="test set on whose images rows are shown side by side")] = None
    shown: Annotated[list[str], Field(description="the rows shown there; else all")] = []
    note: Annotated[str, Field(description="what a reader has to know; stands under the table")] = ""


def read_study_file(path: Path) -> StudyFile:
    """Read a study file and check its keys and names; its experiments are not looked at.

    Raises:
        ConfigError: an unreadable file, unknown key, row or column.
    """
    try:
        file = StudyFile.model_validate(read_toml(path, "study file"))
    except ValidationError as error:
        raise ConfigError(f"{path}: {sentence(error)}") from None
    _check_names(file, path.stem)
    return file


def _check_names(file: StudyFile, study: str) -> None:
    """Raise `ConfigError` where something is named that is not there, or that cannot be, or a row is like itself."""
    _check_folders(file, study)
    _check_paper(file, study)
    for key, several in (("seeds", [*map(str, file.seeds)]), ("sets", file.sets)):
        if len(set(several)) < len(several):
            raise ConfigError(f"{study}: {key} names one twice ({', '.join(several)})")
    if len(file.seeds) > 1 and not file.seeded:
        raise ConfigError(f"{study}: seeded = [] beside several seeds would train the same run for each of them")
    rows: dict[str, list[str | None]] = {
        "reference": [file.reference], "paper": [*file.paper], "shown": [*file.shown],
        **{f"figure {title!r}": [_over(text)] for title, text in file.figures.items()},
    }  # fmt: skip
    for name, row in file.rows.items():
        rows[f"[rows.{name}] like"], rows[f"[rows.{name}] cost_of"] = [row.like], [row.cost_of]
        _follow(file.rows, name)
        for column in row.columns or []:
            if column not in file.columns:
                raise ConfigError(f"{study}: [rows.{name}] names the column {column!r}, which is not there")
        if row.cost_of is not None and row.like is None:
            raise ConfigError(f"{study}: [rows.{name}] cost_of needs like: a row that tells what a step costs")
    for name, before in file.before.items():
        if before.like is not None and before.like not in file.before:
            known = ", ".join(file.before)
            raise ConfigError(
                f"{study}: [before.{name}] like names the training {before.like!r}, which is not there ({known})"
            )
        _follow(file.before, name)
        for size in before.sizes:
            if size not in file.sizes:
                raise ConfigError(f"{study}: [before.{name}] has the size {size!r}, which the study has not")
    for where, named in rows.items():
        for other in named:
            if other is not None and other not in file.rows:
                known = ", ".join(file.rows)
                raise ConfigError(f"{study}: {where} names the row {other!r}, which is not there ({known})")
    for name in file.rows:
        _follow_costs(file.rows, name, ())


def _check_folders(file: StudyFile, study: str) -> None:
    """Raise `ConfigError` where a name would lead out of the study's folder, or two runs into one."""
    for name in [*file.rows, *filter(None, file.columns), *file.before]:
        if name in ("", ".", "..") or _NO_FOLDER.search(name) or len(name.encode()) > _LONGEST:
            shown = repr(name) if len(name) <= _LONGEST else f"{name[:20]!r}…"
            raise ConfigError(
                f"{study}: {shown} is no name for a row, column or training before: its runs are kept in a folder of "
                "that name, so it must be neither empty, '.' nor '..', and have no slashes and control characters and "
                f"no more than {_LONGEST} bytes"
            )
    if "before" in file.columns or {"", "all"} <= file.columns.keys():
        raise ConfigError(
            f"{study}: no column can be called 'before', nor 'all' beside one without a name: its runs would be kept "
            "in the folder of others"
        )


def _check_paper(file: StudyFile, study: str) -> None:
    """Raise `ConfigError` where a published figure belongs to no column or figure of the table."""
    columns = [name or "all" for name in file.columns]
    for row, published in file.paper.items():
        for column, figures in published.items():
            for what, name, known in [("column", column, columns), *(("figure", f, [*file.figures]) for f in figures)]:
                if name not in known:
                    raise ConfigError(
                        f"{study}: [paper.{row}] names the {what} {name!r}, which is not there ({', '.join(known)})"
                    )


def _over(text: str) -> str | None:
    """The row that a figure compares with; raises `ConfigError` where it is no figure, whatever the classes are."""
    if text == "results:":
        raise ConfigError("figure 'results:' names nothing of the results; write results:NAME")
    if text.startswith("results:"):
        return None
    asked = group_figure(text)
    one = text if asked is None else asked.figure
    figure(one, [one.partition(":")[2].removeprefix("-")])
    return None if asked is None else asked.over


def _follow(named: Mapping[str, RowConfig] | Mapping[str, BeforeConfig], name: str) -> None:
    seen, at = [name], named[name].like
    while at is not None and at in named:
        if at in seen:
            raise ConfigError(f"rows or trainings that are like each other in a circle: {' → '.join([*seen, at])}")
        seen.append(at)
        at = named[at].like


def _follow_costs(rows: Mapping[str, RowConfig], name: str, trail: tuple[str, ...]) -> None:
    if name in trail:
        raise ConfigError(f"rows that wait for each other's cost in a circle: {' → '.join([*trail, name])}")
    for other in rows[name].spends:
        _follow_costs(rows, other, (*trail, name))
