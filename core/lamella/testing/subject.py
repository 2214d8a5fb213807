"""The component under test: how it is built and called, whatever it is."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.kornia import KorniaComponent
from lamella.contracts.streams import Streams
from lamella.contracts.warp import Warp
from lamella.errors import LamellaError
from lamella.testing.cases import Case, streams_of
from lamella.testing.promise import BrokenPromise, difference, name_of

NO_METADATA = "do without metadata, with about.value(name, default)"


@dataclass(frozen=True)
class Subject:
    """A perturbation, however it is given: a class, a factory or a ``lamella.kornia(...)`` component."""

    component: Any
    meta: Mapping[str, float] | None
    tolerance: float

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return name_of(self.component)

    def broken(self, promise: str, seen: str, case: Case | str = "") -> BrokenPromise:
        """The exception for a promise that this subject broke."""
        return BrokenPromise(self.name, promise, seen, case)

    def build(self) -> Any:
        """It with its defaults."""
        try:
            return self.component()
        except TypeError as error:
            raise self.broken("build without arguments", f"it raises TypeError: {error}") from error

    def build_with(self, **parameters: Any) -> Any:
        """It with these constructor parameters."""
        component: Callable[..., Any] = self.component
        if isinstance(component, KorniaComponent):
            return KorniaComponent(component.target, (*component.parameters, *parameters.items()))()
        return component(**parameters)

    def build_at(self, p: float) -> Any:
        """It with the gate ``p``, through the constructor where that takes it."""
        if self.takes("p"):
            try:
                return self.build_with(p=p)
            except (TypeError, LamellaError) as error:
                if "'p'" not in str(error):  # takes **anything and passes it on to what has no p
                    raise
        built = self.build()
        (built.augmentation if hasattr(built, "augmentation") else built).p = p
        return built

    def takes(self, name: str) -> bool:
        """Whether it can be built with a parameter of this name."""
        if isinstance(self.component, KorniaComponent):
            return True
        parameters = inspect.signature(self.component).parameters
        return name in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())

    def batch(self, case: Case) -> Batch:
        """The batch of a case, with the metadata this subject is tried with."""
        return case.batch(self.meta)

    def perturb(self, built: Any, batch: Batch, streams: Streams | None = None) -> Batch:
        """What it makes of a batch, by default under the streams that belong to it."""
        if not callable(getattr(built, "perturb", None)):
            raise self.broken("have perturb(batch, streams) -> Batch", f"{type(built).__name__} has none")
        try:
            result = built.perturb(batch, streams_of(batch) if streams is None else streams)
        except KeyError as error:
            raise self.broken(NO_METADATA, f"KeyError: {error}") from error
        if not isinstance(result, Batch):
            raise self.broken(
                "return the Batch it was given with fields replaced", f"it returned {type(result).__name__}"
            )
        return result

    def changed(self, found: Batch, wanted: Batch, *, exact: bool = True) -> str:
        """In which field two batches differ, and how; empty where they do not."""
        coarse = 1 / 128 if found.image.element_size() < 4 else self.tolerance
        for name in Batch._fields[:-1]:
            tolerance = coarse if name == "image" and not exact else 0.0
            if gap := difference(getattr(found, name), getattr(wanted, name), tolerance=tolerance):
                return f"{name}: {gap}"
        for name in found.meta.keys() | wanted.meta.keys():
            if gap := difference(found.meta.get(name), wanted.meta.get(name)):
                return f"meta[{name!r}]: {gap}"
        return ""

    def moves(self, built: Any) -> bool:
        """Whether it moves pixels, so that labels have to follow."""
        return isinstance(built, Warp) or bool(getattr(built, "moves", False))


def copied(batch: Batch) -> Batch:
    """A batch that shares no memory with ``batch``."""

    def clone(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.clone()

    fields = {name: clone(getattr(batch, name)) for name in Batch._fields if name != "meta"}
    return batch._replace(**fields, meta={name: value.clone() for name, value in batch.meta.items()})
