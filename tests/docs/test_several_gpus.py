"""The command for two processes that docs/several-gpus.md gives starts two, and they make one run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "several-gpus.md"


@pytest.mark.slow
def test_two_processes_on_a_cpu_make_one_run(tiny_file, tiny_registry_file, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    line = re.search(r"^\$ ACCELERATE_USE_CPU=true torchrun (.*) experiment\.toml$", page, re.MULTILINE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *shlex.split(line[1]), str(tiny_file)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "LAMELLA_REGISTRY": str(tiny_registry_file)}
    done = subprocess.run(
        [*command, "--set", "fit.steps=3", "--out", str(tmp_path / "run")],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["processes"] == 2
    assert done.stdout.count("report:") == 1
    log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8")
    assert [json.loads(entry)["step"] for entry in log.splitlines()] == [1, 2, 3]  # each once
    assert not (tmp_path / "run-2").exists()
