"""Two processes with half a batch each do what one does with all of it, down to the gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lamella_sem.four_way import four_way
from test_four_way import features, gradients, mean
from two_processes import PRESENT, pretrained

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Features of six defects, two of one die on different processes, two without one magnification; and the file."""
    high, low = features(6, seed=4)
    defect = torch.tensor([1, 2, 3, 1, 5, 6])
    kept = {"high": high.detach(), "low": low.detach(), "defect": defect, "present": torch.tensor(PRESENT)}
    path = tmp_path_factory.mktemp("two") / "given.pt"
    torch.save(kept, path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    done = subprocess.run([*command, str(path), "0.2"], env={**os.environ}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return kept, torch.load(f"{path}.out", weights_only=True)


def test_the_four_way_loss_has_the_gradients_of_the_whole_batch(given):
    kept, found = given
    high, low = (kept[view].clone().requires_grad_() for view in ("high", "low"))
    wanted = mean(four_way(high, low, temperature=0.2, defect=kept["defect"], present=kept["present"]))
    assert found["world"] == 2
    assert found["loss"].item() == pytest.approx(wanted.item(), abs=1e-12)
    for name, gradient in zip(("high", "low"), gradients(wanted, high, low)):
        assert (found[name] - gradient).abs().max() < 1e-12


@pytest.mark.parametrize("standardise", [False, True])
def test_a_step_of_pre_training_has_the_gradients_of_the_whole_batch(given, standardise):
    found = given[1]["trained"][standardise]
    wanted = pretrained(0, 1, standardise=standardise)
    for name, value in wanted["losses"].items():
        assert found["losses"][name].item() == pytest.approx(value.item(), abs=1e-5), name
    for name, gradient in wanted["gradients"].items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert (found["gradients"][name] - gradient).abs().max() < 1e-4 * scale, name


EXPERIMENT = """
modality = "sem"

[data.unlabelled]
source = { name = "synth-sem", count = 8, seed = 1, size = 32, layout = "apart" }
columns = { image = { high = "image", low = "low" } }

[data.validation]
source = { name = "synth-sem", count = 8, seed = 2, size = 32, layout = "apart" }
columns = { image = { high = "image", low = "low" } }

[trainer]
name = "mae-contrastive"
standardise = true
encoder = { name = "vit", size = 32, patch = 16, width = 24, depth = 1, heads = 2 }
decoder_width = 16
decoder_depth = 1

[fit]
steps = 4
batch_size = 4
best = "last"
evaluate_every = 2
"""


def test_a_run_of_two_processes_gets_over_an_evaluation_that_one_of_them_makes(tmp_path):
    """The figures behind a standardised head are taken on the first process alone, which must not wait for others."""
    (tmp_path / "pretrain.toml").write_text(EXPERIMENT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lamella"]
    done = subprocess.run(
        [*command, "train", "pretrain.toml", "--out", "run"], cwd=tmp_path, timeout=300, capture_output=True, text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "recall_at_1_head" in entry.get("validation", {})] == [2, 4]
