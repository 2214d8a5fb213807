"""Kills trainings at random instants and resumes them: started by test_engine_resume.py, not by pytest.

It forks, so it runs in a process of its own: what other tests have started (threads of torch, of pyarrow) does not
survive a fork.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry
from safetensors.torch import load_file

SETTINGS = ["fit.steps=40", "fit.checkpoint_every=2", "fit.ema=0.9", "fit.log_every=4", "fit.crop=24"]


def weights(run):
    pointer = json.loads((run / "checkpoints" / "last.json").read_text())
    folder = run / "checkpoints" / pointer["folder"]
    return {**load_file(folder / "trainer.safetensors"), **_marked(load_file(folder / "averaged.safetensors"))}


def _marked(averaged):
    return {f"averaged {name}": value for name, value in averaged.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main() -> None:
    file, registry_file, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    registry = Registry.load(RegistryFile.read(registry_file))
    begun = time.monotonic()
    assert os.waitpid(training(file, registry, folder / "whole"), 0)[1] == 0
    lasts = time.monotonic() - begun
    expected, log = weights(folder / "whole"), (folder / "whole" / "log.jsonl").read_text()
    draw, killed, number = random.Random(0), 0, 0
    while killed < kills:
        run, number = folder / f"killed-{number}", number + 1
        child = training(file, registry, run)
        time.sleep(draw.uniform(0.0, lasts))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert os.waitpid(training(file, registry, run), 0)[1] == 0
        assert same(weights(run), expected)
        assert (run / "log.jsonl").read_text() == log
    print(f"{number} runs, {killed} of them killed while they trained: {number} identical final weights")


if __name__ == "__main__":
    main()
