"""The dataset ``sam-scenes``: procedural scenes with objects and regions, to train a promptable model on.

Stones, strata, cells, worms, leaves and polygons with textures, shading, occlusion, blur and noise: nothing in
them is a semiconductor, and no code is shared with ``synth``.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from lamella_sam.nano.shapes import SHAPES, Grid, bands, grid, stones

RENDERER = 1
"""The version of the scenes; it is part of the cache key."""


def sam_scenes(
    *,
    count: Annotated[int, Field(ge=1, description="number of images")] = 64,
    seed: Annotated[int, Field(ge=0, description="another seed gives other scenes")] = 0,
    size: Annotated[int, Field(ge=32, description="side of the images, pixels")] = 128,
    workers: Annotated[int, Field(ge=1, description="processes that draw; the images do not depend on it")] = 1,
) -> Any:
    """Procedural everyday scenes with an instance map of everything that has a border of its own.

    Columns: ``image`` (8 bit), ``label`` (0 background, 1 object), ``instance`` (16 bit, 0 = background),
    ``classes``, ``name``. Image i depends on (seed, i, size) alone.
    """
    from datasets import ClassLabel, Dataset, Features, Image, List, Value

    return Dataset.from_generator(
        _rows,
        features=Features(
            {
                "image": Image(), "label": Image(), "instance": Image(),
                "classes": List(ClassLabel(names=["background", "object"])), "name": Value("string"),
            }
        ),
        gen_kwargs={"indices": list(range(count)), "seed": seed, "size": size, "version": RENDERER},
        num_proc=workers if workers > 1 else None,
    )  # fmt: skip


def _rows(indices: Sequence[int], seed: int, size: int, version: int) -> Iterator[dict[str, Any]]:
    for index in indices:
        image, instance = scene(seed, index, size)
        label = (instance > 0).astype(np.uint8)
        yield {
            "image": _png(image),
            "label": _png(label),
            "instance": _png(instance.astype(np.uint16)),
            "classes": np.unique(label).tolist(),
            "name": f"scene-s{seed}-{index:06d}",
        }


def _png(array: np.ndarray) -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def scene(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One scene: (size, size) uint8 grey values and (size, size) int64 object ids, 0 = background.

    >>> image, instance = scene(0, 0, 64)
    >>> image.shape, image.dtype.name, int(instance.min())
    ((64, 64), 'uint8', 0)
    """
    draw = np.random.default_rng([seed, index, size, RENDERER])
    at = grid(size)
    image, instance = _ground(draw, at)
    for _ in range(_how_many(draw)):
        image, instance = _put(draw, at, image, instance, _like_nothing(draw, size))
    if draw.random() < 0.35:
        kind = _like_nothing(draw, size)
        for _ in range(int(draw.integers(5, 40))):
            image, instance = _put(draw, at, image, instance, _like(draw, kind))
    return _photograph(draw, at, image), _without_crumbs(instance)


def _how_many(draw: np.random.Generator) -> int:
    return int(draw.choice([0, 3, 8, 20], p=[0.1, 0.35, 0.35, 0.2]) + draw.integers(1, 5))


def _ground(draw: np.random.Generator, at: Grid) -> tuple[np.ndarray, np.ndarray]:
    """What everything lies on: one texture, strata, or a tessellation with or without joints."""
    kind = draw.choice(["plain", "bands", "stones"], p=[0.45, 0.3, 0.25])
    size = at[0].shape[0]
    if kind == "plain":
        return _texture(draw, at, draw.uniform(0.05, 0.95)), np.zeros((size, size), np.int64)
    if kind == "bands":
        region = bands(draw, at)
        image = _fill(draw, at, region, levels=int(draw.integers(2, 6)))
        return image, region + 1
    region, border = stones(draw, at)
    image = _fill(draw, at, region, levels=int(draw.integers(2, 12)))
    joint = draw.choice([0.0, draw.uniform(0.8, 3.5)])
    if joint > 0:
        cover = _soft(joint - border)
        image = image * (1 - cover) + _texture(draw, at, draw.uniform(0, 1)) * cover
        return image, np.where(border < joint, 0, region + 1)
    return image, region + 1


def _fill(draw: np.random.Generator, at: Grid, region: np.ndarray, levels: int) -> np.ndarray:
    """Every region with one of a few materials; neighbours may share theirs but for a step in brightness."""
    materials = [_texture(draw, at, level) for level in draw.uniform(0.05, 0.95, levels)]
    image = np.zeros_like(at[0])
    for number in np.unique(region):
        step = draw.normal(0, 0.04)
        image = np.where(region == number, materials[int(draw.integers(levels))] + step, image)
    return image


class Kind(NamedTuple):
    """What the objects of one sort have in common."""

    shape: int
    radius: float
    contrast: float
    """Step in brightness against what is around."""


def _like_nothing(draw: np.random.Generator, size: int) -> Kind:
    """A sort of its own."""
    shape = int(draw.choice(len(SHAPES), p=[0.28, 0.24, 0.18, 0.08, 0.14, 0.08]))
    radius = float(size * np.exp(draw.uniform(np.log(0.03), np.log(0.35))))
    return Kind(shape, radius, float(draw.choice([-1, 1]) * np.exp(draw.uniform(np.log(0.06), np.log(0.6)))))


