"""Which rows of a set are used: filters by group, slices, and nested seeded subsets."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from lamella.errors import ConfigError

Filter = Mapping[str, Sequence[str] | str]


def by_group(rows: Sequence[Mapping[str, str]], wanted: Filter, unwanted: Filter) -> list[int]:
    """The indices of the rows whose columns hold one of the wanted and none of the unwanted values.

    A row without a column holds none of its values.

    Raises:
        ConfigError: a column that no row has, or a value that never occurs in it.
    """
    for condition in (wanted, unwanted):
        for column, values in condition.items():
            known = sorted({row[column] for row in rows if column in row})
            if not known:
                columns = sorted({name for row in rows for name in row})
                known_columns = ", ".join(columns) or "none"
                raise ConfigError(f"there is no group column {column!r}; the columns are {known_columns}")
            for value in _many(values):
                if value not in known:
                    raise ConfigError(f"column {column!r} never holds {value!r}; it holds {', '.join(known)}")
    return [
        index
        for index, row in enumerate(rows)
        if all(row.get(column) in _many(values) for column, values in wanted.items())
        and not any(row.get(column) in _many(values) for column, values in unwanted.items())
    ]


def _many(values: Sequence[str] | str) -> Sequence[str]:
    return [values] if isinstance(values, str) else values


def by_slice(indices: Sequence[int], spec: str) -> list[int]:
    """A Python slice written as text, ``"0:60"``.

    >>> by_slice([4, 5, 6, 7], "1:3")
    [5, 6]
    """
    try:
        parts = [int(part) if part.strip() else None for part in spec.split(":")]
        if not 2 <= len(parts) <= 3:
            raise ValueError
        return list(indices)[slice(*parts)]
    except ValueError:
        raise ConfigError(f"slice = {spec!r} must read like '0:60', ':20' or '60:'") from None


def nested_subset(keys: Sequence[int], count: int, seed: int) -> list[int]:
    """``count`` positions of ``keys``, chosen by ``seed`` and nested: a smaller subset is part of a larger one.

    Each key is ranked by a hash of (seed, key), so the choice depends neither on the order of the rows nor on
    how many there are beside it.

    >>> small, large = (nested_subset(range(100), n, seed=3) for n in (20, 60))
    >>> set(small) <= set(large)
    True
    """
    if not 1 <= count <= len(keys):
        raise ConfigError(f"subset = {count} must lie within 1 and {len(keys)}, the number of images there are")
    rank = sorted(range(len(keys)), key=lambda i: hashlib.blake2b(f"{seed} {keys[i]}".encode()).digest())
    return sorted(rank[:count])


def by_fold(rows: Sequence[Mapping[str, str]], column: str, of: int, take: Sequence[int]) -> list[int]:
    """The indices of the rows in some of ``of`` parts, of which each holds whole groups of ``column``.

    Groups are dealt out from the largest to the smallest, each to the part that holds the fewest rows, so the parts
    are about equal; which group goes where depends on the groups alone, not on the order of the rows.

    Raises:
        ConfigError: no such column, rows without it, fewer groups than parts, or a part that does not exist.

    >>> rows = [{"lot": lot} for lot in "AABBBCD"]
    >>> [by_fold(rows, "lot", 3, [part]) for part in range(3)]
    [[2, 3, 4], [0, 1], [5, 6]]
    """
    lacking = sum(column not in row for row in rows)
    if rows and lacking == len(rows):
        known = ", ".join(sorted({name for row in rows for name in row})) or "none"
        raise ConfigError(f"fold.column = {column!r} is no group column; the columns are {known}")
    if lacking:
        raise ConfigError(
            f"fold.column = {column!r}: {lacking} of {len(rows)} samples have no {column!r}, so no part can be theirs; "
            f"give them one, or choose the others with only = {{ {column} = [ … ] }}"
        )
    if stray := [part for part in take if not 0 <= part < of]:
        raise ConfigError(f"fold: there is no part {stray[0]} of {of}; they are numbered from 0 to {of - 1}")
    sizes = Counter(row[column] for row in rows)
    if len(sizes) < of:
        raise ConfigError(f"fold.of = {of}: the column {column!r} holds only {len(sizes)} groups")
    filled, part_of = [0] * of, dict[str, int]()
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        part_of[group] = min(range(of), key=lambda part: (filled[part], part))
        filled[part_of[group]] += size
    return [index for index, row in enumerate(rows) if part_of[row[column]] in take]
