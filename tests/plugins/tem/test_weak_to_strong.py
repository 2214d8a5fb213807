"""Equations 3 to 6 against slow, literal references, gradients too; the teacher, the ramp, batch norm."""

import copy
import math

import pytest
import torch
from lamella import IGNORE, Batch, Step, logits_of
from lamella.errors import ConfigError
from lamella.testing import trainer_contract
from lamella_tem.baselines import cutmix_supervised
from lamella_tem.consistency import mean_consistency, mean_overlap, pseudo_label
from lamella_tem.passes import drop_channels, weak_pass
from lamella_tem.weak_to_strong import WeakToStrong
from tem_small_trainer import NAMES, Net, batches, literal_ce, trainer
from torch import nn

ANCHORED = {"ema": 1.0, "anchor": 0.5, "dice": True, "paste": ["c"], "doubt": 2.0, "cap": 0.0, "lam": 1.0}
test_contract = trainer_contract(lambda: trainer(losses=None, tau=0.0), batches)
test_pasted_contract = trainer_contract(lambda: trainer(losses=None, tau=0.0, paste=["c"]), batches)
test_anchored_contract = trainer_contract(lambda: trainer(losses=None, **ANCHORED), batches)


def passed(one, *images, together):
    """The features of each; ``together`` all go through batch norm at once, as in UniMatch's code."""
    encode = one.student.backbone.encode
    if not together:
        return [encode(image) for image in images]
    features = encode(torch.cat(images))
    parts = [len(image) for image in images]
    return [list(each) for each in zip(*(feature.split(parts) for feature in features))]


def literal_loss(one, data, step):
    """½(L_s + L_u), pixel by pixel, with the views the trainer itself makes."""
    net = one.student.backbone
    labelled = data["labelled"]
    weak = one._weakened(data["unlabelled"], step)
    joint = one.statistics == "all"
    z_x, z_w = passed(one, labelled.image, weak.image, together=joint)
    l_s = literal_ce(net.decode(z_x, None), labelled.label, labelled.weight).value()
    with torch.no_grad():
        p_w = net.decode(z_w, None).softmax(1)
    target = pseudo_label(weak, p_w, one.pseudo_labels.tau)
    views = one.choice.views(target, step)
    joint = joint and one.choice.select != "max-loss"  # which engages a single one
    p_s = [net.decode(z, None).log_softmax(1) for z in passed(one, *(view.image for view in views), together=joint)]
    p_fp = net.decode(z_w, None).log_softmax(1)
    b, _, h, w = p_w.shape
    l_u = [torch.zeros(()) for _ in p_s]
    l_fp = torch.zeros(())
    for n in range(b):
        for y in range(h):
            for x in range(w):
                if p_w[n, :, y, x].max() >= one.pseudo_labels.tau:
                    guess = p_w[n, :, y, x].argmax()
                    l_u = [total - p[n, guess, y, x] for total, p in zip(l_u, p_s)]
                    l_fp = l_fp - p_fp[n, guess, y, x]
    l_u, l_fp = [total / (b * h * w) for total in l_u], l_fp / (b * h * w)
    engaged = {"all": sum(l_u), "mean": sum(l_u) / len(l_u), "max-loss": max(l_u)}[one.choice.select]
    return 0.5 * (l_s + one.lam * engaged + (1 - one.lam) * l_fp)


