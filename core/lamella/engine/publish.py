"""A set of samples as parquet files with a card, in a folder or on the Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lamella.contracts.batch import IGNORE
from lamella.contracts.data import Sample
from lamella.data.samples import SampleTable
from lamella.engine.inspection import Inspection
from lamella.engine.whole import write_text
from lamella.errors import ConfigError, DataError

_SHARD = 256 << 20
"""Bytes of pictures after which a file ends."""


def write_set(table: SampleTable, folder: Path, split: str, *, shard: int = _SHARD) -> list[Path]:
    """Write ``data/SPLIT-00000-of-0000N.parquet`` with the columns of a Lamella dataset, and return the files.

    Once all are written they replace those of an earlier time; whatever else is in the folder stays.

    Raises:
        DataError: samples of several views, or one that cannot be read.
    """
    from datasets import Dataset

    features = _features(table)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data, prefix=".") as room:
        parts: list[Path] = []
        for number, rows in enumerate(_shards(table, list(features), shard)):
            parts.append(Path(room) / str(number))
            Dataset.from_list(rows, features=features).to_parquet(parts[-1], batch_size=64)
        for old in data.iterdir():
            if re.fullmatch(rf"{re.escape(split)}-\d{{5}}-of-\d{{5}}\.parquet", old.name):
                old.unlink()
        named = [data / f"{split}-{i:05d}-of-{len(parts):05d}.parquet" for i in range(len(parts))]
        return [part.replace(path) for part, path in zip(parts, named, strict=True)]


def _shards(table: SampleTable, columns: list[str], shard: int) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for index in range(len(table)):
        rows.append({**dict.fromkeys(columns), **_row(table.read(index), table)})
        size += len(rows[-1]["image"]["bytes"])
        if size >= shard:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _features(table: SampleTable) -> Any:
    from datasets import ClassLabel, Features, List, Value
    from datasets import Image as Picture

    first = table.read(0)
    columns: dict[str, Any] = {"image": Picture()}
    if table.classes is not None and first.label is not None:
        names = ClassLabel(names=list(table.classes.names))
        columns["label"] = names if isinstance(first.label, int) else Picture()
        columns["classes"] = List(names)
    if first.instance is not None:
        columns["instance"] = Picture()
    columns |= {"pixel_nm": List(Value("float64"), length=2), "name": Value("string")}
    columns |= {name: Value("float64") for row in range(len(table)) for name in table.read(row).meta}
    columns |= {name: Value("string") for row in table.rows for name in row.groups if name not in columns}
    return Features(columns)


def _row(sample: Sample, table: SampleTable) -> dict[str, Any]:
    if sample.views:
        raise DataError(f"{sample.name}: samples of several views are not pushed; push their dataset as it is")
    row: dict[str, Any] = {"image": _picture(sample.image), "name": sample.name, "pixel_nm": list(sample.pixel_nm)}
    if table.classes is not None and sample.label is not None:
        if isinstance(sample.label, int):
            row["label"] = -1 if sample.label == IGNORE else sample.label  # as the Hub says that there is none
        else:
            row["label"] = _picture(np.asarray(sample.label, np.uint8))
        present = np.unique(sample.label)
        row["classes"] = [int(value) for value in present if int(value) < len(table.classes.names)]
    if sample.instance is not None:
        if sample.instance.max(initial=0) > 65535:
            raise DataError(f"{sample.name}: object ids above 65535 do not fit a picture; number them anew")
        row["instance"] = _picture(sample.instance.astype(np.uint16))
    return {**sample.meta, **row, **{name: value for name, value in sample.groups.items() if name not in row}}


def _picture(pixels: np.ndarray) -> dict[str, Any]:
    """PNG for 8 and 16 bit, TIFF for floating point: both keep every value."""
    buffer = BytesIO()
    if pixels.dtype == np.uint16 and pixels.ndim == 3 and pixels.shape[2] > 1:
        raise DataError("images of several channels of 16 bits fit no picture that a data set can hold; push them grey")
    squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    Image.fromarray(squeezed).save(buffer, "TIFF" if pixels.dtype == np.float32 else "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def card(found: Inspection, repository: str, splits: Mapping[str, int], *, licence: str, note: str) -> str:
    """The README of a data set: what is in it, what was noticed, how to use it.

    Args:
        found: of the first split.
        splits: the samples of each.
    """
    first, each = next(iter(splits)), ", ".join(f"{split} {count}" for split, count in splits.items())
    several = f" ({each}); what follows is of {first}" if len(splits) > 1 else ""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in splits)
    lines = [
        "---", *([f"license: {licence}"] if licence else []), "tags:", "- electron-microscopy", "- lamella", "configs:",
        "- config_name: default", "  data_files:", files.rstrip("\n"), "---", f"# {repository.partition('/')[2]}", "",
        note or f"Made by `lamella data push` from {Path(found.origin).name}.", "",
        f"- samples: {sum(splits.values())}{several}",
        f"- sizes: {_listed(found.sizes)}",
        f"- pixels: {_listed(found.pixels)}",
        f"- pixel size: {_listed(found.pixel_nm)}",
        *(f"- {column}: {_listed(values)}" for column, values in found.groups.items() if len(values) <= 40),
    ]  # fmt: skip
    if found.classes:
        lines += ["", "| class | share | samples |", "|---|---:|---:|"]
        lines += [f"| {name} | {c['share']:.3%} | {c['samples']:.0f} |" for name, c in found.classes.items()]
    lines += ["", f"Near-duplicates found: {len(found.duplicates)} pairs.", ""]
    use = ["[data.labelled]", f'source = "{repository}"', f'split = "{first}"']
    return "\n".join([*lines, "```toml", *use, "```", ""])


def _listed(counts: Any) -> str:
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common(12)) or "–"


def push(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Upload a folder to a data set on the Hub, made if it is not there; returns its address.

    Raises:
        DataError: no token, no right to write, or no connection.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder, commit_message=message)
    except Exception as error:  # network and authentication, of many kinds
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
        hint = "HF_TOKEN must hold a token with the right to write"
        raise DataError(f"Hub dataset {repository!r} cannot be written: {reason}; {hint}") from error
    return f"{api.endpoint}/datasets/{repository}"


def check_card(folder: Path) -> None:
    """Raise `ConfigError` where a folder has a README that is no card of a set that Lamella wrote."""
    path = folder / "README.md"
    if path.exists() and "- lamella" not in path.read_text(encoding="utf-8", errors="replace").splitlines():
        raise ConfigError(f"{path} is there and no card of `lamella data push`; choose another --out, or move it away")


def write_card(folder: Path, text: str) -> None:
    """Write ``README.md``."""
    write_text(folder / "README.md", text)
