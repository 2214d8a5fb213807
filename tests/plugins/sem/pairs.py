"""Small trainers and batches of pairs that several tests use."""

import torch
from lamella import Batch
from lamella.registry.registry import current

ENCODER = {"name": "vit", "size": 16, "patch": 4, "width": 24, "depth": 2, "heads": 2}
DATA = {"channels": 1, "classes": 3, "class_names": ["none", "bridge", "open"]}


def pairs(count=4, *, size=16, seed=0, label=True, dies=None, alike=None, present=None):
    """A batch of pairs, as the modality makes it."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.ones(count, 2) if present is None else torch.tensor(present, dtype=torch.float32)
    out = {}
    for place, view in enumerate(("high", "low")):
        image = torch.rand(count, 1, size, size, generator=generator)
        out[view] = Batch.of(
            image * present[:, place].view(-1, 1, 1, 1),
            label=torch.arange(count) % 3 if label else None,
            key=torch.arange(count) + 100,
            meta={
                "present": present[:, place].clone(),
                "die": torch.arange(count) + 7 if dies is None else torch.tensor(dies),
                "alike": torch.full((count,), -1) if alike is None else torch.tensor(alike),
            },
        )
    return out


def share(batch, part):
    """Some of the pairs."""
    return {view: one.select(part) for view, one in batch.items()}


def trainer(name="mae-contrastive", *, encoder=None, seed=0, **parameters):
    """A trainer on a ViT of two blocks."""
    spec = {"name": name, "encoder": {**ENCODER, **(encoder or {})}, **parameters}
    if name == "mae-contrastive":
        spec = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "projection": 20, "features": 8, **spec}
    return current().plan("trainer", spec, "test").build(seed=seed, data=DATA)
