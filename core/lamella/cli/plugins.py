"""``lamella plugins``."""

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from lamella.errors import RegistryError
from lamella.registry.hookspecs import KINDS
from lamella.registry.plugins import Plugin
from lamella.registry.registry import Registry, current

_DATA = {"channels": 1, "classes": 2, "class_names": ["one", "other"]}
"""What a data set would fill in."""


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="fail if a plugin could not be loaded")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="import every component, and build from its defaults what is no data set")
    ] = False,
) -> None:
    """List every plugin that is installed or named in registry.toml: what it offers, or why it is not used."""
    registry = current()
    with redirect_stdout(sys.stderr):  # what a component prints as it is built is no part of the JSON
        problems = _check(registry) if check else {}
    if as_json:
        print(json.dumps(_as_json(registry, problems), indent=2))
    else:
        print(_as_text(registry, problems))
    failed = [plugin.name for plugin in registry.plugins if plugin.status == "failed"]
    if strict and failed:
        raise RegistryError(f"plugin {', '.join(failed)} could not be loaded")
    if problems:
        raise RegistryError(f"{len(problems)} component{'s' if len(problems) > 1 else ''} cannot be used, see above")


def _counts(registry: Registry, plugin: Plugin) -> dict[str, list[str]]:
    mine = (plugin.name, plugin.distribution)
    return {
        kind: names
        for kind in KINDS
        if (names := [c.name for c in registry.components(kind) if (c.plugin, c.distribution) == mine])
    }


def _as_json(registry: Registry, problems: dict[str, str]) -> dict[str, object]:
    return {
        "registry": None if registry.file.path is None else str(registry.file.path),
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "status": plugin.status,
                "error": plugin.error,
                "components": _counts(registry, plugin),
                "hooks": sorted(plugin.offers),
            }
            for plugin in registry.plugins
        ],
        "sets": sorted(registry.sets),
        "problems": problems,
    }


def _as_text(registry: Registry, problems: dict[str, str]) -> str:
    where = registry.file.path or "none: every installed plugin is enabled"
    lines = [f"registry file: {where}", ""]
    for plugin in registry.plugins:
        lines.append(f"{plugin.name:<14} {plugin.status:<9} {plugin.distribution} {plugin.version}")
        lines += [f"    {kind}: {', '.join(names)}" for kind, names in _counts(registry, plugin).items()]
        if plugin.error:
            lines.append(f"    {plugin.error}")
    if not registry.plugins:
        lines.append("no plugin is installed; try pip install lamella[all]")
    lines += ["", f"perturbation sets: {', '.join(sorted(registry.sets)) or 'none'}"]
    lines += [f"problem: {name}: {text}" for name, text in problems.items()]
    return "\n".join(lines)


def _check(registry: Registry) -> dict[str, str]:
    """What is wrong with components: those that do not import, and those whose defaults do not build.

    Data sets are not built: one may be all of its images.
    """
    problems: dict[str, str] = {}
    for kind in KINDS:
        for component in registry.components(kind):
            name = f"{kind} {component.full_name}"
            try:
                parameters = component.parameters()
                if kind != "dataset" and not any(p.required and not p.from_data for p in parameters):
                    registry.plan(kind, component.full_name, name).build(data=_DATA)
            except Exception as error:  # any fault of a plugin is a line, not an end
                problems[name] = f"{type(error).__name__}: {error}"
    for name in registry.sets:
        try:
            registry.plan("chain", name, f"set {name!r}").build()
        except Exception as error:
            problems[f"set {name}"] = f"{type(error).__name__}: {error}"
    return problems
