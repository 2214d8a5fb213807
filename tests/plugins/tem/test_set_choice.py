"""Which perturbation sets are engaged, and what trying them leaves alone."""

import pytest
import torch
from lamella import IGNORE, Step
from lamella.errors import ConfigError
from lamella_tem.consistency import gather_views, hardest, mean_consistency, pseudo_label
from lamella_tem.passes import weak_pass
from tem_small_trainer import batches, trainer


def test_the_hardest_set_is_engaged():
    one, data = trainer(0.0, 0.8, 0.05), batches()
    one(data, Step(0, 10, 0))
    assert one.choice.engaged.tolist() == [0.0, 1.0, 0.0]


def test_each_image_can_have_its_own_hardest_set():
    one, data, step = trainer(0.4, 0.4, 0.4, per="image"), batches(8), Step(0, 10, 0)
    weak = one._weakened(data["unlabelled"], step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    views = one.choice.views(pseudo_label(weak, p_w, one.pseudo_labels.tau), step)
    chosen = one.choice.engage(views, one.student, step)[0]
    losses = one.choice.probe(views, one.student).value()
    assert len(set(chosen.tolist())) > 1
    assert torch.equal(chosen, losses.argmax(0))
    gathered = gather_views(views, chosen)
    for i, k in enumerate(chosen.tolist()):
        assert torch.equal(gathered.image[i], views[k].image[i])


def test_a_loss_that_is_not_finite_is_engaged_last():
    losses = torch.tensor([[1.0], [float("nan")], [2.0]])
    assert hardest(losses, 1).tolist() == [[2]]
    assert hardest(losses, 3).tolist() == [[2], [0], [1]]


@pytest.mark.parametrize("per", ["batch", "image"])
def test_pixels_that_a_set_moves_outside_do_not_make_it_easier(per):
    """The set of highest loss is that of equation 4, whose mean leaves out what is ignored."""
    one, data, step = trainer(0.3, 0.3, per=per, tau=0.0), batches(), Step(0, 10, 0)
    target = pseudo_label(data["unlabelled"], torch.rand(4, 3, 12, 12).softmax(1), 0.0)
    inner, whole = (target._replace(label=target.label.clone()) for _ in range(2))
    inner.label[:, :6] = IGNORE
    whole.label[:, :6] = one.student.logits(whole.image).argmax(1)[:, :6]  # its easier half
    losses = torch.stack([mean_consistency(one.student.logits(view.image), view).value() for view in (inner, whole)])
    assert losses[0] > losses[1]
    assert (one.choice.engage([inner, whole], one.student, step) == 0).all()


def test_random_selection_is_keyed_and_reaches_every_set():
    one, other = trainer(0.1, 0.2, 0.3, select="random"), trainer(0.1, 0.2, 0.3, select="random")
    drawn = [one.choice.by_chance(Step(number, 40, 7)) for number in range(40)]
    assert drawn == [other.choice.by_chance(Step(number, 99, 7)) for number in range(40)]
    assert drawn != [one.choice.by_chance(Step(number, 40, 8)) for number in range(40)]
    assert {*drawn} == {0, 1, 2}


def test_random_selection_makes_the_drawn_set_alone():
    one, data = trainer(0.1, 0.2, 0.3, select="random"), batches()
    made = []
    for number, chain in enumerate(one.choice.sets):
        chain.register_forward_hook(lambda *_, number=number: made.append(number))
    for number in range(6):
        one(data, Step(number, 10, 0))
    assert made == [one.choice.by_chance(Step(number, 10, 0)) for number in range(6)]


@pytest.mark.parametrize("select", ["max-loss", "random"])
@pytest.mark.parametrize("per", ["batch", "image"])
def test_the_log_tells_which_sets_are_engaged(select, per):
    one, data = trainer(0.1, 0.2, 0.3, select=select, per=per), batches()
    for number in range(4):
        found = one(data, Step(number, 10, 0))
        shares = torch.stack([found[f"engaged/set {k}"] for k in (1, 2, 3)])
        assert shares.sum() == pytest.approx(1.0) and torch.equal(shares, one.choice.engaged)
        if (select, per) == ("random", "batch"):
            assert shares.argmax() == one.choice.by_chance(Step(number, 10, 0)) and shares.amax() == 1


def test_where_no_set_is_chosen_none_is_logged_as_engaged():
    found = trainer(0.1, 0.2, select="mean")(batches(), Step(0, 10, 0))
    assert not [name for name in found if name.startswith("engaged")]


def test_random_selection_per_image_takes_several_sets():
    one, data = trainer(0.1, 0.2, 0.3, select="random", per="image"), batches(8)
    weak = one._weakened(data["unlabelled"], Step(0, 10, 0))
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    target = pseudo_label(weak, p_w, one.pseudo_labels.tau)
    views = one.choice.views(target, Step(0, 10, 0))
    seen = []
    one._loss_of = lambda view, logits, step: seen.append(view) or torch.zeros(())
    one._strong(target, Step(0, 10, 0))
    of = [[k for k, view in enumerate(views) if torch.equal(seen[0].image[i], view.image[i])] for i in range(8)]
    assert all(len(k) == 1 for k in of) and len({k[0] for k in of}) > 1


def test_a_few_images_of_every_set_are_tried_in_one_batch():
    one, data, step = trainer(0.1, 0.2, 0.3), batches(), Step(0, 10, 0)
    one.eval()  # the batch norm of a network in training would see another batch
    weak = one._weakened(data["unlabelled"], step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    views = one.choice.views(pseudo_label(weak, p_w, one.pseudo_labels.tau), step)
    whole = one.choice.probe(views, one.student).value()
    one.choice.probe_images = 2
    few = one.choice.probe(views, one.student).value()
    assert few.shape == (3, 2) and torch.allclose(few, whole[:, :2], atol=1e-6)
    one.choice.probe_images = 9
    assert torch.allclose(one.choice.probe(views, one.student).value(), whole, atol=1e-6)
    with pytest.raises(ConfigError, match="probe_images is for per = 'batch'"):
        trainer(per="image", probe_images=1)


def test_probes_leave_gradients_and_batch_norm_alone():
    one, data, step = trainer(), batches(), Step(0, 10, 0)
    weak = one._weakened(data["unlabelled"], step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    views = one.choice.views(pseudo_label(weak, p_w, one.pseudo_labels.tau), step)
    before = {name: value.clone() for name, value in one.student.backbone.state_dict().items()}
    one.choice.probe(views, one.student)
    assert all(torch.equal(value, before[name]) for name, value in one.student.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in one.parameters())


def test_probing_every_other_step_remembers():
    one, data = trainer(0.0, 0.8, probe_every=2), batches()
    one(data, Step(0, 10, 0))
    called = []
    one.choice.probe = lambda *_: called.append(1)
    one(data, Step(1, 10, 0))
    assert not called and one.choice.engaged.tolist() == [0.0, 1.0]


def test_a_step_repeats_after_a_trial_of_the_sets_where_they_are_tried():
    assert trainer(0.0, 0.8, probe_every=2).period == 2
    for never in ({"select": "random"}, {"select": "mean"}, {"top_k": 2}):
        assert trainer(0.0, 0.8, probe_every=2, **never).period == 1


@pytest.mark.parametrize("top_k", [1, 2])
def test_between_trials_the_remembered_sets_alone_are_made_and_no_view_changes(top_k, monkeypatch):
    options = {"probe_every": 3, "top_k": top_k, "mix": 0.5}
    here, there, data = trainer(0.1, 0.8, 0.3, **options), trainer(0.1, 0.8, 0.3, **options), batches()
    made = []
    for chain in here.choice.sets:
        chain.register_forward_hook(lambda *_: made.append(1))
    counts, ours = [], []
    for number in range(4):
        made.clear()
        ours.append(here(data, Step(number, 10, 0)))
        counts.append(len(made))
    monkeypatch.setattr(there.choice, "remembered", lambda step: None)  # as where the host does not know
    theirs = [there(data, Step(number, 10, 0)) for number in range(4)]
    assert counts == [3, top_k, top_k, 3]
    assert all(torch.equal(a["strong"], b["strong"]) for a, b in zip(ours, theirs))


def test_probing_at_half_size_finds_the_same_hardest_set():
    one = trainer(0.0, 0.9, probe_scale=0.5)
    one(batches(size=32), Step(0, 10, 0))
    assert one.choice.engaged.tolist() == [0.0, 1.0]


def test_impossible_choices_are_refused():
    with pytest.raises(ConfigError, match="top_k = 3"):
        trainer(0.1, 0.2, top_k=3)
    with pytest.raises(ConfigError, match="probe_every"):
        trainer(0.1, 0.2, per="image", probe_every=2)


def test_where_every_set_is_engaged_none_is_tried(monkeypatch):
    one, data = trainer(0.3, 0.1, top_k=2), batches()
    monkeypatch.setattr(one.choice, "probe", None)
    one(data, Step(0, 10, 0))
    assert one.choice.engaged.tolist() == [1.0, 1.0]
