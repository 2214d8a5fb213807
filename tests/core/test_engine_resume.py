"""A run that is killed or interrupted goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killed_runs import SETTINGS, same, weights
from lamella.engine.checkpoint import Checkpoints
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.engine.run import run_experiment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")

KILLS = int(os.environ.get("LAMELLA_KILLS", "8"))
"""How many kills; 50 in ``LAMELLA_KILLS=50 make test``."""


def test_a_run_killed_at_random_instants_ends_with_identical_weights(tiny_file, tiny_registry_file, tmp_path):
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, str(script), str(tiny_file), str(tiny_registry_file), str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"(\d+) runs, (\d+) of them killed while they trained: (\d+) identical", done.stdout)
    assert found and int(found[2]) == KILLS and found[1] == found[3]
    print(done.stdout)


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
    assert run_experiment(tmp_path / "stopped", registry=tiny_registry).name == whole.name != "experiment"


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


def test_what_a_run_cost_is_known_after_it_was_cut_off(tiny_file, tiny_registry, tmp_path):
    experiment = read_experiment(tiny_file, [*SETTINGS, "fit.count_flops=2"], registry=tiny_registry)
    first = fit(experiment, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()  # as if killed while it was measured
    again = fit(experiment, tmp_path / "run", resume=True)
    assert again["flops"] == first["flops"] > 0
    assert again["seconds"] == first["seconds"] > 0
