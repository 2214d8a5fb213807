"""One optimizer step: no host sync, and nothing learned from what is not finite."""

import pytest
import torch
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import training_batches
from lamella.engine.meters import Meters
from lamella.engine.session import prepare
from lamella.engine.update import update
from lamella.testing.no_sync import no_sync


def _record(trainer, batches, losses):
    trainer.seen.add_(losses["loss"].detach())


def session(file, registry, run, *settings):
    return prepare(read_experiment(file, ["fit.cache=false", *settings], registry=registry), run)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_host_sync_between_log_steps(tiny_file, tiny_registry, tmp_path, precision, optimizer):
    one = session(
        tiny_file, tiny_registry, tmp_path / "run", f"fit.precision={precision}",
        f"fit.optimizer.name={optimizer}", "fit.accumulate=2", "fit.ema=0.99", "fit.clip=1.0",
    )  # fmt: skip
    meters, batches = Meters(one.accelerator.device), training_batches(one)
    number, first = next(batches)
    update(one, first, number)  # the optimizer makes its state at its first step
    for number, batch in [next(batches) for _ in range(3)]:
        with no_sync():
            losses, finite = update(one, batch, number)
            meters.add(number, losses, finite, batch)
    assert meters.read()[0]["loss"] > 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_update_that_is_not_finite_is_left_out_and_named(tiny_file, tiny_registry, tmp_path, optimizer):
    settings = (f"fit.optimizer.name={optimizer}", "trainer.bad_step=2")
    one = session(tiny_file, tiny_registry, tmp_path / "run", *settings)
    one.trainer.register_buffer("seen", torch.zeros(()))  # as a batch norm records what passes through it
    one.trainer.register_forward_hook(_record)
    meters, before = Meters(one.accelerator.device), {}
    for number, batch in training_batches(one):
        if number == 2:
            before = {name: value.clone() for name, value in one.trainer.state_dict().items()}
            state = [{k: v.clone() for k, v in s.items()} for s in one.optimizer.state.values()]
            keys = batch["labelled"].key.tolist()
        losses, finite = update(one, batch, number)
        meters.add(number, losses, finite, batch)
        assert bool(finite) == (number != 2)
        if number == 2:
            assert all(torch.equal(value, before[name]) for name, value in one.trainer.state_dict().items())
            now = list(one.optimizer.state.values())
            assert all(torch.equal(a[k], b[k]) for a, b in zip(now, state) for k in a)
        if number == 4:
            break
    assert any(not torch.equal(value, before[name]) for name, value in one.trainer.state_dict().items())
    means, trouble = meters.read()
    assert means["loss"] > 0
    assert "step 2" in trouble and all(str(key) in trouble for key in keys)


def test_clipping_bounds_the_gradient(tiny_file, tiny_registry, tmp_path):
    sgd = ("fit.optimizer.name=sgd", "fit.optimizer.momentum=0.0", "fit.optimizer.weight_decay=0.0", "fit.steps=1000")
    moved = {}
    for clip in ("0.001", "1000.0"):
        one = session(tiny_file, tiny_registry, tmp_path / clip, *sgd, f"fit.clip={clip}", "fit.optimizer.lr=1.0")
        before = torch.cat([p.detach().flatten().clone() for p in one.trainer.parameters()])
        number, batch = next(iter(training_batches(one)))
        update(one, batch, number)
        after = torch.cat([p.detach().flatten() for p in one.trainer.parameters()])
        moved[clip] = float((after - before).norm())
    assert moved["0.001"] == pytest.approx(0.001, rel=1e-3)
    assert moved["1000.0"] > 0.01


def test_after_a_first_step_that_was_left_out_momentum_begins_at_nothing(tiny_file, tiny_registry, tmp_path):
    one = session(tiny_file, tiny_registry, tmp_path / "run", "fit.optimizer.name=sgd", "trainer.bad_step=0")
    for number, batch in training_batches(one):
        update(one, batch, number)
        if number == 0:
            states = one.optimizer.state.values()
            assert len(states) > 0 and all((state["momentum_buffer"] == 0).all() for state in states)
        if number == 1:
            break
    assert all(value.isfinite().all() for value in one.trainer.state_dict().values())