@pytest.mark.parametrize("select", ["all", "mean", "max-loss"])
@pytest.mark.parametrize("lam", [0.5, 0.2, 1.0])
@pytest.mark.parametrize("statistics", ["weak", "all"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_loss_is_equations_3_to_6_gradients_too(select, lam, statistics, norm):
    data, step = batches(images=2, size=6), Step(0, 10, 0)
    options = {"select": select, "lam": lam, "statistics": statistics}
    for mode in (True, False):
        one, other = trainer(**options).train(mode), trainer(**options).train(mode)
        if norm == "group":
            for each in (one, other):
                each.student.backbone.first[1] = nn.GroupNorm(2, 4)
        found, expected = one(data, step)["loss"], literal_loss(other, data, step)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        found.backward()
        expected.backward()
        for ours, theirs in zip(one.parameters(), other.parameters()):
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
        if (statistics, select, norm) == ("all", "mean", "batch"):  # max-loss tries its sets without a trace
            norms = [each.student.backbone.first[1] for each in (one, other)]
            assert torch.allclose(norms[0].running_mean, norms[1].running_mean)


def test_labelled_and_unlabelled_images_of_two_sizes_pass_one_after_the_other():
    data, step = batches(images=2, size=6), Step(0, 10, 0)
    data["unlabelled"] = batches(images=2, size=8)["unlabelled"]
    found, apart = (trainer(statistics=statistics, lam=1.0)(data, step)["loss"] for statistics in ("all", "weak"))
    assert found.item() == pytest.approx(apart.item(), rel=1e-6)


@pytest.mark.parametrize("statistics", ["weak", "all"])
def test_the_running_statistics_follow_the_views_that_are_asked_for(statistics):
    one, data, step = trainer(statistics=statistics), batches(), Step(0, 10, 0)
    follow = copy.deepcopy(one.student.backbone).train()
    with torch.no_grad():
        follow.encode(data["labelled"].image)
        follow.encode(one._weakened(data["unlabelled"], step).image)
    one.train()(data, step)["loss"].backward()
    same = torch.allclose(one.student.backbone.first[1].running_mean, follow.first[1].running_mean)
    assert same == (statistics == "weak")
    assert one.student.backbone.first[1].track_running_stats


def test_plain_and_dropped_features_are_decoded_at_once_as_in_unimatch(monkeypatch):
    """With statistics of all views: labelled and weak, as they are and dropped; then both strong views."""
    one, data, seen = trainer(statistics="all", select="mean", drop=0.5), batches(images=2, size=6), []
    net = one.student.backbone
    plain = net.decode
    monkeypatch.setattr(net, "decode", lambda maps, size: seen.append(maps) or plain(maps, size))
    one(data, Step(0, 10, 0))
    assert [len(maps[-1]) for maps in seen] == [8, 2 * len(one.choice.sets)]
    kept, dropped = seen[0][-1].chunk(2)
    zero = (dropped == 0).flatten(2).all(2)
    assert zero.any() and torch.allclose(dropped[~zero], kept[~zero] / (1 - one.drop))


@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("select", ["max-loss", "mean", "random"])
@pytest.mark.parametrize("dice", [False, True])
def test_nothing_confident_or_everything_ignored_is_finite(tau, ignored, select, dice):
    data = batches()
    if ignored:
        label = torch.full_like(data["labelled"].label, IGNORE)
        data["labelled"] = data["labelled"]._replace(label=label, weight=torch.zeros_like(data["labelled"].weight))
    one = trainer(tau=tau, select=select, losses=None, drop=0.5, dice=dice)
    losses = one(data, Step(0, 10, 0))
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(parameter.grad).all() for parameter in one.student.parameters())
    if tau == 1.0:
        assert losses["strong"] == 0 and losses["feature"] == 0 and losses["confident"] == 0


def test_one_class_only_is_finite():
    torch.manual_seed(0)
    data = batches()
    data["labelled"] = data["labelled"]._replace(label=torch.zeros_like(data["labelled"].label))
    one = trainer(losses=None)
    one(data, Step(0, 10, 0))["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in one.student.parameters())


def test_every_trainable_parameter_gets_a_gradient_and_the_teacher_follows():
    one, data = trainer(ema=0.5, losses=None), batches()
    start = [parameter.clone() for parameter in one.teacher.parameters()]
    one(data, Step(0, 10, 0))["loss"].backward()
    assert all(p.grad is not None for p in one.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in one.teacher.parameters()) and not one.train().teacher.training
    with torch.no_grad():
        for parameter in one.student.parameters():
            parameter += 1.0
    one.after_step()
    for before, after in zip(start, one.teacher.parameters()):
        assert torch.allclose(after, before + 0.5)


def test_a_teacher_that_stays_gives_the_labels_and_not_the_answer():
    one, data = trainer(ema=1.0), batches()
    before = [value.clone() for value in one.teacher.state_dict().values()]
    with torch.no_grad():
        for parameter in one.student.parameters():
            parameter += 1.0
    one.after_step()
    assert all(torch.equal(a, b) for a, b in zip(before, one.teacher.state_dict().values()))
    one.eval()
    assert torch.equal(one.predict(data["unlabelled"]), one.student.predict(data["unlabelled"]))
    logits = logits_of(one.teacher, data["unlabelled"].image)
    weak = one._weakened(data["unlabelled"], Step(0, 10, 0)).image
    assert torch.equal(weak_pass(one.student.backbone, weak, teacher=one.teacher)[0], logits.softmax(1))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_answer_comes_from_weights_between_those_of_student_and_teacher(share):
    one, data = trainer(ema=1.0, teacher_share=share), batches()
    with torch.no_grad():
        for parameter in one.student.parameters():
            parameter += torch.rand_like(parameter)
        one.train().student.logits(data["unlabelled"].image)  # moves the running statistics
    one.eval()
    kept = {name: value.clone() for name, value in one.state_dict().items()}
    literal, theirs = Net().eval(), one.teacher.state_dict()
    literal.load_state_dict(
        {name: (1 - share) * value + share * theirs[name] for name, value in one.student.backbone.state_dict().items()}
    )
    wanted = literal.decode(literal.encode(data["unlabelled"].image), (12, 12)).softmax(1)
    assert torch.allclose(one.predict(data["unlabelled"]), wanted, atol=1e-6)
    assert all(torch.equal(value, kept[name]) for name, value in one.state_dict().items())
    if 0 < share < 1:
        assert not torch.allclose(wanted, one.student.predict(data["unlabelled"]), atol=1e-3)


def test_a_share_of_a_teacher_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="teacher_share needs a teacher; give ema"):
        trainer(teacher_share=0.5)


def test_anchored_images_are_their_weak_view_and_the_others_are_noised(monkeypatch):
    seen = []
    keep = WeakToStrong._loss_of
    monkeypatch.setattr(WeakToStrong, "_loss_of", lambda *given: seen.append(given[1]) or keep(*given))
    data = batches(images=64)
    for anchor in (0.0, 0.25, 1.0):
        one = trainer(0.3, anchor=anchor, lam=1.0)
        one(data, Step(0, 10, 0))
        weak = (seen[-1].image == data["unlabelled"].image).flatten(1).all(1)
        assert abs(weak.float().mean() - anchor) < 0.2 and (0 < anchor < 1) == (0 < weak.sum() < 64)


def literal_dice(logits, label, weight):
    """Of one image: 1 − (2Σwpy + 1)/(Σwp + Σwy + 1), mean over the classes that have a trusted pixel."""
    p, found = logits.softmax(0), []
    for k in range(len(p)):
        y = ((label == k) & (label != IGNORE)).float() * weight
        if y.sum() > 0:
            w = torch.where(label == IGNORE, 0.0, weight)
            found.append(1 - (2 * (p[k] * y).sum() + 1) / ((w * p[k]).sum() + y.sum() + 1))
    return torch.stack(found).mean() if found else torch.zeros(())


def test_the_dice_of_a_strong_view_is_that_of_its_images():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, 6, 6, requires_grad=True)
    label, weight = torch.randint(0, 3, (5, 6, 6)), torch.rand(5, 6, 6).round()
    label[0, :2], weight[1], weight[2][label[2] == 1], label[3] = IGNORE, 0.0, 0.0, 2
    found = mean_overlap(logits, Batch.of(torch.zeros(5, 1, 6, 6), label=label)._replace(weight=weight))
    expected = torch.stack([literal_dice(*one) for one in zip(logits, label, weight)]).mean()
    assert torch.allclose(found.value(), expected) and found.count == 5
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (found.value(), expected))
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_strong_views_with_dice_weigh_both_losses_alike():
    one, data, step = trainer(0.1, lam=1.0, tau=0.0, dice=True), batches(), Step(0, 10, 0)
    weak = one._weakened(data["unlabelled"], step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    target = one.pseudo_labels(weak, p_w, data["labelled"])
    view = one.choice.views(target, step)[0]
    logits = one.student.logits(view.image)
    both = mean_consistency(logits, view).value() + mean_overlap(logits, view).value()
    assert torch.allclose(one(data, step)["strong"], both / 2)
    assert one.counts(data, step)["images"] == 4


def test_the_ramp_sets_the_unsupervised_loss_in():
    one = trainer(ramp=10)
    assert one._ramped(Step(0, 99, 0)) == pytest.approx(math.exp(-5))
    assert [one._ramped(Step(n, 99, 0)) for n in (10, 50)] == [1.0, 1.0]
    losses = one(batches(), Step(0, 99, 0))
    unsupervised = one.lam * losses["strong"] + (1 - one.lam) * losses["feature"]
    assert unsupervised > 0.1
    expected = 0.5 * (losses["supervised"] + math.exp(-5) * unsupervised)
    assert losses["loss"].item() == pytest.approx(expected.item())


def test_what_the_parts_of_a_step_log_adds_up_to_shares():
    one = trainer(0.1, 0.3, paste=["c"], tau=0.0)
    logged = one(batches(), Step(0, 10, 0, parts=2))
    assert logged["confident"] == pytest.approx(0.5) and logged["engaged/set 1"] + logged["engaged/set 2"] == 0.5
    assert logged["rare/labelled"] == pytest.approx(one(batches(), Step(0, 10, 0))["rare/labelled"].item() / 2)


def test_a_checkpoint_written_before_its_parts_had_modules_loads():
    given = {"ema": 0.9, "class_tau": True, "paste": ["c"], "doubt": 2.0}
    one, other = trainer(**given), trainer(0.5, 0.6, **given)
    one(batches(), Step(0, 10, 0))
    one.pseudo_labels.seen.fill_(1.0)  # what an older one did not tell
    older = {name.split(".", 1)[1] if name.startswith(("choice.", "pseudo_labels.")) else name: value
             for name, value in one.state_dict().items() if name != "pseudo_labels.seen"}  # fmt: skip
    assert {"engaged", "confidence", "prior"} <= older.keys()
    other.load_state_dict(older)
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in other.state_dict().items())


