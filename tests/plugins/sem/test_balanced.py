"""Classes drawn alike while `classify` trains: also after a run that was cut off, and only where it makes sense."""

from collections import Counter

import numpy as np
import pytest
from lamella.engine import fit as module
from lamella.engine.experiment import read_experiment
from lamella.errors import ConfigError
from PIL import Image
from safetensors.torch import load_file

EXPERIMENT = """
modality = "sem"

[data.labelled]
source = "known"
images = { high = "high/*.png", low = "low/*.png" }
group = '(?P<label>[a-z]+)-.*'

[trainer]
name = "classify"
augment = "sem-fine-tuning"
encoder = { name = "vit", size = 16, patch = 8, width = 24, depth = 1, heads = 2 }

[fit]
steps = 6
batch_size = 4
checkpoint_every = 2
balanced = ["labelled"]
"""


@pytest.fixture
def file(tmp_path):
    """Eight pairs of one class and two of another."""
    for number in range(10):
        for place, view in enumerate(("high", "low")):
            folder = tmp_path / "known" / view
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(2 * number + place).integers(0, 256, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / f"{'open' if number < 2 else 'none'}-{number}.png")
    (tmp_path / "run.toml").write_text(EXPERIMENT)
    return tmp_path / "run.toml"


def trained(file, run, monkeypatch, *, stop=None, resume=False, settings=()):
    """Weights at the end (None where it was cut off) and the (key, visit, class) of every sample of every step."""
    seen, honest = [], module.update

    def watched(session, batches, number):
        if number == stop:
            raise KeyboardInterrupt
        high = batches["labelled"]["high"]
        seen.append(list(zip(high.key.tolist(), high.visit.tolist(), high.label.tolist())))
        return honest(session, batches, number)

    with monkeypatch.context() as patch:
        patch.setattr(module, "update", watched)
        if stop is None:
            module.fit(read_experiment(file, settings), run, resume=resume)
        else:
            with pytest.raises(KeyboardInterrupt):
                module.fit(read_experiment(file, settings), run)
    last = sorted((run / "checkpoints").glob("last-*"))[-1]
    return load_file(last / "trainer.safetensors"), seen


def test_every_batch_has_both_classes_alike_also_after_a_resume(file, tmp_path, monkeypatch):
    weights, whole = trained(file, tmp_path / "whole", monkeypatch)
    assert all(Counter(label for *_, label in step) == {0: 2, 1: 2} for step in whole)
    _, before = trained(file, tmp_path / "cut", monkeypatch, stop=4)
    resumed, after = trained(file, tmp_path / "cut", monkeypatch, resume=True)
    assert before + after == whole
    assert all(bool((resumed[name] == value).all()) for name, value in weights.items())
    _, even = trained(file, tmp_path / "even", monkeypatch, settings=["fit.balanced=[]"])
    assert any(Counter(label for *_, label in step) != {0: 2, 1: 2} for step in even)


def test_a_role_that_nothing_reads_cannot_be_balanced(file, tmp_path):
    with pytest.raises(ConfigError, match=r"balanced names 'unlabelled'; this trainer reads labelled"):
        module.fit(read_experiment(file, ['fit.balanced=["unlabelled"]']), tmp_path / "run")
