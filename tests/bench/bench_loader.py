"""Target 11: crops from the decoded copy against ``datasets`` decoding PNGs in two workers."""

import time
from statistics import median

import datasets
import numpy as np
import torch
from lamella.contracts.data import Sample
from lamella.data.cache import cached
from lamella.data.loaders import cropped, training_loader
from lamella.data.sources import SourceConfig, open_source
from lamella.registry.registry import current
from PIL import Image

IMAGES, SIDE, CROP, BATCH, STEPS, ROUNDS = 64, 1024, 256, 8, 96, 7


class Crops(torch.utils.data.Dataset):
    """The same crops out of ``datasets``, decoded every time."""

    def __init__(self, rows, keys):
        self.rows, self.keys = rows, keys

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        row = self.rows[i]
        sample = Sample(
            row["image"].numpy().squeeze(), row["label"].numpy().squeeze(), None, self.keys[i], 0, (1.0, 1.0), {}, ""
        )  # fmt: skip
        part = cropped(sample, CROP, 0)
        return torch.from_numpy(part.image.astype(np.float32) / 255), torch.from_numpy(part.label.astype(np.int64))


def write_images(folder):
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for i in range(IMAGES):
        ground = np.kron(random.integers(0, 200, (16, 16)), np.ones((64, 64)))
        noisy = (ground + random.normal(20, 12, ground.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "images" / f"{i:03d}.png")
        Image.fromarray((ground > 100).astype(np.uint8)).save(folder / "masks" / f"{i:03d}.png")


def test_crops_from_the_decoded_copy(tmp_path):
    write_images(tmp_path)
    config = SourceConfig(source=str(tmp_path), images="images/*", labels="masks/*", classes=["a", "b"])
    registry = current()
    table = cached(open_source(config, registry, "bench", folder=tmp_path), folder=tmp_path / "cache")
    modality = registry.plan("modality", "tem", "bench").build()
    files = sorted((tmp_path / "images").iterdir())
    paths = [{"image": str(p), "label": str(tmp_path / "masks" / p.name)} for p in files]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    rows = datasets.Dataset.from_list(paths, features=features).with_format("torch")
    theirs_data = Crops(rows, table.keys())

    by_key = {key: i for i, key in enumerate(table.keys())}
    first = next(iter(training_loader(table, modality, batch_size=BATCH, crop=CROP, seed=0, steps=range(1))))
    for image, label, key in zip(first.image, first.label, first.key.tolist()):
        image_there, label_there = theirs_data[by_key[key]]
        assert torch.equal(image[0], image_there) and torch.equal(label, label_there)

    def ours():
        loader = training_loader(table, modality, batch_size=BATCH, crop=CROP, seed=0, steps=range(STEPS))
        return sum(len(batch.image) for batch in loader)

    def theirs():
        loader = torch.utils.data.DataLoader(theirs_data, BATCH, shuffle=True, num_workers=2)
        seen = 0
        while seen < BATCH * STEPS:
            seen += sum(len(image) for image, _ in loader)
        return seen

    rates = {"decoded copy, one process": [], "datasets PNG, two workers": []}
    for _ in range(ROUNDS):
        for found, work in zip(rates.values(), (ours, theirs)):
            begun = time.perf_counter()
            found.append(work() / (time.perf_counter() - begun))
    middle = {name: median(found) for name, found in rates.items()}
    for name, rate in middle.items():
        print(f"{name:<28} {rate:9.0f} crops/s of {CROP}² from {SIDE}²")
    ratio = middle["decoded copy, one process"] / middle["datasets PNG, two workers"]
    print(f"ratio {ratio:.1f} (target 20)")
    assert ratio >= 20
