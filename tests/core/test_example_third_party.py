"""``examples/third_party`` as a new user meets it: installed with pip, tested with the kit, trained in colour."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A folder with a copy of the sources, and an environment in which the package is installed."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(EXAMPLE, folder / "lamella-optical", ignore=shutil.ignore_patterns("build", "*.egg-info", "runs"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--target", str(folder / "site"), str(folder / "lamella-optical")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, {**os.environ, "PYTHONPATH": str(folder / "site"), "PYTHONDONTWRITEBYTECODE": "1"}


def run(user, *words, timeout=120):
    """What a command prints in the user's folder; fails where it fails."""
    folder, environment = user
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_found_and_every_component_builds(user):
    found = json.loads(run(user, "lamella", "plugins", "--json", "--check"))
    optical = next(plugin for plugin in found["plugins"] if plugin["name"] == "optical")
    assert (optical["distribution"], optical["status"]) == ("lamella-optical", "loaded")
    assert optical["components"] == {
        "perturbation": ["chromatic-shift", "illumination-gradient"],
        "modality": ["optical"],
        "dataset": ["optical-wafer"],
    }
    assert not [name for name in found["problems"] if "optical" in name]


def test_its_own_tests_pass(user):
    folder, _ = user
    said = run(user, "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "lamella-optical", "lamella-optical")
    assert "passed" in said and "failed" not in said
    assert not list(folder.glob("site/tests"))  # tests are not installed


def test_a_short_training_leaves_a_report_in_colour(user):
    folder, _ = user
    settings = ["fit.steps=4", "fit.batch_size=4", "data.test.source.count=3", "data.labelled.source.count=4"]
    said = run(
        user, "lamella", "train", "lamella-optical/experiment.toml", "--out", "run",
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    assert "report:" in said
    results = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["classes"] == ["oxide", "line", "pad", "particle", "scratch"]
    header = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    assert (header["data"]["channels"], header["plugins"]["optical"]) == (3, "0.1.0")
    resolved = tomllib.loads((folder / "run" / "experiment.toml").read_text(encoding="utf-8"))
    assert [spec["name"] for spec in resolved["trainer"]["augment"]] == [
        "optical:illumination-gradient", "optical:chromatic-shift",
    ]  # fmt: skip
    strip = np.asarray(Image.open(folder / "run" / "pictures" / "test.png"))[30:200, 60:250].astype(int)
    assert abs(strip[..., 0] - strip[..., 2]).mean() > 20  # red and blue differ: the picture has colours
