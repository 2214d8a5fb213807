"""The supervised network that sees prompts: the contract, what is drawn, and the same prompts as SeSAMI's."""

import pytest
import torch
from lamella import Batch, Step, Streams
from lamella.errors import ConfigError, DataError
from lamella.registry.registry import current
from lamella.testing import trainer_contract
from lamella_sam.figures import MOST, TYPES, answered, streams_of
from lamella_sam.figures import test_objects as objects_of_test
from lamella_sam.objects import Objects, all_objects, identities
from lamella_sam.prompt_channels import INSIDE, PromptedSupervised, prompt_maps
from lamella_sam.prompting import Asked, Mix, asked_prompts
from lamella_sam.prompts import ABSENT, CORNER, NEGATIVE, NO_POINT, OPPOSITE, POSITIVE
from torch import nn

NAMES = ["a", "b", "c"]


class Plain(nn.Module):
    """The smallest segmentation backbone, of a given number of channels."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def encode(self, image):
        return [self.first(image).relu()]

    def decode(self, features, size):
        return self.last(features[-1])[..., : size[0], : size[1]]


def build(channels=4, **settings):
    return PromptedSupervised(backbone=Plain(channels), channels=1, class_names=NAMES, **settings)


def labelled():
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[:, 4:20, 4:12] = 1
    label[:, 18:28, 14:30] = 2
    label[1, 24:30, 2:10] = 1
    image = label.float().div(2).unsqueeze(1) * 0.8 + 0.1
    return {"labelled": Batch.of(image, label=label, key=torch.tensor([5, 6]))}


test_contract = trainer_contract(build, labelled)


def test_all_objects_are_those_that_a_test_asks_for():
    batch = labelled()["labelled"]
    batch.label[0, 0:3, 20:24] = 2  # 12 pixels: too small
    identity = identities(batch, "region")
    found = all_objects(identity, Streams(torch.tensor([1, 2])), MOST, least=16)
    for i in range(2):
        wanted = objects_of_test(identity[i : i + 1], batch.key[i : i + 1])
        assert found.there[i].sum() == wanted.mask.shape[1]
        both = found.mask[i, found.there[i]], wanted.mask[0]
        sets = [{tuple(mask.flatten().tolist()) for mask in masks} for masks in both]
        assert sets[0] == sets[1]
        for mask, (y, x) in zip(found.mask[i, found.there[i]], found.pixel[i, found.there[i]].tolist()):
            assert mask[y, x]
    areas = found.mask.flatten(2).sum(2)
    assert (areas[:, :-1] >= areas[:, 1:]).all()


def asked(*entries):
    """`Asked` for one image of 16×16 from (points, labels, masked)."""
    points, labels, masked = zip(*entries)
    partial = torch.zeros(1, len(entries), 16, 16, dtype=torch.bool)
    partial[..., 12:14, 1:3] = True
    return Asked(
        torch.tensor([points], dtype=torch.float32), torch.tensor([labels]), partial, torch.tensor([masked]),
        torch.zeros(1, len(entries), dtype=torch.bool),
    )  # fmt: skip


def test_prompts_are_drawn_into_the_channel_of_their_class():
    box = [[2.2, 3.0], [8.0, 6.0], [12.0, 12.0]], [CORNER, OPPOSITE, NEGATIVE], False
    point = [[9.0, 9.0], [0.0, 0.0], [0.0, 0.0]], [POSITIVE, NO_POINT, ABSENT], False
    part = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [ABSENT, ABSENT, ABSENT], True
    gone = [[0.0, 0.0], [15.0, 15.0], [0.0, 0.0]], [CORNER, OPPOSITE, ABSENT], False
    there = torch.tensor([[True, True, True, False]])
    objects = Objects(torch.zeros(1, 4, 16, 16, dtype=torch.bool), None, there, None)
    maps = prompt_maps(objects, asked(box, point, part, gone), torch.tensor([[1, 1, 2, 0]]), 3)[0]
    assert maps[0].abs().sum() == 0  # nothing there
    assert maps[1, 3, 2] == maps[1, 6, 8] == maps[1, 4, 2] == 1 and maps[1, 4, 4] == INSIDE
    assert maps[1, 2, 2] == maps[1, 3, 1] == 0
    assert maps[1, 9, 9] == maps[1, 9, 11] == 1 and maps[1, 9, 13] == 0
    assert maps[1, 12, 12] == -1
    assert maps[2].sum() == 4 and maps[2, 12, 1] == 1


@torch.no_grad()
def test_a_test_image_gets_the_prompts_that_sesami_gets(nano, monkeypatch):
    one = labelled()["labelled"].select(slice(1, 2))
    objects = objects_of_test(identities(one, "region"), one.key)
    seen = {}
    monkeypatch.setattr(nano, "masks", lambda embedding, prompts: seen.setdefault("prompts", prompts) and (1 / 0))
    with pytest.raises(ZeroDivisionError):
        answered(nano, torch.zeros(1, 96, 4, 4), objects, one.key, "box")
    ours = asked_prompts(objects, streams_of(one.key).child("box"), TYPES["box"])
    assert torch.equal(ours.points, seen["prompts"].points) and torch.equal(ours.labels, seen["prompts"].labels)
    drawn = build().eval()._test_maps(one)[0]
    for (low, high), label in zip(ours.points[0, :, :2].round().long().tolist(), [0, 2, 1, 1]):
        assert drawn[label, low[1], low[0]] == drawn[label, high[1], high[0]] == 1


def test_training_draws_other_prompts_at_every_visit():
    batch = labelled()["labelled"]
    trainer, inputs = build(), []
    trainer.backbone.first.register_forward_pre_hook(lambda module, given: inputs.append(given[0].detach().clone()))
    for visit in (0, 0, 1):
        trainer({"labelled": batch._replace(visit=torch.full((2,), visit))}, Step(0, 10, 3))
    assert inputs[0].shape == (2, 4, 32, 32)
    assert torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[0], inputs[2])
    assert torch.equal(inputs[0][:, :1], inputs[2][:, :1])


def test_a_prompt_tells_what_the_image_does_not():
    torch.manual_seed(0)
    batch = labelled()["labelled"]
    batch = batch._replace(image=torch.zeros_like(batch.image))  # the prompts alone
    trainer = build(mix={"box": 1.0}, negative=0.0)
    optimizer = torch.optim.AdamW(trainer.parameters(), 3e-2)
    for number in range(60):
        optimizer.zero_grad()
        trainer({"labelled": batch}, Step(number, 60, 0))["loss"].backward()
        optimizer.step()
    trainer.eval()
    with torch.no_grad():
        right = (trainer.predict(batch).argmax(1) == batch.label).float().mean()
    assert right > 0.9


def test_no_loss_depends_on_how_a_batch_is_split():
    batch, found = labelled()["labelled"], []
    batch.label[0] = 0
    for parts in (1, 2):
        torch.manual_seed(0)
        trainer, step = build(), Step(0, 10, 3, parts)
        cut = [{"labelled": batch.select(slice(i, None, parts))} for i in range(parts)]
        counts = [trainer.counts(part, step) for part in cut]
        step = step._replace(counts={name: sum(each[name] for each in counts) for name in counts[0]})
        found.append(sum(trainer(part, step)["loss"] for part in cut).item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_mistakes_are_said():
    with pytest.raises(ConfigError, match=r"does not take 4 channels.*channels = 4"):
        build(channels=1)
    with pytest.raises(ConfigError, match="needs weights of 0 or more"):
        build(mix={"box": 0.0})
    with pytest.raises(DataError, match="there are none"):
        build().predict(labelled()["labelled"]._replace(label=None, weight=None))


def test_it_is_planned_and_built_by_name_around_deeplab():
    spec = {
        "name": "prompted-supervised",
        "backbone": {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100", "channels": 4},
    }
    built = current().plan("trainer", spec, "here").build(data={"channels": 1, "classes": 3, "class_names": NAMES})
    assert built.eval().predict(labelled()["labelled"]).shape == (2, 3, 32, 32)


def test_an_image_without_objects_has_empty_maps():
    empty = labelled()["labelled"]
    empty = empty._replace(label=torch.full_like(empty.label, 255))
    assert build().eval().predict(empty).isfinite().all()
    streams = Streams(torch.tensor([1, 2]))
    objects = all_objects(identities(empty, "region"), streams, 8)
    drawn = prompt_maps(objects, asked_prompts(objects, streams, Mix()), torch.zeros(2, 8, dtype=torch.int64), 3)
    assert drawn.abs().sum() == 0
