"""The stand-in for a GPU refuses what would make the host wait, and nothing else."""

import pytest
import torch
from lamella import Streams
from lamella.testing.no_sync import HostSync, no_sync
from torch.nn import functional

x = torch.linspace(-1, 1, 12).view(3, 4)
ids = torch.tensor([0, 2, 1])

WAITS = {
    "item": lambda: x.sum().item(),
    "float": lambda: float(x[0, 0]),
    "bool": lambda: bool((x > 2).any()),
    "if": lambda: 1 if x.sum() > 0 else 0,
    "index as int": lambda: [1, 2, 3][ids[0]],
    "equal": lambda: torch.equal(x, x),
    "allclose": lambda: torch.allclose(x, x),
    "nonzero": lambda: x.nonzero(),
    "where with one argument": lambda: torch.where(x > 0),
    "argwhere": lambda: torch.argwhere(x > 0),
    "unique": lambda: x.unique(),
    "unique with dim": lambda: x.unique(dim=0),
    "unique_consecutive": lambda: ids.unique_consecutive(),
    "mask": lambda: x[x > 0],
    "mask on one axis": lambda: x[:, torch.tensor([True, False, True, False])],
    "mask of bytes": lambda: x[(x > 0).to(torch.uint8)],
    "assignment by mask": lambda: x.clone().__setitem__(x > 0, x[0, :3].repeat(2)),
    "masked_select": lambda: x.masked_select(x > 0),
    "bincount": lambda: ids.bincount(),
    "repeat_interleave": lambda: ids.repeat_interleave(ids),
    "tensor of a list": lambda: torch.tensor([1.0, 2.0], device=x.device),
    "tensor of a number": lambda: torch.as_tensor(3.0, device=x.device),
    "new_tensor": lambda: x.new_tensor([1.0, 2.0]),
    "one_hot without classes": lambda: functional.one_hot(ids),
}
RUNS = {
    "where": lambda: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda: x.masked_fill(x > 0, 0.0),
    "number by mask": lambda: x.clone().__setitem__(x > 0, 0.0),
    "index": lambda: x[ids],
    "gather": lambda: x.gather(1, ids.view(3, 1)),
    "one_hot": lambda: functional.one_hot(ids, 3),
    "one_hot by name": lambda: functional.one_hot(ids, num_classes=3),
    "repeat_interleave": lambda: ids.repeat_interleave(ids, output_size=3),
    "tensor on the host": lambda: torch.tensor([1.0, 2.0]),
    "tensor on the host by name": lambda: torch.tensor([1.0, 2.0], device="cpu"),
    "full": lambda: torch.full((2,), 3.0, device=x.device) + x.new_full((2,), 1.0),
    "cross_entropy": lambda: functional.cross_entropy(x, ids, ignore_index=255),
    "conv": lambda: functional.conv2d(x.view(1, 1, 3, 4), torch.ones(1, 1, 2, 2)),
    "random numbers": lambda: Streams(ids).normal(3, 4) + Streams(ids).uniform(0, 1, 3, 4),
    "backward": lambda: (x.clone().requires_grad_() ** 2).sum().backward(),
}


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_refused(name):
    WAITS[name]()
    with pytest.raises(HostSync, match=r"sync at test_no_sync.py:\d+ \(.*lambda"), no_sync():
        WAITS[name]()


@pytest.mark.parametrize("name", RUNS)
def test_what_runs_on_the_device_passes(name):
    with no_sync():
        RUNS[name]()


def test_a_sync_inside_backward_is_seen():
    y = x.clone().requires_grad_()
    z = y * 2
    z.register_hook(lambda gradient: gradient * gradient.max().item())
    with pytest.raises(HostSync), no_sync():
        z.sum().backward()


def test_nothing_is_refused_afterwards():
    with pytest.raises(HostSync), no_sync():
        x.sum().item()
    assert x.max().item() == 1.0
