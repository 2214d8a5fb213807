"""Finding plugins and loading each of them alone, so that a broken one takes nothing else down.

Light: no torch, no pydantic. Reads ``registry.toml``.
"""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from lamella.errors import ConfigError
from lamella.registry import hookspecs
from lamella.registry.tomlfile import read_toml

_TABLES = {"plugins": {"enable", "disable", "local", "path"}, "alias": None, "sets": None}


@dataclass
class Plugin:
    """One plugin as it was found: where from, what it offers, or why it could not be used."""

    name: str
    distribution: str
    version: str
    target: str
    status: str = "loaded"
    """``loaded``, ``disabled`` or ``failed``."""
    error: str | None = None
    offers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each of its hooks returned, by hook name."""


@dataclass(frozen=True)
class RegistryFile:
    """``registry.toml`` as it was read; empty where there is none."""

    path: Path | None = None
    enable: tuple[str, ...] = ("*",)
    disable: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    alias: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def find(cls) -> "RegistryFile":
        """The file ``LAMELLA_REGISTRY`` names, else ``registry.toml`` in the working directory, else none.

        Never one of a parent folder: it can load code.
        """
        named = os.environ.get("LAMELLA_REGISTRY")
        if named:
            return cls.read(Path(named))
        here = Path("registry.toml")
        return cls.read(here) if here.is_file() else cls()

    @classmethod
    def read(cls, path: Path) -> "RegistryFile":
        """Read and check a registry file; raises `ConfigError` naming the key at fault."""
        tables = read_toml(path, "registry file")
        for name, table in tables.items():
            if name not in _TABLES:
                raise ConfigError(f"{path}: unknown table [{name}]; there are [plugins], [alias] and [sets.NAME]")
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: {name} must be a table, not {table!r}")
            allowed = _TABLES[name]
            for key in table:
                if allowed is not None and key not in allowed:
                    raise ConfigError(f"{path}: [{name}] has no key {key!r}; it takes {', '.join(sorted(allowed))}")
        plugins = tables.get("plugins", {})
        return cls(
            path=path,
            enable=_names(path, plugins, "enable", ("*",)),
            disable=_names(path, plugins, "disable", ()),
            local=_names(path, plugins, "local", ()),
            folders=tuple((path.parent / folder).resolve() for folder in _names(path, plugins, "path", ())),
            alias=_aliases(path, tables.get("alias", {})),
            sets={name: _chain(path, name, table) for name, table in tables.get("sets", {}).items()},
        )


def _names(path: Path, table: dict[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = table.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path}: [plugins] {key} must be a list of strings, not {value!r}")
    return tuple(value)


def _aliases(path: Path, table: dict[str, Any]) -> dict[str, str]:
    for key, value in table.items():
        kind, _, name = key.partition(":")
        if kind not in hookspecs.KINDS or not name:
            kinds = ", ".join(hookspecs.KINDS)
            raise ConfigError(f"{path}: alias {key!r} must read 'KIND:NAME' with a kind of {kinds}")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: alias {key!r} must name a component, not {value!r}")
    return table


def _chain(path: Path, name: str, table: Any) -> list[dict[str, Any]]:
    chain = table.get("chain") if isinstance(table, dict) else None
    if not isinstance(chain, list) or set(table) != {"chain"}:
        raise ConfigError(f"{path}: [sets.{name}] must hold one key, chain = [{{ name = … }}, …]")
    return chain


def discover(file: RegistryFile) -> list[Plugin]:
    """Every installed or local plugin, loaded alone; failures are recorded, never raised."""
    manager = pluggy.PluginManager("lamella")
    manager.add_hookspecs(hookspecs)
    for folder in file.folders:
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    plugins: list[Plugin] = []
    for plugin in _found(file):
        taken = {other.name: other.distribution for other in plugins if other.status == "loaded"}
        plugins.append(_load(manager, plugin, file, taken))
    return plugins


def _installed() -> list[Plugin]:
    """The plugins of installed distributions, by name; a distribution that cannot be read is one that failed.

    Where a distribution is there twice, the first on the path counts, as for imports.
    """
    plugins, seen = [], set()
    for distribution in importlib.metadata.distributions():
        try:
            entries = distribution.entry_points.select(group="lamella")
        except Exception as error:  # whatever a damaged file leads to
            name, version = _named(distribution)
            told = f"the entry points of {name} in {distribution.locate_file('')} cannot be read: {_sentence(error)}"
            plugins.append(Plugin(name, name, version, "", "failed", f"{told}; install it anew, or remove it"))
            continue
        if not entries:
            continue
        name, version = _named(distribution)
        if name not in seen:
            plugins += [Plugin(entry.name, name, version, entry.value) for entry in entries]
        if name != "?":
            seen.add(name)
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution))


def _named(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version of a distribution; "?" where its metadata do not say."""
    try:
        return distribution.name or "?", distribution.version or "?"
    except Exception:
        return "?", "?"


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _found(file: RegistryFile) -> Iterator[Plugin]:
    found = set()
    for plugin in _installed():
        yield plugin
        found.add(plugin.name)
    for module in file.local:
        yield Plugin(module, f"local ({file.path})", "-", module)
        found.add(module)
    for name in file.enable:
        if name not in found and not any(sign in name for sign in "*?["):
            error = f"{file.path} enables it, and it is not installed"
            yield Plugin(name, "?", "?", "", status="failed", error=error)


