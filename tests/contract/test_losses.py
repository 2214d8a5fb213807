"""The contract of losses: those registered keep it, and broken ones are caught and named."""

import lamella
import pytest
import torch
from lamella import IGNORE, Mean
from lamella.registry.registry import current
from lamella.testing import BrokenPromise, loss_contract
from torch.nn import functional


@pytest.mark.parametrize("component", current().components("loss"), ids=lambda c: c.full_name)
def test_registered_loss_keeps_its_contract(component):
    if any(parameter.required for parameter in component.parameters()):
        pytest.skip("needs parameters")
    loss_contract(lamella.build("loss", component.full_name))()


def correct(logits, label, weight, /):
    each = functional.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    return Mean((each * weight).sum(), weight.sum())


class Correct:
    def __call__(self, logits, label, weight, /):
        return correct(logits, label, weight).value()


def nan_when_empty(logits, label, weight, /):
    mean = correct(logits, label, weight)
    return mean.total / mean.count


def nan_gradient(logits, label, weight, /):
    truth = functional.one_hot(torch.where(label == IGNORE, 0, label), logits.shape[1]).movedim(-1, 1)
    each = (logits.softmax(1) - truth).square().sum(1)
    count = weight.sum()
    return torch.where(count > 0, (each * weight).sum() / count, 0.0)


def no_gradient(logits, label, weight, /):
    return correct(logits.detach(), label, weight)


def counts_ignored(logits, label, weight, /):
    each = functional.cross_entropy(logits, label.clamp(max=logits.shape[1] - 1), reduction="none")
    return each.mean()


def counts_zero_weight(logits, label, weight, /):
    return correct(logits, label, (label != IGNORE).float())


def ratio_as_mean(logits, label, weight, /):
    guess = logits.softmax(1)[:, 0] * weight
    truth = (label == 0) * weight
    return Mean(1 - 2 * (guess * truth).sum() / (guess.sum() + truth.sum() + 1), weight.sum())


def mean_over_all(logits, label, weight, /):
    return (functional.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none") * weight).mean()


def counts_all(logits, label, weight, /):
    return Mean(correct(logits, label, weight).total, torch.full((), float(weight.numel())))


def no_slope(logits, label, weight, /):
    return correct(0 * logits, label, weight)


def first_image(logits, label, weight, /):
    return correct(logits[:1], label[:1], weight[:1]).value() + 0 * logits.sum()


def all_or_nothing(logits, label, weight, /):
    return correct(logits, label, (weight > 0).float())


def per_image(logits, label, weight, /):
    mean = functional.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none") * weight
    return mean.mean((1, 2))


def squared_weight(logits, label, weight, /):
    each = functional.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    return (each * weight**3).sum() / label.numel()


def edits_weight(logits, label, weight, /):
    weight /= weight.sum().clamp_min(1)
    return correct(logits, label, weight)


def indexes_by_mask(logits, label, weight, /):
    return correct(logits, label, weight) if weight.any() else Mean(0 * logits.sum(), 0 * weight.sum())


def draws(logits, label, weight, /):
    mean = correct(logits, label, weight)
    return Mean(mean.total * (1 + 1e-6 * torch.rand(())), mean.count)


def count_with_gradient(logits, label, weight, /):
    mean = correct(logits, label, weight)
    return Mean(mean.total, mean.count + 0 * logits.sum())


BROKEN = {
    nan_when_empty: "be finite with every pixel ignored: it is nan",
    nan_gradient: "have a finite gradient with every pixel ignored: it is not finite",
    no_gradient: "have a finite gradient: there is none",
    counts_ignored: "leave out pixels of weight 0",
    counts_zero_weight: "leave out pixels of weight 0",
    mean_over_all: "leave ignored pixels out of what it divides by",
    counts_all: "leave ignored pixels out of what it divides by",
    no_slope: "have a gradient other than 0: there is none in image 0",
    first_image: "have a gradient other than 0: there is none in image 1",
    all_or_nothing: "give pixels a gradient in proportion to weight: a pixel of weight 0.5 has 1 of the gradient",
    ratio_as_mean: "return a Mean only where totals and counts add up",
    per_image: "return a Mean .* or a scalar tensor",
    squared_weight: "weigh pixels in proportion to weight",
    edits_weight: "leave its input as it is: it changed weight",
    indexes_by_mask: "never make the host wait for the device: .*test_losses.py",
    draws: "give the same again",
    count_with_gradient: "return a count without gradient",
}


def counts_labelled(logits, label, weight, /):
    """A correct one that counts pixels of weight 0, as those a network is not sure of."""
    return Mean(correct(logits, label, weight).total, (label != IGNORE).float().sum())


def hardest(logits, label, weight, /):
    """A correct one that learns from the hardest quarter of the pixels that count."""
    each = functional.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    hard = each >= each.detach().masked_fill(weight == 0, torch.nan).nanquantile(0.75)
    return correct(logits, label, torch.where(hard, weight, 0.0)).value()


test_correct_mean_over_labelled_pixels = loss_contract(counts_labelled)
test_correct_choice_of_pixels = loss_contract(hardest)
test_correct_function = loss_contract(correct)
test_correct_class = loss_contract(Correct, classes=5)


@pytest.mark.parametrize("loss", BROKEN, ids=lambda f: f.__name__)
def test_broken_promise_is_caught_and_named(loss):
    with pytest.raises(BrokenPromise, match=f"{loss.__name__} must {BROKEN[loss]}"):
        loss_contract(loss)()
