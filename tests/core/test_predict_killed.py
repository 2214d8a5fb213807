"""A prediction over many files that is killed at random instants loses nothing and repeats nothing.

    LAMELLA_FILES=10000 LAMELLA_KILLS=8 pytest -s tests/core/test_predict_killed.py
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from PIL import Image

FILES = int(os.environ.get("LAMELLA_FILES", "200"))
KILLS = int(os.environ.get("LAMELLA_KILLS", "2"))
DAMAGED = range(7, FILES, FILES // 10)

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes")


def noted(out):
    journal = out / "journal-0.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_killed_and_started_again_nothing_is_lost_and_nothing_done_twice(
    tiny_text, tiny_registry, tiny_registry_file, tmp_path
):
    (tmp_path / "tiny.toml").write_text(tiny_text)
    fit(read_experiment(tmp_path / "tiny.toml", ["fit.steps=2"], registry=tiny_registry), tmp_path / "run")
    images, out, begun = tmp_path / "images", tmp_path / "out", time.monotonic()
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    for i in range(FILES):
        Image.fromarray(np.roll(noise, i)).save(images / f"{i:05}.png")
    for i in DAMAGED:
        (images / f"{i:05}.png").write_bytes(b"\x89PNG\r\n\x1a\n half")

    command = [sys.executable, "-m", "lamella", "predict", str(tmp_path / "run"), str(images), "--out", str(out)]
    given = {**os.environ, "LAMELLA_REGISTRY": str(tiny_registry_file)}
    draw, killed = random.Random(1), 0
    for number in range(KILLS):
        wanted = noted(out) + 1 + int(draw.random() * 1.5 * FILES / (KILLS + 1))
        going = subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while going.poll() is None and noted(out) < wanted:
            time.sleep(0.002)
        going.kill()
        killed += going.wait() == -signal.SIGKILL
        assert noted(out) > number, "nothing was predicted before the kill"
    last = subprocess.run(command, env=given, capture_output=True, text=True, timeout=1800)
    assert last.returncode == 0 and last.stderr.count("not read:") <= len(DAMAGED), last.stderr[-2000:]

    lines = [json.loads(line) for line in (out / "journal-0.jsonl").read_text().splitlines() if line.endswith("}")]
    done = [line["name"] for line in lines if "failed" not in line]
    failed = {f"{i:05}" for i in DAMAGED}
    assert killed == KILLS
    assert sorted(done) == [name for name in (f"{i:05}" for i in range(FILES)) if name not in failed]
    assert set(json.loads((out / "failed.json").read_text())) == failed
    assert {path.name.partition(".")[0] for path in out.glob("*.label.png")} == set(done)
    seconds = time.monotonic() - begun
    print(f"{FILES} files, {killed} kills: {len(done)} predicted once each, {len(failed)} listed, {seconds:.0f} s")
