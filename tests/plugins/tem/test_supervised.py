"""The supervised trainer: the losses it names, the weights it gives them, what it refuses."""

import lamella
import pytest
import torch
from lamella import IGNORE, Batch, Step, Trainer
from lamella.errors import ConfigError
from lamella.registry.registry import current
from lamella_tem.losses import cross_entropy, dice
from lamella_tem.paste import neighbours, paste_objects
from lamella_tem.supervised import Supervised
from torch import nn

STEP = Step(0, 10, 0)
NAMES = ["a", "b", "c"]


class Pointwise(nn.Module):
    """Logits from one pixel each."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 3, 1)

    def encode(self, image):
        return [image]

    def decode(self, features, size):
        return self.mix(features[0])


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Pointwise()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (4, 8, 8), generator=generator)
    label[:, 0] = IGNORE
    return Batch.of(torch.rand(4, 1, 8, 8, generator=generator), label=label)


def test_the_loss_is_the_mean_of_cross_entropy_and_dice(backbone, batch):
    losses = Supervised(backbone=backbone, class_names=NAMES)({"labelled": batch}, STEP)
    logits = backbone.mix(batch.image)
    expected = {f.__name__: f(logits, batch.label, batch.weight).value() for f in (cross_entropy, dice)}
    assert set(losses) == {"ce", "dice", "loss"}
    assert losses["ce"].item() == pytest.approx(expected["cross_entropy"].item())
    assert losses["dice"].item() == pytest.approx(expected["dice"].item())
    assert losses["loss"].item() == pytest.approx(sum(expected.values()).item() / 2)


@pytest.mark.parametrize("name", ["loss", "images", "unlabelled", "feature"])
def test_a_loss_is_not_called_what_the_training_calls_its_own(backbone, name):
    with pytest.raises(ConfigError, match=f"no loss can be called '{name}'"):
        Supervised(backbone=backbone, losses={"ce": cross_entropy, name: dice}, class_names=NAMES)


def test_losses_and_weights_are_those_of_the_experiment(backbone, batch):
    plan = current().plan(
        "trainer",
        {"name": "supervised", "backbone": "deeplabv3plus", "losses": {"x": "cross-entropy", "y": "dice"}},
        "here",
    )
    given = {name: loss.build() for name, loss in plan.parameters["losses"].items()}
    trainer = Supervised(backbone=backbone, losses=given, weights={"y": 3.0, "x": 0.5}, class_names=NAMES)
    losses = trainer({"labelled": batch}, STEP)
    assert losses["loss"].item() == pytest.approx((3.0 * losses["y"] + 0.5 * losses["x"]).item())


def test_weights_for_other_losses_than_there_are_is_refused(backbone):
    with pytest.raises(ConfigError, match=r"weights are given for ce, losses are ce, dice"):
        Supervised(backbone=backbone, weights={"ce": 1.0}, class_names=NAMES)


def test_a_batch_without_labels_is_refused(backbone, batch):
    with pytest.raises(ConfigError, match="no labels"):
        Supervised(backbone=backbone, class_names=NAMES)({"labelled": batch._replace(label=None, weight=None)}, STEP)


def test_a_class_for_each_image_and_no_loss_are_refused(backbone, batch):
    classes = batch._replace(label=batch.label[:, 1, 1], weight=batch.weight[:, 1, 1])
    with pytest.raises(ConfigError, match="one class for each image"):
        Supervised(backbone=backbone, class_names=NAMES)({"labelled": classes}, STEP)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        Supervised(backbone=backbone, losses={}, class_names=NAMES)


def test_ignored_pixels_get_no_gradient(backbone, batch):
    image = batch.image.clone().requires_grad_()
    Supervised(backbone=backbone, class_names=NAMES)({"labelled": batch._replace(image=image)}, STEP)["loss"].backward()
    assert image.grad[:, :, 0].abs().max() == 0
    assert image.grad[:, :, 1:].abs().max() > 0


def test_label_and_trust_follow_the_augmentation(backbone, batch):
    seen = []

    def watching(logits, label, weight):
        seen.append((label, weight))
        return cross_entropy(logits, label, weight)

    augment = current().plan("chain", [{"name": "deformation"}], "here").build()
    trainer = Supervised(backbone=backbone, augment=augment, losses={"ce": watching}, class_names=NAMES)
    trainer({"labelled": batch}, STEP)
    moved = augment(batch, STEP.streams(batch, "weak"))
    assert torch.equal(seen[0][0], moved.label)
    assert torch.equal(seen[0][1], moved.weight)
    assert not torch.equal(moved.label, batch.label)


def test_the_augmentation_of_an_image_does_not_depend_on_its_batch(backbone, batch):
    chain = current().plan("chain", "tem-strong", "here").build()
    seen = []
    backbone.encode = lambda image: seen.append(image) or [image]
    trainer = Supervised(backbone=backbone, augment=chain, class_names=NAMES)
    trainer({"labelled": batch}, STEP)
    trainer({"labelled": batch.select(torch.tensor([2]))}, STEP)
    assert torch.equal(seen[0][2:3], seen[1])


def test_counts_are_what_the_losses_are_divided_by(backbone, batch):
    counts = Supervised(backbone=backbone, class_names=NAMES).counts({"labelled": batch}, STEP)
    logits = backbone.mix(batch.image)
    assert counts["ce"] == cross_entropy(logits, batch.label, batch.weight).count
    assert counts["dice"] == dice(logits, batch.label, batch.weight).count


def test_predictions_are_probabilities_of_the_size_of_the_image(backbone, batch):
    predicted = Supervised(backbone=backbone, class_names=NAMES).predict(batch)
    assert predicted.shape == (4, 3, 8, 8)
    torch.testing.assert_close(predicted.sum(1), torch.ones(4, 8, 8))


def test_it_learns_a_few_images_by_heart():
    torch.manual_seed(0)
    plan = current().plan(
        "trainer",
        {
            "name": "supervised",
            "backbone": {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_050", "norm": "group"},
        },
        "here",
    )
    trainer = plan.build(data={"channels": 1, "classes": 2, "class_names": ["ground", "square"]}).train()
    assert isinstance(trainer, Trainer)
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[0, 16:48, 16:48] = label[1, :, 32:] = 1
    batch = Batch.of((0.2 + 0.6 * label).unsqueeze(1), label=label)
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=3e-3)
    first = None
    for number in range(25):
        loss = trainer({"labelled": batch}, Step(number, 25, 0))["loss"]
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = trainer.metrics()[0]
    with torch.no_grad():
        metrics.update(trainer.eval().predict(batch), batch)
    assert loss.item() < 0.4 * first
    assert metrics.compute()["miou_pooled"] > 0.9


def test_an_unknown_parameter_is_refused_by_name():
    with pytest.raises(lamella.LamellaError, match="lossses"):
        current().plan("trainer", {"name": "supervised", "backbone": "deeplabv3plus", "lossses": {}}, "here")


@pytest.mark.parametrize("option", [{"mix": 0.5}, {"paste": ["c"]}])
def test_an_image_that_is_alone_is_said_where_images_take_from_each_other(backbone, batch, option):
    made, alone = Supervised(backbone=backbone, class_names=NAMES, **option), batch.select(slice(0, 1))
    with pytest.warns(UserWarning, match="one image per process and part has none"):
        made({"labelled": alone}, STEP)
    made({"labelled": alone}, STEP._replace(number=1))  # once
    made({"labelled": batch}, STEP)
    Supervised(backbone=backbone, class_names=NAMES)({"labelled": alone}, STEP)


def test_objects_are_pasted_from_the_image_before(backbone, batch):
    label = torch.zeros_like(batch.label)
    label[:, 2:5, 2:5] = 1
    given = {"labelled": batch._replace(label=label, image=label[:, None].float())}
    learner = Supervised(backbone=backbone, paste=["b"], class_names=["a", "b", "c"])
    steps = [Step(number=0, total=1, seed=seed) for seed in range(8)]
    changed = [learner.mixed(learner.augmented(given, step), step)[1] for step in steps]
    assert not all(torch.equal(one, label) for one in changed)
    before = neighbours(given["labelled"])
    expected = paste_objects(
        given["labelled"], before, steps[3].streams(given["labelled"], "paste"), classes=torch.tensor([1])
    )
    assert torch.equal(changed[3], expected.label)
    assert torch.equal(before.label[1], label[0])