def _like(draw: np.random.Generator, kind: Kind) -> Kind:
    """Another object of a sort: a flock lies about in sizes that differ a little."""
    radius = min(kind.radius, 14.0) * float(np.exp(draw.normal(0, 0.25)))
    return Kind(kind.shape, radius, kind.contrast + float(draw.normal(0, 0.03)))


def _put(
    draw: np.random.Generator, at: Grid, image: np.ndarray, instance: np.ndarray, kind: Kind
) -> tuple[np.ndarray, np.ndarray]:
    """Lay one object on top of what is there, in front of it."""
    cy, cx = draw.uniform(-0.05, 1.05, 2) * at[0].shape[0]
    distance = SHAPES[kind.shape](draw, at, float(cy), float(cx), kind.radius).astype(np.float32)
    inside = distance < 0
    if not inside.any():
        return image, instance
    level = float(np.clip(float(image[inside].mean()) + kind.contrast, 0.0, 1.0))
    surface = _texture(draw, at, level) + _relief(draw, distance, kind.radius)
    cover = _soft(-distance) * draw.choice([1.0, draw.uniform(0.6, 1.0)], p=[0.8, 0.2])
    return image * (1 - cover) + surface * cover, np.where(inside, instance.max() + 1, instance)


def _relief(draw: np.random.Generator, distance: np.ndarray, radius: float) -> np.ndarray:
    """Shading of a rounded body, a bright or dark rim, or nothing."""
    kind = draw.choice(["flat", "round", "rim"], p=[0.5, 0.25, 0.25])
    if kind == "round":
        height = np.sqrt(np.clip(-distance / radius, 0, 1))
        return draw.uniform(-0.25, 0.25) * (height - 0.5)
    if kind == "rim":
        return draw.uniform(-0.35, 0.45) * np.exp(-(((distance + 1) / draw.uniform(0.8, 3.0)) ** 2))
    return np.zeros_like(distance)


def _texture(draw: np.random.Generator, at: Grid, level: float) -> np.ndarray:
    """A material: a grey level with clouds, grain, stripes or spots."""
    out = np.full_like(at[0], level)
    kind = draw.choice(["smooth", "clouds", "grain", "stripes", "spots"], p=[0.4, 0.2, 0.2, 0.1, 0.1])
    strength = draw.uniform(0.01, 0.12)
    if kind == "clouds":
        out += strength * _clouds(draw, at[0].shape[0], int(draw.integers(3, 12)))
    elif kind == "grain":
        out += strength * _blurred(draw.normal(size=at[0].shape).astype(np.float32), int(draw.integers(0, 3)))
    elif kind == "stripes":
        angle, pitch = draw.uniform(0, np.pi), draw.uniform(3, 16)
        out += strength * np.sin((np.cos(angle) * at[1] + np.sin(angle) * at[0]) * 2 * np.pi / pitch)
    elif kind == "spots":
        out += 2 * strength * (_clouds(draw, at[0].shape[0], int(draw.integers(8, 30))) > 0.8)
    return out


def _clouds(draw: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise with about ``cells`` lumps a side, standard deviation about 1."""
    coarse = draw.normal(size=(cells + 2, cells + 2)).astype(np.float32)
    place = np.linspace(0, cells, size, dtype=np.float32)
    low = place.astype(np.int64)
    share = place - low
    share = share * share * (3 - 2 * share)
    rows = coarse[low] * (1 - share[:, None]) + coarse[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _photograph(draw: np.random.Generator, at: Grid, image: np.ndarray) -> np.ndarray:
    """Light falling off, a lens, a sensor, and a print: uint8."""
    size = at[0].shape[0]
    if draw.random() < 0.5:
        image = image + draw.uniform(0, 0.2) * _clouds(draw, size, 2)
    image = _blurred(image, int(draw.choice([0, 0, 1, 2])))
    image = np.clip(image, 0, 1) ** draw.uniform(0.6, 1.6)
    noise = np.exp(draw.uniform(np.log(0.003), np.log(0.15)))
    image = image + noise * np.sqrt(0.3 + image) * draw.normal(size=image.shape)
    low, high = np.percentile(image, (0.5, 99.5))
    stretched = (image - low) / max(high - low, 0.05)
    image = np.where(draw.random() < 0.5, stretched, image)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _blurred(image: np.ndarray, times: int) -> np.ndarray:
    """Binomial blur, so many times."""
    for _ in range(times):
        for axis in (0, 1):
            padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            low, high = (np.take(padded, range(s, s + image.shape[axis]), axis) for s in (0, 2))
            image = 0.25 * low + 0.5 * image + 0.25 * high
    return image


def _soft(distance: np.ndarray) -> np.ndarray:
    """Coverage of a pixel from how far inside it lies."""
    return np.clip(distance + 0.5, 0, 1)


def _without_crumbs(instance: np.ndarray, least: int = 12) -> np.ndarray:
    """Ids from 1 up, without what is left of an object hidden to fewer than ``least`` pixels (those become 0)."""
    numbers, inverse, counts = np.unique(instance, return_inverse=True, return_counts=True)
    keep = (counts >= least) & (numbers > 0)
    renumbered = np.where(keep, np.cumsum(keep), 0)
    return renumbered[inverse].reshape(instance.shape)
