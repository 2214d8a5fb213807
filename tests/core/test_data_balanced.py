"""Every class as often as any other: which sample comes when is a function of (seed, position) alone here too."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella.contracts.batch import IGNORE
from lamella.data.balanced import BalancedOrder, classes_of
from lamella.data.loaders import training_loader
from lamella.data.sources import SourceConfig, open_source
from lamella.errors import ConfigError
from tiny_plugin import Grey

labels, seeds = st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(0, 2**31)


@given(labels, seeds, st.integers(1, 9))
def test_classes_come_equally_often_and_the_rows_of_a_class_too(classes, seed, turns):
    order, kinds = BalancedOrder(classes, seed), sorted(set(classes))
    seen = [order.at(position) for position in range(turns * len(kinds))]
    assert Counter(classes[row] for row, _ in seen) == dict.fromkeys(kinds, turns)
    times = Counter(row for row, _ in seen)
    for kind in kinds:
        often = [times[row] for row, label in enumerate(classes) if label == kind]
        assert max(often) - min(often) <= 1
    assert len(set(seen)) == len(seen)  # a row that comes again has another visit
    assert all(visit < times[row] for row, visit in seen)


def test_seeds_have_orders_of_their_own():
    one, other = ([BalancedOrder([0, 0, 0, 1, 1, 2] * 5, seed).at(p) for p in range(60)] for seed in (0, 1))
    assert one != other


def test_rows_that_are_ignored_are_no_class_of_their_own():
    order = BalancedOrder([0, IGNORE, 1, IGNORE, 1], seed=0)
    assert Counter(order.at(position)[0] for position in range(8)) == {0: 4, 2: 2, 4: 2}


@pytest.fixture(scope="module")
def table(tiny_registry):
    config = SourceConfig(source={"name": "tiny-squares", "count": 7, "size": 16})
    return open_source(config, tiny_registry, "here", folder=Path())


CLASSES = [0, 0, 0, 0, 0, 0, 1]


def loaded(table, steps=range(6), **more):
    return list(
        training_loader(table, Grey(), batch_size=4, crop=None, seed=3, steps=steps, classes=CLASSES, **more)
    )  # fmt: skip


def equal(one, other):
    return all(
        torch.equal(getattr(a, what), getattr(b, what))
        for a, b in zip(one, other, strict=True)
        for what in ("image", "key", "visit")
    )


def test_a_resumed_run_reads_what_the_first_would_have_read(table):
    assert equal(loaded(table)[4:], loaded(table, range(4, 6)))


def test_two_processes_read_the_batch_of_one_between_them(table):
    shares = [loaded(table, rank=rank, world=2) for rank in range(2)]
    joined = [type(a)(*(torch.cat([x, y]) if isinstance(x, torch.Tensor) else x for x, y in zip(a, b)))
              for a, b in zip(*shares)]  # fmt: skip
    assert equal(joined, loaded(table))


def test_half_of_every_batch_is_the_rare_class(table):
    rare = table.keys()[6]
    assert [int((batch.key == rare).sum()) for batch in loaded(table)] == [2] * 6
    assert torch.cat([batch.visit[batch.key == rare] for batch in loaded(table)]).tolist() == list(range(12))


def test_label_maps_are_no_classes_to_balance(table):
    with pytest.raises(ConfigError, match=r"balanced names 'labelled', whose samples have no one class each"):
        classes_of(table, "labelled")
