"""A batch is a named tuple that torch, Accelerate and loaders already know how to handle."""

import pytest
import torch
from lamella import IGNORE, Batch
from torch.utils.data import DataLoader, default_collate


def batch(count: int = 3) -> Batch:
    label = torch.arange(count * 16).view(count, 4, 4) % 3
    label[:, 0] = IGNORE
    return Batch.of(torch.rand(count, 1, 4, 4), label=label, meta={"polarity": torch.ones(count)})


def test_of_fills_what_is_not_given():
    plain = Batch.of(torch.rand(2, 1, 4, 4))
    assert plain.label is None and plain.weight is None and plain.instance is None and plain.meta == {}
    assert plain.key.tolist() == [0, 1] and plain.visit.tolist() == [0, 0]
    assert plain.key.dtype == plain.visit.dtype == torch.int64
    assert plain.pixel_nm.isnan().all() and plain.pixel_nm.shape == (2, 2)


def test_of_trusts_labels_and_nothing_that_is_ignored():
    full = batch()
    assert full.weight.dtype == torch.float32
    assert (full.weight == 0).equal(full.label == IGNORE)
    assert set(full.weight.unique().tolist()) == {0.0, 1.0}
    classes = Batch.of(torch.rand(2, 1, 4, 4), label=torch.tensor([1, IGNORE]))
    assert classes.weight.tolist() == [1.0, 0.0]


def test_given_weights_are_kept():
    weight = torch.full((1, 4, 4), 0.3)
    assert Batch.of(torch.rand(1, 1, 4, 4), label=torch.zeros(1, 4, 4).long(), weight=weight).weight is weight


@pytest.mark.parametrize("index", [slice(1, 2), torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_select_takes_everything_along(index):
    full = batch()
    part = full.select(index)
    assert part.image.equal(full.image[index]) and part.label.equal(full.label[index])
    assert part.key.equal(full.key[index]) and part.meta["polarity"].equal(full.meta["polarity"][index])
    assert part.instance is None


def test_accelerate_moves_every_field():
    from accelerate.utils import send_to_device

    moved = send_to_device(batch(), "meta")
    assert type(moved) is Batch and moved.instance is None
    tensors = [*moved[:3], *moved[4:7], *moved.meta.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_accelerate_moves_batches_by_name():
    from accelerate.utils import send_to_device

    moved = send_to_device({"labelled": batch(), "unlabelled": batch(1)._replace(label=None)}, "meta")
    assert moved["labelled"].image.device.type == moved["unlabelled"].key.device.type == "meta"
    assert moved["unlabelled"].label is None


def test_accelerate_finds_the_batch_size():
    from accelerate.utils import find_batch_size

    assert find_batch_size(batch(3)) == 3


def test_default_collate_stacks_batches():
    one = batch(2)._replace(instance=torch.zeros(2, 4, 4, dtype=torch.int64))
    both = default_collate([one, one])
    assert type(both) is Batch
    assert both.image.shape == (2, 2, 1, 4, 4) and both.meta["polarity"].shape == (2, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs an accelerator")
def test_pinned_memory():
    from torch.utils.data._utils.pin_memory import pin_memory

    assert pin_memory(batch()).image.is_pinned()


def test_pinning_keeps_the_type():
    from torch.utils.data._utils.pin_memory import pin_memory

    class Pinned:
        """Counts what would be pinned, where no accelerator is there to pin for."""

        count = 0

        def pin_memory(self):
            Pinned.count += 1
            return self

    parts = [Pinned() if field is not None else None for field in batch()[:-1]]
    pinned = pin_memory(Batch(*parts, meta={"polarity": Pinned()}))
    assert type(pinned) is Batch and pinned.instance is None
    assert Pinned.count == 7  # six fields and one of meta


def test_a_loader_keeps_the_type():
    loader = DataLoader([0, 1, 2, 3], batch_size=2, collate_fn=lambda items: batch(len(items)))
    assert all(type(found) is Batch for found in loader)


def test_torch_compile_takes_it_whole():
    def darker(given: Batch) -> Batch:
        return given._replace(image=given.image * 0.5)

    full = batch()
    found = torch.compile(darker, fullgraph=True, backend="eager")(full)
    assert type(found) is Batch and found.image.equal(full.image * 0.5) and found.label.equal(full.label)
