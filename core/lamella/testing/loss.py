"""The contract of a segmentation loss, as one hypothesis property."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, example, given, settings, strategies
from torch import Tensor
from torch.nn.functional import pad

from lamella.contracts.batch import IGNORE
from lamella.contracts.model import Mean
from lamella.testing.apart import apart
from lamella.testing.no_sync import HostSync, no_sync
from lamella.testing.promise import BrokenPromise, difference, name_of


@dataclass(frozen=True)
class LossCase:
    """Logits with labels and weights to try a loss on."""

    count: int
    size: int
    ignored: float
    """The share of pixels that are ignored."""
    scale: float
    """The spread of the logits."""
    seed: int

    def __str__(self) -> str:
        kind = f"{self.ignored:.0%} ignored, logits ± {self.scale:g}"
        return f"{self.size}×{self.size} pixels, batch {self.count}, {kind}, seed {self.seed}"

    def tensors(self, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, H, W), label (B, H, W) and weight (B, H, W)."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.count, self.size, self.size)
        logits = self.scale * torch.randn((self.count, classes, *shape[1:]), generator=generator)
        label = torch.randint(classes, shape, generator=generator)
        label = torch.where(torch.rand(shape, generator=generator) < self.ignored, IGNORE, label)
        trust = 0.25 * torch.randint(0, 5, shape, generator=generator)
        return logits, label, torch.where(label == IGNORE, 0.0, trust)


def loss_contract(component: Any, *, classes: int = 3, examples: int = 20) -> Callable[[], None]:
    """A pytest test of everything a segmentation loss promises.

    Args:
        component: a function of logits, label and weight, or a class that builds one without arguments.
        classes: how many classes the logits have.
        examples: how many random cases to try beyond the fixed ones.

    Raises:
        BrokenPromise: from the test, a sentence that names the promise, what was seen and the case.

    >>> from lamella import Mean
    >>> def brier(logits, label, weight, /):
    ...     truth = torch.nn.functional.one_hot(label.clamp(max=2), 3).movedim(-1, 1)
    ...     each = (logits.softmax(1) - truth).square().sum(1)
    ...     return Mean((each * weight).sum(), weight.sum())
    >>> test_brier = loss_contract(brier)
    >>> test_brier()
    """
    name = name_of(component)

    def property_of(case: LossCase) -> None:
        with apart():
            loss = component() if inspect.isclass(component) else component
            for promise in (is_finite, leaves_out, adds_up, weighs, counts_no_ignored, stands_alone):
                promise(name, loss, case, case.tensors(classes))
            teaches(name, loss, replace(case, count=2, size=24, ignored=0.0, scale=1.0), classes)

    fixed = [LossCase(2, 6, 0.3, 1.0, 1), LossCase(1, 5, 1.0, 1.0, 2), LossCase(3, 1, 0.5, 50.0, 3)]
    test = given(
        strategies.builds(
            LossCase,
            count=strategies.integers(1, 3),
            size=strategies.integers(1, 12),
            ignored=strategies.sampled_from((0.0, 0.3, 1.0)),
            scale=strategies.sampled_from((0.0, 1.0, 50.0)),
            seed=strategies.integers(0, 9999),
        )
    )(property_of)
    for case in reversed(fixed):
        test = example(case)(test)
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )(test)


Tensors = tuple[Tensor, Tensor, Tensor]


def is_finite(name: str, loss: Any, case: LossCase, tensors: Tensors) -> None:
    """Value and gradient are finite, with nothing to count as well; a mean's count carries no gradient."""
    logits, label, weight = tensors
    for what, marks in (("", (label, weight)), (" with every pixel ignored", _nothing(label))):
        result = loss(logits.clone().requires_grad_(), *marks)
        if isinstance(result, Mean):
            if result.total.ndim or result.count.ndim:
                seen = f"total {tuple(result.total.shape)}, count {tuple(result.count.shape)}"
                raise BrokenPromise(name, "return scalars in its Mean", seen, case)
            if result.count.requires_grad:
                seen = "it depends on the logits"
                raise BrokenPromise(name, "return a count without gradient in its Mean", seen, case)
        elif not isinstance(result, Tensor) or result.ndim:
            seen = f"{type(result).__name__} {tuple(getattr(result, 'shape', ()))}"
            raise BrokenPromise(name, "return a Mean (total and count) or a scalar tensor", seen, case)
        value = _value(loss, logits, *marks)
        if not value.isfinite():
            raise BrokenPromise(name, f"be finite{what}", f"it is {value.item()}", case)
        gradient = _gradient(loss, logits, *marks)
        if gradient is None or not gradient.isfinite().all():
            seen = "there is none" if gradient is None else "it is not finite"
            raise BrokenPromise(name, f"have a finite gradient{what}", seen, case)


