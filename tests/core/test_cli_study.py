"""``lamella study`` and the pictures it puts side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from lamella.cli.main import main
from lamella.engine.counts import read_counts
from lamella.errors import ConfigError
from lamella.study.figures import figure
from lamella.study.pictures import comparison, ranked
from lamella.study.study import Cell, read_study
from PIL import Image

STUDY = """
title = "Two"
base = "tiny.toml"
figures = { mIoU = "miou" }
groups = "lot"
pictures = "test"
[rows.short]
title = "Short"
set.fit.steps = 1
[rows.long]
set.fit.steps = 12
"""


@pytest.fixture
def here(tiny_file, tiny_registry_file, monkeypatch):
    """An empty folder with the study and its base, which is the working directory."""
    monkeypatch.chdir(tiny_file.parent)
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    Path("two.toml").write_text(STUDY)
    return tiny_file.parent


@pytest.fixture
def lamella(here, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as leaving:
            main(["study", "two.toml", *arguments])
        assert not leaving.value.code
        return capsys.readouterr().out

    return run


def test_planned_then_run_in_two_goes(lamella):
    assert lamella("--plan").split() == ["to", "do", "seed-0/all/short", "to", "do", "seed-0/all/long"]
    first = lamella("--limit", "1")
    assert "Short" in first and "long" not in first and "pictures" not in first
    assert lamella("--plan").splitlines()[0] == "done   seed-0/all/short"
    table = lamella()
    assert "Short" in table and "long" in table and "comparison.png" in table
    found = json.loads(lamella("--json"))
    assert [entry["row"] for entry in found["entries"]] == ["short", "long"]
    assert Path("runs/two/report.html").read_text(encoding="utf-8").count("<img") == 1


def test_the_images_are_those_the_rule_names(lamella, here, tiny_registry):
    lamella()
    study = read_study(Path("two.toml"), registry=tiny_registry)
    cells = [Cell("short", "", 0), Cell("long", "", 0)]
    sheet = comparison(study, cells, "test", here / "runs" / "two")
    assert np.array_equal(np.asarray(sheet), np.asarray(Image.open("runs/two/comparison.png")))
    chosen = ranked(cells, "test", here / "runs" / "two")
    gains = np.zeros(4)
    for row, sign in (("short", -1), ("long", 1)):
        classes, counts = read_counts(here / "runs/two/seed-0/all" / row / "counts/test.json", "name")
        gains += sign * np.array([figure("miou", classes)(one) for one in counts.values()])
    assert gains[chosen[0]] == gains.max() and gains[chosen[-1]] == gains.min()
    flipped = comparison(study, cells[::-1], "test", here / "runs" / "two")
    assert not np.array_equal(np.asarray(sheet), np.asarray(flipped))
    with pytest.raises(ConfigError, match="two finished rows, not 1"):
        comparison(study, cells[:1], "test", here / "runs" / "two")
