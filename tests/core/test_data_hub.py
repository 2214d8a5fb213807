"""The Hub over real HTTP: a small server on this machine, asked by processes that know it by ``HF_ENDPOINT``."""

import hashlib
import json
import os
import subprocess
import sys
import time
from io import BytesIO

import datasets
import numpy as np
import pytest
from hub_server import Hub, Repository
from PIL import Image
from tiny_plugin import squares

ASK = """
import hashlib, json, os, sys, warnings
warnings.simplefilter("error")
from pathlib import Path
from lamella.data.sources import SourceConfig, open_source
from lamella.errors import LamellaError
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry

registry = Registry.load(RegistryFile.read(Path(sys.argv[1])))


def sample(table, i):
    one = table.read(i)
    label = one.label if isinstance(one.label, int | None) else hashlib.sha256(one.label.tobytes()).hexdigest()
    return [one.name, one.key, hashlib.sha256(one.image.tobytes()).hexdigest(), label, list(one.pixel_nm)]


answers = {}
for name, case in json.loads(sys.argv[2]).items():
    os.environ["HF_TOKEN"] = case.pop("token", "")
    print(f"case {name}", file=sys.stderr, flush=True)
    try:
        table = open_source(SourceConfig(**case), registry, "here", folder=Path())
        order = reversed(range(len(table))) if case.get("streaming") else range(len(table))
        read = {i: sample(table, i) for i in order}
        classes = None if table.classes is None else table.classes.names
        answers[name] = {"rows": [read[i] for i in range(len(table))], "classes": classes,
                         "labelled": [row.labelled for row in table.rows],
                         "groups": [dict(row.groups) for row in table.rows]}
    except LamellaError as error:
        answers[name] = {"error": str(error)}
print(json.dumps(answers))
"""
CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
- config_name: small
  data_files:
  - split: train
    path: data/test-*
