"""Packages from outside, really installed: a good one trains, the broken ones beside it are listed and harm nothing."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from safetensors.torch import load_file

CORE_TESTS = Path(__file__).parent

GOOD = '''
    """What the package registers; light, as a plugin module should be."""
    from lamella import hookimpl

    LAMELLA_API = 1


    @hookimpl
    def lamella_perturbations():
        return {"fade": "third_good_parts:Fade"}


    @hookimpl
    def lamella_losses():
        return {"hard-pixels": "third_good_parts:hard_pixels"}


    @hookimpl
    def lamella_sets():
        return {"faded": [{"name": "fade", "strength": [0.2, 0.4]}]}
'''

PARTS = '''
    """A perturbation and a loss from outside."""
    from typing import Annotated

    from lamella import Mean, Perturbation, Range
    from pydantic import Field
    from torch import Tensor
    from torch.nn.functional import cross_entropy


    class Fade(Perturbation):
        """Darkens every image by a factor of its own."""

        family = "machine"
        identity = {"strength": (0.0, 0.0)}

        def __init__(self, *, strength: Range = (0.1, 0.3), p: float = 1.0):
            super().__init__(p=p)
            self.strength = strength

        def draw(self, streams, about):
            return {"strength": streams.uniform(*self.strength)}

        def render(self, image, drawn, streams, about):
            return image * (1 - drawn["strength"].view(-1, 1, 1, 1))


    def hard_pixels(
        logits: Tensor, label: Tensor, weight: Tensor, /, *, power: Annotated[float, Field(ge=1)] = 2.0
    ) -> Mean:
        """Cross-entropy to a power."""
        each = cross_entropy(logits, label, ignore_index=255, reduction="none") ** power
        return Mean((each * weight).sum(), weight.sum())
'''

BROKEN = {
    "raises": 'raise RuntimeError("no licence for this machine")\n',
    "leaves": "import sys\nsys.exit(3)\n",
    "misspells": '''
        from lamella import hookimpl
        LAMELLA_API = 1

        @hookimpl
        def lamella_perturbation():
            return {"lost": "third_misspells:Lost"}
    ''',
    "outdated": '''
        from lamella import hookimpl
        LAMELLA_API = 99
    ''',
    "claims": '''
        from lamella import hookimpl
        LAMELLA_API = 1

        @hookimpl
        def lamella_perturbations():
            return {"shot-noise": "third_claims:Noise"}
    ''',
}

EXPERIMENT = """
    modality = "tiny-grey"
    [data.labelled]
    source = { name = "tiny-squares", count = 6, size = 32 }
    [data.test]
    source = { name = "tiny-squares", count = 2, seed = 1, size = 32 }
    [trainer]
    name = "supervised"
    augment = "faded"
    losses = { hard = { name = "hard-pixels", power = 1.5 } }
    backbone = { name = "tiny-conv" }
    [fit]
    steps = 5
    batch_size = 4
    log_every = 1
