"""Whether new images are like the labelled ones a run learned from: how they are displayed, and what it sees in them.

No label of the new images is needed. A network that meets another display, product or tool is seldom unsure; it paints.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.data import Modality
from lamella.data.loaders import evaluation_batches
from lamella.data.samples import SampleTable

PERCENTILES = (1, 50, 99)
"""Of an image's grey values: where its display is compared."""
_GREY = 0.03
"""How far beyond those of all labelled images a percentile may lie, in grey values of 1."""
_MORE, _LESS, _SMALL = 2.0, 0.1, 0.01
"""A class is suspicious above so many times its most in a labelled image, or below so much of its share; smaller
differences than the last, as a share of all pixels, are none."""


def grey_points(picture: np.ndarray) -> list[float]:
    """`PERCENTILES` of a picture (H, W, 3) uint8, in [0, 1]."""
    return [float(x) / 255.0 for x in np.percentile(picture[..., 0], PERCENTILES)]


def learned_from(labelled: SampleTable, modality: Modality, classes: Sequence[str]) -> dict[str, Any] | None:
    """What labelled images look like, as JSON values for `unlike`; None where they have no label maps.

    Returns:
        ``{"grey": [[low, high] of each of `PERCENTILES` over the images], "share": {class: [of all pixels, most of
        an image]}}``.
    """
    greys, counts = [], []
    for batch, _ in evaluation_batches(labelled, modality, 1):
        if not isinstance(batch, Batch) or batch.label is None or batch.label.ndim != 3:
            return None
        greys.append(grey_points(modality.picture(batch.image[0])))
        label = batch.label[0].numpy()
        counts.append(np.bincount(label[label != IGNORE], minlength=len(classes))[: len(classes)])
    pixels = np.array(counts, float)
    each = pixels / np.maximum(pixels.sum(1, keepdims=True), 1)
    whole = pixels.sum(0) / max(pixels.sum(), 1)
    return {
        "grey": [[low, high] for low, high in zip(np.min(greys, 0).tolist(), np.max(greys, 0).tolist())],
        "share": {name: [float(whole[k]), float(each[:, k].max())] for k, name in enumerate(classes)},
    }


def unlike(learned: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> list[str]:
    """A sentence for everything in which predicted images differ from those in `learned_from`.

    Args:
        entries: of each image, ``pixels`` by class and ``grey`` as `grey_points`.
    """
    if not entries:
        return []
    found = []
    greys = [entry["grey"] for entry in entries if "grey" in entry]  # a journal of an older version has none
    far = [
        f"percentile {percentile} is {value:.2f} (labelled: {low:.2f} to {high:.2f})"
        for percentile, value, (low, high) in zip(PERCENTILES, np.median(greys, 0) if greys else (), learned["grey"])
        if not low - _GREY <= value <= high + _GREY
    ]
    if far:
        found.append(f"these images are displayed unlike the labelled ones: of their grey values {', '.join(far)}")
    pixels = np.sum([entry["pixels"] for entry in entries], 0)
    for name, share in zip(classes, pixels / max(pixels.sum(), 1)):
        usual, most = learned["share"][name]
        if share > max(_MORE * most, most + _SMALL):
            found.append(f"{name} takes {share:.1%} of these images, and of no labelled image more than {most:.1%}")
        if share < min(_LESS * usual, usual - _SMALL):
            found.append(f"{name} takes {share:.1%} of these images, and {usual:.1%} of the labelled ones")
    return found
