"""Equation 3 under warps, with thresholds of each class, doubt and a cap."""

import pytest
import torch
from lamella import IGNORE, Batch, Chain, Step, Streams
from lamella.errors import ConfigError
from lamella_tem.consistency import consistency, drawn_label, pseudo_label
from lamella_tem.rare import doubted
from tem_small_trainer import Shift, batches, trainer

STREAMS = Streams(torch.arange(4))
"""Nothing is drawn from them unless labels are."""


def test_the_pseudo_label_and_its_trust_follow_a_warp():
    one, data, step = trainer(weak=Chain([Shift()])), batches(), Step(0, 10, 0)
    weak, p_w, _ = one._weak_view(data["unlabelled"], step)
    assert torch.equal(weak.image[:, :, :-2], data["unlabelled"].image[:, :, 2:])
    target = pseudo_label(weak, p_w, 0.0)
    assert (target.label[:, -2:] == IGNORE).all() and (target.weight[:, -2:] == 0).all()
    moved = Chain([Shift()])(target, step.streams(target, "strong"))
    assert torch.equal(moved.label[:, :-2], target.label[:, 2:])
    assert consistency(torch.zeros(4, 3, 12, 12), target)[:, -2:].abs().max() == 0


def test_drawn_labels_have_the_probabilities_they_are_drawn_from():
    p_w = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.05, 0.95]]).T.reshape(1, 3, 1, 2).expand(4, 3, 100, 2)
    inside = torch.zeros(4, 100, 2, dtype=torch.int64)
    inside[:, :10] = IGNORE
    found = drawn_label(Batch.of(torch.zeros(4, 1, 100, 2), label=inside), p_w, Streams(torch.arange(4)))
    assert torch.equal(found.label == IGNORE, inside == IGNORE) and torch.equal(found.weight, (inside == 0).float())
    shares = torch.stack([(found.label[:, 10:] == k).float().mean((0, 1)) for k in range(3)])
    assert (shares[:, 0] - p_w[0, :, 0, 0]).abs().max() < 4 * (0.25 / 360) ** 0.5
    assert shares[0, 1] == 0 and abs(shares[1, 1] - 0.05) < 4 * (0.05 * 0.95 / 360) ** 0.5


def test_the_gradient_of_drawn_labels_is_on_average_that_of_the_cross_entropy_of_both_views():
    torch.manual_seed(0)
    p_w, logits = torch.rand(1, 3, 2, 2).mul(3).softmax(1), torch.randn(1, 3, 2, 2, requires_grad=True)
    batch, draws = Batch.of(torch.zeros(1, 1, 2, 2), label=torch.zeros(1, 2, 2, dtype=torch.int64)), 4000
    many = batch._replace(image=batch.image.expand(draws, 1, 2, 2), label=batch.label.expand(draws, 2, 2))
    drawn = drawn_label(many, p_w.expand(draws, 3, 2, 2), Streams(torch.arange(draws)))
    (mean,) = torch.autograd.grad(consistency(logits.expand(draws, 3, 2, 2), drawn).mean(0).sum(), logits)
    (literal,) = torch.autograd.grad(-(p_w * logits.log_softmax(1)).sum(), logits)
    assert (mean - literal).abs().max() < 4 * (0.25 / draws) ** 0.5


def test_a_label_is_drawn_where_rounded_probabilities_do_not_add_up_to_one():
    p_w = torch.full((4, 3, 8, 8), 0.3)
    found = drawn_label(Batch.of(torch.zeros(4, 1, 8, 8)), p_w, Streams(torch.arange(4)))
    assert found.label.max() <= 2


def test_a_training_that_draws_its_labels_trusts_every_pixel_and_learns():
    learner, given = trainer(0.1, tau=1.0, labels="drawn"), batches()
    found = learner(given, Step(0, 1, 0))
    assert found["confident"] == 1 and found["strong"] > 0
    found["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
    assert trainer(0.1, tau=1.0)(given, Step(0, 1, 0))["strong"] == 0  # where the likeliest class is not sure enough


def test_class_thresholds_are_lower_for_classes_that_are_seldom_sure():
    one = trainer(class_tau=True, tau=0.9)
    p_w = torch.tensor([[0.95, 0.05, 0.0], [0.05, 0.55, 0.4]]).T.reshape(1, 3, 1, 2)
    for _ in range(500):
        threshold = one.pseudo_labels.threshold(p_w)
    assert threshold[0] > 0.85 and threshold[1] < 0.6


def test_the_share_of_a_rare_class_is_that_of_the_labels_of_late():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], doubt=2.0), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2  # 12 of 144 pixels
    weak, p_w = learner._weakened(given["unlabelled"], Step(0, 1, 0)), torch.rand(4, 3, 12, 12)
    p_w[:, 2] *= 0.5  # c is suspected, seldom likeliest
    found = learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=label), STREAMS)
    same = doubted(pseudo_label(weak, p_w, 0.0), p_w, torch.tensor([2]), torch.tensor(2 * 12 / 144))
    assert torch.equal(found.weight, same.weight) and (found.weight == 0).any()
    learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=torch.zeros_like(label)), STREAMS)
    assert learner.pseudo_labels.prior.item() == pytest.approx(0.98 * 12 / 144)


def test_between_cap_and_doubt_no_label_is_trusted():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], doubt=3.0, cap=1.0), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2
    p_w = torch.rand(4, 3, 12, 12)
    p_w[:, 2] += 1.0
    p_w = p_w / p_w.sum(1, keepdim=True)
    found = learner.pseudo_labels(learner._weakened(given["unlabelled"], Step(0, 1, 0)), p_w,
                                  given["labelled"]._replace(label=label), STREAMS)  # fmt: skip
    ranked = p_w[:, 2].flatten().argsort(descending=True)
    trust, taken = found.weight.flatten()[ranked], found.label.flatten()[ranked] == 2
    assert taken[:48].all() and not taken[48:].any()
    assert (trust[:48] == 1).all() and (trust[48:144] == 0).all() and (trust[144:] == 1).all()


def test_no_more_pixels_are_taken_for_a_rare_class_than_the_cap_allows():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], cap=1.5), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2
    weak, p_w = learner._weakened(given["unlabelled"], Step(0, 1, 0)), torch.rand(4, 3, 12, 12)
    p_w[:, 2] += 1.0  # everything looks like c
    p_w = p_w / p_w.sum(1, keepdim=True)
    taken = learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=label), STREAMS).label == 2
    assert int(taken.sum()) == 1.5 * 4 * 12
    assert p_w[:, 2][taken].min() >= p_w[:, 2][~taken].max()


def test_doubt_without_a_rare_class_is_refused():
    with pytest.raises(ConfigError, match="paste names none"):
        trainer(doubt=4.0)
    with pytest.raises(ConfigError, match="paste names none"):
        trainer(cap=4.0)