def _load(manager: pluggy.PluginManager, plugin: Plugin, file: RegistryFile, taken: Mapping[str, str]) -> Plugin:
    local = plugin.target in file.local
    wanted = local or any(fnmatchcase(plugin.name, pattern) for pattern in file.enable)
    if not wanted or any(fnmatchcase(plugin.name, pattern) for pattern in file.disable):
        plugin.status = "disabled"
        return plugin
    if plugin.status == "failed":
        return plugin
    try:
        if plugin.name in taken:
            raise ConfigError(f"{taken[plugin.name]} has a plugin of this name already, which is used; remove one")
        with redirect_stdout(sys.stderr):  # what a plugin prints is no part of a command's JSON
            module = importlib.import_module(plugin.target.partition(":")[0])
            _check_api(module)
            manager.register(module, name=f"{plugin.name} ({plugin.distribution})")
            _check_hooks(manager, module)
            plugin.offers = _call(manager, module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the program
        plugin.status = "failed"
        plugin.error = _sentence(error)
    return plugin


def _check_api(module: ModuleType) -> None:
    version = getattr(module, "LAMELLA_API", None)
    if version is None:
        raise ConfigError(f"it does not say LAMELLA_API = {hookspecs.API}, the version of the hooks it was written for")
    if version != hookspecs.API:
        raise ConfigError(f"it was written for version {version} of the hooks; this Lamella has {hookspecs.API}")


def _check_hooks(manager: pluggy.PluginManager, module: ModuleType) -> None:
    for caller in manager.get_hookcallers(module) or []:
        if not caller.has_spec():
            manager.unregister(module)
            known = ", ".join(sorted([*hookspecs.KINDS.values(), "lamella_sets", "lamella_commands"]))
            raise ConfigError(f"there is no hook {caller.name!r}; the hooks are {known}")


def _call(manager: pluggy.PluginManager, module: ModuleType) -> dict[str, dict[str, Any]]:
    offers: dict[str, dict[str, Any]] = {}
    for caller in manager.get_hookcallers(module) or []:
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not module:
                continue
            offers[caller.name] = _checked(caller.name, implementation.function())
    return offers


def _checked(hook: str, value: Any) -> dict[str, Any]:
    """What a hook returned, if it is what the registry can use; raises `ConfigError`."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{hook} must return a dict of names, not {value!r}")
    for name, item in value.items():
        if hook == "lamella_sets":
            if not isinstance(item, list):
                raise ConfigError(f"{hook}: the set {name!r} must be a list of specs, not {item!r}")
        elif hook == "lamella_commands":
            if not (isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)):
                raise ConfigError(f'{hook}: the command {name!r} must be (help, "module:function"), not {item!r}')
        elif not (all(item.partition(":")) if isinstance(item, str) else callable(item)):
            raise ConfigError(
                f"{hook}: the target of {name!r} is {item!r}; "
                'it must be a class, a function or a string "package.module:Name"'
            )
    return value
