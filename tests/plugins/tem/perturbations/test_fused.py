"""The kernels for a GPU: line by line in Triton's interpreter everywhere, and on a GPU where there is one."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lamella import Batch, Streams
from lamella_tem.perturbations.camera import Camera
from lamella_tem.perturbations.compiled import gpu_kernels
from lamella_tem.perturbations.shot_noise import ShotNoise

HERE, SCRIPT = Path(__file__).parent, "fused_against_torch.py"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="without Triton there are no such kernels")
def test_kernels_compute_what_torch_does():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, HERE / SCRIPT], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "as torch", done.stderr[-2000:]


def test_a_cpu_never_sees_them():
    assert gpu_kernels("auto", torch.zeros(1, 1, 8, 8)) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("made", [partial(Camera, row=(0.0, 0.0)), ShotNoise], ids=["camera", "shot noise"])
def test_on_a_gpu_mean_and_spread_are_those_of_the_reference(made):
    image = torch.linspace(0.1, 0.9, 512).expand(16, 1, 512, 512).contiguous()
    means, spreads = [], []
    for device, kernel in (("cpu", "eager"), ("cuda", "auto")):
        batch = Batch.of(image.to(device))
        off = made(kernel=kernel, dose=(200.0, 400.0)).perturb(batch, Streams(batch.key + 7)).image.cpu() - image
        means.append(off.mean((1, 2, 3))), spreads.append(off.std((1, 2, 3)))
    assert torch.allclose(*means, atol=1e-3) and torch.allclose(*spreads, rtol=0.02)
