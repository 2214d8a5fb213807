"""``[fit] compile``: every trainer learns what it learns without, and its operations are counted all the same."""

from functools import partial

import pytest
import torch
from lamella.engine.compiling import compile_networks
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import training_batches
from lamella.engine.flops import Flops
from lamella.engine.session import prepare
from lamella.engine.update import update
from lamella.registry.registry import current
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, as it traces
TEM = {"name": "synth-tem", "preset": "device-a", "count": 4, "size": 64}
NET = {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100", "norm": "group", "dropout": 0.0}
TRAINERS = {
    "weak-to-strong": {"backbone": NET, "sets": ["sample", "machine"], "weak": "weak", "tau": 0.3, "ema": 0.9},
    "sesami": {"backbone": "sam-nano", "prompts": 4},
}


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Traced and differentiated as by the real compiler, but run without writing C++, which takes minutes."""
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


def learnt(name, folder, steps=3, **fit):
    """Losses of three steps, the weights after them, and the operations of the first.

    Steps are as long as gradients: AdamW makes whole steps of what rounding leaves of gradients that are nothing.
    """
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": TEM}, "unlabelled": {"source": {**TEM, "seed": 1}}},
        "trainer": {"name": name, **TRAINERS[name]},
        "fit": {"steps": steps, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 0.1}, **fit},
    }
    if name == "sesami":
        del tables["data"]["unlabelled"]
    session = prepare(check_experiment(tables, name=name, folder=folder, registry=current()), folder / "run")
    session.trainer.train()
    losses, flops = [], Flops(1)
    for number, batches in training_batches(session):
        with flops.step():
            losses.append(update(session, batches, number)[0]["loss"].item())
    return losses, {k: v.detach().clone() for k, v in session.trainer.state_dict().items()}, flops.per_step


@pytest.mark.parametrize("name", TRAINERS)
def test_a_compiled_trainer_learns_the_same(name, tmp_path):
    plain, expected, counted = learnt(name, tmp_path / "plain")
    losses, weights, same = learnt(name, tmp_path / "compiled", compile=True)
    assert losses == pytest.approx(plain, rel=1e-4)
    assert list(weights) == list(expected)
    for key, value in weights.items():
        assert torch.allclose(value, expected[key], atol=1e-4), key
    assert same == counted


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.blocks = nn.Conv2d(1, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1))

    def encode(self, image):
        return [image]

    def decode(self, features, size):
        return self.layer(features[0])


def test_what_is_compiled_is_said():
    stack = nn.Module()
    stack.blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    both = nn.ModuleList([Halves(), stack])
    assert compile_networks(both) == "1 network of two halves, 2 blocks of transformers"
    assert stack.blocks[0]._compiled_call_impl is not None
    assert both[0].blocks[0]._compiled_call_impl is None  # its half is compiled whole


def test_without_a_compiler_nothing_is_touched(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    one = Halves()
    assert "no C++ compiler" in compile_networks(one)
    assert "encode" not in vars(one)