---
# Squares
"""


def parquet(rows, per_group=None):
    buffer = BytesIO()
    rows.to_parquet(buffer, batch_size=per_group)
    return buffer.getvalue()


def plain(*, extra=0):
    """Two train files of row groups of two, and one test file."""
    return {
        "README.md": CARD,
        "data/train-00000-of-00002.parquet": parquet(squares(count=5 + extra, seed=1), 2),
        "data/train-00001-of-00002.parquet": parquet(squares(count=3, seed=2), 2),
        "data/test-00000-of-00001.parquet": parquet(squares(count=2, seed=3)),
    }


def folder():
    """Images in a folder for each class."""
    files = {}
    for i, row in enumerate(squares(count=4, seed=4)):
        buffer = BytesIO()
        row["image"].save(buffer, "PNG")
        files[f"train/{'good' if i % 2 else 'bad'}/{i}.png"] = buffer.getvalue()
    return files


def other_columns():
    renamed = squares(count=2, seed=6).rename_columns({"image": "micrograph", "label": "truth"})
    return {"data/train-0.parquet": parquet(renamed)}


def photographs():
    """JPEGs and a 16-bit TIFF."""
    files, random = {}, np.random.default_rng(5)
    for i, (kind, dtype) in enumerate((("jpeg", np.uint8), ("jpeg", np.uint8), ("tiff", np.uint16))):
        buffer = BytesIO()
        Image.fromarray(random.integers(0, np.iinfo(dtype).max, (24, 32), dtype)).save(buffer, kind)
        files[f"train/{i}.{kind}"] = buffer.getvalue()
    return files


def partly(*lacking):
    """Row groups of two, in which some rows have no label map."""
    rows = squares(count=4, seed=7)
    given = [{**row, "label": None if i in lacking else row["label"]} for i, row in enumerate(rows)]
    return {"data/train-0.parquet": parquet(datasets.Dataset.from_list(given, features=rows.features), 2)}


def ask(url, home, registry, cases, *, offline=False):
    """Start a process that opens every case; gives the process."""
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets"),
                   "HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5",
                   "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(registry), json.dumps(cases)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answered(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    path = tmp_path_factory.mktemp("registry") / "registry.toml"
    path.write_text("[plugins]\nenable = []\n")
    return path


CASES = {
    "old": {"source": "lab/squares", "revision": "v1"},
    "old streaming": {"source": "lab/squares", "revision": "v1", "streaming": True},
    "plain": {"source": "lab/squares", "split": "train"},
    "test": {"source": "lab/squares", "split": "test"},
    "config": {"source": "lab/squares", "config": "small"},
    "streaming": {"source": "lab/squares", "streaming": True},
    "breaks off": {"source": "lab/broken"},
    "files": {"source": "lab/squares", "data_files": "data/test-*.parquet"},
    "filtered": {"source": "lab/squares", "only": {"lot": "B"}, "slice": "0:2"},
    "no revision": {"source": "lab/squares", "revision": "v9"},
    "no split": {"source": "lab/squares", "split": "tset"},
    "no split streaming": {"source": "lab/squares", "split": "tset", "streaming": True},
    "no config": {"source": "lab/squares", "config": "big"},
    "nowhere": {"source": "lab/nothing"},
    "nowhere streaming": {"source": "lab/nothing", "streaming": True},
    "private": {"source": "lab/secret"},
    "private wrong": {"source": "lab/secret", "token": "hf_wrong"},
    "private right": {"source": "lab/secret", "token": "hf_right"},
    "private streaming": {"source": "lab/secret", "token": "hf_right", "streaming": True},
    "folder": {"source": "lab/folder"},
    "folder streaming": {"source": "lab/folder", "streaming": True},
    "folder streaming some": {"source": "lab/folder", "streaming": True, "slice": "1:3"},
    "photographs": {"source": "lab/photographs"},
    "photographs streaming": {"source": "lab/photographs", "streaming": True, "slice": "0:3"},
    "partly": {"source": "lab/partly"},
    "partly streaming": {"source": "lab/partly", "streaming": True},
    "columns": {"source": "lab/columns", "columns": {"image": "micrograph", "label": "truth"}},
    "no columns": {"source": "lab/columns"},
}


@pytest.fixture(scope="module")
def session(tmp_path_factory, registry):
    """One process asks everything; then another, offline, some of it again."""
    home = tmp_path_factory.mktemp("hub")
    broken = {path.replace("data/", "other/"): data for path, data in plain().items()}
    broken["README.md"] = CARD.replace(b"data/", b"other/")
    hub = Hub({
        "lab/squares": Repository({"main": plain(), "v1": plain(extra=1)}),
        "lab/secret": Repository({"main": plain()}, private=True),
        "lab/folder": Repository({"main": folder()}),
        "lab/photographs": Repository({"main": photographs()}),
        "lab/partly": Repository({"main": partly(2)}),
        "lab/columns": Repository({"main": other_columns()}),
        "lab/broken": Repository({"main": broken}),
    }, cut={"other/train-00001-of-00002.parquet": 1500})  # fmt: skip
    with hub.serve() as url:
        online = answered(ask(url, home, registry, CASES))
        asked = list(hub.asked)
        again = {name: CASES[name] for name in ("folder", "folder streaming some")}
        again["plain"], again["old"] = ({**CASES[name], "config": "default"} for name in ("plain", "old"))
        again["no split"], again["which"] = {**CASES["no split"], "config": "default"}, CASES["plain"]
        offline = answered(ask(url, home, registry, {**again, "other": {"source": "lab/other"}}, offline=True))
        assert len(hub.asked) == len(asked), "it asked although it is offline"
    return online, offline, asked


def truth(rows):
    """What the process tells of a sample, from the rows that were put into the repository."""
    import numpy as np

    return [
        [row["name"], hashlib.sha256(np.asarray(row["image"]).tobytes()).hexdigest(),
         hashlib.sha256(np.asarray(row["label"]).tobytes()).hexdigest()]
        for row in rows
    ]  # fmt: skip


def told(answer):
    return [[name, image, label] for name, _, image, label, _ in answer["rows"]]


def test_a_split_is_downloaded_whole(session):
    online, _, _ = session
    assert told(online["plain"]) == truth([*squares(count=5, seed=1), *squares(count=3, seed=2)])
    assert told(online["test"]) == told(online["config"]) == told(online["files"]) == truth(squares(count=2, seed=3))
    assert online["plain"]["classes"] == ["ground", "square", "disc"]
    assert online["plain"]["rows"][0][4] == [0.5, 0.5]
    assert [row[0] for row in online["filtered"]["rows"]] == ["s1-0001", "s1-0003"]


def test_streaming_gives_the_same_samples_in_any_order_and_downloads_no_file(session):
    online, _, asked = session
    assert online["streaming"] == online["plain"]
    assert online["private streaming"]["rows"] == online["private right"]["rows"]
    assert online["old streaming"] == online["old"]
    ranged = [line for line in asked if line.startswith("GET") and "bytes=" in line and ".parquet" in line]
    whole = [line for line in asked if line.startswith("GET /datasets/lab/squares") and line.endswith(".parquet")]
    assert len(ranged) >= 4
    assert len(whole) == len(set(whole))  # each file was downloaded once, by the cases that do not stream


def test_a_revision_is_what_it_was(session):
    online, _, _ = session
    assert told(online["old"]) == truth([*squares(count=6, seed=1), *squares(count=3, seed=2)])
    assert "it has no revision 'v9'" in online["no revision"]["error"]


def test_a_private_set_needs_the_right_token(session):
    online, _, _ = session
    assert [row[2] for row in online["private right"]["rows"]] == [row[2] for row in online["plain"]["rows"]]
    for name, said in (("private", "HF_TOKEN is not set"), ("private wrong", "the token in HF_TOKEN may not read it")):
        assert said in online[name]["error"]
        assert "private" in online[name]["error"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "'lab/nothing' (split 'train') cannot be loaded: there is no such repository, or it is private"),
        ("nowhere streaming", "there is no such repository"),
        ("no split", "tset"),
        ("no split streaming", "Unknown split 'tset'. Should be one of ['train', 'test']"),
        ("no config", "big"),
        ("no columns", "there is no column 'image'; the columns are micrograph"),
        ("folder streaming", "say how many with slice = '0:200'"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(session, name, said):
    error = session[0][name]["error"]
    assert said in error
    assert "\n" not in error and len(error) < 400


def test_folders_of_images_have_their_folders_as_classes(session):
    online, _, _ = session
    assert online["folder"]["classes"] == ["bad", "good"]
    assert [row[3] for row in online["folder"]["rows"]] == [0, 0, 1, 1]
    some = [row[2:] for row in online["folder streaming some"]["rows"]]
    assert some == [row[2:] for row in online["folder"]["rows"]][1:3]
    assert len(online["columns"]["rows"]) == 2


def test_streamed_files_are_those_that_are_downloaded(session):
    online, _, _ = session
    assert online["photographs streaming"] == online["photographs"] and len(online["photographs"]["rows"]) == 3


def test_rows_without_a_label_are_known_before_they_are_read(session):
    online, _, _ = session
    assert online["partly streaming"] == online["partly"]
    assert online["partly"]["labelled"] == [True, True, False, True]
    assert [row[3] is not None for row in online["partly"]["rows"]] == [True, True, False, True]


def test_offline_there_is_what_was_there_before_and_else_a_sentence(session):
    online, offline, _ = session
    assert offline["plain"] == online["plain"]
    assert offline["folder"] == online["folder"]
    assert "HF_HUB_OFFLINE is set" in offline["other"]["error"]
    assert "HF_HUB_OFFLINE is set" in offline["folder streaming some"]["error"]
    assert "multiple 'lab/squares' configurations in the cache" in offline["which"]["error"]
    assert "tset" in offline["no split"]["error"]


def test_offline_another_revision_is_not_taken_for_the_one_that_was_asked_for(session):
    """``load_dataset`` itself gives the newest that is cached, whatever revision it is asked for."""
    assert "not revision 'v1'; load that once" in session[1]["old"]["error"]


@pytest.fixture
def half_way(tmp_path, registry):
    """A repository whose second train file stands still, or breaks off, half-way."""
    hub = Hub({"lab/squares": Repository({"main": plain()})})
    with hub.serve() as url:
        yield hub, lambda: ask(url, tmp_path / "home", registry, {"plain": CASES["plain"]})
        hub.release.set()


SECOND = "data/train-00001-of-00002.parquet"
EXPECTED = truth([*squares(count=5, seed=1), *squares(count=3, seed=2)])


def test_killed_in_the_middle_of_a_download_it_goes_on_with_what_is_missing(half_way):
    hub, start = half_way
    hub.hold[SECOND] = 2000
    process = start()
    assert hub.holding.wait(60)
    first = [line for line in hub.asked if line.startswith("GET") and "train-00000" in line]
    for _ in range(100):  # the first file is on its way beside it
        if first:
            break
        time.sleep(0.05)
        first = [line for line in hub.asked if line.startswith("GET") and "train-00000" in line]
    time.sleep(0.3)
    process.kill()
    process.communicate()
    hub.release.set()
    before = len(hub.asked)
    assert told(answered(start())["plain"]) == EXPECTED
    fetched = [line for line in hub.asked[before:] if line.startswith("GET") and ".parquet" in line]
    assert [line for line in fetched if "train-00000" in line] == []
    assert len([line for line in fetched if "train-00001" in line]) == 1


def test_a_connection_that_breaks_off_is_tried_again(session):
    online, _, asked = session
    assert told(online["breaks off"]) == EXPECTED
    assert len([line for line in asked if line.startswith("GET") and "other/train-00001" in line]) == 2
