"""Equation 3 under warps, with thresholds of each class, doubt and a cap."""

import pytest
import torch
from lamella import IGNORE, Batch, Chain, Step
from lamella.errors import ConfigError
from lamella_tem.consistency import consistency, pseudo_label
from lamella_tem.passes import weak_pass
from lamella_tem.rare import doubted, ranked, suspected
from tem_small_trainer import Shift, batches, trainer


def test_the_pseudo_label_and_its_trust_follow_a_warp():
    one, data, step = trainer(weak=Chain([Shift()])), batches(), Step(0, 10, 0)
    weak = one._weakened(data["unlabelled"], step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    assert torch.equal(weak.image[:, :, :-2], data["unlabelled"].image[:, :, 2:])
    target = pseudo_label(weak, p_w, 0.0)
    assert (target.label[:, -2:] == IGNORE).all() and (target.weight[:, -2:] == 0).all()
    moved = Chain([Shift()])(target, step.streams(target, "strong"))
    assert torch.equal(moved.label[:, :-2], target.label[:, 2:])
    assert consistency(torch.zeros(4, 3, 12, 12), target)[:, -2:].abs().max() == 0


def test_the_padding_of_a_crop_is_never_trusted():
    one, data, step = trainer(weak=Chain([Shift()]), tau=0.0), batches(), Step(0, 10, 0)
    own = torch.tensor([[12, 12], [12, 7], [5, 12], [5, 7]])
    padded = data["unlabelled"]._replace(meta={"inside": own})
    weak = one._weakened(padded, step)
    for label, (rows, columns) in zip(weak.label, own.tolist()):
        expected = torch.full((12, 12), IGNORE)
        expected[: rows - 2, :columns] = 0  # moved by two
        assert torch.equal(label, expected)
    target = one.pseudo_labels(weak, torch.rand(4, 3, 12, 12).softmax(1), data["labelled"])
    assert torch.equal(target.weight > 0, weak.label != IGNORE)
    counts = one.counts({**data, "unlabelled": padded}, step)
    assert counts["feature"] == 10 * 12 + 10 * 7 + 3 * 12 + 3 * 7


def everywhere(p_w):
    return torch.ones_like(p_w[:, 0], dtype=torch.bool)


def test_class_thresholds_are_lower_for_classes_that_are_seldom_sure():
    one = trainer(class_tau=True, tau=0.9)
    p_w = torch.tensor([[0.95, 0.05, 0.0], [0.05, 0.55, 0.4]]).T.reshape(1, 3, 1, 2)
    for _ in range(500):
        threshold = one.pseudo_labels.threshold(p_w, everywhere(p_w))
    assert threshold.tolist() == pytest.approx([0.9 * 0.95, 0.9 * 0.55, 0.9], rel=0.01)  # c is never met


def test_a_step_that_is_not_finite_leaves_no_trace_in_the_thresholds():
    one = trainer(class_tau=True, tau=0.9)
    p_w = torch.full((1, 3, 2, 2), torch.nan)
    one.pseudo_labels.threshold(p_w, everywhere(p_w))
    assert one.pseudo_labels.confidence.tolist() == [1.0, 1.0, 1.0]


def test_the_mean_confidence_is_that_of_millions_of_pixels():
    one = trainer(class_tau=True, tau=1.0)
    p_w = torch.tensor([0.9, 0.1, 0.0]).view(1, 3, 1, 1).expand(4, 3, 1024, 1024)
    assert one.pseudo_labels.threshold(p_w, everywhere(p_w))[0].item() == pytest.approx(0.99 + 0.01 * 0.9, abs=1e-6)


def test_what_is_remembered_moves_by_a_step_however_many_parts_it_has():
    given, p_w = batches(), torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1).expand(4, 3, 12, 12)
    found = []
    for parts in (1, 4):
        one = trainer(paste=["c"], class_tau=True, cap=1.0)
        weak = one._weakened(given["unlabelled"], Step(0, 1, 0))
        one.pseudo_labels.prior.fill_(0.9)
        one.pseudo_labels.seen.fill_(1.0)
        for _ in range(20 * parts):
            one.pseudo_labels(weak, p_w, given["labelled"], parts)
        found.append([one.pseudo_labels.prior.item(), one.pseudo_labels.confidence[0].item()])
    assert found[1] == pytest.approx(found[0], abs=2e-3)