"""


def package(folder: Path, name: str, **modules: str) -> Path:
    """A package of a few modules, with the one of its own name as entry point."""
    folder = folder / name
    folder.mkdir(parents=True)
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(code))
    (folder / "pyproject.toml").write_text(
        textwrap.dedent(f"""
            [build-system]
            requires = ["setuptools"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "acme-{name}"
            version = "1.2.3"
            [project.entry-points.lamella]
            {name} = "third_{name}"
            [tool.setuptools]
            py-modules = {list(modules)}
        """)
    )
    return folder


def install(packages: list[Path], site: Path) -> Path:
    """Install packages with pip into a folder of their own."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(site), *map(str, packages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Two places of installation: the good package alone, and the broken ones."""
    folder = tmp_path_factory.mktemp("third")
    good = package(folder, "good", third_good=GOOD, third_good_parts=PARTS)
    broken = [package(folder, name, **{f"third_{name}": code}) for name, code in BROKEN.items()]
    return install([good], folder / "site-good"), install(broken, folder / "site-broken")


def run(sites, folder, *arguments):
    """``lamella`` in a process of its own that finds what is installed in ``sites``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}
    command = [sys.executable, "-m", "lamella", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=240)


@pytest.fixture(scope="module")
def listed(sites, tmp_path_factory):
    """What ``lamella plugins --json`` says of the good package alone, and of all together."""
    found = []
    for where in (sites[:1], sites):
        done = run(where, tmp_path_factory.mktemp("listed"), "plugins", "--json")
        assert done.returncode == 0, done.stderr
        found.append({plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]})
    return found


def weights(folder):
    pointer = json.loads((folder / "checkpoints" / "last.json").read_text())
    return load_file(folder / "checkpoints" / pointer["folder"] / "trainer.safetensors")


@pytest.mark.slow
def test_an_outside_perturbation_and_loss_train_and_broken_neighbours_change_nothing(sites, tmp_path):
    (tmp_path / "experiment.toml").write_text(textwrap.dedent(EXPERIMENT))
    (tmp_path / "registry.toml").write_text(
        f"[plugins]\nlocal = ['tiny_plugin']\npath = ['{CORE_TESTS.as_posix()}']\n"
    )
    outcomes = []
    for where, out in ((sites[:1], "alone"), (sites, "both")):
        done = run(where, tmp_path, "train", "experiment.toml", "--out", out)
        assert done.returncode == 0, done.stderr
        assert "mIoU pooled" in done.stdout
        outcomes.append(done.stdout.replace(f"report: {out}", "report: "))
    assert outcomes[0] == outcomes[1]
    one, two = weights(tmp_path / "alone"), weights(tmp_path / "both")
    assert all((one[name] == two[name]).all() for name in one)
    log = (tmp_path / "alone" / "log.jsonl").read_text()
    assert log == (tmp_path / "both" / "log.jsonl").read_text()
    assert {"hard", "loss"} < set(json.loads(log.splitlines()[0]))
    header = json.loads((tmp_path / "both" / "run.json").read_text())
    assert header["plugins"]["good"] == "1.2.3"
    assert not set(header["plugins"]) & {"raises", "leaves", "misspells", "outdated"}
    stored = (tmp_path / "both" / "experiment.toml").read_text()
    assert 'name = "good:fade"' in stored
    assert 'name = "good:hard-pixels"' in stored


def test_broken_plugins_are_listed_with_their_errors(listed):
    expected = {
        "raises": "RuntimeError: no licence for this machine",
        "leaves": "SystemExit: 3",
        "misspells": "there is no hook 'lamella_perturbation'; the hooks are lamella_backbones",
        "outdated": "version 99 of the hooks",
    }
    for name, said in expected.items():
        plugin = listed[1][name]
        assert (plugin["status"], plugin["distribution"], plugin["components"]) == ("failed", f"acme-{name}", {})
        assert said in plugin["error"]
    assert listed[1]["claims"]["components"] == {"perturbation": ["shot-noise"]}


def test_all_other_plugins_are_listed_as_without_the_broken_ones(listed):
    before, after = listed
    assert set(after) - set(before) == set(BROKEN)
    assert {name: after[name] for name in before} == before
    assert all(before[name]["status"] == "loaded" for name in ("synth", "tem", "sam", "sem", "good"))
    assert before["good"]["version"] == "1.2.3"
    assert before["good"]["components"] == {"perturbation": ["fade"], "loss": ["hard-pixels"]}


def test_a_name_that_two_packages_claim_is_refused_where_it_is_used_until_an_alias_settles_it(sites, tmp_path):
    refused = run(sites, tmp_path, "show", "perturbation", "shot-noise")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert all(claim in refused.stderr for claim in ("claims:shot-noise (acme-claims)", "tem:shot-noise (lamella-tem)"))
    assert refused.stderr.count("\n") == 1
    (tmp_path / "registry.toml").write_text('[alias]\n"perturbation:shot-noise" = "tem:shot-noise"\n')
    settled = run(sites, tmp_path, "show", "perturbation", "shot-noise")
    assert settled.returncode == 0, settled.stderr
    assert settled.stdout.startswith("perturbation tem:shot-noise  (lamella-tem)")


def test_a_component_from_outside_is_shown_as_one_from_inside(sites, tmp_path):
    shown = run(sites, tmp_path, "show", "perturbation", "fade")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("perturbation good:fade  (acme-good)")
    assert "Darkens every image" in shown.stdout
    assert "strength: " in shown.stdout