def leaves_out(name: str, loss: Any, case: LossCase, tensors: Tensors) -> None:
    """Pixels that are ignored or have no weight change nothing and get no gradient."""
    logits, label, weight = tensors
    out = weight == 0
    wanted = _value(loss, logits, label, weight)
    other = torch.where(out.unsqueeze(1), logits.flip(1) * -2 + 1, logits)
    if gap := difference(_value(loss, other, label, weight), wanted, tolerance=_slack(wanted)):
        raise BrokenPromise(name, "leave out pixels of weight 0", f"their logits changed it: {gap}", case)
    relabelled = torch.where(out & (label != IGNORE), (label + 1) % logits.shape[1], label)
    if gap := difference(_value(loss, logits, relabelled, weight), wanted, tolerance=_slack(wanted)):
        raise BrokenPromise(name, "leave out pixels of weight 0", f"their labels changed it: {gap}", case)
    gradient = _gradient(loss, logits, label, weight)
    assert gradient is not None
    if (gradient.abs().amax(1) * out).max() > 1e-7:
        raise BrokenPromise(name, "leave out pixels of weight 0", "they get a gradient", case)


def adds_up(name: str, loss: Any, case: LossCase, tensors: Tensors) -> None:
    """Totals and counts of a mean, taken image by image, sum to those of the batch."""
    logits, label, weight = tensors
    whole = loss(logits, label, weight)
    if not isinstance(whole, Mean):
        return
    parts = [loss(*(t[i : i + 1] for t in (logits, label, weight))) for i in range(case.count)]
    for field in ("total", "count"):
        wanted = getattr(whole, field)
        found = torch.stack([getattr(part, field) for part in parts]).sum().to(wanted.dtype)
        if gap := difference(found, wanted, tolerance=_slack(wanted)):
            seen = f"the {field}s of the images sum to another {field}: {gap}; return a plain tensor instead"
            raise BrokenPromise(name, "return a Mean only where totals and counts add up", seen, case)


def weighs(name: str, loss: Any, case: LossCase, tensors: Tensors) -> None:
    """Half the trust everywhere gives between half the loss and the same."""
    logits, label, weight = tensors
    value = _value(loss, logits, label, weight).item()
    half = _value(loss, logits, label, weight * 0.5).item()
    slack = 1e-4 * (1 + abs(value))
    if not min(value, value / 2) - slack <= half <= max(value, value / 2) + slack:
        seen = f"{value:.6g} became {half:.6g} when every weight was halved"
        raise BrokenPromise(name, "weigh pixels in proportion to weight", seen, case)


def counts_no_ignored(name: str, loss: Any, case: LossCase, tensors: Tensors) -> None:
    """Ignored pixels beside an image leave its loss as it is."""
    logits, label, weight = tensors
    edge = (0, case.size, 0, case.size)
    wider = pad(logits, edge, value=1.0), pad(label, edge, value=IGNORE), pad(weight, edge)
    wanted = _value(loss, logits, label, weight)
    if gap := difference(_value(loss, *wider), wanted, tolerance=_slack(wanted)):
        seen = f"three times as many ignored pixels beside the image changed it: {gap}"
        raise BrokenPromise(name, "leave ignored pixels out of what it divides by", seen, case)


def teaches(name: str, loss: Any, case: LossCase, classes: int) -> None:
    """Every image that counts gets a gradient, and a pixel that is trusted half as much half of it."""
    logits, label, _ = case.tensors(classes)
    weight = torch.ones(label.shape)
    whole = _gradients(loss, logits, label, weight)
    if not (most := whole.amax((1, 2))).all():
        seen = f"there is none in image {int(most.argmin())}, where every pixel counts"
        raise BrokenPromise(name, "have a gradient other than 0", seen, case)
    place = whole[0].flatten().argmax()
    weight[0].view(-1)[place] = 0.5
    share = (_gradients(loss, logits, label, weight)[0].flatten()[place] / most[0]).item()
    if not 0.45 <= share <= 0.55:
        seen = f"a pixel of weight 0.5 has {share:.3g} of the gradient that it has at weight 1"
        raise BrokenPromise(name, "give pixels a gradient in proportion to weight", seen, case)


def stands_alone(name: str, loss: Any, case: LossCase, tensors: Tensors) -> None:
    """It edits nothing, reads no value on the host and draws nothing."""
    copies = tuple(tensor.clone() for tensor in tensors)
    wanted = _value(loss, *tensors)
    for what, tensor, copy in zip(("logits", "label", "weight"), tensors, copies):
        if gap := difference(tensor, copy):
            raise BrokenPromise(name, "leave its input as it is", f"it changed {what}: {gap}", case)
    try:
        with no_sync():
            loss(*tensors)
    except HostSync as error:
        raise BrokenPromise(name, "never make the host wait for the device", str(error), case) from None
    if gap := difference(_value(loss, *tensors), wanted):
        raise BrokenPromise(name, "give the same again", gap, case)


def _nothing(label: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(label, IGNORE), torch.zeros(label.shape)


def _value(loss: Any, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    result = loss(logits, label, weight)
    return (result.value() if isinstance(result, Mean) else result).detach().float()


def _gradient(loss: Any, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor | None:
    logits = logits.clone().requires_grad_()
    result = loss(logits, label, weight)
    value = result.value() if isinstance(result, Mean) else result
    return torch.autograd.grad(value, logits)[0] if value.requires_grad else None


def _gradients(loss: Any, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """(B, H, W) how long the gradient of each pixel is."""
    gradient = _gradient(loss, logits, label, weight)
    assert gradient is not None
    return gradient.norm(dim=1)


def _slack(value: Tensor) -> float:
    return 1e-5 * (1 + value.abs().max().item())
