"""The contract of a modality."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.data import Modality, Sample
from lamella.testing.apart import apart
from lamella.testing.promise import BrokenPromise, difference, name_of


def modality_contract(
    component: Callable[[], Any], *, samples: Callable[[np.dtype], Sequence[Sample]] | None = None
) -> Callable[[], None]:
    """A pytest test of everything a modality promises.

    Args:
        component: builds the modality without arguments.
        samples: makes at least two samples of one size from 8 or 16 bit data, where the grey test images
            will not do (a modality of several views, say).

    Raises:
        BrokenPromise: from the test, a sentence that names the promise and what was seen.
    """
    name = name_of(component)
    make = grey_samples if samples is None else samples

    def test() -> None:
        with apart():
            for dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
                modality = component()
                if not isinstance(modality, Modality):
                    lacking = [part for part in _PARTS if not hasattr(modality, part)]
                    raise BrokenPromise(name, "have all of a Modality", f"it has no {', '.join(lacking)}")
                given = make(dtype)
                modality.calibrate(iter([sample.image for sample in given]))
                makes_batches(name, modality, given)
                images_are_alone(name, modality, given)
                remembers(name, component, modality, given)
                shows(name, modality, given)

    return test


_PARTS = ("channels", "metadata", "weak", "calibrate", "state", "restore", "collate", "picture")


def grey_samples(dtype: np.dtype) -> list[Sample]:
    """Three labelled grey images, the middle one black and the last one over the whole range."""
    random, top = np.random.default_rng(0), np.iinfo(dtype).max
    images = [
        random.integers(0, top // 2, (16, 20)),
        np.zeros((16, 20)),
        np.linspace(0, top, 320).reshape(16, 20),
    ]
    labels = random.integers(0, 3, (3, 16, 20)).astype(np.uint8)
    labels[:, :4] = IGNORE
    known = ((0.5, 0.75), (math.nan, math.nan), (1.0, 1.0))
    return [
        Sample(image.astype(dtype), label, None, 100 + i, i, pixel_nm, {}, f"image {i}")
        for i, (image, label, pixel_nm) in enumerate(zip(images, labels, known))
    ]


def _views(result: Any) -> dict[str, Batch]:
    return {"": result} if isinstance(result, Batch) else result


def makes_batches(name: str, modality: Any, samples: Sequence[Sample]) -> None:
    """Images float32 in [0, 1]; labels, trust and metadata of the right kind; all else as the samples have it."""
    views = _views(modality.collate(samples))
    if not isinstance(views, dict) or not views or not all(isinstance(v, Batch) for v in views.values()):
        raise BrokenPromise(name, "collate to a Batch or a dict of them", f"{type(views).__name__}")
    if all(s.label is not None for s in samples) and all(batch.label is None for batch in views.values()):
        raise BrokenPromise(name, "keep the labels of the samples", "there are none", f"{samples[0].image.dtype}")
    keys, visits = (torch.tensor([getattr(sample, what) for sample in samples]) for what in ("key", "visit"))
    for view, batch in views.items():
        image, where = batch.image, f"{samples[0].image.dtype} {view}".strip()
        if image.dtype != torch.float32 or image.shape[:2] != (len(samples), modality.channels):
            seen = f"{tuple(image.shape)} {image.dtype} from {len(samples)} samples"
            raise BrokenPromise(name, f"give images (B, {modality.channels}, H, W) float32", seen, where)
        if not image.isfinite().all() or image.min() < 0 or image.max() > 1:
            seen = f"from {image.min().item():.4g} to {image.max().item():.4g}"
            raise BrokenPromise(name, "give grey values in [0, 1]", seen, where)
        if gap := difference(batch.key, keys):
            raise BrokenPromise(name, "keep the keys of the samples", gap, where)
        if gap := difference(batch.visit, visits):
            raise BrokenPromise(name, "keep the visits of the samples", gap, where)
        if set(batch.meta) != set(modality.metadata):
            seen = f"{sorted(batch.meta)} instead of {sorted(modality.metadata)}"
            raise BrokenPromise(name, "carry the metadata it declares", seen, where)
        for key, value in batch.meta.items():
            if len(value) != len(samples):
                raise BrokenPromise(name, "carry metadata per image", f"{key} is {tuple(value.shape)}", where)
        if batch.label is not None and batch.label.ndim == 3:
            _labels_fit(name, batch, where)
        same_size = batch.image.shape[2:] == samples[0].image.shape[:2]
        if batch.label is not None and (same_size or batch.label.ndim == 1):
            _labels_stay(name, batch.label, samples, where)
        if same_size and not view:
            _values_stay(name, modality, batch, samples, where)


def _labels_stay(name: str, label: Tensor, samples: Sequence[Sample], where: str) -> None:
    """Each label is its sample's: a map of the size of the image, or a class."""
    known = [np.asarray(sample.label).astype(np.int64) for sample in samples if sample.label is not None]
    if len(known) == len(samples) and (gap := difference(label, torch.from_numpy(np.stack(known)))):
        raise BrokenPromise(name, "keep the labels of the samples", gap, where)


