"""Fills the generated tables of these pages from the code: python docs/generate.py [--check].

A table stands between ``<!-- generated: WHAT -->`` and ``<!-- end -->``. WHAT is ``keys``, ``study``, ``hooks``,
``commands``, ``contracts`` or ``components KIND``. Components are those of the plugins that the checkout's
registry.toml enables.
"""

import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lamella.testing
from lamella.cli.main import COMMANDS
from lamella.data.sources import SourceConfig
from lamella.engine.experiment import ExperimentFile, FitConfig, OptimizerConfig
from lamella.registry import hookspecs
from lamella.registry.component import Component, type_name
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry
from lamella.study.file import BeforeConfig, ColumnConfig, RowConfig, StudyFile
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

DOCS = Path(__file__).parent
_REGION = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}


def main() -> None:
    """Rewrite the pages, or with --check say which are not up to date and leave with 1."""
    stale = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8", newline="\n")
    print(", ".join(stale) or "every page is up to date")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


def filled(text: str) -> str:
    """A page with its generated tables as the code has them now."""
    return _REGION.sub(lambda region: f"{region[1]}\n{_content(region[2])}\n\n{region[3]}", text)


def _content(what: str) -> str:
    name, _, argument = what.partition(" ")
    makers: dict[str, Callable[..., str]] = {
        "keys": keys, "study": study, "hooks": hooks, "commands": commands, "contracts": contracts,
        "components": components,
    }  # fmt: skip
    return makers[name](*([argument] if argument else []))


def keys() -> str:
    """Every key of an experiment file."""
    parts = [
        ("Top level", ExperimentFile),
        ("`[data.ROLE]`", SourceConfig),
        ("`[fit]`", FitConfig),
        ("`[fit.optimizer]`", OptimizerConfig),
    ]
    return "\n\n".join(f"### {title}\n\n{_fields(model)}" for title, model in parts)


def _fields(model: type[BaseModel]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        kind = type_name(field.annotation)
        rows.append([f"`{name}`", _type(kind), default, _help(field.description or "", field.metadata)])
    return _table(["key", "type", "default", "meaning"], rows)


def study() -> str:
    """Every key of a study file."""
    parts: list[tuple[str, type[BaseModel]]] = [
        ("Top level", StudyFile),
        ("`[rows.NAME]`", RowConfig),
        ("`[columns.NAME]`", ColumnConfig),
        ("`[before.NAME]`", BeforeConfig),
    ]
    return "\n\n".join(f"### {title}\n\n{_fields(model)}" for title, model in parts)


def hooks() -> str:
    """Every hook of a plugin."""
    found = [(name, hook) for name, hook in vars(hookspecs).items() if name.startswith("lamella_")]
    kinds = {hook: kind for kind, hook in hookspecs.KINDS.items()}
    rows = [[f"`{name}`", kinds.get(name, "—"), _first(hook.__doc__)] for name, hook in found]
    return _table(["hook", "kind", "returns"], rows)


def commands() -> str:
    """Every command, the core's and those of plugins."""
    rows = [[f"`lamella {name}`", "core", text] for name, (text, _) in COMMANDS.items()]
    foreign = sorted((plugin, name, text) for name, (text, _, plugin) in _registry().commands.items())
    rows += [[f"`lamella {name}`", plugin, text] for plugin, name, text in foreign]
    return _table(["command", "of", "what it does"], rows)


def _registry() -> Registry:
    """The plugins that the checkout enables."""
    return Registry.load(RegistryFile.read(DOCS.parent / "registry.toml"))


def contracts() -> str:
    """Every contract of the testing kit."""
    names = [name for name in lamella.testing.__all__ if name.endswith("_contract")]
    rows = []
    for name in sorted(names):
        contract = getattr(lamella.testing, name)
        rows.append([f"`{name}{_call(contract)}`", _first(contract.__doc__)])
    return _table(["contract", "what it is"], rows)


def _call(function: Callable[..., Any]) -> str:
    parts, star = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind == parameter.KEYWORD_ONLY and not star:
            parts, star = [*parts, "*"], True
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parts.append(f"{parameter.name}{default}")
    return f"({', '.join(parts)})"


def components(kind: str) -> str:
    """Every registered component of a kind with its parameters."""
    registry = _registry()
    found = registry.components(kind)
    if not found:
        return f"No plugin of this checkout registers a {kind}."
    rows = [[f"`{c.name}`", c.plugin, _family(c), _first(c.doc)] for c in found]
    if not any(row[2] for row in rows):
        rows = [[row[0], row[1], row[3]] for row in rows]
    head = ["name", "plugin", "family", "what it does"] if len(rows[0]) == 4 else ["name", "plugin", "what it does"]
    return "\n\n".join([_table(head, rows), *(_parameters(c) for c in found)])


def _family(component: Component) -> str:
    return str(getattr(component.resolve(), "family", ""))


def _parameters(component: Component) -> str:
    rows = []
    for p in component.parameters():
        default = "from the data" if p.from_data else "required" if p.required else _value(p.default)
        metadata = getattr(p.annotation, "__metadata__", ())
        bounds = [item for field in metadata if isinstance(field, FieldInfo) for item in field.metadata]
        meaning = "; ".join(part for part in (_help(p.help, bounds), *_within(metadata)) if part)
        rows.append([f"`{p.name}`", _type(p.type_name), default, meaning])
    title = f"### {component.name}"
    return f"{title}\n\n{_table(['parameter', 'type', 'default', 'meaning'], rows) if rows else 'No parameters.'}"


def _within(metadata: Sequence[Any]) -> list[str]:
    """What `lamella.within` says in an annotation."""
    checks = [item.func for item in metadata if isinstance(item, AfterValidator)]
    ends = [inspect.getclosurevars(check).nonlocals for check in checks if check.__qualname__.startswith("within.")]
    return [f"within {end['low']:g} and {end['high']:g}" for end in ends]


def _first(doc: str | None) -> str:
    """The first sentence or paragraph of a docstring, in Markdown."""
    paragraph = " ".join(inspect.cleandoc(doc or "").split("\n\n")[0].split())
    return paragraph.replace("``", "`")


def _help(text: str, metadata: Sequence[Any]) -> str:
    bounds = [
        f"{sign} {getattr(item, key):g}" for item in metadata for key, sign in _BOUNDS.items() if hasattr(item, key)
    ]
    return "; ".join(part for part in (text, ", ".join(bounds)) if part)


def _type(name: str) -> str:
    return f"`{name}`" if name else ""


def _value(value: Any) -> str:
    """A default as TOML would have it; — for nothing."""
    if value is None or isinstance(value, BaseModel) or value in ({}, [], "") or _built(value):
        return "—"
    return f"`{_toml(value)}`"


def _built(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, BaseModel) for item in value.values())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return f"{value:g}" if isinstance(value, float) and not float(value).is_integer() else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
