"""The contract of a trainer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.model import Step, Trainer
from lamella.testing.apart import apart
from lamella.testing.no_sync import HostSync, no_sync
from lamella.testing.promise import BrokenPromise, difference, name_of
from lamella.testing.subject import copied

Batches = Mapping[str, Any]
"""A `Batch` by role, or the dict of a modality with several views."""


def trainer_contract(
    build_trainer: Callable[[], Trainer],
    batches: Batches | Callable[[], Batches],
    *,
    syncs: bool = False,
    tolerance: float = 1e-4,
) -> Callable[[], None]:
    """A pytest test of everything a trainer promises the engine.

    Args:
        build_trainer: builds the trainer, with a backbone as small as can be.
        batches: a batch for each of its roles, or a function that makes them.
        syncs: True where ``forward`` is known to make the host wait for the device.
        tolerance: how far probabilities of an image alone may be from the same in a batch.

    Raises:
        BrokenPromise: from the test, a sentence that names the promise and what was seen.
    """
    name = name_of(build_trainer)

    def test() -> None:
        with apart():
            given = batches() if callable(batches) else batches
            trainer = _built(build_trainer)
            if not isinstance(trainer, Trainer):
                raise BrokenPromise(name, "build a lamella.Trainer", f"it is a {type(trainer).__name__}")
            if missing := [role for role in trainer.roles if role not in given]:
                raise BrokenPromise(name, "read the roles it declares", f"the test has no batch {missing[0]!r}")
            gives_losses(name, build_trainer, given)
            everything_learns(name, build_trainer, given)
            counts_beforehand(name, build_trainer, given)
            resumes(name, build_trainer, given)
            bears_no_labels(name, build_trainer, given)
            groups_are_whole(name, build_trainer)
            predicts(name, build_trainer, given, tolerance)
            if not syncs:
                never_syncs(name, build_trainer, given)

    return test


def _built(build_trainer: Callable[[], Trainer]) -> Trainer:
    torch.manual_seed(0)
    return build_trainer().train()


def _forward(
    trainer: Trainer, batches: Batches, counts: Mapping[str, Tensor] | None = None, *, number: int = 1
) -> dict[str, Tensor]:
    torch.manual_seed(number)
    return trainer(batches, Step(number, 10, 7, counts=counts or {}))


def gives_losses(name: str, build_trainer: Any, batches: Batches) -> None:
    """Finite scalars with "loss" among them, the same twice under one seed, and the batches as they were."""
    kept = {role: {view: copied(one) for view, one in _views(batch).items()} for role, batch in batches.items()}
    losses = _forward(_built(build_trainer), batches)
    if "loss" not in losses:
        seen = f"it gave {', '.join(losses) or 'nothing'}"
        raise BrokenPromise(name, 'return named losses with "loss" among them', seen)
    for key, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim or not value.isfinite():
            raise BrokenPromise(name, "return finite scalar tensors", f"{key!r} is {value!r}")
    for role, batch in batches.items():
        for view, one in _views(batch).items():
            for field in Batch._fields[:-1]:
                if gap := difference(getattr(one, field), getattr(kept[role][view], field)):
                    where = ".".join(filter(None, (role, view, field)))
                    raise BrokenPromise(name, "leave batches as they are", f"{where}: {gap}")
    again = _forward(_built(build_trainer), batches)
    for key, value in losses.items():
        if gap := difference(again[key], value):
            seen = f"{key!r}: {gap}; draw from step.streams(batch, view) or from torch's generator"
            raise BrokenPromise(name, "give the same losses twice under one seed", seen)


def everything_learns(name: str, build_trainer: Any, batches: Batches) -> None:
    """One backward reaches every trainable parameter, also after a step."""
    trainer = _built(build_trainer)
    for _ in range(2):
        trainer.zero_grad()
        _forward(trainer, batches)["loss"].backward()
        for key, parameter in trainer.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                seen = f"{key} got none; freeze what is switched off, or training on several GPUs stops"
                raise BrokenPromise(name, "give every trainable parameter a gradient in every step", seen)
            if not parameter.grad.isfinite().all():
                raise BrokenPromise(name, "give finite gradients", f"that of {key} is not")
        trainer.after_step()


def counts_beforehand(name: str, build_trainer: Any, batches: Batches) -> None:
    """What ``counts`` says is what the losses are divided by, under the names that they have in ``step.mean``."""
    trainer = _built(build_trainer)
    torch.manual_seed(1)
    counts = _Asked(trainer.counts(batches, Step(1, 10, 7)))
    if not counts:
        return
    wanted, found = _forward(_built(build_trainer), batches), _forward(trainer, batches, counts)
    for key, value in wanted.items():
        if gap := difference(found[key], value, tolerance=1e-5):
            seen = f"{key!r}: {gap} when divided by counts(batches, step)"
            raise BrokenPromise(name, "know its counts beforehand", seen)
    idle, lacking = sorted(counts.keys() - counts.names), sorted(counts.names - counts.keys())
    if idle and lacking:  # either alone is no mistake: a term that is switched off, a mean over the parts
        seen = f"counts names {', '.join(idle)}, step.mean asks for {', '.join(lacking)}"
        raise BrokenPromise(name, "name its counts as it names them in step.mean(mean, name)", seen)


class _Asked(dict[str, Tensor]):
    """Counts that remember the names they were asked for."""

    def __init__(self, counts: Mapping[str, Tensor]):
        super().__init__(counts)
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


def resumes(name: str, build_trainer: Any, batches: Batches) -> None:
    """A fresh trainer with the state of one that has learned goes on as that does."""
    trainer, fresh = _built(build_trainer), _built(build_trainer)
    optimizer = torch.optim.SGD([p for p in trainer.parameters() if p.requires_grad], lr=1e-3)
    for number in range(2):
        optimizer.zero_grad()
        _forward(trainer, batches, number=number)["loss"].backward()
        optimizer.step()
        trainer.after_step()
    try:
        fresh.load_state_dict(trainer.state_dict())
    except RuntimeError as error:
        raise BrokenPromise(name, "take over the state of another", " ".join(str(error).split())) from None
    wanted, found = (_forward(one, batches, number=2) for one in (trainer, fresh))
    for key, value in wanted.items():
        if gap := difference(found[key], value, tolerance=1e-5 * (1 + value.detach().abs().item())):
            seen = f"{key!r}: {gap} two steps on; state that lasts over steps is a buffer, or derived from step"
            raise BrokenPromise(name, "go on from a checkpoint as if it had never stopped", seen)


def bears_no_labels(name: str, build_trainer: Any, batches: Batches) -> None:
    """A batch in which every pixel is ignored gives a finite loss and finite gradients."""
    empty = {role: _unlabelled(batch) for role, batch in batches.items()}
    trainer = _built(build_trainer)
    loss = _forward(trainer, empty)["loss"]
    if not loss.isfinite():
        raise BrokenPromise(name, "give a finite loss with every pixel ignored", f"it is {loss.item()}")
    loss.backward()
    for key, parameter in trainer.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all()):
            seen = f"{key}'s is {'missing' if parameter.grad is None else 'not finite'}"
            raise BrokenPromise(name, "give finite gradients with every pixel ignored", seen)


def _unlabelled(batch: Any) -> Any:
    def ignored(one: Batch) -> Batch:
        if one.label is None:
            return one
        return one._replace(label=torch.full_like(one.label, IGNORE), weight=torch.zeros(one.label.shape))

    return {view: ignored(one) for view, one in batch.items()} if isinstance(batch, dict) else ignored(batch)


def _views(batch: Any) -> dict[str, Batch]:
    return batch if isinstance(batch, dict) else {"": batch}


def _first(batch: Any) -> Any:
    """The first sample alone."""
    one = slice(0, 1)
    return {view: b.select(one) for view, b in batch.items()} if isinstance(batch, dict) else batch.select(one)


def groups_are_whole(name: str, build_trainer: Any) -> None:
    """The optimizer groups hold every trainable parameter once."""
    trainer = _built(build_trainer)
    grouped = [id(p) for group in trainer.parameter_groups() for p in group["params"]]
    for key, parameter in trainer.named_parameters():
        times = grouped.count(id(parameter))
        if times != int(parameter.requires_grad):
            kind = "trainable" if parameter.requires_grad else "frozen"
            seen = f"{key}, which is {kind}, stands in them {times} times"
            raise BrokenPromise(name, "list every trainable parameter once in parameter_groups()", seen)


def predicts(name: str, build_trainer: Any, batches: Batches, tolerance: float) -> None:
    """In eval mode it gives class probabilities (or embeddings), image by image, that its metrics can count."""
    trainer = _built(build_trainer).eval()
    batch = batches[trainer.roles[0]]
    with torch.no_grad():
        prediction, alone = trainer.predict(batch), trainer.predict(_first(batch))
    if trainer.embeds:
        count = len(next(iter(_views(batch).values())).key)
        if prediction.ndim < 2 or len(prediction) != count or not prediction.isfinite().all():
            raise BrokenPromise(name, "predict finite embeddings (B, …, D)", f"{tuple(prediction.shape)} for {count}")
    else:
        _are_probabilities(name, prediction, next(iter(_views(batch).values())))
    if gap := difference(alone, prediction[:1], tolerance=tolerance):
        raise BrokenPromise(name, "predict each image alone", gap)
    metrics = trainer.metrics()
    if any(new is old for new, old in zip(trainer.metrics(), metrics)):
        raise BrokenPromise(name, "give fresh metrics for every evaluation", "the same came twice")
    for metric in metrics:
        metric.update(prediction, batch)
        if not isinstance(figures := metric.compute(), dict):
            seen = f"{type(metric).__name__}.compute gave {type(figures).__name__}"
            raise BrokenPromise(name, "give metrics that compute figures by name", seen)


def _are_probabilities(name: str, prediction: Tensor, batch: Batch) -> None:
    count, size = len(batch.image), tuple(batch.image.shape[-2:])
    spatial = prediction.ndim == 4 and (prediction.shape[0], *prediction.shape[2:]) == (count, *size)
    if not spatial and (prediction.ndim != 2 or len(prediction) != count):
        seen = f"{tuple(prediction.shape)} for {count} images of {size[0]}×{size[1]}"
        raise BrokenPromise(name, "predict (B, K, H, W), or (B, K) for classification", seen)
    if not prediction.isfinite().all() or (prediction < 0).any():
        raise BrokenPromise(name, "predict probabilities", "some are negative or not finite")
    total = prediction.sum(1)
    if gap := difference(total, torch.ones_like(total), tolerance=1e-4):
        raise BrokenPromise(name, "predict probabilities that sum to 1 over the classes", gap)


def never_syncs(name: str, build_trainer: Any, batches: Batches) -> None:
    """Forward and backward never make the host wait for the device."""
    trainer = _built(build_trainer)
    _forward(trainer, batches)  # what is only done once (caches, lazy imports) may wait
    try:
        with no_sync():
            _forward(trainer, batches)["loss"].backward()
            trainer.after_step()
    except HostSync as error:
        raise BrokenPromise(name, "never make the host wait for the device in a step", str(error)) from None
