"""What the tests of the SAM plugin share: small networks with random weights, and images to annotate."""

import sys
from pathlib import Path

import pytest
import torch
from lamella import Batch
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit

sys.path.insert(0, str(Path(__file__).parent))  # where six_images lies; importlib mode does not look there by itself

from six_images import accept_two, experiment_tables, six_images


@pytest.fixture
def nano():
    """sam-nano with random weights; a scale on the positions so that they matter."""
    from lamella_sam.nano.network import sam_nano

    torch.manual_seed(0)
    backbone = sam_nano(weights="none", size="native")
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(0, 0.3)
    return backbone.eval()


@pytest.fixture
def batch():
    """Two images of 64×64 with three classes, two of them in pieces, and an ignored strip."""
    label = torch.zeros(2, 64, 64, dtype=torch.int64)
    label[:, 10:30, 8:24] = 1
    label[:, 40:56, 30:60] = 2
    label[0, 5:20, 40:56] = 2
    label[1, 36:60, 4:20] = 1
    label[:, :3] = 255
    generator = torch.Generator().manual_seed(0)
    image = label.clamp(max=2).float().div(2).unsqueeze(1) * 0.8 + 0.1 * torch.rand(2, 1, 64, 64, generator=generator)
    return Batch.of(image, label=label, key=torch.tensor([11, 12]))


@pytest.fixture
def folder(tmp_path):
    """Six images without masks."""
    return six_images(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of two steps on two accepted images."""
    path = tmp_path_factory.mktemp("trained")
    folder = six_images(path)
    accept_two(folder)
    fit(check_experiment(experiment_tables(folder), name="tiny", folder=path), path / "run")
    return path / "run"


@pytest.fixture
def run(folder, trained):
    """That run, with the same two images accepted in this test's folder."""
    accept_two(folder)
    return trained
