"""The keys of one ``[data.ROLE]`` table of an experiment file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lamella.data.formats.micrograph import UNKNOWN_NM
from lamella.data.reading import DataBar, Reading, Stack
from lamella.errors import ConfigError

Patterns = str | list[str]


class FoldConfig(BaseModel):
    """``fold`` of a ``[data.ROLE]`` table: parts of a set that share no group."""

    model_config = ConfigDict(extra="forbid", strict=True)

    column: Annotated[str, Field(description="group column whose groups stay whole, as specimen or lot")]
    of: Annotated[int, Field(ge=2, description="number of parts")]
    take: Annotated[list[int], Field(min_length=1, description="the parts that this role reads, from 0")]


class SourceConfig(BaseModel):
    """One ``[data.ROLE]`` table of an experiment file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: Annotated[str | dict[str, Any], Field(description="registered dataset, folder, parquet file or Hub id")]
    images: Annotated[
        Patterns | dict[str, Patterns] | None,
        Field(description="pattern(s) of image files, as 'images/*.png'; by view for several images of one object"),
    ] = None
    labels: Annotated[Patterns | None, Field(description="pattern(s) of mask files; paired by stem")] = None
    instances: Annotated[Patterns | None, Field(description="pattern(s) of object-id files; paired by stem")] = None
    classes: Annotated[
        list[str] | dict[str, int | str] | None,
        Field(description="names, or a table of names with their grey value, '#rrggbb' colour, or 'rest'"),
    ] = None
    group: Annotated[
        str | None,
        Field(description="regular expression with named groups, on the file's stem; one named 'label' is the class"),
    ] = None
    columns: Annotated[
        dict[str, str | dict[str, str]],
        Field(description="what the set calls image (one column, or one by view), label, instance, name"),
    ] = {}
    config: Annotated[str | None, Field(description="configuration of a Hub dataset")] = None
    split: Annotated[str, Field(description="split of a Hub dataset")] = "train"
    revision: Annotated[str | None, Field(description="revision of a Hub dataset")] = None
    data_files: Annotated[str | list[str] | None, Field(description="files of a Hub dataset")] = None
    streaming: Annotated[
        bool, Field(description="read a Hub dataset's parquet files where they lie, row by row, without downloading")
    ] = False
    pixel_nm: Annotated[
        float | list[float] | Literal["scale-bar"] | None,
        Field(description="nm per pixel (or [y, x]) where the files do not say; 'scale-bar': read a burnt-in one"),
    ] = None
    data_bar: Annotated[
        DataBar, Field(description="cut a data bar that the file tells of ('metadata'), or that is found, or keep it")
    ] = "metadata"
    stack: Annotated[Stack, Field(description="files of several frames: an error, a sample each, the mean")] = "refuse"
    metadata: Annotated[
        bool, Field(description="read every file's header when opening; detector, voltage_kv … become group columns")
    ] = False
    only: Annotated[dict[str, str | list[str]], Field(description="keep rows whose group column holds this")] = {}
    exclude: Annotated[dict[str, str | list[str]], Field(description="drop rows whose group column holds this")] = {}
    fold: Annotated[
        FoldConfig | None,
        Field(description="whole groups dealt out into parts, { column = 'lot', of = 5, take = [0] }"),
    ] = None
    slice: Annotated[str | None, Field(description="rows by position, as '0:60'")] = None
    subset: Annotated[int | None, Field(description="so many rows, chosen by subset_seed; nested")] = None
    subset_seed: Annotated[int, Field(description="seed of the subset")] = 0
    more: Annotated[list[SourceConfig], Field(description="further sources, whose images come after these")] = []

    def reading(self) -> Reading:
        """How image files are read."""
        return Reading(self.data_bar, self.stack, self.pixel_nm == "scale-bar")

    def pixel_size(self) -> tuple[float, float]:
        """nm per pixel in y and x where the files do not say; nan where this table does not say either."""
        if self.pixel_nm is None or isinstance(self.pixel_nm, str):
            return UNKNOWN_NM
        values = self.pixel_nm if isinstance(self.pixel_nm, list) else [self.pixel_nm, self.pixel_nm]
        if len(values) != 2 or not all(value > 0 for value in values):
            raise ConfigError(f"pixel_nm = {self.pixel_nm!r} must be one positive number, or two for y and x")
        return float(values[0]), float(values[1])
