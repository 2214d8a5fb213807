"""Freed memory is kept for the next tensors, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from lamella.engine.session import make_accelerator
make_accelerator("no")
for number in range(40):
    if number == 20:  # by then there is room among the small blocks
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(48 << 18)  # 48 MiB, more than glibc would ever keep of itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_tensors_that_come_again_get_pages_that_were_there():
    def faults(**environment):
        given = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        given |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run([sys.executable, "-c", FAULTS], env=given, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults() < 0.5 * faults(GLIBC_TUNABLES="glibc.malloc.check=0")
