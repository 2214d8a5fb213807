"""A run that is killed or interrupted goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_runs import SETTINGS, same, weights
from lamella.engine.checkpoint import Checkpoints
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.engine.run import run_experiment
from lamella.engine.session import prepare
from lamella.errors import RunError

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


def test_an_interrupt_saves_and_leaves(tiny_file, tiny_registry, tmp_path, monkeypatch, capsys):
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
        fit(whole, tmp_path / "stopped it")
    monkeypatch.setattr(module, "update", honest)
    assert f"go on with: lamella train '{tmp_path / 'stopped it'}' --resume\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "stopped it" / "checkpoints" / "last.json").read_text())["step"] == 14
    fit(whole, tmp_path / "stopped it", resume=True)
    assert same(weights(tmp_path / "stopped it"), weights(tmp_path / "whole"))
    assert run_experiment(tmp_path / "stopped it", registry=tiny_registry).name == whole.name != "experiment"


def test_an_interrupt_at_a_step_that_is_not_finite_saves_too(tiny_file, tiny_registry, tmp_path, monkeypatch):
    from lamella.engine import fit as module

    experiment = read_experiment(tiny_file, [*SETTINGS, "trainer.bad_step=12"], registry=tiny_registry)
    honest = module.update

    def interrupted(session, batches, number):
        if number == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(session, batches, number)

    monkeypatch.setattr(module, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "checkpoints" / "last.json").read_text())["step"] == 13
    monkeypatch.setattr(module, "update", honest)
    assert fit(experiment, tmp_path / "run", resume=True)["sets"]["test"]["miou_pooled"] > 0


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


def changed(run, registry, *settings):
    """The experiment of a run as if its file had been changed."""
    return replace(read_experiment(run / "experiment.toml", settings, registry=registry), name="tiny")


def test_an_average_that_is_begun_on_resume_begins_with_what_was_learned(tiny_file, tiny_registry, tmp_path):
    fit(read_experiment(tiny_file, ["fit.steps=10"], registry=tiny_registry), tmp_path / "run")
    session = prepare(changed(tmp_path / "run", tiny_registry, "fit.ema=0.99"), tmp_path / "run", resume=True)
    assert session.start == 10 and same(session.ema.weights, session.trainer.state_dict())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            (),
            ("lr=0.5", "weight_decay=0.25", "betas=[0.5, 0.75]"),
            {"lr": 0.5, "weight_decay": 0.25, "betas": (0.5, 0.75)},
        ),
        (("name='sgd'", "momentum=0.0"), ("momentum=0.5", "lr=0.5"), {"lr": 0.5, "momentum": 0.5}),
    ],
)
def test_a_resumed_run_goes_on_with_the_optimizer_settings_of_now(
    tiny_file, tiny_registry, tmp_path, before, after, expected
):
    of = [[f"fit.optimizer.{one}" for one in settings] for settings in (before, after)]
    schedule = ["fit.schedule=constant", "fit.steps=4"]
    fit(read_experiment(tiny_file, [*SETTINGS, *schedule, *of[0]], registry=tiny_registry), tmp_path / "run")
    again = changed(tmp_path / "run", tiny_registry, "fit.steps=6", *of[1])
    session = prepare(again, tmp_path / "run", resume=True)
    assert {key: session.optimizer.param_groups[0][key] for key in expected} == expected
    assert all("momentum_buffer" in session.optimizer.state[p] for p in session.trainer.parameters()) == bool(before)
    fit(again, tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["lr"] == 0.5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["fit.optimizer.name=sgd"], "trained with adamw and cannot go on with sgd; change"),
        (
            ["data.labelled.classes=['a', 'b', 'c']", "data.test.classes=['a', 'b', 'c']"],
            r"begun with class_names = \['ground', 'square', 'disc'\], its data are now of \['a', 'b', 'c'\]; change",
        ),
    ],
)
def test_with_what_a_run_cannot_go_on_is_one_sentence(tiny_file, tiny_registry, tmp_path, settings, said):
    fit(read_experiment(tiny_file, [*SETTINGS, "fit.steps=2"], registry=tiny_registry), tmp_path / "run")
    with pytest.raises(RunError, match=said):
        fit(changed(tmp_path / "run", tiny_registry, "fit.steps=4", *settings), tmp_path / "run", resume=True)


def test_what_a_run_cost_is_known_after_it_was_cut_off(tiny_file, tiny_registry, tmp_path):
    experiment = read_experiment(tiny_file, [*SETTINGS, "fit.count_flops=2"], registry=tiny_registry)
    first = fit(experiment, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()  # as if killed while it was measured
    again = fit(experiment, tmp_path / "run", resume=True)
    assert again["flops"] == first["flops"] > 0
    assert again["seconds"] == first["seconds"] > 0


def test_what_a_step_costs_is_the_mean_of_a_whole_period(tiny_file, tiny_registry, tmp_path, monkeypatch):
    """One step of seven is dear, as where sets are tried every seventh: of the first four it is one of four."""
    import tiny_plugin
    from lamella.engine import fit as module

    monkeypatch.setattr(tiny_plugin.Plain, "period", 7)
    experiment = read_experiment(tiny_file, [*SETTINGS, "fit.count_flops=4"], registry=tiny_registry)
    cheap, honest = fit(experiment, tmp_path / "cheap"), module.update

    def update(session, batches, number):
        if number % 7 == 0:
            _ = torch.ones(300, 300) @ torch.ones(300, 300)
        return honest(session, batches, number)

    monkeypatch.setattr(module, "update", update)
    more = fit(experiment, tmp_path / "dear")["flops"] - cheap["flops"]
    assert more / experiment.fit.steps == pytest.approx(2 * 300**3 / 7)


def test_a_run_that_was_cut_off_while_it_counted_counts_on(tiny_file, tiny_registry, tmp_path, monkeypatch):
    """The first of four steps costs more than the others, as one that tries perturbation sets does."""
    from lamella.engine import fit as module

    experiment = read_experiment(tiny_file, [*SETTINGS, "fit.count_flops=4"], registry=tiny_registry)
    honest, stop = module.update, []

    def dear(session, batches, number):
        if number == 0:
            _ = torch.ones(300, 300) @ torch.ones(300, 300)
        if number in stop:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(session, batches, number)

    monkeypatch.setattr(module, "update", dear)
    whole = fit(experiment, tmp_path / "whole")["flops"]
    stop.append(1)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, tmp_path / "cut")
    stop.clear()
    assert fit(experiment, tmp_path / "cut", resume=True)["flops"] == pytest.approx(whole)
