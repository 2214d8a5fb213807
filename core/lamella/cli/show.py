"""``lamella show``."""

import json
from typing import Annotated, Any

import typer

from lamella.registry.component import Component, Parameter
from lamella.registry.hookspecs import KINDS, check_kind
from lamella.registry.registry import Registry, current


def show(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}, or set")],
    name: Annotated[str | None, typer.Argument(help="one component: its parameters, bounds and units")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON; for one component its JSON schema")] = False,
) -> None:
    """Show the components of a kind, or one of them with its parameters, as its signature declares them."""
    check_kind(kind, "set")
    registry = current()
    if kind == "set":
        value: Any = registry.sets if name is None else registry.plan("chain", name, "show").spec()
        print(json.dumps(value, indent=2))
    elif name is None:
        _list(registry, kind, as_json=as_json)
    else:
        component = registry.get(kind, name)
        if as_json:
            print(json.dumps({"name": component.full_name, **component.json_schema()}, indent=2, default=str))
        else:
            print(describe(component))


def _list(registry: Registry, kind: str, *, as_json: bool) -> None:
    components = registry.components(kind)
    if as_json:
        rows = [{"name": c.name, "plugin": c.plugin, "distribution": c.distribution} for c in components]
        print(json.dumps(rows, indent=2))
        return
    width = max((len(c.name) for c in components), default=0)
    print("\n".join(f"{c.name:<{width}}  {c.plugin}" for c in components) or f"no {kind} is registered")


def describe(component: Component) -> str:
    """A component as text: its docstring and a table of parameters."""
    lines = [f"{component.kind} {component.full_name}  ({component.distribution})"]
    target = component.resolve()
    family = getattr(target, "family", "")
    if family:
        lines.append(f"family: {family}")
    if type(target).__name__ == "KorniaComponent":
        given = ", ".join(f"{key}={value!r}" for key, value in target.parameters)
        lines.append(f"Kornia class {target.target}({given}); seeded per image, replayable per batch only")
        return "\n".join(lines)
    lines += ["", component.doc, "", "parameters:"]
    lines += [_parameter(p) for p in component.parameters()] or ["  none"]
    return "\n".join(lines)


def _parameter(parameter: Parameter) -> str:
    if parameter.from_data:
        default = "filled from the dataset"
    elif parameter.required:
        default = "required"
    else:
        default = f"default {parameter.default!r}"
    text = f"  {parameter.name}: {parameter.type_name}  ({default})"
    return f"{text}\n      {parameter.help}" if parameter.help else text
