"""``lamella new-plugin``: a whole package to start from, with one component that works."""

import keyword
import os
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from lamella import __version__
from lamella.errors import ConfigError
from lamella.registry.hookspecs import KINDS, check_kind

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MARK = re.compile(r"@([a-z]+)@")

_SUMMARY = {
    "perturbation": "It adds white normal noise whose strength is drawn for every image.",
    "loss": "It is the focal loss: cross-entropy that looks away from pixels that are sure already.",
    "backbone": "It is a small U-Net with group norm, for images of any size.",
    "trainer": "It learns by cross-entropy; an exponential average of the weights predicts.",
    "modality": "It reads grey images by the range of the training images and carries a tilt angle.",
    "dataset": "It draws discs and bars on a dark ground, with their label maps.",
}
_USAGE = {
    "perturbation": '[trainer]\naugment = [{{ name = "{0}" }}]',
    "loss": '[trainer]\nlosses = {{ {1} = {{ name = "{0}" }} }}',
    "backbone": '[trainer]\nbackbone = {{ name = "{0}" }}',
    "trainer": '[trainer]\nname = "{0}"',
    "modality": 'modality = "{0}"',
    "dataset": '[data.labelled]\nsource = {{ name = "{0}" }}',
}
"""How an experiment file uses each kind: {0} is the component's name, {1} the same as an identifier."""


def new_plugin(
    name: Annotated[str, typer.Argument(help="of the package and its component, as demo-noise")],
    kind: Annotated[str, typer.Option(help=", ".join(KINDS))] = "perturbation",
    out: Annotated[Path, typer.Option("--out", help="folder to write the package's folder into")] = Path("."),
) -> None:
    """Write an installable plugin: a component that works, its tests, docs, and workflows that test and publish it.

    A leading 'lamella-' belongs to the package's name alone: lamella-demo-noise registers demo-noise.
    """
    values = _values(name, kind)
    folder = out / name
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose another name, or another place with --out")
    written = _write(folder, kind, values)
    print(f"wrote {folder} ({written} files): the {kind} {values['component']}, in {values['package']}/{kind}.py\n")
    print("next:")
    for line in (
        f"cd {quote(str(folder))}",
        'python -m pip install -e ".[test]"',
        "python -m pytest",
        f"lamella show {kind} {values['component']}",
        "lamella train experiment.toml",
    ):
        print(f"    {line}")
    print("\nin any experiment file:")
    print("\n".join(f"    {line}" for line in values["usage"].splitlines()))


def _values(name: str, kind: str) -> dict[str, str]:
    """What the marks in the templates stand for; raises a `LamellaError` for a name or kind that will not do."""
    from lamella.registry.registry import current

    check_kind(kind)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no plugin name: lower-case words of a-z and 0-9 joined by '-', as demo-noise")
    package, component = name.replace("-", "_"), name.removeprefix("lamella-")
    identifier = component.replace("-", "_")
    if not identifier.isidentifier() or keyword.iskeyword(identifier):
        raise ConfigError(f"{name!r} is no plugin name: {identifier!r} cannot be a name in Python")
    found = find_spec(package)
    if found is not None and found.origin is not None:
        raise ConfigError(f"{name!r} is taken: there is a module {package!r} already; choose another name")
    taken = [c.distribution for c in current().components(kind) if c.name == component]
    if taken:
        raise ConfigError(f"{name!r} is taken: {taken[0]} has a {kind} {component!r}; choose another name")
    functions = kind in ("loss", "dataset")
    return {
        "distribution": name,
        "package": package,
        "component": component,
        "kind": kind,
        "hook": KINDS[kind],
        "target": identifier if functions else "".join(word.title() for word in component.split("-")),
        "version": __version__,
        "summary": _SUMMARY[kind],
        "usage": _USAGE[kind].format(component, identifier),
        **_experiment(kind, component, identifier),
    }


def _experiment(kind: str, component: str, identifier: str) -> dict[str, str]:
    """What stands in the experiment file: the new component in its place, known ones in all others."""
    parts = {
        "modality": "tem",
        "dataset": "synth-tem",
        "trainer": "supervised",
        "backbone": 'name = "deeplabv3plus", encoder = "tu-mobilenetv3_small_100"',
        "augment": 'augment = "weak"\n',
    }
    if kind == "perturbation":
        return {**parts, "augment": f'augment = [{{ name = "{component}" }}]\n'}
    if kind == "loss":
        return {**parts, "augment": f'losses = {{ {identifier} = {{ name = "{component}" }} }}\n{parts["augment"]}'}
    return {**parts, kind: f'name = "{component}"' if kind == "backbone" else component}


def _write(folder: Path, kind: str, values: dict[str, str]) -> int:
    """Write the package beside its place, then rename it; returns the number of files."""
    templates = files("lamella.cli") / "templates" / "new_plugin"
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    written = 0
    try:
        for part in ("common", kind):
            for place, template in _templates(templates / part):
                text = _MARK.sub(lambda mark: values[mark.group(1)], template.read_text(encoding="utf-8"))
                path = beside / place.replace("PACKAGE", values["package"]).replace("dot-", ".")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
                written += 1
        os.replace(beside, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return written


def _templates(folder: Traversable, place: str = "") -> Iterator[tuple[str, Traversable]]:
    """(relative path without ``.tmpl``, template) of every template in a folder."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, f"{place}{entry.name}/")
        elif entry.name.endswith(".tmpl"):
            yield place + entry.name.removesuffix(".tmpl"), entry
