"""Losses against slow loops over pixels, values and gradients."""

import math

import lamella
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import IGNORE
from lamella_tem.losses import cross_entropy, dice


def drawn(seed: int, batch: int = 2, classes: int = 3, height: int = 4, width: int = 5):
    """Logits, a label with ignored pixels, and trust in [0, 1] that is exactly 0 and 1 in places."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, height, width)
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator)
    label = torch.randint(0, classes, shape, generator=generator)
    label[torch.rand(shape, generator=generator) < 0.25] = IGNORE
    weight = (torch.rand(shape, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    return logits, label, weight


def slow_cross_entropy(logits, label, weight, smoothing=0.0):
    total, count, classes = logits.new_zeros(()), 0.0, logits.shape[1]
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist():
        if label[b, y, x] == IGNORE:
            continue
        p = logits[b, :, y, x].softmax(0)
        target = torch.full((classes,), smoothing / classes, dtype=logits.dtype)
        target[label[b, y, x]] += 1 - smoothing
        total = total - weight[b, y, x] * (target * p.log()).sum()
        count += float(weight[b, y, x])
    return total / count


def slow_dice(logits, label, weight, smooth=1.0):
    terms = []
    for b in range(len(label)):
        probabilities = logits[b].softmax(0)
        counted = label[b] != IGNORE
        for k in range(logits.shape[1]):
            overlap, ours, theirs = 0.0, 0.0, 0.0
            for y, x in counted.nonzero().tolist():
                w, p, t = weight[b, y, x], probabilities[k, y, x], float(label[b, y, x] == k)
                overlap, ours, theirs = overlap + w * p * t, ours + w * p, theirs + w * t
            if theirs > 0:
                terms.append(1 - (2 * overlap + smooth) / (ours + theirs + smooth))
    return torch.stack(terms).mean()


CASES = [
    (cross_entropy, slow_cross_entropy, {}),
    (cross_entropy, slow_cross_entropy, {"smoothing": 0.2}),
    (dice, slow_dice, {}),
    (dice, slow_dice, {"smooth": 7.5}),
]
LOSSES = [cross_entropy, dice]


@pytest.mark.parametrize(("loss", "slow", "options"), CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_loss_and_its_gradient_are_those_of_the_definition(loss, slow, options, seed):
    logits, label, weight = drawn(seed)
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value, expected = loss(ours, label, weight, **options).value(), slow(theirs, label, weight.double(), **options)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_the_slope(loss, monkeypatch):
    logits, label, weight = drawn(3, 1, 2, 2, 3)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # finite differences need double precision
    assert torch.autograd.gradcheck(
        lambda x: loss(x, label, weight.double()).value(), logits.double().requires_grad_()
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("nothing", ["ignored", "untrusted"])
def test_with_nothing_to_count_a_loss_is_zero_with_zero_gradient(loss, nothing):
    logits, label, weight = drawn(4)
    label, weight = (torch.full_like(label, IGNORE), weight) if nothing == "ignored" else (label, 0 * weight)
    logits.requires_grad_()
    mean = loss(logits, label, weight)
    mean.value().backward()
    assert (mean.value().item(), mean.count.item()) == (0.0, 0.0)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_neither_count_nor_get_a_gradient(loss):
    logits, label, weight = drawn(5)
    outside = (label == IGNORE).unsqueeze(1)
    changed = torch.where(outside, 30 * torch.ones_like(logits), logits).requires_grad_()
    trusted = torch.where(label == IGNORE, 1.0, weight)
    value = loss(changed, label, trusted).value()
    value.backward()
    assert value.item() == pytest.approx(loss(logits, label, weight).value().item(), rel=1e-6)
    assert changed.grad[outside.expand_as(logits)].abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_parts_of_a_batch_add_up_to_the_whole(loss):
    logits, label, weight = drawn(6, batch=4)
    whole = loss(logits, label, weight)
    parts = [loss(logits[i : i + 1], label[i : i + 1], weight[i : i + 1]) for i in range(4)]
    total, count = sum(part.total for part in parts), sum(part.count for part in parts)
    assert (total / count).item() == pytest.approx(whole.value().item(), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1.0, 1e4]))
def test_a_loss_is_finite_and_not_negative_however_sure_the_logits_are(loss, seed, scale):
    logits, label, weight = drawn(seed)
    logits = (scale * logits).requires_grad_()
    value = loss(logits, label, weight).value()
    value.backward()
    assert math.isfinite(value.item())
    assert value.item() >= -1e-6
    assert logits.grad.isfinite().all()


def test_dice_lies_within_zero_and_one_from_right_to_wrong():
    label = torch.zeros(1, 4, 4, dtype=torch.int64)
    label[:, 2:] = 1
    right = 40.0 * torch.nn.functional.one_hot(label, 2).movedim(-1, 1)
    weight = torch.ones(1, 4, 4)
    assert dice(right, label, weight).value().item() == pytest.approx(0.0, abs=1e-6)
    assert dice(-right, label, weight, smooth=0.0).value().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(loss, dtype):
    logits, label, weight = drawn(7, height=64, width=64)
    mean = loss(logits.to(dtype), label, weight)
    assert mean.total.dtype == torch.float32
    assert mean.value().item() == pytest.approx(loss(logits, label, weight).value().item(), rel=0.02)


@pytest.mark.parametrize(
    ("name", "option"), [("cross-entropy", {"smoothing": 1.0}), ("dice", {"smooth": -1.0}), ("dice", {"factor": 2})]
)
def test_parameters_out_of_bounds_are_refused(name, option):
    with pytest.raises(lamella.LamellaError, match=next(iter(option))):
        lamella.build("loss", name, **option)


def test_a_loss_built_by_name_is_the_function_with_its_parameters():
    logits, label, weight = drawn(8)
    built = lamella.build("loss", "cross-entropy", smoothing=0.1)
    assert built(logits, label, weight).value() == cross_entropy(logits, label, weight, smoothing=0.1).value()
