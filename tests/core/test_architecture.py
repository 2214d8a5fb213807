"""The house keeps its order: rooms, files, plugins and their doors, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import lamella
import pytest
from lamella.registry import hookspecs

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "lamella"
PLUGINS = sorted(path for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file())
ROOMS = ["errors", "contracts", "registry", "data", "measure", "engine", "study", "cli"]
"""From above to below: a room imports from itself and from rooms above it."""
TESTING = {"errors", "contracts", "registry", "testing"}
LONGEST = 350


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if not {"build", "dist"} & set(path.parts))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports anywhere, also inside functions; not what only type checkers see."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                yield from _homes(node.module or "", alias.name)


def _homes(module: str, name: str) -> Iterator[str]:
    """Where ``from module import name`` comes from; the door of lamella is looked through."""
    if module == "lamella" and name in lamella._HOME:
        yield lamella._HOME[name]
    elif module == "lamella":
        yield f"lamella.{name}"
    else:
        yield module
        yield f"{module}.{name}"


def room(module: str) -> str | None:
    """The room of a module of the core; None for what is no room of it."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lamella" and len(parts) > 1 and (CORE / parts[1]).exists() | (
        (CORE / f"{parts[1]}.py").is_file()
    ) else None  # fmt: skip


def own_room(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


IN_ROOMS = [path for path in sources(CORE) if own_room(path) not in ("__init__", "__main__")]
named = pytest.mark.parametrize("path", IN_ROOMS, ids=lambda path: path.relative_to(CORE).as_posix())


def test_every_file_of_the_core_is_in_a_room():
    assert {own_room(path) for path in IN_ROOMS} == {*ROOMS, "testing"}


@named
def test_a_room_imports_only_from_rooms_above_it(path):
    mine = own_room(path)
    allowed = TESTING if mine == "testing" else set(ROOMS[: ROOMS.index(mine) + 1])
    used = {found: module for module in imports(path) if (found := room(module)) is not None}
    assert not {module for found, module in used.items() if found not in allowed}


def files_of(module: str) -> set[Path]:
    """The file of the core that a module name stands for."""
    place = ROOT / "core" / Path(*module.split("."))
    return {found for found in (place.with_suffix(".py"), place / "__init__.py") if found.is_file()}


@pytest.mark.parametrize("name", [*ROOMS[1:], "testing"])
def test_within_a_room_no_files_import_each_other_in_a_circle(name):
    graph = {
        path: {found for module in imports(path) for found in files_of(module)} - {path, CORE / name / "__init__.py"}
        for path in sources(CORE / name)
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " → ".join(path.name for path in error.args[1]))
    assert set(graph) <= set(order)


@pytest.mark.parametrize("path", sources(CORE), ids=lambda path: path.relative_to(CORE).as_posix())
def test_the_core_knows_no_plugin(path):
    packages = tuple(f"lamella_{plugin.name}" for plugin in PLUGINS)
    assert not [module for module in imports(path) if module.startswith(packages)]


def test_importing_the_core_loads_no_plugin_and_nothing_heavy():
    code = "import sys, lamella\nprint(*(n for n in sys.modules if n in ('torch', 'numpy') or n[:8] == 'lamella_'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")


OF_PLUGINS = [(plugin.name, path) for plugin in PLUGINS for path in sources(plugin / f"lamella_{plugin.name}")]
of_plugins = pytest.mark.parametrize(
    ("plugin", "path"), OF_PLUGINS, ids=[path.relative_to(ROOT / "plugins").as_posix() for _, path in OF_PLUGINS]
)


def test_there_are_plugins_to_look_at():
    assert [plugin.name for plugin in PLUGINS] == ["sam", "sem", "synth", "tem"]
    assert len(OF_PLUGINS) > 20


@of_plugins
def test_no_plugin_imports_another(plugin, path):
    others = [m for m in imports(path) if m.startswith("lamella_") and m.split(".")[0] != f"lamella_{plugin}"]
    assert not others


@of_plugins
def test_a_plugin_uses_public_names_only(plugin, path):
    private = [m for m in imports(path) if m.startswith("lamella.") and any(p.startswith("_") for p in m.split("."))]
    assert not private
    assert not [m for m in imports(path) if room(m) == "cli"]


def texts(path: Path) -> set[str]:
    """The string constants of a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose
    }


@pytest.mark.parametrize(
    "path", [path for plugin, path in OF_PLUGINS if plugin == "synth"], ids=lambda path: path.stem
)
def test_synth_neither_imports_nor_looks_up_perturbations(path):
    """Otherwise training noise would be tested against itself."""
    modules = set(imports(path))
    contracts = tuple(f"lamella.contracts.{name}" for name in ("perturbation", "warp", "chain", "keyed", "kornia"))
    forbidden = (*contracts, "kornia", "lamella.registry")
    if path.name != "plugin.py":
        assert not [m for m in modules if m.startswith(forbidden)]
    assert not texts(path) & {"perturbation", "chain", "lamella_perturbations"}
    assert not [text for text in texts(path) if text.startswith("lamella_tem")]


@pytest.mark.parametrize("path", [path for plugin, path in OF_PLUGINS if plugin == "tem"], ids=lambda path: path.stem)
def test_perturbations_neither_import_nor_look_up_synthetic_images(path):
    assert not [m for m in imports(path) if "synth" in m]
    assert not [text for text in texts(path) if text.startswith(("synth-", "lamella_synth"))]


def test_no_file_is_too_long():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*sources(CORE), *(path for _, path in OF_PLUGINS)]
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize("folder", [CORE, *PLUGINS], ids=lambda folder: folder.name)
def test_no_name_says_nothing(folder):
    assert not [path for path in sources(folder) if path.stem in ("utils", "helpers", "misc", "common")]
    classes = [
        node.name
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert not [name for name in classes if name.endswith("Manager") or name.startswith("Base")]


def test_every_hook_and_every_kind_is_documented():
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    hooks = {name for name in vars(hookspecs) if name.startswith("lamella_")}
    assert hooks == {*hookspecs.KINDS.values(), "lamella_sets", "lamella_commands"}
    assert {hook for hook in hooks if f"`{hook}`" not in page} == set()
    assert f"LAMELLA_API = {hookspecs.API}" in page


def test_every_public_name_can_be_had_from_the_door():
    for name in lamella.__all__:
        assert getattr(lamella, name) is not None
    assert set(dir(lamella)) == set(lamella.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = lamella.nothing_of_the_kind
