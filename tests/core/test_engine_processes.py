"""Two processes, or a batch in parts, do what one process does with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")
SETTINGS = ["fit.steps=6", "fit.batch_size=8", "trainer.holes=true", "fit.optimizer.lr=0.01"]


def trained(processes, file, registry_file, run, *settings):
    """The end of a training: weights, losses and the number of processes."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "LAMELLA_REGISTRY": str(registry_file)}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*(start if processes > 1 else [sys.executable]), str(SCRIPT), str(file), str(run), *SETTINGS, *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(run / "end.pt", weights_only=True)


def difference(one, other):
    return max(float((one["weights"][name] - other["weights"][name]).abs().max()) for name in one["weights"])


@pytest.fixture
def whole(tiny_file, tiny_registry_file, tmp_path):
    """The experiment file and the end of its training by one process with whole batches."""
    return tiny_file, trained(1, tiny_file, tiny_registry_file, tmp_path / "whole")


def test_two_processes_equal_one(whole, tiny_registry_file, tmp_path):
    file, expected = whole
    two = trained(2, file, tiny_registry_file, tmp_path / "run")
    assert (expected["processes"], two["processes"]) == (1, 2)
    assert difference(two, expected) < 1e-6
    assert two["logged"] == pytest.approx(expected["logged"], abs=1e-5)
    assert two["losses"] != pytest.approx(expected["losses"], abs=1e-5)  # each process has its share of them
    print(f"two processes against one: weights differ by {difference(two, expected):.1e} at most")


def test_four_parts_of_two_equal_one_batch_of_eight(whole, tiny_registry_file, tmp_path):
    file, expected = whole
    parts = trained(1, file, tiny_registry_file, tmp_path / "run", "fit.accumulate=4")
    assert difference(parts, expected) < 1e-6
    assert parts["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    print(f"four parts against one: weights differ by {difference(parts, expected):.1e} at most")


def test_counts_that_are_not_shared_would_be_noticed(whole, tiny_registry_file, tmp_path):
    file, expected = whole
    naive = trained(1, file, tiny_registry_file, tmp_path / "run", "fit.accumulate=4", "trainer.forget=true")
    assert difference(naive, expected) > 1e-5


LATE = """
import os, sys, time
from lamella.cli.main import main
from lamella.engine import predict

honest = predict.entries

def late(out):
    if os.environ["RANK"] == "1" and not list(out.glob("*.csv")):
        time.sleep(2)  # long enough for the other to be done with its share, were it not to wait
    return honest(out)

predict.entries = late
main()
"""


def test_a_prediction_is_shared_among_processes_though_one_comes_late(tiny_file, tiny_registry_file, tmp_path):
    from lamella.engine.experiment import read_experiment
    from lamella.engine.fit import fit
    from lamella.registry.plugins import RegistryFile
    from lamella.registry.registry import Registry
    from PIL import Image

    registry = Registry.load(RegistryFile.read(tiny_registry_file))
    fit(read_experiment(tiny_file, ["fit.steps=1"], registry=registry), tmp_path / "run")
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.new("L", (24, 24), number * 40).save(tmp_path / "images" / f"{number}.png")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "LAMELLA_REGISTRY": str(tiny_registry_file)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    (tmp_path / "late.py").write_text(LATE)
    command += [str(tmp_path / "late.py"), "predict", str(tmp_path / "run")]
    command += [str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    shares = [len((tmp_path / "out" / f"journal-{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)]
    assert sorted(shares) == [2, 3]
    assert len(list((tmp_path / "out").glob("*.label.png"))) == 5
    assert len((tmp_path / "out" / "areas.csv").read_text().splitlines()) == 6
