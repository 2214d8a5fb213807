"""The code blocks of a documentation page, and how each kind of them is run or checked."""

import importlib
import os
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from lamella.cli.main import COMMANDS, as_app, main
from lamella.engine.experiment import check_experiment
from lamella.registry import registry as registry_module
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry, current
from lamella.study.file import StudyFile

ROOT = Path(__file__).parents[2]
LONG = "# minutes"
"""How a page marks a command that its test checks and does not run."""
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))$")
_SMALL = {"fit.steps": "2", "fit.batch_size": "2", "fit.crop": "64", "fit.log_every": "1"}
_BASE: dict[str, Any] = {
    "modality": "tem",
    "data": {"labelled": {"source": {"name": "synth-tem", "count": 2}}},
    "trainer": {"name": "supervised", "backbone": {"name": "deeplabv3plus"}},
}
"""What completes a piece of an experiment file."""


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block's first line names, as in ``# my_lab/noise.py``."""
        named = _FILE.match(self.text.partition("\n")[0])
        return named[1] if named else None


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in _BLOCK.finditer(text)]


class Session:
    """One reader who works through a page in an empty folder, which is the working directory."""

    def __init__(self, page: Path, read_output: Any):
        self.page, self.read_output = page, read_output
        self.names: dict[str, Any] = {"__name__": page.stem}

    def run(self, block: Block) -> None:
        """Do what the block shows; raises where it does not work or shows something else."""
        registry_module._loaded.cache_clear()
        importlib.invalidate_caches()
        if block.file:
            path = Path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(self.page), "exec")
            if not block.file:
                exec(code, self.names)
        elif block.language == "toml":
            check_toml(block.text)
        elif block.language in ("console", "sh"):
            for command, shown in commands(block.text):
                self.do(command, shown)
        else:
            assert block.language == "text", f"{self.page.name}:{block.line}: what is {block.language!r}?"

    def do(self, command: str, shown: list[str]) -> None:
        """Run or check one command line."""
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[0] in ("torchrun", "accelerate"):
            assert words[words.index("-m") + 1] == "lamella", command
            parse(words[words.index("-m") + 2 :])
        elif words[0] == "lamella":
            if LONG in command:
                parse(words[1:])
            else:
                self.lamella(words[1:], shown)
        elif words[:4] == ["python", "-m", "pip", "install"]:
            for path in (word for word in words[4:] if word.startswith(("./", "plugins/", "examples/"))):
                assert (ROOT / path).is_dir() or Path(path).is_dir(), command
        elif words[:3] == ["python", "-m", "pytest"]:
            for path in words[3:]:
                run_tests(Path(path))
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file() or Path(words[1]).is_file(), command
        elif words[0] == "cd":
            os.chdir(words[1])
        else:
            assert words[0] in ("git", "make", "tensorboard"), f"how is this checked? {command}"

    def lamella(self, words: list[str], shown: list[str]) -> None:
        """Run a command of Lamella and compare what it prints with what the page shows."""
        if words[0] == "train" and "--resume" not in words:
            given = " ".join(words)
            words = [*words, *(f"--set={key}={value}" for key, value in _SMALL.items() if f"{key}=" not in given)]
        self.read_output()
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = self.read_output()
        assert code == (2 if any(line.startswith("lamella: ") for line in shown) else 0), err
        missing = [line for line in shown if not contains(out + err, line)]
        assert not missing, f"{words} does not print {missing[0]!r} but\n{out}{err}"


def run_tests(path: Path) -> None:
    """Call every test of a file; tests of a page take no fixtures."""
    names: dict[str, Any] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert tests, f"{path} holds no test"
    for test in tests:
        test()


def contains(output: str, line: str) -> bool:
    """Whether a line of the output matches; … stands for anything.

    >>> contains("wrote 3 files", "wrote … files")
    True
    """
    pattern = ".*".join(re.escape(part) for part in line.strip().split("…"))
    return any(re.fullmatch(pattern, one.strip()) for one in output.splitlines())


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(command, the lines shown below it) of a console block; in a ``sh`` block every line is a command."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip() and line.strip() != "…":
            assert found, f"output before any command: {line}"
            found[-1][1].append(line)
    return found


def parse(words: list[str]) -> None:
    """Read the options of a command without running it."""
    name = words[0]
    target = COMMANDS[name][1] if name in COMMANDS else current().commands[name][1]
    command = typer.main.get_command(as_app(name, target))
    context = command.make_context(name, words[1:])
    if isinstance(command, typer.core.TyperGroup):
        step, chosen, rest = command.resolve_command(context, words[1:])
        assert chosen is not None, words
        chosen.make_context(step, rest, parent=context)


def check_toml(text: str) -> None:
    """Check a registry file, a pyproject.toml, a study, or an experiment file or a piece of one."""
    tables = tomllib.loads(text)
    if tables.keys() <= {"plugins", "alias", "sets"}:
        check_registry(text)
    elif "project" in tables:
        entries = tables["project"]["entry-points"]["lamella"]
        assert entries and all(re.fullmatch(r"[\w.]+", module) for module in entries.values()), entries
    elif "rows" in tables:
        StudyFile.model_validate(tables)
    else:
        whole = {**_BASE, **tables, "data": {**_BASE["data"], **tables.get("data", {})}}
        if "encoder" not in whole["trainer"] and not {"name", "backbone"} <= whole["trainer"].keys():
            whole["trainer"] = {**_BASE["trainer"], **whole["trainer"]}
        experiment = check_experiment(whole, name="page", folder=Path.cwd())
        for role, config in experiment.file.data.items():
            if isinstance(config.source, dict):
                experiment.registry.plan("dataset", config.source, role)


def check_registry(text: str) -> None:
    """Read a registry file, and look up everything it names."""
    path = Path("checked.toml")
    path.write_text(text, encoding="utf-8")
    registry = Registry.load(RegistryFile.read(path))
    path.unlink()
    assert [p.error for p in registry.plugins if p.name in registry.file.local] == [None] * len(registry.file.local)
    for key in registry.file.alias:
        registry.get(*key.split(":", 1))
    for name in registry.file.sets:
        registry.plan("chain", name, name).build()


def forget(folder: Path) -> None:
    """Drop the modules that were imported from a folder."""
    for name, module in list(sys.modules.items()):
        own = vars(module)  # getattr would wake lazy modules
        places = [own.get("__file__"), *(own.get("__path__") or [])]
        if any(str(folder) in str(place) for place in places):
            del sys.modules[name]
