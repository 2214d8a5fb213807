"""Batches of a role, in an order that is a function of (seed, position) alone.

The samples a run reads form one endless sequence: epoch after epoch of seeded permutations. Step t reads the
t-th stretch of it, process r its share of that stretch. A resumed run therefore needs no saved loader state.
"""

import hashlib
import traceback
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.data import Modality, Sample
from lamella.data.balanced import BalancedOrder
from lamella.data.samples import SampleTable
from lamella.errors import ConfigError, LamellaError


class Order:
    """Which row comes at which position of the endless sequence, and for which time.

    >>> order = Order(3, seed=0)
    >>> sorted(order.at(p)[0] for p in range(3)), order.at(4)[1]
    ([0, 1, 2], 1)
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def at(self, position: int) -> tuple[int, int]:
        """(row, visit) at a position."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            self._epoch = epoch
        return int(self._permutation[place]), epoch


class _Visits(Dataset):
    """Samples by (row, visit), cropped."""

    def __init__(self, table: SampleTable, crop: int | None, seed: int):
        self.table, self.crop, self.seed = table, crop, seed

    def __getitem__(self, where: tuple[int, int]) -> Sample:
        sample = self.table.read(*where)
        return sample if self.crop is None else cropped(sample, self.crop, self.seed)


class _Steps:
    """The (row, visit) pairs of every step for one process: a batch sampler."""

    def __init__(self, order: Order | BalancedOrder, batch_size: int, steps: range, rank: int, world: int):
        self.order, self.batch_size, self.steps = order, batch_size, steps
        self.share = range(rank * batch_size // world, (rank + 1) * batch_size // world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            yield [self.order.at(step * self.batch_size + i) for i in self.share]

    def __len__(self) -> int:
        return len(self.steps)


def training_loader(
    table: SampleTable,
    modality: Modality,
    *,
    batch_size: int,
    crop: int | None,
    seed: int,
    steps: range,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    classes: Sequence[int] | None = None,
) -> DataLoader:
    """Batches for ``steps``, this process's share of a global ``batch_size``.

    Args:
        classes: of every row, where each class is to come as often as any other.

    Raises:
        ConfigError: a batch that does not divide among the processes.
        LamellaError: while it is read, as reading in this process would, with workers too.
    """
    if batch_size % world:
        raise ConfigError(f"batch_size = {batch_size} does not divide among {world} processes")
    order = Order(len(table), seed) if classes is None else BalancedOrder(classes, seed)
    return _Loader(
        _Batches(_Visits(table, crop, seed), _Collate(modality)),
        batch_size=None,
        sampler=_Steps(order, batch_size, steps, rank, world),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
    )


class _Batches(Dataset):
    """Batches by the (row, visit) pairs of a step, or the error that reading one met."""

    def __init__(self, visits: "_Visits", collate: "_Collate"):
        self.visits, self.collate = visits, collate

    def __getitem__(self, pairs: list[tuple[int, int]]) -> Batch | dict[str, Batch] | LamellaError:
        try:
            return self.collate([self.visits[pair] for pair in pairs])
        except LamellaError as error:
            if get_worker_info() is not None:
                error.add_note(traceback.format_exc())  # for --traceback: pickling loses the worker's own
            return error


class _Loader(DataLoader):
    """Raises an error of `_Batches` as itself: raised in a worker, torch would put its traceback into the sentence."""

    def __iter__(self) -> Iterator[Batch | dict[str, Batch]]:  # type: ignore[override]
        for made in super().__iter__():
            if isinstance(made, LamellaError):
                raise made
            yield made


def _as_it_is(made: Batch | dict[str, Batch] | LamellaError) -> Batch | dict[str, Batch] | LamellaError:
    return made


class _Collate:
    """The modality's collate, with a sentence where sizes differ; a class, so that workers can be spawned."""

    def __init__(self, modality: Modality):
        self.modality = modality

    def __call__(self, samples: Sequence[Sample]) -> Batch | dict[str, Batch]:
        sizes = {sample.image.shape[:2] for sample in samples}
        if len(sizes) > 1:
            listed = ", ".join(f"{h}×{w}" for h, w in sorted(sizes))
            several = any(len(sample.views) > 1 for sample in samples)
            advice = "bring all to one size" if several else "set crop in [fit]"
            raise ConfigError(f"images of different sizes ({listed}) cannot share a batch; {advice}")
        made, inside = self.modality.collate(samples), _inside(samples, *sizes.pop())
        if inside is None:
            return made
        if isinstance(made, Batch):
            return made._replace(meta={**made.meta, "inside": inside})
        return {view: one._replace(meta={**one.meta, "inside": inside}) for view, one in made.items()}


def _inside(samples: Sequence[Sample], height: int, width: int) -> torch.Tensor | None:
    """(B, 2) rows and columns that are an image's own; None where every crop of (height, width) is full."""
    wholes = [sample.image if sample.whole is None else sample.whole for sample in samples]
    own = [(min(height, whole.shape[0]), min(width, whole.shape[1])) for whole in wholes]
    return None if set(own) == {(height, width)} else torch.tensor(own)


def evaluation_batches(
    table: SampleTable, modality: Modality, batch_size: int | None = None
) -> Iterator[tuple[Batch | dict[str, Batch], list[str]]]:
    """Every sample once, in order, whole; neighbours of one size share a batch. Yields (batch, names).

    By default a batch is what makes half a megapixel, and 8 at least.
    """
    waiting: list[Sample] = []
    for index in range(len(table)):
        sample = table.read(index)
        height, width = sample.image.shape[:2]
        most = batch_size or max(8, 2**19 // (height * width))
        if waiting and (len(waiting) >= most or waiting[0].image.shape != sample.image.shape):
            yield modality.collate(waiting), [sample.name for sample in waiting]
            waiting = []
        waiting.append(sample)
    if waiting:
        yield modality.collate(waiting), [sample.name for sample in waiting]


def cropped(sample: Sample, size: int, seed: int) -> Sample:
    """A square of ``size`` pixels at a place keyed by (seed, sample, visit); small images are padded by mirroring.

    Padding is labelled ``IGNORE``. Of several views the window is the same, as fits those that are registered.
    """
    height, width = sample.image.shape[:2]
    # A hash of its own, not `Streams`: a few tensors of one element cost more than reading the crop.
    digest = hashlib.blake2b(f"crop {seed} {sample.key} {sample.visit}".encode(), digest_size=16).digest()
    top = int.from_bytes(digest[:8], "little") % (max(height - size, 0) + 1)
    left = int.from_bytes(digest[8:], "little") % (max(width - size, 0) + 1)
    pad = ((0, max(size - height, 0)), (0, max(size - width, 0)))

    def cut(array: np.ndarray, outside: int | None) -> np.ndarray:
        array = array[top : top + size, left : left + size]
        padding = (*pad, *((0, 0) for _ in range(array.ndim - 2)))
        if not any(after for _, after in pad):
            return array
        if outside is None:
            return np.pad(array, padding, mode="symmetric")
        return np.pad(array, padding, constant_values=outside)

    return sample._replace(
        image=cut(sample.image, None),
        label=cut(sample.label, IGNORE) if isinstance(sample.label, np.ndarray) else sample.label,
        instance=None if sample.instance is None else cut(sample.instance, 0),
        whole=sample.image,
    )
