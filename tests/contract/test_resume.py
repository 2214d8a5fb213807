"""A killed run of the trainers that remember most goes on to the same weights, bit for bit."""

import pytest
import torch
from lamella.engine import session
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import run_weights
from lamella.registry.registry import current

SOURCE = {"name": "synth-tem", "preset": "device-a", "count": 4, "size": 64}
TRAINERS = {
    "weak-to-strong": {
        "backbone": {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100"},
        "weak": "weak", "sets": ["post", "sample", "machine"], "tau": 0.17, "class_tau": True, "ema": 0.5, "ramp": 5,
        "probe_every": 3, "probe_scale": 0.5, "mix": 0.5, "paste": ["defect"], "doubt": 4.0, "cap": 1.0,
    },
    "sesami": {
        "backbone": "sam-nano", "prompts": 3, "semantic": "exemplars", "late_blocks": 2, "cache": 32,
    },
}  # fmt: skip


class Killed(BaseException):
    """The process is gone: nothing that comes after is done."""


def killed_after(steps, monkeypatch):
    save = session.Session.save

    def dying(self, name, done):
        save(self, name, done)
        if done == steps:
            raise Killed

    monkeypatch.setattr(session.Session, "save", dying)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_killed_run_goes_on_to_the_same_weights(name, tmp_path, monkeypatch):
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": SOURCE}, "test": {"source": {**SOURCE, "seed": 2, "count": 1}}},
        "trainer": {"name": name, **TRAINERS[name]},
        "fit": {"steps": 5, "batch_size": 2, "checkpoint_every": 2, "ema": 0.9, "optimizer": {"lr": 1e-2}},
    }
    if name == "weak-to-strong":
        tables["data"]["unlabelled"] = {"source": {**SOURCE, "seed": 1}}
    experiment = check_experiment(tables, name=name, folder=tmp_path, registry=current())
    fit(experiment, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(2, patched)
        fit(experiment, tmp_path / "killed")
    fit(experiment, tmp_path / "killed", resume=True)
    whole, again = run_weights(tmp_path / "whole"), run_weights(tmp_path / "killed")
    assert whole.keys() == again.keys()
    assert not [key for key, value in whole.items() if not torch.equal(value, again[key])]
