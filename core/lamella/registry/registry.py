"""All components by kind and name, perturbation sets, and how a spec is checked and built."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lamella.errors import RegistryError
from lamella.registry.component import Component, Parameter
from lamella.registry.hookspecs import KINDS, check_kind
from lamella.registry.plugins import Plugin, RegistryFile, discover


@dataclass(frozen=True)
class Plan:
    """A spec that has been checked, and not been built: a component with its parameters."""

    component: Component
    parameters: Mapping[str, Any]

    def build(
        self, *, seed: int = 0, data: Mapping[str, Any] | None = None, path: str = "", opened: bool = False
    ) -> Any:
        """The object, its parts first, each under torch's generator seeded by (seed, where it stands).

        ``data`` fills the parameters marked `FromData`. With ``opened``, weights follow from elsewhere, and the
        parameters marked `AtStart` are left out; one that has no default is None.
        """
        import torch

        path = f"{path}/{self.component.kind} {self.component.name}"
        parameters = self.component.parameters()
        left_out = {parameter.name: parameter.required for parameter in parameters if opened and parameter.at_start}
        values = {
            name: _built(value, seed, data, f"{path}/{name}", opened)
            for name, value in self.parameters.items()
            if name not in left_out
        }
        values |= {name: None for name, required in left_out.items() if required}
        values |= self._from_data(parameters, values, {} if data is None else data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(seed, path))
            return self.component.make(values)

    def _from_data(
        self, parameters: Sequence[Parameter], values: Mapping[str, Any], data: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The parameters that a dataset fills; raises `RegistryError` where one is missing, or a trainer's another.

        What a trainer is made of may be given others: a backbone more channels than images have, for what it adds.
        """
        found, what = {}, f"{self.component.kind} {self.component.name!r}"
        for parameter in parameters:
            name = parameter.name
            if not parameter.from_data:
                continue
            if name in data and name not in values:
                found[name] = data[name]
            elif parameter.required and name not in values:
                raise RegistryError(f"{what}: {name!r} is filled from the dataset; give it when you build by hand")
            if self.component.kind == "trainer" and name in data and values.get(name, data[name]) != data[name]:
                raise RegistryError(
                    f"{what}: {name} = {values[name]!r}, where the data have {data[name]!r}; leave it out, they fill it"
                )
        return found

    def needs(self) -> set[str]:
        """The parameters that a dataset has to fill, here and in what it is built from."""
        marked = {parameter.name for parameter in self.component.parameters() if parameter.from_data}
        return (marked - self.parameters.keys()).union(*(_needs(value) for value in self.parameters.values()))

    def spec(self) -> dict[str, Any]:
        """The plan as a spec again: nested names and sets expanded, defaults written out.

        So it means the same to a later version with other defaults. A default of None, and one that no file can
        hold, stays unsaid.
        """
        defaults = {
            parameter.name: parameter.default
            for parameter in self.component.parameters()
            if not parameter.from_data and _in_files(parameter.default)
        }
        return {
            "name": self.component.full_name,
            **{name: _spec(value) for name, value in {**defaults, **self.parameters}.items()},
        }


@dataclass(frozen=True)
class ChainPlan:
    """A perturbation set that has been checked: plans in order."""

    plans: tuple[Plan, ...]

    def build(
        self, *, seed: int = 0, data: Mapping[str, Any] | None = None, path: str = "", opened: bool = False
    ) -> Any:
        """The `Chain`."""
        from lamella.contracts.chain import Chain

        return Chain(
            [plan.build(seed=seed, data=data, path=f"{path}/{i}", opened=opened) for i, plan in enumerate(self.plans)]
        )

    def spec(self) -> list[dict[str, Any]]:
        """The set as a list of specs."""
        return [plan.spec() for plan in self.plans]