def test_labelled_images_are_mixed_as_by_the_cutmix_baseline():
    found = batches()
    mixed = trainer(mix_labelled=1.0)(found, Step(0, 10, seed=3))
    torch.manual_seed(1)
    alone = cutmix_supervised(backbone=Net(), p=1.0, losses={"ce": literal_ce}, class_names=NAMES)
    assert torch.equal(mixed["supervised"], alone(found, Step(0, 10, seed=3))["loss"].detach())
    assert not torch.equal(mixed["supervised"], trainer()(found, Step(0, 10, seed=3))["supervised"])


def test_strong_views_hold_labelled_objects_that_are_trusted_where_the_network_is_not(monkeypatch):
    learner = trainer(0.0, tau=1.0, lam=1.0, paste=["c"])
    given = batches(images=16, size=24)
    label = torch.zeros(16, 24, 24, dtype=torch.int64)
    label[:, 10:13, 6:10] = 2
    given["labelled"] = given["labelled"]._replace(label=label)
    seen = []
    monkeypatch.setattr(learner, "_strong", lambda target, step: seen.append(target) or target.image.sum() * 0)
    learner(given, Step(number=0, total=1, seed=0))
    trusted = seen[0].weight > 0
    shown = (seen[0].label == 2) & trusted
    assert torch.equal(trusted.any(-1).any(-1), shown.any(-1).any(-1))
    assert 0 < int(shown.any(-1).any(-1).sum()) < 16


