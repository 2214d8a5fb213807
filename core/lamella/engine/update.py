"""One optimizer step: parts, processes, clipping, and leaving out what is not finite. No host sync."""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.model import Step
from lamella.contracts.processes import summed
from lamella.engine.schedule import lr_factor
from lamella.engine.session import Session


def update(session: Session, batches: Mapping[str, Any], number: int) -> tuple[dict[str, Tensor], Tensor]:
    """Do step ``number`` (from 0) on this process's batches, already on its device.

    Returns:
        The named losses of the whole step, detached, and whether the step was finite (() bool); if not, the
        weights, and what a forward pass records (a batch norm's statistics, say), stay as they were.
    """
    config, accelerator = session.experiment.fit, session.accelerator
    factor = lr_factor(number, config)
    for group in session.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    parts = _parts(batches, config.accumulate)
    step = Step(number, config.steps, session.experiment.seed, len(parts))
    if len(parts) > 1:
        step = step._replace(counts=_counts(session, parts, step))
    recorded = _recording(session)
    before = _flat(recorded) if recorded else None
    losses: dict[str, Tensor] = {}
    for place, part in enumerate(parts):
        torch.manual_seed(step_seed(session.experiment.seed, number, accelerator.process_index, place))
        last = place == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(session.wrapped):
            named = session.wrapped(part, step)
            accelerator.backward(named["loss"])
        for name, value in named.items():
            losses[name] = losses[name] + value.detach() if name in losses else value.detach()
    finite = _apply(session, losses["loss"])
    if before is not None:
        _fill(recorded, torch.where(finite, _flat(recorded), before))
    session.trainer.after_step()
    if session.ema is not None:
        session.ema.update(number)
    return losses, finite


def _recording(session: Session) -> list[Tensor]:
    """The buffers that a forward pass may record into: those of modules in train mode."""
    modules = [module for module in session.trainer.modules() if module.training]
    return [buffer for one in modules for buffer in one.buffers(recurse=False) if buffer.is_floating_point()]


def _flat(tensors: list[Tensor]) -> Tensor:
    """All their numbers in one tensor: a network has hundreds of buffers, and each would be a launch of its own."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _fill(tensors: list[Tensor], flat: Tensor) -> None:
    """Put back what `_flat` took."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors)])


def _apply(session: Session, loss: Tensor) -> Tensor:
    """Clip, step unless something is not finite, clear the gradients; returns whether it was finite."""
    parameters = [p for group in session.optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    finite = torch.isfinite(norm) & torch.isfinite(loss)
    if session.accelerator.num_processes > 1:  # the gradients agree, the losses need not
        everywhere = finite.to(torch.int32)
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        finite = everywhere.bool()
    clip = session.experiment.fit.clip
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm, foreach=True)
    session.optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    return finite


def _parts(batches: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Every role's batch cut into ``count`` equal parts."""
    return [{role: _part(batch, place, count) for role, batch in batches.items()} for place in range(count)]


def _part(batch: Batch | dict[str, Batch], place: int, count: int) -> Batch | dict[str, Batch]:
    if isinstance(batch, dict):
        return {view: _cut(one, place, count) for view, one in batch.items()}
    return _cut(batch, place, count)


def _cut(batch: Batch, place: int, count: int) -> Batch:
    if count == 1:
        return batch
    size = len(batch.key)
    return batch.select(slice(place * size // count, (place + 1) * size // count))


@torch.no_grad()
def _counts(session: Session, parts: list[dict[str, Any]], step: Step) -> dict[str, Tensor]:
    """The trainer's counts, summed over parts and processes."""
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, count in session.trainer.counts(part, step).items():
            total[name] = total[name] + count if name in total else count
    return {name: summed(count) for name, count in total.items()}


def step_seed(seed: int, step: int, rank: int, part: int = 0) -> int:
    """The seed of torch's generator (dropout, say) for a part of a step on a process."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank} {part}".encode(), digest_size=7).digest(), "little")