@pytest.mark.parametrize("parts", [1, 4])
def test_the_share_of_the_first_steps_is_their_mean(parts):
    """One image in ten has the class, the fourth: what is remembered is never above the mean since then."""
    one, share = trainer(paste=["c"], cap=1.0).pseudo_labels, torch.zeros(())
    label = torch.zeros(10, 12, 12, dtype=torch.int64)
    label[3, :3, :4] = 2
    for step in range(10):
        for _ in range(parts):
            share = one._share(Batch.of(torch.zeros(1, 1, 12, 12), label=label[step : step + 1]), parts)
        expected = 0.0 if step < 3 else 12 / 144 * 0.98 ** (step - 3) * 0.02 / (1 - 0.98 ** (step + 1))
        assert share.item() == pytest.approx(expected, rel=0.01)
    for step in range(10, 400):
        share = one._share(Batch.of(torch.zeros(1, 1, 12, 12), label=label[step % 10 :][:1]), 1)
    assert share.item() == pytest.approx(0.1 * 12 / 144, rel=0.15)


def test_what_is_remembered_is_of_all_processes(monkeypatch):
    """Two processes with half of the images each remember what one with all of them does."""
    given, p_w = batches(), torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)).softmax(1)
    label = torch.randint(0, 3, (4, 12, 12), generator=torch.Generator().manual_seed(1))
    label[2:] = label[2:].clamp(max=1)  # the class c is in the first half alone
    p_w[:2], label[0, :6] = p_w[:2] ** 2, IGNORE
    halves = [(p_w[half], label[half]) for half in (slice(0, 2), slice(2, 4))]
    asked: list[list[torch.Tensor]] = [[], []]

    def learner(p_w, label):
        one = trainer(paste=["c"], class_tau=True, doubt=1.0).pseudo_labels
        weak = given["unlabelled"]._replace(image=given["unlabelled"].image[: len(p_w)])
        one(weak._replace(label=torch.zeros_like(label)), p_w, Batch.of(torch.zeros(1, 1, 12, 12), label=label))
        return one

    whole = learner(p_w, label)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for mine, half in enumerate(halves):
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda x, mine=mine: asked[mine].append(x.clone()))
        learner(*half)
    assert len(asked[0]) == len(asked[1]) > 0
    theirs = iter(asked[1])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(next(theirs)))
    first = learner(*halves[0])
    assert next(theirs, None) is None
    for name, value in whole.state_dict().items():
        assert torch.allclose(first.state_dict()[name], value, rtol=1e-5), name


