"""Parquet files on the Hub, read row by row where they lie: nothing is downloaded but what is looked at."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_KEPT = 8
"""Row groups that stay in memory."""


@dataclass
class RemoteTable:
    """What `from_dataset` needs of a ``datasets.Dataset``, of parquet files that stay where they are.

    Row i is the same as in the downloaded set. A row costs the row group it lies in, fetched by range requests and
    kept for its neighbours; the file ends (footers) are read when the table is made, and the columns of texts.

    Args:
        urls: ``hf://datasets/ORG/NAME@REVISION/PATH`` of every file, in order.
        features: of the rows; else those that the first file tells.
    """

    urls: Sequence[str]
    features: Any = None
    _starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)
    _groups: list[tuple[int, int]] = field(default_factory=list, repr=False)
    _open: dict[int, Any] = field(default_factory=dict, repr=False)
    _kept: OrderedDict[int, Any] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        counts = [0]
        for number in range(len(self.urls)):
            meta = self._file(number).metadata
            for group in range(meta.num_row_groups):
                self._groups.append((number, group))
                counts.append(meta.row_group(group).num_rows)
        self._starts = np.cumsum(counts)
        if self.features is None:
            from datasets import Features

            self.features = Features.from_arrow_schema(self._file(0).schema_arrow)

    @property
    def _fingerprint(self) -> str:
        """What names the content in a cache: the files, whose addresses hold the revision."""
        return hashlib.blake2b("\n".join(self.urls).encode(), digest_size=16).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and what they held: workers open their own."""
        return {**self.__dict__, "_open": {}, "_kept": OrderedDict()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int | str) -> Any:
        """A row, decoded; or a whole column, as it is stored."""
        if isinstance(index, str):
            return [value for group in range(len(self._groups)) for value in self._column(group, index)]
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._rows(group).slice(index - int(self._starts[group]), 1).to_pylist()[0]
        return self.features.decode_example(row, token_per_repo_id=None)

    def select_columns(self, names: Sequence[str]) -> RemoteTable:
        """Itself: a column is only read where it is asked for."""
        return self

    def cast_column(self, name: str, feature: Any) -> RemoteTable:
        """Itself with another feature of a column, by which its rows are decoded."""
        self.features = type(self.features)({**self.features, name: feature})
        return self

    def there(self, column: str) -> list[bool]:
        """Which rows have something in a column; fetched only where the file ends do not say that all have."""
        found: list[bool] = []
        for number, inside in self._groups:
            group = self._file(number).metadata.row_group(inside)
            leaves = [group.column(i) for i in range(group.num_columns)]
            leaves = [leaf for leaf in leaves if leaf.path_in_schema.split(".")[0] == column]
            if any(leaf.statistics is not None and leaf.statistics.null_count == 0 for leaf in leaves):
                found += [True] * group.num_rows
                continue
            least = min(leaves, key=lambda leaf: leaf.total_compressed_size).path_in_schema  # of an image, the path
            table = self._file(number).read_row_group(inside, columns=[least])
            found += table.column(column).is_valid().to_pylist()
        return found

    def _file(self, number: int) -> Any:
        if number not in self._open:
            from huggingface_hub import HfFileSystem
            from pyarrow import parquet

            self._open[number] = parquet.ParquetFile(HfFileSystem().open(self.urls[number], "rb"))
        return self._open[number]

    def _column(self, group: int, name: str) -> list[Any]:
        number, inside = self._groups[group]
        return self._file(number).read_row_group(inside, columns=[name]).column(name).to_pylist()

    def _rows(self, group: int) -> Any:
        if group not in self._kept:
            number, inside = self._groups[group]
            self._kept[group] = self._file(number).read_row_group(inside)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]
