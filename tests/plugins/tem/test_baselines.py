"""CutMix and the baselines that are built from the parts of weak-to-strong."""

import pytest
import torch
from lamella import IGNORE, Batch, Chain, Step, Streams
from lamella.engine.experiment import check_experiment
from lamella.engine.session import prepare
from lamella.engine.update import update
from lamella.registry.registry import current
from lamella_tem.baselines import cutmix_consistency, cutmix_supervised, unimatch
from lamella_tem.cutmix import cutmix, rectangles
from lamella_tem.passes import weak_pass
from torch import nn

NAMES = ["a", "b"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def encode(self, image):
        return [image, self.first(image)]

    def decode(self, features, size):
        return self.last(features[-1])


def coded(images=4, size=24):
    """Images whose grey value tells their number, with labels, trust and instances that tell it too."""
    number = torch.arange(images).view(-1, 1, 1).expand(-1, size, size)
    return Batch.of(
        number.unsqueeze(1) / images, label=number.clone(), weight=number / images, instance=number.clone() + 7
    )


def test_cutmix_moves_image_label_trust_and_instances_together():
    batch = coded()
    mixed = cutmix(batch, Streams(torch.arange(4)), p=1.0)
    from_neighbour = mixed.label != batch.label
    assert 0.02 <= from_neighbour.float().mean() <= 0.4
    assert torch.equal(mixed.image[:, 0], mixed.label / 4)
    assert torch.equal(mixed.weight, mixed.label / 4)
    assert torch.equal(mixed.instance, mixed.label + 7)
    expected = batch.label.roll(1, 0)
    assert torch.equal(mixed.label[from_neighbour], expected[from_neighbour])


def test_cutmix_at_probability_zero_and_alone_changes_nothing():
    batch = coded()
    assert torch.equal(cutmix(batch, Streams(torch.arange(4)), p=0.0).image, batch.image)
    assert torch.equal(cutmix(coded(1), Streams(torch.arange(1)), p=1.0).image, coded(1).image)


def test_rectangles_have_the_areas_and_aspects_they_should():
    inside = rectangles(100, 100, Streams(torch.arange(3000)))
    area = inside.float().mean((1, 2))
    tall, wide = inside.any(2).sum(1), inside.any(1).sum(1)
    assert torch.equal(inside.sum((1, 2)), tall * wide)
    assert area.min() > 0.015 and area.max() < 0.42
    assert area.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist() == pytest.approx([0.115, 0.21, 0.305], abs=0.015)
    aspect = (tall / wide)[area < 0.28]  # all aspects fit
    assert aspect.min() > 0.25 and aspect.max() < 4.0
    assert aspect.median() == pytest.approx((0.3 + 1 / 0.3) / 2, abs=0.1)
    assert ((tall < 100) | (wide < 100)).all()


def test_rectangles_of_oblong_images_lie_inside_too():
    inside = rectangles(12, 240, Streams(torch.arange(500)))
    assert torch.equal(inside.sum((1, 2)), inside.any(2).sum(1) * inside.any(1).sum(1))
    area = inside.float().mean((1, 2))
    assert area.min() > 0.015 and area.max() < 0.45


def test_cutmix_leaves_images_out_by_its_probability():
    batch = coded(images=4)
    streams = (Streams(4 * n + torch.arange(4)) for n in range(100))
    changed = [(cutmix(batch, each, p=0.3).label != batch.label).flatten(1).any(1) for each in streams]
    assert torch.stack(changed).float().mean() == pytest.approx(0.3, abs=0.07)


def batches():
    torch.manual_seed(0)
    label = torch.randint(0, 2, (4, 16, 16))
    x = Batch.of(torch.rand(4, 1, 16, 16), label=label)
    return {"labelled": x, "unlabelled": Batch.of(torch.rand(4, 1, 16, 16), key=torch.arange(4) + 50)}


def made(factory, **options):
    torch.manual_seed(1)
    return factory(backbone=Net(), class_names=NAMES, **options)


def test_unimatch_has_its_published_weights():
    one, data, step = made(unimatch, strong=Chain([]), tau=0.0), batches(), Step(0, 9, 0)
    assert (one.choice.mix, one.drop, one.lam, one.choice.select, len(one.choice.sets)) == (0.5, 0.5, 0.5, "mean", 2)
    losses = one(data, step)
    expected = (losses["supervised"] + 0.5 * losses["strong"] + 0.5 * losses["feature"]) / 2
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    weak = one._weakened(data["unlabelled"], step)
    p_w, _ = weak_pass(one.student.backbone, weak.image)
    from lamella_tem.consistency import pseudo_label

    target = pseudo_label(weak, p_w, 0.0)
    first, second = (one.choice.view(number, target, step) for number in range(2))
    assert not torch.equal(first.image, second.image)  # drawn independently


@pytest.mark.parametrize("factory", [unimatch, cutmix_consistency])
def test_baselines_take_their_threshold_and_their_losses(factory):
    def doubled(logits, label, weight, /):
        return 2 * nn.functional.cross_entropy(logits, label)

    options = {"strong": Chain([])} if factory is unimatch else {}
    sure, unsure = (made(factory, tau=tau, losses={"ce": doubled}, **options) for tau in (0.0, 1.0))
    data, step = batches(), Step(0, 9, 0)
    assert sure(data, step)["confident"] == 1 and unsure(data, step)["confident"] == 0
    batch, label, _ = sure.student.mixed(data["labelled"], step)
    expected = 2 * nn.functional.cross_entropy(sure.student.logits(batch.image), label)
    assert sure(data, step)["supervised"].item() == pytest.approx(expected.item())


def test_cutmix_consistency_perturbs_by_cutmix_alone():
    one, data, step = made(cutmix_consistency, tau=0.0), batches(), Step(0, 9, 0)
    losses = one(data, step)
    assert losses["feature"] == 0 and losses["strong"] > 0
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in one.parameters())


