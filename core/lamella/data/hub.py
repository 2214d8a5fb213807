"""A repository on the Hugging Face Hub as a set of samples, downloaded or read where it lies."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lamella.data.classes import Classes
from lamella.data.config import SourceConfig
from lamella.data.remote import RemoteTable
from lamella.data.samples import SampleTable
from lamella.data.tables import from_dataset
from lamella.errors import ConfigError, DataError, LamellaError

_COMMIT = re.compile("[0-9a-f]{40}")
_MISSING = ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError", "LocalEntryNotFoundError")
_NETWORK = ("Connect", "Timeout", "Protocol", "ReadError", "ChunkedEncoding", "Incomplete", "Consistency", "IOError")


def from_hub(config: SourceConfig, classes: Classes | None) -> SampleTable:
    """A split of a set on the Hub; a token is taken from the environment (``HF_TOKEN``).

    Raises:
        ConfigError: keys that do not fit.
        DataError: what went wrong, and what to do about it, in a sentence.
    """
    try:
        dataset = _streamed(config) if config.streaming else _downloaded(config)
    except LamellaError:
        raise
    except Exception as error:  # network, authentication, missing repository: one sentence each
        raise DataError(
            f"Hub dataset {config.source!r} (split {config.split!r}) cannot be loaded: {_reason(error, config)}"
        ) from error
    return from_dataset(dataset, config, classes, str(config.source))


def _downloaded(config: SourceConfig) -> Any:
    import datasets

    dataset = datasets.load_dataset(
        str(config.source),
        config.config,
        split=config.split,
        revision=config.revision,
        data_files=config.data_files,
    )
    _check_revision(dataset, config)
    return dataset


def _check_revision(dataset: Any, config: SourceConfig) -> None:
    """Raise `DataError` for another revision than was asked for.

    Where the Hub cannot be reached, ``load_dataset`` takes whatever of the repository was cached last, and says so
    in a log line at most. The folder of a cached set is named by its commit; the cache of the Hub notes which
    commit a revision was.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    commits = {part for file in dataset.cache_files for part in Path(file["filename"]).parts if _COMMIT.fullmatch(part)}
    revision = config.revision or "main"
    note = Path(HF_HUB_CACHE) / f"datasets--{str(config.source).replace('/', '--')}" / "refs" / revision
    wanted = note.read_text(encoding="utf-8").strip() if note.is_file() else revision
    if commits and _COMMIT.fullmatch(wanted) and wanted not in commits:
        raise DataError(
            f"Hub dataset {config.source!r}: the Hub cannot be reached, and the cache holds commit {min(commits)[:10]} "
            f"of it, not revision {revision!r}; load that once while the Hub can be reached"
        )


def _streamed(config: SourceConfig) -> Any:
    """The parquet files of the split where they lie; of other files, the first of a slice that ends."""
    import datasets

    if isinstance(config.columns.get("image"), dict):
        raise ConfigError("streaming = true reads one image column; leave it out for images by view")
    builder = datasets.load_dataset_builder(
        str(config.source), config.config, revision=config.revision, data_files=config.data_files
    )
    files = builder.config.data_files or {}
    if not files:  # from the cache, which holds no addresses
        raise ConnectionError("streaming needs the Hub")
    if config.split not in files:
        raise ValueError(f"Unknown split {config.split!r}. Should be one of {[str(split) for split in files]}.")
    urls = [str(url) for url in files[config.split]]
    if all(url.endswith(".parquet") for url in urls):
        return RemoteTable(urls, builder.info.features)
    stop = re.fullmatch(r"\s*\d*\s*:\s*(\d+)\s*(?::.*)?", config.slice or "")
    if stop is None:
        raise ConfigError(
            f"{config.source}: streaming = true reads parquet files in any order, other files ({urls[0][-40:]}) only "
            "from the beginning; say how many with slice = '0:200'"
        )
    stream = builder.as_streaming_dataset(split=config.split)
    features = stream.features or builder.info.features
    stream = stream.decode(False) if stream.features else stream  # decoded, images would be encoded anew
    rows = datasets.Dataset.from_list(list(stream.take(int(stop[1]))), features=features)
    return datasets.Dataset(datasets.table.InMemoryTable(datasets.table.embed_table_storage(rows.data.table)))


def _reason(error: BaseException, config: SourceConfig) -> str:
    """What to do, by what went wrong at the bottom of it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds, said = [type(one).__name__ for one in chain], " ".join(str(one) for one in chain)
    plain = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
    unreached = any("Connection" in kind or kind in _MISSING or "Offline" in kind for kind in kinds)
    if unreached and os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return f"HF_HUB_OFFLINE is set, and the set is not in the cache of this machine ({plain})"
    if "Revision" in said or any("Revision" in kind for kind in kinds):
        return f"it has no revision {config.revision!r} ({plain})"
    if any(kind in _MISSING for kind in kinds):
        token = "the token in HF_TOKEN may not read it" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        return f"there is no such repository, or it is private and {token} ({plain})"
    if any(part in kind for kind in kinds for part in _NETWORK):
        return f"the connection failed; started again, it goes on with what is missing ({plain})"
    return plain
