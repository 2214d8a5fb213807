"""What makes a training pointless or wasteful, in sentences to be said before it begins."""

from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.data.samples import SampleTable


def doubts(tables: Mapping[str, SampleTable], crop: int | None, *, classes: bool) -> Iterator[str]:
    """A sentence for every doubt about what is trained on; no more images are read than are needed to have none.

    Args:
        tables: what the trainer reads, by role.
        crop: the side of crops, if there are any.
        classes: whether the trainer learns to tell classes.
    """
    for role, table in tables.items():
        if classes and table.classes is not None and (alone := _lone_class(table)) is not None:
            yield f"[data.{role}] shows one class only, {table.classes.names[alone]}: there is nothing to learn from it"
    if crop is not None and (largest := _largest_below(tables, crop)) is not None:
        yield (
            f"[fit] crop = {crop} is larger than every training image (at most {largest[0]}×{largest[1]}): "
            "the rest of every crop is mirrored"
        )
    if crop is not None and any(_shows_several(table) for table in tables.values()):
        yield (
            f"[fit] crop = {crop} cuts the same window out of every image of a sample, which shows one place only "
            "where they are registered to each other; bring others, as two magnifications are, to one size instead"
        )


def _shows_several(table: SampleTable) -> bool:
    """Whether a sample is several views; one that has all of them is read."""
    complete = next((index for index, row in enumerate(table.rows) if not row.missing), None)
    return complete is not None and len(table.read(complete).views) > 1


def _lone_class(table: SampleTable) -> int | None:
    """The class of every pixel that has one; None for several, none, or labels of whole images."""
    seen: set[int] = set()
    for index in range(len(table)):
        label = table.read(index).label
        if not isinstance(label, np.ndarray):
            return None
        seen |= {int(value) for value in np.unique(label)} - {IGNORE}
        if len(seen) > 1:
            return None
    return seen.pop() if seen else None


def _largest_below(tables: Mapping[str, SampleTable], crop: int) -> tuple[int, int] | None:
    """Height and width of the largest image; None where one fills a crop in either."""
    largest = (0, 0)
    for table, index in chain.from_iterable(((table, i) for i in range(len(table))) for table in tables.values()):
        height, width = table.read(index).image.shape[:2]
        if max(height, width) >= crop:
            return None
        largest = max(largest, (height, width), key=lambda size: size[0] * size[1])
    return largest
