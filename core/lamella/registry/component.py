"""A component: a name, a target, and the parameters its signature declares.

The signature is the schema: pydantic validates the constructor's typed parameters, and what ``lamella show``,
the docs and the JSON schema say comes from it. A parameter annotated with a contract takes a spec of that kind.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import types
import typing
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Annotated, Any, NotRequired, Union

from typing_extensions import TypedDict

from lamella.errors import RegistryError

Planner = Callable[[str, Any, str], Any]
"""Turns (kind or "chain", value, where) into a plan; the registry's side of a nested spec."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component, as the signature has it."""

    name: str
    annotation: Any
    default: Any
    required: bool
    from_data: bool
    at_start: bool
    needs_start: bool
    help: str

    @property
    def type_name(self) -> str:
        """The annotation as a person would write it."""
        return type_name(self.annotation)


@dataclass
class Component:
    """Something registered: built by name, with parameters checked against its signature."""

    kind: str
    name: str
    plugin: str
    distribution: str
    target: Any

    def resolve(self) -> Any:
        """The class or function itself, imported now if need be; raises `RegistryError` naming the plugin."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            with redirect_stdout(sys.stderr):  # what a plugin prints is no part of a command's JSON
                self.target = getattr(import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise RegistryError(
                f"{self.kind} {self.name!r} of plugin {self.plugin!r} ({self.distribution}) cannot be imported from "
                f"{self.target!r}: {type(error).__name__}: {error}"
            ) from error
        return self.target

    @property
    def full_name(self) -> str:
        """``plugin:name``, which is unique."""
        return f"{self.plugin}:{self.name}"

    @property
    def doc(self) -> str:
        """The target's docstring, or an empty string."""
        return inspect.getdoc(self.resolve()) or ""

    def parameters(self) -> list[Parameter]:
        """The parameters a spec may give; raises `RegistryError` for a signature that cannot be a schema."""
        target = self.resolve()
        if _is_kornia(target):
            return []
        try:
            signature = inspect.signature(target)
            function = target.__init__ if inspect.isclass(target) else target
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception as error:  # an annotation in quotes is evaluated, and may raise anything
            raise self._bad(f"its signature cannot be read: {type(error).__name__}: {error}") from error
        keyword_only = self.kind == "loss" and not inspect.isclass(target)
        found = []
        for name, parameter in signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise self._bad(f"it takes {parameter}; wrap it in a factory with typed parameters")
            if keyword_only and parameter.kind != parameter.KEYWORD_ONLY:
                continue
            if name not in hints:
                raise self._bad(f"parameter {name!r} has no type annotation")
            found.append(_parameter(name, hints[name], parameter.default))
        return found

    def validate(self, values: dict[str, Any], planner: Planner, where: str) -> dict[str, Any]:
        """The parameters, checked; nested specs become plans. Raises `RegistryError` in one sentence."""
        import pydantic

        parameters = self.parameters()
        fields = {
            p.name: NotRequired[a] if not p.required or p.from_data else a  # type: ignore[valid-type]
            for p in parameters
            for a in [_with_specs(p.annotation, planner, f"{where}.{p.name}")]
        }
        schema = TypedDict("schema", fields)  # type: ignore[misc]
        schema.__pydantic_config__ = pydantic.ConfigDict(  # type: ignore[attr-defined]
            extra="forbid", arbitrary_types_allowed=True
        )
        try:
            return dict(pydantic.TypeAdapter(schema).validate_python(values))
        except pydantic.ValidationError as error:
            raise RegistryError(f"{where}: {self.kind} {self.name!r}: {self._explain(error)}") from None

    def json_schema(self) -> dict[str, Any]:
        """The parameters as a JSON schema."""
        import pydantic

        properties, required = {}, []
        for parameter in self.parameters():
            annotation = _with_specs(parameter.annotation, lambda kind, value, where: value, "")
            try:
                entry = pydantic.TypeAdapter(
                    annotation, config=pydantic.ConfigDict(arbitrary_types_allowed=True)
                ).json_schema()
            except pydantic.errors.PydanticInvalidForJsonSchema:
                entry = {"type": parameter.type_name}
            if parameter.help:
                entry["description"] = parameter.help
            if parameter.from_data:
                entry["fromData"] = True
            elif parameter.required:
                required.append(parameter.name)
            else:
                entry["default"] = parameter.default
            properties[parameter.name] = entry
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def make(self, values: dict[str, Any]) -> Any:
        """The object itself from parameters that are validated and built."""
        target = self.resolve()
        if self.kind == "loss" and not inspect.isclass(target):
            return partial(target, **values)
        return target(**values)

    def _explain(self, error: Any) -> str:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        names = [parameter.name for parameter in self.parameters()]
        if first["type"] == "extra_forbidden":
            close = difflib.get_close_matches(path, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return f"it has no parameter {path!r}{hint} (it takes {', '.join(names) or 'none'})"
        if first["type"] == "missing":
            return f"parameter {path!r} must be given"
        message = first["msg"].removeprefix("Value error, ")
        return f"{path} = {first['input']!r}: {message[0].lower()}{message[1:]}"

    def _bad(self, reason: str) -> RegistryError:
        return RegistryError(f"{self.kind} {self.name!r} of plugin {self.plugin!r} ({self.distribution}): {reason}")


def _is_kornia(target: Any) -> bool:
    from lamella.contracts.kornia import KorniaComponent

    return isinstance(target, KorniaComponent)


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    from lamella.contracts.model import AtStart, FromData, NeedsStart

    metadata = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()
    return Parameter(
        name=name,
        annotation=annotation,
        default=None if default is inspect.Parameter.empty else default,
        required=default is inspect.Parameter.empty,
        from_data=_marked(metadata, FromData),
        at_start=_marked(metadata, AtStart),
        needs_start=_marked(metadata, NeedsStart),
        help=next((item.description for item in metadata if getattr(item, "description", None)), ""),
    )


def _marked(metadata: tuple[Any, ...], marker: type) -> bool:
    return any(item is marker or isinstance(item, marker) for item in metadata)


def contract_kinds() -> dict[Any, str]:
    """Which annotation takes a spec of which kind."""
    from lamella.contracts import chain, data, model, perturbation, warp

    return {
        perturbation.Perturbation: "perturbation",
        warp.Warp: "perturbation",
        chain.Chain: "chain",
        model.SegmentationBackbone: "backbone",
        model.PatchEncoder: "backbone",
        model.PromptableBackbone: "backbone",
        model.Loss: "loss",
        model.Trainer: "trainer",
        data.Modality: "modality",
    }


def _with_specs(annotation: Any, planner: Planner, where: str) -> Any:
    """The annotation with every contract in it replaced by a spec of its kind."""
    import pydantic

    kind = contract_kinds().get(annotation) if isinstance(annotation, type) else None
    if kind is not None:
        return Annotated[Any, pydantic.BeforeValidator(lambda value: planner(kind, value, where))]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return Annotated[(_with_specs(arguments[0], planner, where), *arguments[1:])]  # type: ignore[return-value]
    if origin is Union or origin is types.UnionType:
        return Union[tuple(_with_specs(argument, planner, where) for argument in arguments)]  # noqa: UP007
    if origin in (list, tuple, dict, set, frozenset):
        return origin[tuple(a if a is Ellipsis else _with_specs(a, planner, where) for a in arguments)]
    return annotation


def type_name(annotation: Any) -> str:
    """An annotation as a person would write it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Union or origin is types.UnionType:
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if arguments and origin is not None:
        inner = ", ".join("…" if a is Ellipsis else type_name(a) for a in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    if annotation is type(None):
        return "None"
    return getattr(annotation, "__name__", str(annotation))
