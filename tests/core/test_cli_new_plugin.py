"""``lamella new-plugin``: what it writes is importable, clean, tested and usable, for every kind."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from lamella import __version__
from lamella.cli.main import main
from lamella.engine.experiment import read_experiment
from lamella.registry.hookspecs import KINDS
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry, current


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One package of every kind, by kind."""
    out = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        main_done(["new-plugin", f"own-{kind}", "--kind", kind, "--out", str(out)])
    return {kind: out / f"own-{kind}" for kind in KINDS}


def main_done(arguments):
    """Run the command line; a command that ends well may leave with 0."""
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code in (0, None), end


@pytest.fixture
def enabled(written, tmp_path, monkeypatch):
    """All six in one registry file, beside the installed plugins; it is in force."""
    folders = ", ".join(repr(folder.as_posix()) for folder in written.values())
    local = ", ".join(repr(f"own_{kind}.plugin") for kind in written)
    path = tmp_path / "registry.toml"
    path.write_text(f"[plugins]\nlocal = [{local}]\npath = [{folders}]\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("LAMELLA_REGISTRY", str(path))
    return Registry.load(RegistryFile.read(path))


def test_every_kind_is_found_through_a_registry_file(enabled):
    found = {plugin.name: plugin for plugin in enabled.plugins}
    for kind in KINDS:
        assert (found[f"own_{kind}.plugin"].status, found[f"own_{kind}.plugin"].error) == ("loaded", None)
        assert enabled.get(kind, f"own-{kind}").doc
        assert all(p.help or p.from_data or kind == "trainer" for p in enabled.get(kind, f"own-{kind}").parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_its_experiment_file_uses_it_and_passes_the_check(kind, written, enabled):
    path = written[kind] / "experiment.toml"
    assert f'"own-{kind}"' in path.read_text(encoding="utf-8")
    experiment = read_experiment(path, registry=enabled)
    assert experiment.tests() == ["test"]


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind, written, enabled):
    assert current().file.path == enabled.file.path
    path = written[kind] / "tests" / f"test_{kind}.py"
    spec = importlib.util.spec_from_file_location(f"own_{kind}_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    assert {"test_contract", "test_it_is_registered"} <= tests.keys()
    for test in tests.values():
        if not inspect.signature(test).parameters:  # those that pytest would fill in run in the subprocess below
            test()


def test_everything_written_is_clean(written):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", *map(str, written.values())],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_package_is_complete(kind, written):
    folder = written[kind]
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["entry-points"]["lamella"] == {f"own-{kind}": f"own_{kind}.plugin"}
    assert project["dependencies"] == [f"lamella>={__version__}"]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {"README.md", ".gitignore", "docs/index.md", "experiment.toml", f"own_{kind}/{kind}.py"}
    assert expected | {f"tests/test_{kind}.py", f"own_{kind}/plugin.py", f"own_{kind}/__init__.py"} <= names
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.search(r"@[a-z]+@|PACKAGE", text), name
    usage = re.search(r"```toml\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    tomllib.loads(usage[1])


def test_workflows_test_on_two_systems_with_two_cores_and_publish_without_a_token(written):
    folder = written["perturbation"] / ".github" / "workflows"
    test = yaml.safe_load((folder / "ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]
    assert test["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "windows-latest"],
        "core": [f"lamella=={__version__}", "lamella"],
    }
    assert any("${{ matrix.core }}" in step.get("run", "") for step in test["steps"])
    publish = yaml.safe_load((folder / "release.yml").read_text(encoding="utf-8"))["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets" not in (folder / "release.yml").read_text(encoding="utf-8")


def test_a_leading_lamella_belongs_to_the_package_alone(tmp_path, capsys):
    main_done(["new-plugin", "lamella-grain", "--out", str(tmp_path)])
    plugin = (tmp_path / "lamella-grain" / "lamella_grain" / "plugin.py").read_text(encoding="utf-8")
    assert '"grain": "lamella_grain.perturbation:Grain"' in plugin
    said = capsys.readouterr().out
    assert 'augment = [{ name = "grain" }]' in said
    assert "pip install -e" in said and "pytest" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Demo"], "no plugin name"),
        (["demo_noise"], "no plugin name"),
        (["../demo"], "no plugin name"),
        (["demo-"], "no plugin name"),
        (["class"], "cannot be a name in Python"),
        (["torch"], "there is a module 'torch' already"),
        (["lamella-tem"], "there is a module 'lamella_tem' already"),
        (["shot-noise"], "has a perturbation 'shot-noise'"),
        (["demo", "--kind", "noise"], "the kinds are backbone, perturbation"),
        (["taken"], "exists"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_one_sentence(arguments, message, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["new-plugin", *arguments, "--out", str(tmp_path)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.slow
def test_installed_it_is_a_plugin_and_its_tests_pass(written, tmp_path):
    folder, target = written["perturbation"], tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", str(target), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert "4 passed" in tested.stdout  # three tests and a doctest
    listed = subprocess.run(
        [sys.executable, "-m", "lamella", "plugins", "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    plugins = {plugin["name"]: plugin for plugin in json.loads(listed.stdout)["plugins"]}
    assert plugins["own-perturbation"]["components"] == {"perturbation": ["own-perturbation"]}
    assert plugins["own-perturbation"]["distribution"] == "own-perturbation"
