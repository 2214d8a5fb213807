"""Processes that share a study: a run is trained by one, and one that dies gives it back."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from lamella.study import run as study_run
from lamella.study.run import run_study, trained
from lamella.study.share import taken
from lamella.study.study import read_study

STUDY = """
title = "Shared"
base = "tiny.toml"
seeds = [3, 4]
figures = { mIoU = "miou" }
[rows.plain]
[rows.wide]
set = { trainer.backbone.width = 12 }
[sizes.small.fit]
steps = 2
"""

HOLD = """
import sys
from pathlib import Path
from lamella.study.share import taken
with taken(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.readline()
    if len(sys.argv) > 2:
        Path(sys.argv[1]).mkdir()
        (Path(sys.argv[1]) / "results.json").write_text(sys.argv[2])
"""


@contextmanager
def another(run, *result):
    """A process that has taken ``run``, and when told to ends, having trained it if a result is given."""
    program = [sys.executable, "-c", HOLD, str(run), *result]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def study(tiny_file, tiny_registry):
    path = tiny_file.with_name("study.toml")
    path.write_text(STUDY)
    return read_study(path, registry=tiny_registry)


def test_a_run_that_another_process_has_begun_is_left_to_it(study, tmp_path):
    told, theirs = [], study.cells()[1]
    with another(tmp_path / theirs.folder):
        assert set(run_study(study, tmp_path, tell=told.append)) == {*study.cells()} - {theirs}
    assert [line for line in told if "another" in line] == ["run 2 of 4: wide · seed 3: another process is at it"]
    assert set(run_study(study, tmp_path, tell=told.append)) == {*study.cells()}  # it was killed: the run is free


def test_a_run_that_others_build_on_is_waited_for(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "fit", lambda *_, **__: pytest.fail("trained twice"))
    experiment, found, told = study.experiment(study.cells()[0], {}), [], []
    with another(tmp_path / "start", '{"made": "there"}') as process:
        start = tmp_path / "start"
        waiting = threading.Thread(target=lambda: found.append(trained(experiment, start, tell=told.append)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and told == [f"waiting for another process to train {start}"]
        process.communicate("end\n", timeout=60)
        waiting.join(60)
    assert found == [json.loads('{"made": "there"}')]


def test_a_run_can_be_taken_within_itself(tmp_path):
    with taken(tmp_path / "run") as outer, taken(tmp_path / "run") as inner:
        assert outer and inner


def test_processes_of_one_training_all_take_it(tmp_path, monkeypatch):
    with another(tmp_path / "run"):
        with taken(tmp_path / "run") as mine:
            assert not mine
        monkeypatch.setenv("WORLD_SIZE", "2")
        with taken(tmp_path / "run") as mine:
            assert mine


def test_processes_that_train_together_run_a_study_together(tiny_file, tiny_registry_file, tmp_path):
    path = tiny_file.with_name("study.toml")
    path.write_text(STUDY.replace("seeds = [3, 4]", "seeds = [3]"))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "LAMELLA_REGISTRY": str(tiny_registry_file)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lamella"]
    command += ["study", str(path), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    table = json.loads(done.stdout)
    assert (table["done"], [entry["row"] for entry in table["entries"]]) == (2, ["plain", "wide"])
    assert done.stderr.count("run 1 of 2: plain · seed 3\n") == 1
    results = json.loads((tmp_path / "out" / "seed-3" / "all" / "plain" / "results.json").read_text(encoding="utf-8"))
    assert results["processes"] == 2
