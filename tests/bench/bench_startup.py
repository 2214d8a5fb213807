"""Target 12: the light commands against ``import torch``, whole processes interleaved."""

import os
import resource
import subprocess
import sys
import time
from statistics import median

ROUNDS = 9
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "lamella --help": [sys.executable, "-m", "lamella", "--help"],
    "lamella plugins": [sys.executable, "-m", "lamella", "plugins"],
}


def run(command):
    """(seconds, MiB at the peak) of a process."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status  # it has been waited for, whatever Popen thinks
    assert status == 0, command
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def test_light_commands_take_a_tenth_of_importing_torch():
    assert resource is not None
    for command in COMMANDS.values():
        run(command)
    measured = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            measured[name].append(run(command))
    seconds = {name: median(s for s, _ in rows) for name, rows in measured.items()}
    memory = {name: median(m for _, m in rows) for name, rows in measured.items()}
    for name in COMMANDS:
        share = f"{seconds[name] / seconds['import torch']:.3f} of the time"
        share += f", {memory[name] / memory['import torch']:.3f} of the memory"
        print(f"{name:<16} {seconds[name]:.3f} s  {memory[name]:.0f} MiB  {share}")
        if name != "import torch":
            assert seconds[name] <= 0.1 * seconds["import torch"]
            assert memory[name] <= 0.15 * memory["import torch"]
