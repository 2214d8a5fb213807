"""Which images a perturbation changes, and how it stands on Kornia's side: parameters that can be replayed."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.parameters import About
from lamella.contracts.streams import Streams, on_host
from lamella.errors import ContractError

STREAM = "stream"


class Drawing(Protocol):
    """What draws parameters, with probability ``p`` for each image."""

    p: float

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """The parameters of every image, (B, …) each."""


def gate(streams: Streams, p: float) -> Tensor:
    """(B,) bool: which images are perturbed; keyed, like everything else."""
    return streams.child("gate").uniform(0.0, 1.0) < p


def gated(
    batch: Batch, streams: Streams, p: float, change: Callable[[Batch, Streams, Tensor | None], Batch]
) -> Batch:
    """The batch with each image changed with probability ``p``.

    On a CPU the others are not even rendered. Elsewhere the host would have to wait to know which they are: all are
    rendered, and those that the gate leaves out keep what they had.

    Args:
        change: the images of a batch changed: every one, or those where its third argument, (B,) bool, is True.
    """
    if p == 0.0 or len(streams) == 0:
        return batch
    if p == 1.0:
        return change(batch, streams, None)
    through = gate(streams, p)
    if not on_host(through):
        return change(batch, streams, through)
    some = [place for place, open_ in enumerate(through.tolist()) if open_]
    if not some:
        return batch
    if len(some) == len(streams):
        return change(batch, streams, None)
    index = torch.tensor(some)
    before = batch.select(index)
    after = change(before, Streams(streams.ids[index]), None)
    new = {name: value for name, value in after._asdict().items() if value is not getattr(before, name)}
    return batch._replace(**{name: getattr(batch, name).index_copy(0, index, value) for name, value in new.items()})


def plain_parameters(module: Drawing, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Kornia's parameters for a bare image batch: stream ids from torch's generator, and all that follows."""
    streams = Streams.drawn(shape[0])
    about = About(shape[-2], shape[-1], torch.full((shape[0], 2), torch.nan), {})
    drawn = module.draw(streams.child("draw"), about)
    if taken := {STREAM, "batch_prob", "forward_input_shape"} & drawn.keys():
        raise ContractError(f"{type(module).__name__}.draw must not name a parameter {sorted(taken)[0]!r}")
    return {
        **drawn,
        STREAM: streams.ids,
        "batch_prob": gate(streams, module.p).to(torch.float32),
        "forward_input_shape": torch.tensor(shape, dtype=torch.long),
    }


def recalled(params: Mapping[str, Tensor], like: Tensor) -> tuple[dict[str, Tensor], Streams, About]:
    """What `plain_parameters` recorded, on the device of ``like`` (B, …, H, W)."""
    kept = {name: value.to(like.device) for name, value in params.items() if isinstance(value, Tensor)}
    streams = Streams(kept.pop(STREAM)).child("render")
    for name in ("batch_prob", "forward_input_shape"):
        kept.pop(name, None)
    pixel_nm = torch.full((like.shape[0], 2), torch.nan, device=like.device)
    return kept, streams, About(like.shape[-2], like.shape[-1], pixel_nm, {})


def check_probability(module: object, p: float) -> None:
    """Raise `ContractError` unless p lies in [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ContractError(f"{type(module).__name__}: p = {p:g} is no probability; it must lie within 0 and 1")
