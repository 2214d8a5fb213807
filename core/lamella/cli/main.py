"""``lamella``: finds the command and runs it. Light: imports neither torch nor pydantic nor rich."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from lamella import __version__
from lamella.errors import LamellaError

if TYPE_CHECKING:
    import typer

COMMANDS = {
    "demo": ("20 labels of embedded devices, with and without unlabelled images", "lamella.cli.demo:demo"),
    "init": ("look at your images and masks, and write an experiment file", "lamella.cli.init:init"),
    "data": ("look into a data set, or push one to the Hub", "lamella.cli.data:data"),
    "train": ("train an experiment file into a run folder", "lamella.cli.train:train"),
    "evaluate": ("measure a run on the test sets of its experiment", "lamella.cli.evaluate:evaluate"),
    "calibrate": ("how far a run can be believed, and where to give no class", "lamella.cli.calibrate:calibrate"),
    "predict": ("label maps and overlays for new images", "lamella.cli.predict:predict"),
    "gauge": ("gauge R&R: would the same part measure the same again?", "lamella.cli.gauge:gauge"),
    "study": ("a grid of methods, conditions and seeds as one table", "lamella.cli.study:study"),
    "plugins": ("the plugins that are found, and why one is not used", "lamella.cli.plugins:plugins"),
    "show": ("the components of a kind, or one of them with its parameters", "lamella.cli.show:show"),
    "new-plugin": ("a package to start from, with a component that works", "lamella.cli.new_plugin:new_plugin"),
    "doctor": ("device, versions and plugins: is this installation sound?", "lamella.cli.doctor:doctor"),
}
"""The core's own commands, in the form in which plugins add theirs: (help, "module:function")."""

_LIGHT = {"plugins": {"--json": "as_json", "--strict": "strict", "--check": "check"}}
"""Flags read here, by command and then as the function's parameters: typer imports pydantic for the first it reads."""

_HEAD = """\
Lamella: from a handful of labelled electron micrographs to models a fab can trust.

usage: lamella COMMAND [ARGUMENTS]    (lamella COMMAND --help says more)
"""
_TAIL = """\
options:
  --version      the version
  --traceback    show everything when a command fails

A first picture:      lamella demo
Your own images:      lamella init IMAGES --labels MASKS, then lamella train experiment.toml
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; leaves with 0, or with 2 after a user's mistake told in one sentence."""
    rest = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in rest
    rest = [argument for argument in rest if argument != "--traceback"]
    try:
        _dispatch(rest)
        sys.stdout.flush()
    except LamellaError as error:
        if traceback:
            raise
        print(f"lamella: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever reads, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if traceback or error.strerror is None:
            raise
        print(f"lamella: {_told(error, rest)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("lamella: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        leaving = sys.exception()
        if leaving is None or isinstance(leaving, SystemExit):
            _leave_processes(leaving)


def _told(error: OSError, given: Sequence[str]) -> str:
    """An error of the file system in one sentence; of a file in the place of a folder, with the option."""
    path = Path(str(error.filename))
    file = next((one for one in (path, *path.parents) if one.is_file()), None)
    if file is None or not isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    named = [name for name, value in pairwise(given) if file in (Path(value), *Path(value).parents)]
    option = next((f"{name} " for name in named if name.startswith("--")), "")
    return f"{option}{file} is a file; name a folder"


def _leave_processes(leaving: SystemExit | None) -> None:
    """End a process of a group at once: threads of the group that run on make an ordinary exit an abort."""
    torch = sys.modules.get("torch")  # a light command has not imported it, and shall not
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        code = None if leaving is None else leaving.code
        os._exit(code if isinstance(code, int) else int(code is not None))


def _dispatch(rest: list[str]) -> None:
    if not rest or rest[0] in ("--help", "-h", "help"):
        print(_help())
        return
    if rest[0] == "--version":
        print(f"lamella {__version__}")
        return
    name = rest[0]
    target = COMMANDS[name][1] if name in COMMANDS else _foreign(name)
    flags = _LIGHT.get(name, {})
    if name in _LIGHT and set(rest[1:]) <= flags.keys():
        module, _, function = target.partition(":")
        getattr(import_module(module), function)(**{flags[flag]: True for flag in rest[1:]})
    else:
        _run(name, target, rest[1:])


def _help() -> str:
    lines = [_HEAD, "commands:"]
    lines += [f"  {name:<14} {text}" for name, (text, _) in COMMANDS.items()]
    foreign = {name: entry for name, entry in _foreign_commands().items() if name not in COMMANDS}
    if foreign:
        lines += ["", "commands of plugins:"]
        lines += [f"  {name:<14} {text}  [{plugin}]" for name, (text, _, plugin) in sorted(foreign.items())]
    return "\n".join([*lines, "", _TAIL.rstrip()])


def _foreign_commands() -> dict[str, tuple[str, str, str]]:
    from lamella.registry.registry import current

    try:
        return current().commands
    except LamellaError as error:  # help must come even with a broken registry file
        print(f"lamella: {error}", file=sys.stderr)
        return {}


def _foreign(name: str) -> str:
    import difflib

    from lamella.registry.registry import current

    commands = current().commands
    if name in commands:
        return commands[name][1]
    close = difflib.get_close_matches(name, [*COMMANDS, *commands], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "'lamella --help' lists them"
    raise LamellaError(f"there is no command {name!r}; {hint}")


def _run(name: str, target: str, rest: list[str]) -> None:
    import typer

    typer.main.get_command(as_app(name, target))(args=rest, prog_name=f"lamella {name}")


def as_app(name: str, target: str) -> "typer.Typer":
    """The command at ``target``: its subcommands, or one of the function's typed signature, which typer reads."""
    import typer

    module, _, function = target.partition(":")
    try:
        command = getattr(import_module(module), function)
    except Exception as error:
        whose = "" if name in COMMANDS else f" of plugin {_foreign_commands()[name][2]!r}"
        reason = f"{type(error).__name__}: {error}"
        raise LamellaError(f"the command {name!r}{whose} cannot be imported from {target!r}: {reason}") from error
    if isinstance(command, typer.Typer):
        return command
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name=name)(command)
    return app
