"""Recall of objects against a count of each by itself."""

import pytest
import torch
from lamella import Batch
from lamella_tem.object_recall import ObjectRecall


@pytest.mark.parametrize("times", [1, 1_000_003, 2**40])
def test_objects_are_counted_whatever_their_ids(times):
    generator = torch.Generator().manual_seed(0)
    instance = torch.randint(0, 9, (3, 12, 12), generator=generator)
    label = torch.randint(0, 2, (3, 12, 12), generator=generator)
    instance[1], label[2] = 4, 0  # one object alone, which fills its image, and none
    likely = torch.rand(3, 2, 12, 12, generator=generator)
    counter = ObjectRecall(["ground", "defect"], "defect")
    counter.update(likely, Batch.of(torch.zeros(3, 1, 12, 12), label=label, instance=instance * times))
    found = [
        (likely.argmax(1)[b][inside] == 1).float().mean() >= 0.5
        for b in range(3)
        for number in range(1, 9)
        if (inside := (instance[b] == number) & (label[b] == 1)).any()
    ]
    assert counter.compute() == {"defect_recall": sum(map(float, found)) / len(found), "defect_objects": len(found)}


def test_negative_ids_are_no_objects():
    counter, label = ObjectRecall(["ground", "defect"], "defect"), torch.ones(1, 4, 4, dtype=torch.int64)
    instance = -label
    instance[0, 0] = 5
    counter.update(torch.rand(1, 2, 4, 4), Batch.of(torch.zeros(1, 1, 4, 4), label=label, instance=instance))
    assert counter.compute()["defect_objects"] == 1


def test_no_object_is_no_figure():
    counter, label = ObjectRecall(["ground", "defect"], "defect"), torch.ones(1, 4, 4, dtype=torch.int64)
    counter.update(torch.rand(1, 2, 4, 4), Batch.of(torch.zeros(1, 1, 4, 4), label=label, instance=label * 0))
    assert counter.compute()["defect_objects"] == 0
