"""Equations 3 to 6 against slow, literal references, gradients too; and which set is engaged."""

import copy
import math

import pytest
import torch
from lamella import IGNORE, Batch, Chain, Perturbation, Range, Step, Warp, per_image
from lamella.errors import ConfigError
from lamella_tem.baselines import cutmix_supervised
from lamella_tem.consistency import consistency, gather_views, hardest, pseudo_label
from lamella_tem.rare import doubted
from lamella_tem.weak_to_strong import WeakToStrong
from torch import nn

NAMES = ["a", "b", "c"]


class Net(nn.Module):
    """Encode and decode, with a batch norm to watch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())
        self.last = nn.Conv2d(4, 3, 1)

    def encode(self, image):
        return [image, self.first(image)]

    def decode(self, features, size):
        return self.last(features[-1])


class Noise(Perturbation):
    family = "machine"

    def __init__(self, *, strength: Range = (0.0, 0.0), p: float = 1.0):
        super().__init__(p=p)
        self.strength = strength

    def draw(self, streams, about):
        return {"strength": streams.uniform(*self.strength)}

    def render(self, image, drawn, streams, about):
        return image + per_image(drawn["strength"], image) * streams.normal(*image.shape[1:])


class Shift(Warp):
    family = "sample"

    def draw(self, streams, about):
        return {"by": streams.uniform(2.0, 2.0)}

    def flow(self, drawn, streams, about):
        u = torch.zeros(len(drawn["by"]), about.height, about.width, 2)
        return u + torch.stack([drawn["by"], 0 * drawn["by"]], -1).view(-1, 1, 1, 2)


def batches(images=4, size=12):
    torch.manual_seed(0)
    x, u = torch.rand(images, 1, size, size), torch.rand(images, 1, size, size)
    label = torch.randint(0, 3, (images, size, size))
    label[0, :3] = IGNORE
    keys = torch.arange(images) + 100
    return {"labelled": Batch.of(x, label=label), "unlabelled": Batch.of(u, key=keys)}


def trainer(*strengths, **options):
    torch.manual_seed(1)
    sets = [Chain([Noise(strength=(s, s))]) for s in strengths or (0.1, 0.3)]
    given = {"tau": 0.34, "drop": 0.0, "losses": {"ce": literal_ce}, **options}
    return WeakToStrong(backbone=Net(), sets=sets, class_names=NAMES, **given)


def literal_ce(logits, label, weight, /):
    from lamella import Mean

    total, count = logits.new_zeros(()), 0
    for b in range(len(label)):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                if label[b, y, x] != IGNORE:
                    total = total - logits[b, :, y, x].log_softmax(0)[label[b, y, x]]
                    count += 1
    return Mean(total, torch.tensor(float(count)))


def literal_loss(one, data, step):
    """½(L_s + L_u), pixel by pixel, with the views the trainer itself makes."""
    net = one.student.backbone
    labelled = data["labelled"]
    l_s = literal_ce(net.decode(net.encode(labelled.image), None), labelled.label, labelled.weight).value()
    weak = one._weakened(data["unlabelled"], step)
    z_w = net.encode(weak.image)
    with torch.no_grad():
        p_w = net.decode(z_w, None).softmax(1)
    target = pseudo_label(weak, p_w, one.tau)
    p_s = [net.decode(net.encode(one._view(i, target, step).image), None).log_softmax(1) for i in range(len(one.sets))]
    p_fp = net.decode(z_w, None).log_softmax(1)
    b, _, h, w = p_w.shape
    l_u = [torch.zeros(()) for _ in p_s]
    l_fp = torch.zeros(())
    for n in range(b):
        for y in range(h):
            for x in range(w):
                if p_w[n, :, y, x].max() >= one.tau:
                    guess = p_w[n, :, y, x].argmax()
                    l_u = [total - p[n, guess, y, x] for total, p in zip(l_u, p_s)]
                    l_fp = l_fp - p_fp[n, guess, y, x]
    l_u, l_fp = [total / (b * h * w) for total in l_u], l_fp / (b * h * w)
    engaged = {"all": sum(l_u), "mean": sum(l_u) / len(l_u), "max-loss": max(l_u)}[one.select]
    return 0.5 * (l_s + one.lam * engaged + (1 - one.lam) * l_fp)


@pytest.mark.parametrize("select", ["all", "mean", "max-loss"])
@pytest.mark.parametrize("lam", [0.5, 0.2])
def test_the_loss_is_equations_3_to_6_gradients_too(select, lam):
    data, step = batches(images=2, size=6), Step(0, 10, 0)
    for mode in (True, False):
        one, other = trainer(select=select, lam=lam).train(mode), trainer(select=select, lam=lam).train(mode)
        found, expected = one(data, step)["loss"], literal_loss(other, data, step)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        found.backward()
        expected.backward()
        for ours, theirs in zip(one.parameters(), other.parameters()):
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_the_hardest_set_is_engaged():
    one, data = trainer(0.0, 0.8, 0.05), batches()
    one(data, Step(0, 10, 0))
    assert one.engaged.tolist() == [0.0, 1.0, 0.0]


def test_each_image_can_have_its_own_hardest_set():
    one, data, step = trainer(0.4, 0.4, 0.4, per="image"), batches(8), Step(0, 10, 0)
    weak, p_w, _ = one._weak_view(data["unlabelled"], step)
    views = one._views(pseudo_label(weak, p_w, one.tau), step)
    chosen = one._engage(views, step)[0]
    losses = one._probe(views)
    assert len(set(chosen.tolist())) > 1
    assert torch.equal(chosen, losses.argmax(0))
    gathered = gather_views(views, chosen)
    for i, k in enumerate(chosen.tolist()):
        assert torch.equal(gathered.image[i], views[k].image[i])


def test_a_loss_that_is_not_finite_is_engaged_last():
    losses = torch.tensor([[1.0], [float("nan")], [2.0]])
    assert hardest(losses, 1).tolist() == [[2]]
    assert hardest(losses, 3).tolist() == [[2], [0], [1]]


def test_random_selection_is_keyed_and_reaches_every_set():
    one, other = trainer(0.1, 0.2, 0.3, select="random"), trainer(0.1, 0.2, 0.3, select="random")
    drawn = [one._by_chance(Step(number, 40, 7)) for number in range(40)]
    assert drawn == [other._by_chance(Step(number, 99, 7)) for number in range(40)]
    assert drawn != [one._by_chance(Step(number, 40, 8)) for number in range(40)]
    assert {*drawn} == {0, 1, 2}


def test_random_selection_makes_the_drawn_set_alone():
    one, data = trainer(0.1, 0.2, 0.3, select="random"), batches()
    made = []
    for number, chain in enumerate(one.sets):
        chain.register_forward_hook(lambda *_, number=number: made.append(number))
    for number in range(6):
        one(data, Step(number, 10, 0))
    assert made == [one._by_chance(Step(number, 10, 0)) for number in range(6)]


@pytest.mark.parametrize("select", ["max-loss", "random"])
@pytest.mark.parametrize("per", ["batch", "image"])
def test_the_log_tells_which_sets_are_engaged(select, per):
    one, data = trainer(0.1, 0.2, 0.3, select=select, per=per), batches()
    for number in range(4):
        found = one(data, Step(number, 10, 0))
        shares = torch.stack([found[f"engaged/set {k}"] for k in (1, 2, 3)])
        assert shares.sum() == pytest.approx(1.0) and torch.equal(shares, one.engaged)
        if (select, per) == ("random", "batch"):
            assert shares.argmax() == one._by_chance(Step(number, 10, 0)) and shares.amax() == 1


def test_where_no_set_is_chosen_none_is_logged_as_engaged():
    found = trainer(0.1, 0.2, select="mean")(batches(), Step(0, 10, 0))
    assert not [name for name in found if name.startswith("engaged")]


def test_random_selection_per_image_takes_several_sets():
    one, data = trainer(0.1, 0.2, 0.3, select="random", per="image"), batches(8)
    weak, p_w, _ = one._weak_view(data["unlabelled"], Step(0, 10, 0))
    target = pseudo_label(weak, p_w, one.tau)
    views = one._views(target, Step(0, 10, 0))
    seen = []
    one._loss_of = lambda view, step: seen.append(view) or torch.zeros(())
    one._strong(target, Step(0, 10, 0))
    of = [[k for k, view in enumerate(views) if torch.equal(seen[0].image[i], view.image[i])] for i in range(8)]
    assert all(len(k) == 1 for k in of) and len({k[0] for k in of}) > 1


def test_a_few_images_of_every_set_are_tried_in_one_batch():
    one, data, step = trainer(0.1, 0.2, 0.3), batches(), Step(0, 10, 0)
    one.eval()  # the batch norm of a network in training would see another batch
    weak, p_w, _ = one._weak_view(data["unlabelled"], step)
    views = one._views(pseudo_label(weak, p_w, one.tau), step)
    whole = one._probe(views)
    one.probe_images = 2
    few = one._probe(views)
    assert few.shape == (3, 2) and torch.allclose(few, whole[:, :2], atol=1e-6)
    one.probe_images = 9
    assert torch.allclose(one._probe(views), whole, atol=1e-6)
    with pytest.raises(ConfigError, match="probe_images is for per = 'batch'"):
        trainer(per="image", probe_images=1)


def test_probes_leave_gradients_and_batch_norm_alone():
    one, data, step = trainer(), batches(), Step(0, 10, 0)
    weak, p_w, _ = one._weak_view(data["unlabelled"], step)
    views = one._views(pseudo_label(weak, p_w, one.tau), step)
    before = {name: value.clone() for name, value in one.student.backbone.state_dict().items()}
    one._probe(views)
    assert all(torch.equal(value, before[name]) for name, value in one.student.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in one.parameters())


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


def test_probing_every_other_step_remembers():
    one, data = trainer(0.0, 0.8, probe_every=2), batches()
    one(data, Step(0, 10, 0))
    called = []
    one._probe = lambda views: called.append(1)
    one(data, Step(1, 10, 0))
    assert not called and one.engaged.tolist() == [0.0, 1.0]


def test_probing_at_half_size_finds_the_same_hardest_set():
    one = trainer(0.0, 0.9, probe_scale=0.5)
    one(batches(size=32), Step(0, 10, 0))
    assert one.engaged.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("select", ["max-loss", "mean", "random"])
def test_nothing_confident_or_everything_ignored_is_finite(tau, ignored, select):
    data = batches()
    if ignored:
        label = torch.full_like(data["labelled"].label, IGNORE)
        data["labelled"] = data["labelled"]._replace(label=label, weight=torch.zeros_like(data["labelled"].weight))
    one = trainer(tau=tau, select=select, losses=None, drop=0.5)
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


def test_the_pseudo_label_and_its_trust_follow_a_warp():
    one, data, step = trainer(weak=Chain([Shift()])), batches(), Step(0, 10, 0)
    weak, p_w, _ = one._weak_view(data["unlabelled"], step)
    assert torch.equal(weak.image[:, :, :-2], data["unlabelled"].image[:, :, 2:])
    target = pseudo_label(weak, p_w, 0.0)
    assert (target.label[:, -2:] == IGNORE).all() and (target.weight[:, -2:] == 0).all()
    moved = Chain([Shift()])(target, step.streams(target, "strong"))
    assert torch.equal(moved.label[:, :-2], target.label[:, 2:])
    assert consistency(torch.zeros(4, 3, 12, 12), target)[:, -2:].abs().max() == 0


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


def test_class_thresholds_are_lower_for_classes_that_are_seldom_sure():
    one = trainer(class_tau=True, tau=0.9)
    p_w = torch.tensor([[0.95, 0.05, 0.0], [0.05, 0.55, 0.4]]).T.reshape(1, 3, 1, 2)
    for _ in range(500):
        threshold = one._threshold(p_w)
    assert threshold[0] > 0.85 and threshold[1] < 0.6


def test_the_ramp_sets_the_unsupervised_loss_in():
    one = trainer(ramp=10)
    assert one._ramped(Step(0, 99, 0)) == pytest.approx(math.exp(-5))
    assert [one._ramped(Step(n, 99, 0)) for n in (10, 50)] == [1.0, 1.0]


def test_impossible_choices_are_refused():
    with pytest.raises(ConfigError, match="top_k = 3"):
        trainer(0.1, 0.2, top_k=3)
    with pytest.raises(ConfigError, match="probe_every"):
        trainer(0.1, 0.2, per="image", probe_every=2)


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


def test_a_class_to_paste_that_the_data_lack_is_refused():
    with pytest.raises(ConfigError, match="no class is called void; there are a, b, c"):
        trainer(paste=["void"])


def test_the_share_of_a_rare_class_is_that_of_the_labels_of_late():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], doubt=2.0), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2  # 12 of 144 pixels
    weak, p_w = learner._weakened(given["unlabelled"], Step(0, 1, 0)), torch.rand(4, 3, 12, 12)
    p_w[:, 2] *= 0.5  # c is suspected, seldom likeliest
    found = learner._pseudo_label(weak, p_w, given["labelled"]._replace(label=label))
    same = doubted(pseudo_label(weak, p_w, 0.0), p_w, torch.tensor([2]), torch.tensor(2 * 12 / 144))
    assert torch.equal(found.weight, same.weight) and (found.weight == 0).any()
    learner._pseudo_label(weak, p_w, given["labelled"]._replace(label=torch.zeros_like(label)))
    assert learner.prior.item() == pytest.approx(0.98 * 12 / 144)


def test_between_cap_and_doubt_no_label_is_trusted():
    learner, given = trainer(0.1, tau=0.0, paste=["c"], doubt=3.0, cap=1.0), batches()
    label = torch.zeros(4, 12, 12, dtype=torch.int64)
    label[:, :3, :4] = 2
    p_w = torch.rand(4, 3, 12, 12)
    p_w[:, 2] += 1.0
    p_w = p_w / p_w.sum(1, keepdim=True)
    found = learner._pseudo_label(learner._weakened(given["unlabelled"], Step(0, 1, 0)), p_w,
                                  given["labelled"]._replace(label=label))  # fmt: skip
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
    taken = learner._pseudo_label(weak, p_w, given["labelled"]._replace(label=label)).label == 2
    assert int(taken.sum()) == 1.5 * 4 * 12
    assert p_w[:, 2][taken].min() >= p_w[:, 2][~taken].max()


def test_doubt_without_a_rare_class_is_refused():
    with pytest.raises(ConfigError, match="paste names none"):
        trainer(doubt=4.0)
    with pytest.raises(ConfigError, match="paste names none"):
        trainer(cap=4.0)