@pytest.mark.parametrize("options", [
    {"cap": 0.5, "tau": 0.9}, {"cap": 0.0, "doubt": 1.0, "tau": 0.5}, {"class_tau": True, "tau": 0.8},
])  # fmt: skip
@pytest.mark.parametrize("suspicion", [0.0, 0.95])
def test_the_padding_of_a_crop_counts_nowhere(options, suspicion):
    """Pseudo-labels of a small image are those that it has within a padded crop, whatever the padding looks like."""
    p_w = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).mul(5.0).softmax(1)
    outside = torch.tensor([1.0 - suspicion, 0.0, suspicion]).view(1, 3, 1, 1).expand(2, 3, 20, 16).clone()
    outside[..., :12, :12] = p_w
    labelled = batches()["labelled"]
    found = []
    for p in (p_w, outside):
        label = torch.full((2, *p.shape[2:]), IGNORE)
        label[:, :12, :12] = 0
        weak = Batch.of(torch.zeros(2, 1, *p.shape[2:]), label=label, weight=torch.ones(label.shape))
        learner = trainer(paste=["c"], **options).pseudo_labels
        for _ in range(200 if "class_tau" in options else 1):
            target = learner(weak, p, labelled)
        found.append((target.label[:, :12, :12], target.weight[:, :12, :12]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert 0 < found[0][1].mean() < 1


def test_padding_is_no_share_of_what_is_logged():
    one, data, step = trainer(tau=0.0, paste=["c"]), batches(), Step(0, 10, 0)
    padded = data["unlabelled"]._replace(meta={"inside": torch.tensor([[12, 6]] * 4)})
    logged = one({**data, "unlabelled": padded}, step)
    assert logged["confident"].item() == pytest.approx(1.0)
    weak = one._weakened(padded, step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    expected = (p_w.argmax(1)[..., :6] == 2).float().mean()
    assert one._rare(data["labelled"], weak, p_w)["rare/predicted"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("doubt", "cap", "times"), [(3.0, 0.0, 1), (3.0, 1.5, 1), (0.0, 0.0, 0), (0.0, 1.5, 1)])
def test_pixels_are_ranked_once_at_most(doubt, cap, times, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "argsort", counting(torch.Tensor.argsort, asked))
    one, given = trainer(paste=["c"], doubt=doubt, cap=cap), batches()
    weak = one._weakened(given["unlabelled"], Step(0, 1, 0))
    one.pseudo_labels(weak, torch.rand(4, 3, 12, 12).softmax(1), given["labelled"])
    assert len(asked) == times


def counting(function, calls):
    def counted(*given, **named):
        calls.append(function)
        return function(*given, **named)

    return counted


def test_the_share_of_a_rare_class_is_that_of_the_labels_of_late():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], doubt=2.0), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2  # 12 of 144 pixels
    weak, p_w = learner._weakened(given["unlabelled"], Step(0, 1, 0)), torch.rand(4, 3, 12, 12)
    p_w[:, 2] *= 0.5  # c is suspected, seldom likeliest
    found = learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=label))
    overlooked = suspected(ranked(p_w, torch.tensor([2]), everywhere(p_w)), torch.tensor(2 * 12 / 144 * 4 * 144))
    same = doubted(pseudo_label(weak, p_w, 0.0), torch.tensor([2]), overlooked)
    assert torch.equal(found.weight, same.weight) and (found.weight == 0).any()
    learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=torch.zeros_like(label)))
    late = learner.pseudo_labels.prior / learner.pseudo_labels.seen
    assert late.item() == pytest.approx(0.98 / 1.98 * 12 / 144)


def ranked_by_suspicion(**options):
    """Trust and pseudo-labels, most suspected pixel first, where all looks like c; labels have 12 of 144 pixels."""
    learner, given = trainer(0.1, tau=0.0, paste=["c"], **options), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2
    p_w = torch.rand(4, 3, 12, 12)
    p_w[:, 2] += 1.0
    p_w = p_w / p_w.sum(1, keepdim=True)
    weak = learner._weakened(given["unlabelled"], Step(0, 1, 0))
    found = learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=label))
    ranked = p_w[:, 2].flatten().argsort(descending=True)
    return found.weight.flatten()[ranked], found.label.flatten()[ranked]


def test_between_cap_and_doubt_no_label_is_trusted():
    trust, label = ranked_by_suspicion(doubt=3.0, cap=1.0)
    assert (label[:48] == 2).all() and not (label[48:] == 2).any()
    assert (trust[:48] == 1).all() and (trust[48:144] == 0).all() and (trust[144:] == 1).all()


def test_a_cap_of_nothing_leaves_rare_classes_to_labels_and_doubt_keeps_others_off_them():
    trust, label = ranked_by_suspicion(doubt=3.0, cap=0.0)
    assert not (label == 2).any()
    assert (trust[:144] == 0).all() and (trust[144:] == 1).all()


def test_no_more_pixels_are_taken_for_a_rare_class_than_the_cap_allows():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], cap=1.5), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2
    weak, p_w = learner._weakened(given["unlabelled"], Step(0, 1, 0)), torch.rand(4, 3, 12, 12)
    p_w[:, 2] += 1.0  # everything looks like c
    p_w = p_w / p_w.sum(1, keepdim=True)
    taken = learner.pseudo_labels(weak, p_w, given["labelled"]._replace(label=label)).label == 2
    assert int(taken.sum()) == 1.5 * 4 * 12
    assert p_w[:, 2][taken].min() >= p_w[:, 2][~taken].max()


def test_doubt_without_a_rare_class_is_refused():
    with pytest.raises(ConfigError, match="paste names none"):
        trainer(doubt=4.0)
    with pytest.raises(ConfigError, match="paste names none"):
        trainer(cap=4.0)
