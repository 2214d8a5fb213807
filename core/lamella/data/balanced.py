"""An order in which every class comes as often as any other, however many samples it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.data.samples import SampleTable
from lamella.errors import ConfigError


class BalancedOrder:
    """Which row comes at which position of the endless sequence, and for which time, one class after the other.

    Of every K positions (K classes that occur) each class has one, in a seeded order; within a class its rows follow
    each other in seeded permutations. A row of a small class therefore comes back sooner, and its visit counts how
    often *it* came, so that it is augmented anew each time. Like the even order it is a function of (seed, position).
    Rows without a class, those of IGNORE, do not come.

    >>> order = BalancedOrder([0, 0, 0, 0, 0, 1], seed=0)
    >>> sum(order.at(position)[0] == 5 for position in range(20)), max(order.at(p)[1] for p in range(20))
    (10, 9)
    """

    def __init__(self, classes: Sequence[int], seed: int):
        known = np.asarray(classes)
        self.seed = seed
        self.rows = [np.flatnonzero(known == which) for which in np.unique(known) if which != IGNORE]
        self._turn, self._turns = -1, np.empty(0, np.int64)
        self._epochs = [-1] * len(self.rows)
        self._within = [np.empty(0, np.int64)] * len(self.rows)

    def at(self, position: int) -> tuple[int, int]:
        """(row, visit) at a position."""
        turn, place = divmod(position, len(self.rows))
        if turn != self._turn:
            self._turn, self._turns = turn, np.random.default_rng([self.seed, 1, turn]).permutation(len(self.rows))
        which = int(self._turns[place])
        rows = self.rows[which]
        visit, place = divmod(turn, len(rows))
        if visit != self._epochs[which]:
            seed = [self.seed, 2, which, visit]
            self._epochs[which], self._within[which] = visit, np.random.default_rng(seed).permutation(rows)
        return int(self._within[which][place]), visit


def classes_of(table: SampleTable, where: str) -> list[int]:
    """The class of every row; raises `ConfigError` where rows have label maps or no label."""
    labels = [row.read(table.classes, 0).label for row in table.rows]
    classes = [label for label in labels if isinstance(label, int)]
    if len(classes) < len(labels) or all(label == IGNORE for label in classes):
        raise ConfigError(f"[fit] balanced names {where!r}, whose samples have no one class each")
    return classes