def _built(value: Any, seed: int, data: Mapping[str, Any] | None, path: str, opened: bool) -> Any:
    if isinstance(value, Plan | ChainPlan):
        return value.build(seed=seed, data=data, path=path, opened=opened)
    if isinstance(value, list | tuple):
        return type(value)(_built(item, seed, data, f"{path}/{i}", opened) for i, item in enumerate(value))
    if isinstance(value, dict):
        return {key: _built(item, seed, data, f"{path}/{key}", opened) for key, item in value.items()}
    return value


def _in_files(value: Any) -> bool:
    """Whether TOML has such a value."""
    if isinstance(value, list | tuple):
        return all(_in_files(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _in_files(item) for key, item in value.items())
    return isinstance(value, str | bool | int | float)


def _needs(value: Any) -> set[str]:
    if isinstance(value, Plan):
        return value.needs()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return set().union(*(_needs(part) for part in parts))


def _spec(value: Any) -> Any:
    if isinstance(value, Plan | ChainPlan):
        return value.spec()
    if isinstance(value, list | tuple):
        return [_spec(item) for item in value]
    if isinstance(value, dict):
        return {key: _spec(item) for key, item in value.items()}
    return value


def _seed(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}{path}".encode(), digest_size=7).digest(), "little")


@dataclass
class Registry:
    """What the enabled plugins offer."""

    file: RegistryFile
    plugins: list[Plugin]
    commands: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Commands: (help, target, plugin) by name."""
    sets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _components: dict[str, dict[str, list[Component]]] = field(default_factory=dict)
    _set_claims: dict[str, list[str]] = field(default_factory=dict)
    """The plugins that ship a set of this name."""

    @classmethod
    def load(cls, file: RegistryFile | None = None) -> Registry:
        """Discover the plugins of ``file``, by default the registry file in force."""
        file = RegistryFile.find() if file is None else file
        registry = cls(file, discover(file), _components={kind: {} for kind in KINDS})
        for plugin in registry.plugins:
            registry._take(plugin)
        registry.sets.update(file.sets)
        return registry

    def _take(self, plugin: Plugin) -> None:
        for kind, hook in KINDS.items():
            for name, target in plugin.offers.get(hook, {}).items():
                component = Component(kind, name, plugin.name, plugin.distribution, target)
                self._components[kind].setdefault(name, []).append(component)
        for name, chain in plugin.offers.get("lamella_sets", {}).items():
            self.sets[name] = chain
            self._set_claims.setdefault(name, []).append(plugin.name)
        for name, (help_line, target) in plugin.offers.get("lamella_commands", {}).items():
            self.commands.setdefault(name, (help_line, target, plugin.name))

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted; a name that two plugins claim is listed once."""
        check_kind(kind)
        aliases = {key.partition(":")[2] for key in self.file.alias if key.startswith(f"{kind}:")}
        return sorted({*self._components[kind], *aliases})

    def components(self, kind: str) -> list[Component]:
        """Every component of a kind, by name."""
        check_kind(kind)
        return [component for name in sorted(self._components[kind]) for component in self._components[kind][name]]

    def get(self, kind: str, name: str) -> Component:
        """The component of that name: ``name``, ``plugin:name`` or an alias.

        Raises:
            RegistryError: unknown or ambiguous name, or a cycle of aliases.
        """
        check_kind(kind)
        trail = [name]
        while (target := self.file.alias.get(f"{kind}:{trail[-1]}")) is not None:
            if target in trail:
                circle = " → ".join([*trail, target])
                raise RegistryError(f"{self.file.path}: the aliases {circle} go round in a circle")
            trail.append(target)
        plugin, _, short = trail[-1].rpartition(":")
        found = [c for c in self._components[kind].get(short, []) if plugin in ("", c.plugin)]
        if len(found) > 1:
            claims = " and ".join(f"{c.full_name} ({c.distribution})" for c in found)
            raise RegistryError(
                f"{kind} {short!r} is claimed twice, by {claims}; write the full name, or settle it in registry.toml "
                f'with [alias] "{kind}:{short}" = "{found[0].full_name}"'
            )
        if not found:
            raise self._unknown(kind, trail[-1])
        return found[0]

    def plan(self, kind: str, value: Any, where: str) -> Any:
        """A spec, checked through and through without building it; an object that is no spec is passed on.

        Args:
            kind: a kind, or ``"chain"`` for a perturbation set (a set's name or a list of specs).
            value: a name, or a table with a ``name``.
            where: what to call the place in an error message.
        """
        if kind == "chain":
            return self._plan_chain(value, where)
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            if callable(value) or isinstance(value, Plan):
                return value
            raise RegistryError(f"{where}: {value!r} is no {kind}; write its name, or a table {{ name = …, … }}")
        if not isinstance(value.get("name"), str):
            example = next(iter(self.names(kind)), "…")
            raise RegistryError(f'{where}: a {kind} needs a name, as in {{ name = "{example}" }}')
        try:
            component = self.get(kind, value["name"])
        except RegistryError as error:
            raise RegistryError(f"{where}: {error}") from None
        parameters = {key: item for key, item in value.items() if key != "name"}
        plan = Plan(component, component.validate(parameters, self.plan, where))
        for parameter in component.parameters():
            if parameter.needs_start and isinstance(part := plan.parameters.get(parameter.name), Plan):
                _check_start(component, part, f"{where}.{parameter.name}")
        return plan

    def _plan_chain(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            if value not in self.sets:
                known = ", ".join(sorted(self.sets)) or "none"
                raise RegistryError(f"{where}: there is no perturbation set {value!r}; the sets are {known}")
            claims = self._set_claims.get(value, [])
            if len(claims) > 1 and value not in self.file.sets:
                raise RegistryError(
                    f"{where}: perturbation set {value!r} is claimed twice, by {' and '.join(claims)}; "
                    f"settle it in registry.toml with a [sets.{value}] of your own"
                )
            where, value = f"{where} (set {value!r})", self.sets[value]
        if not isinstance(value, list | tuple):
            if callable(value) or isinstance(value, ChainPlan):
                return value
            raise RegistryError(f"{where}: a perturbation set is a set's name or a list of specs, not {value!r}")
        return ChainPlan(tuple(self.plan("perturbation", item, f"{where}[{i}]") for i, item in enumerate(value)))

    def _unknown(self, kind: str, name: str) -> RegistryError:
        names = self.names(kind)
        close = difflib.get_close_matches(name.rpartition(":")[2], names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        broken = [plugin.name for plugin in self.plugins if plugin.status == "failed"]
        note = f" (plugin {', '.join(broken)} could not be loaded: see 'lamella plugins')" if broken else ""
        known = ", ".join(names) or "none"
        hint = hint or "."
        return RegistryError(f"there is no {kind} {name!r}{hint} The names are {known}{note}")


def _check_start(component: Component, part: Plan, where: str) -> None:
    """Raise `RegistryError` where a part would begin at random that ``component`` needs to begin with something."""
    starts = [parameter.name for parameter in part.component.parameters() if parameter.at_start]
    if not any(part.parameters.get(name) is not None for name in starts):
        how = f"give {' or '.join(starts)}" if starts else "it has nothing to start from, so take another"
        raise RegistryError(
            f"{where}: {component.name!r} goes on from where another training ended, and {part.component.name!r} would "
            f"begin at random; {how}"
        )


@cache
def _loaded(path: Path | None, folder: Path) -> Registry:
    return Registry.load()


def current() -> Registry:
    """The registry in force, loaded once per registry file and working directory."""
    file = RegistryFile.find()
    return _loaded(file.path, Path.cwd())


def names(kind: str) -> list[str]:
    """The registered names of a kind.

    >>> import lamella
    >>> "shot-noise" in lamella.names("perturbation")
    True
    """
    return current().names(kind)


def build(kind: str, name: str, /, **parameters: Any) -> Any:
    """Build a registered component; its parameters are checked against its signature.

    >>> import lamella
    >>> lamella.build("perturbation", "shot-noise", dose=(10, 500)).dose
    (10.0, 500.0)
    """
    return current().plan(kind, {"name": name, **parameters}, f"{kind} {name!r}").build()
