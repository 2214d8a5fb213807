"""A run that is killed or interrupted goes on as if nothing had happened."""

import json
import os
import random
import signal
import time
import warnings

import pytest
import torch
from lamella.engine.checkpoint import Checkpoints
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")

KILLS = int(os.environ.get("LAMELLA_KILLS", "8"))
"""How many kills; 50 in ``LAMELLA_KILLS=50 make test``."""

SETTINGS = ["fit.steps=40", "fit.checkpoint_every=2", "fit.ema=0.9", "fit.log_every=4", "fit.crop=24"]


def weights(run):
    pointer = json.loads((run / "checkpoints" / "last.json").read_text())
    folder = run / "checkpoints" / pointer["folder"]
    return {**load_file(folder / "trainer.safetensors"), **_marked(load_file(folder / "averaged.safetensors"))}


def _marked(averaged):
    return {f"averaged {name}": value for name, value in averaged.items()}


def training(file, registry, run):
    """Train, or go on, in a forked process; returns its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking a process that has threads
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        resume = (run / "run.json").exists()
        fit(read_experiment(file, SETTINGS, registry=registry), run, resume=resume)
        status = 0
    finally:
        os._exit(status)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_killed_at_random_instants_ends_with_identical_weights(tiny_file, tiny_registry, tmp_path):
    begun = time.monotonic()
    assert os.waitpid(training(tiny_file, tiny_registry, tmp_path / "whole"), 0)[1] == 0
    lasts = time.monotonic() - begun
    expected, log = weights(tmp_path / "whole"), (tmp_path / "whole" / "log.jsonl").read_text()
    draw, killed, number = random.Random(0), 0, 0
    while killed < KILLS:
        run, number = tmp_path / f"killed-{number}", number + 1
        child = training(tiny_file, tiny_registry, run)
        time.sleep(draw.uniform(0.0, lasts))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert os.waitpid(training(tiny_file, tiny_registry, run), 0)[1] == 0
        assert same(weights(run), expected)
        assert (run / "log.jsonl").read_text() == log
    print(f"{number} runs, {killed} of them killed while they trained: {number} identical final weights")


def test_an_interrupt_saves_and_leaves(tiny_file, tiny_registry, tmp_path, monkeypatch):
    from lamella.engine import fit as module

    whole = read_experiment(tiny_file, SETTINGS, registry=tiny_registry)
    fit(whole, tmp_path / "whole")
    honest = module.update

    def interrupted(session, batches, number):
        if number == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(session, batches, number)

    monkeypatch.setattr(module, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(whole, tmp_path / "stopped")
    monkeypatch.setattr(module, "update", honest)
    assert json.loads((tmp_path / "stopped" / "checkpoints" / "last.json").read_text())["step"] == 14
    fit(whole, tmp_path / "stopped", resume=True)
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


def test_a_half_written_checkpoint_is_never_read(tiny_file, tiny_registry, tmp_path):
    experiment = read_experiment(tiny_file, SETTINGS, registry=tiny_registry)
    fit(experiment, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    half = checkpoints.folder / "last-00000099"
    half.mkdir()
    (half / "trainer.safetensors").write_bytes(b"half")
    before = weights(tmp_path / "run")
    fit(experiment, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run"), before)