def test_the_log_tells_how_much_is_taken_for_a_rare_class():
    learner, given, step = trainer(0.1, paste=["c"]), batches(), Step(0, 10, 0)
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2  # 12 of 144 pixels
    given["labelled"] = given["labelled"]._replace(label=label)
    p_w, _ = weak_pass(learner.student.backbone, learner._weakened(given["unlabelled"], step).image)
    found = learner(given, step)
    assert found["rare/labelled"].item() == pytest.approx(12 / 144)
    predicted = (p_w.argmax(1) == 2).float().mean().item()
    assert found["rare/predicted"].item() == pytest.approx(predicted) and predicted > 0
    assert not [name for name in trainer()(batches(), step) if name.startswith("rare")]


def test_a_class_to_paste_that_the_data_lack_is_refused():
    with pytest.raises(ConfigError, match="no class is called void; there are a, b, c"):
        trainer(paste=["void"])


def test_features_are_perturbed_whatever_their_number_and_the_image_itself_is_not():
    image, deep = torch.rand(2, 1, 8, 8), torch.rand(2, 32, 8, 8)
    for features in ([deep], [image, deep]):
        *before, last = drop_channels(features, 0.5, channels=1)
        assert {value for value in last.flatten(2).amax(2).gt(0).flatten().tolist()} == {True, False}
        assert all(torch.equal(kept, image) for kept in before)