def test_an_unlabelled_image_that_is_alone_is_said():
    data = batches()
    data["unlabelled"] = data["unlabelled"].select(slice(0, 1))
    with pytest.warns(UserWarning, match="one image per process and part has none"):
        made(cutmix_consistency, tau=0.0)(data, Step(0, 9, 0))


def test_cutmix_on_labelled_images_changes_what_is_learned_from():
    plain, mixed = made(cutmix_supervised, p=0.0), made(cutmix_supervised, p=1.0)
    data, step = batches(), Step(0, 9, 0)
    assert mixed.roles == ("labelled",)
    assert plain(data, step)["loss"].item() != pytest.approx(mixed(data, step)["loss"].item())


TRAINERS = {
    "supervised": {},
    "cutmix": {},
    "cutmix-consistency": {},
    "unimatch": {"strong": "machine"},
    "weak-to-strong": {"sets": ["sample", "machine", "post"], "weak": "weak", "tau": 0.5},
}


@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_on_the_engine_without_host_sync(name, tmp_path):
    from lamella.engine.fit import training_batches
    from lamella.testing.no_sync import no_sync

    source = {"name": "synth-tem", "preset": "device-a", "count": 4, "size": 64}
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": source}, "unlabelled": {"source": {**source, "seed": 1}}},
        "trainer": {
            "name": name,
            "backbone": {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100"},
            **TRAINERS[name],
        },
        "fit": {"steps": 3, "batch_size": 2},
    }
    experiment = check_experiment(tables, name=name, folder=tmp_path, registry=current())
    session = prepare(experiment, tmp_path / "run")
    session.trainer.train()
    steps = training_batches(session)
    number, first = next(steps)
    update(session, first, number)
    number, second = next(steps)
    with no_sync():
        losses, finite = update(session, second, number)
    assert bool(finite) and losses["loss"] > 0
    assert all(p.grad is None for p in session.trainer.parameters())


def test_a_pixel_outside_of_the_image_teaches_nothing():
    data, one = batches(), made(cutmix_consistency, tau=0.0)
    blank = data["unlabelled"]._replace(label=torch.full((4, 16, 16), IGNORE))
    from lamella_tem.consistency import mean_consistency, pseudo_label

    target = pseudo_label(blank, torch.full((4, 2, 16, 16), 0.5), 0.0)
    loss = mean_consistency(one.student.logits(blank.image), target)
    assert loss.total.item() == 0 and loss.count.item() == 0 and loss.value().item() == 0