def _values_stay(name: str, modality: Any, batch: Batch, samples: Sequence[Sample], where: str) -> None:
    """Pixel size and metadata are those of the sample, or the default; views may have each its own."""
    pixel_nm = torch.tensor([sample.pixel_nm for sample in samples], dtype=torch.float32)
    if gap := difference(batch.pixel_nm, pixel_nm):
        raise BrokenPromise(name, "keep the pixel sizes of the samples, y and x", gap, where)
    for key, unknown in modality.metadata.items():
        known = torch.tensor([sample.meta.get(key, unknown) for sample in samples], dtype=torch.float32)
        if gap := difference(batch.meta[key].to(torch.float32), known):
            raise BrokenPromise(name, f"carry {key!r} of the samples, or what it declares for it", gap, where)


def _labels_fit(name: str, batch: Batch, where: str) -> None:
    assert batch.label is not None
    if batch.label.dtype != torch.int64 or batch.label.shape[1:] != batch.image.shape[2:]:
        seen = f"{tuple(batch.label.shape)} {batch.label.dtype} beside images {tuple(batch.image.shape)}"
        raise BrokenPromise(name, "give labels (B, H, W) int64", seen, where)
    if batch.weight is None or batch.weight.dtype != torch.float32:
        raise BrokenPromise(name, "give a float32 weight with a label", f"{batch.weight!r}", where)
    if not (batch.weight[batch.label == IGNORE] == 0).all():
        raise BrokenPromise(name, "give ignored pixels the weight 0", "some have more", where)


def images_are_alone(name: str, modality: Any, samples: Sequence[Sample]) -> None:
    """What becomes of a sample does not depend on those beside it; unlabelled samples will do."""
    whole = _views(modality.collate(samples))
    bare = [sample._replace(label=None) for sample in samples]
    unlabelled = _views(modality.collate(bare))
    for view, batch in whole.items():
        alone = _views(modality.collate(samples[-1:]))[view]
        if gap := difference(alone.image, batch.image[-1:]):
            raise BrokenPromise(name, "treat each image alone", gap, view)
        if unlabelled[view].label is not None:
            raise BrokenPromise(name, "give no label where no sample has one", "it did", view)
        if gap := difference(unlabelled[view].image, batch.image):
            raise BrokenPromise(name, "give the same image without its label", gap, view)


def remembers(name: str, component: Any, modality: Any, samples: Sequence[Sample]) -> None:
    """Its state is JSON, and a fresh one that takes it over gives the same images."""
    state = modality.state()
    try:
        state = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BrokenPromise(name, "give its state as plain JSON values", f"{error}: {state}") from None
    fresh = component()
    fresh.restore(state)
    wanted, found = _views(modality.collate(samples)), _views(fresh.collate(samples))
    for view, batch in wanted.items():
        if gap := difference(found[view].image, batch.image):
            raise BrokenPromise(name, "map grey values alike after restore(state())", gap, view)


def shows(name: str, modality: Any, samples: Sequence[Sample]) -> None:
    """Pictures are (H, W, 3) bytes; the weak set is a list of specs."""
    for batch in _views(modality.collate(samples)).values():
        picture = modality.picture(batch.image[0])
        wanted = (*batch.image.shape[-2:], 3)
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape != wanted:
            seen = f"{getattr(picture, 'shape', type(picture))} {getattr(picture, 'dtype', '')}"
            raise BrokenPromise(name, f"show a picture {wanted} uint8", seen)
    for spec in modality.weak:
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise BrokenPromise(name, "list its weak set as specs with a name", f"{spec!r}")
