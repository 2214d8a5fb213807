"""What tests share: no network, no cache but their own, the CPU, and a plugin of a few lines."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

# Set before torch, accelerate or datasets are imported; workers of pytest-xdist and subprocesses inherit it.
if "LAMELLA_TEST_CACHE" not in os.environ:
    os.environ["LAMELLA_TEST_CACHE"] = _OWN_CACHE = tempfile.mkdtemp(prefix="lamella-tests-")
else:
    _OWN_CACHE = ""
os.environ["HF_DATASETS_CACHE"] = os.environ["LAMELLA_TEST_CACHE"]
os.environ["LAMELLA_CACHE"] = os.environ["LAMELLA_TEST_CACHE"]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads cost more than they bring
os.environ.pop("LAMELLA_REGISTRY", None)

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "lamella", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=25
)
settings.load_profile("lamella")

CORE_TESTS = Path(__file__).parent / "core"
sys.path.insert(0, str(CORE_TESTS))  # where tiny_plugin lies, as for a registry.toml with `path`


def pytest_unconfigure() -> None:
    """Remove the cache that this process made."""
    if _OWN_CACHE:
        shutil.rmtree(_OWN_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_registry_file(tmp_path_factory):
    """A registry.toml that enables the tiny plugin and nothing else."""
    path = tmp_path_factory.mktemp("registry") / "registry.toml"
    path.write_text(f"[plugins]\nenable = []\nlocal = ['tiny_plugin']\npath = ['{CORE_TESTS.as_posix()}']\n")
    return path


@pytest.fixture(scope="session")
def tiny_registry(tiny_registry_file):
    """The registry of `tiny_registry_file`."""
    from lamella.registry.plugins import RegistryFile
    from lamella.registry.registry import Registry

    registry = Registry.load(RegistryFile.read(tiny_registry_file))
    assert [plugin.status for plugin in registry.plugins if plugin.name == "tiny_plugin"] == ["loaded"]
    return registry


TINY = """
modality = "tiny-grey"
[data.labelled]
source = { name = "tiny-squares", count = 6, seed = 0 }
[data.test]
source = { name = "tiny-squares", count = 4, seed = 1 }
[trainer]
name = "tiny-plain"
backbone = { name = "tiny-conv" }
[fit]
steps = 20
batch_size = 4
log_every = 5
optimizer = { lr = 0.03 }
"""


@pytest.fixture(scope="session")
def tiny_text():
    """The text of an experiment on the tiny plugin."""
    return TINY


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory, tiny_registry):
    """The folder of a finished run on the tiny plugin."""
    from lamella.engine.experiment import read_experiment
    from lamella.engine.fit import fit

    folder = tmp_path_factory.mktemp("tiny-run")
    (folder / "tiny.toml").write_text(TINY)
    fit(read_experiment(folder / "tiny.toml", ["fit.steps=10"], registry=tiny_registry), folder / "run")
    return folder / "run"


@pytest.fixture
def tiny_file(tmp_path):
    """An experiment file on the tiny plugin."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path
