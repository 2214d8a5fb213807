"""What a study found, as rows of figures with intervals: the same data for the terminal, JSON and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamella.errors import ConfigError
from lamella.study.figures import (
    Estimate,
    difference,
    each_of,
    estimate,
    figure,
    interval,
    of_values,
    same_groups,
)
from lamella.study.groups import (
    GroupFigure,
    Groups,
    check_groups,
    estimate_groups,
    group_figure,
    group_names,
    joined_groups,
    read_counts,
    read_groups,
    units_in,
)
from lamella.study.kept import read_kept
from lamella.study.study import Cell, Study, at

Results = Mapping[Cell, Mapping[str, Any]]


def study_table(study: Study, results: Results, out: Path) -> dict[str, Any]:
    """Every figure of every row, column and test set that is done, with what it is compared with.

    Returns:
        Plain JSON values: ``{"title", "size", "seeds", "entries": [{"row", "column", "set", "figure", "mean",
        "low", "high", "each", "difference": {…} | absent, "paper": number | absent}], "cost": […]}``.

    Raises:
        ConfigError: figures that the results and counts cannot give.
    """
    file = study.file
    _check_named(study, results)
    entries = [
        entry
        for column in file.columns
        for test in file.sets
        for row in file.rows
        for entry in _entries(study, results, out, row, column, test)
    ]
    return {
        "title": file.title,
        "study": study.name,
        "size": study.size,
        "reference": file.reference,
        "seeds": sorted({cell.seed for cell in results}),
        "done": len(results),
        "planned": len(study.cells()),
        "entries": entries,
        "cost": [
            cost for row in file.rows for column in file.columns for cost in _cost(study, results, out, row, column)
        ],
        "note": file.note,
    }


def _entries(study: Study, results: Results, out: Path, row: str, column: str, test: str) -> list[dict[str, Any]]:
    cells = _cells(results, row, column, test)
    found = []
    headline = test == study.file.sets[0]
    for title, text in study.file.figures.items():
        over_groups = group_figure(text)
        if over_groups is not None:
            measured = _over_groups(study, results, out, row, column, test, over_groups)
        else:
            measured = _figure(study, results, out, cells, test, text) if cells else None
        published = study.file.paper.get(row, {}).get(column or "all", {}).get(title)
        entry: dict[str, Any] = {"row": row, "column": column, "set": test, "figure": title}
        if measured is not None:
            entry |= _plain(measured[0])
            if measured[1] is not None:
                entry["difference"] = _plain(measured[1])
        elif published is None or not headline or study.file.rows[row].columns != []:
            continue
        else:  # a row that we cannot fill shows what was published of it
            entry |= _plain(Estimate(float("nan"), float("nan"), float("nan"), ()))
        if published is not None and headline:
            entry["paper"] = published
        found.append(entry)
    return found


def _over_groups(
    study: Study, results: Results, out: Path, row: str, column: str, test: str, asked: GroupFigure
) -> tuple[Estimate, Estimate | None] | None:
    """A figure over groups and the paired difference reference − row; None where nothing is done that it needs."""
    own = _groups(study, results, out, row, column, test, asked)
    if asked.over is not None:
        other = _groups(study, results, out, asked.over, column, test, asked)
        pairs = _paired(own, other)
        return (estimate_groups(pairs, asked.score()), None) if pairs and row != asked.over else None
    if not own:
        return None
    score, reference = asked.score(), study.file.reference
    value = estimate_groups([(groups,) for groups in own.values()], score)
    if reference is None or reference == row:
        return value, None
    theirs = _groups(study, results, out, reference, column, test, asked)
    paired = _paired(theirs, own)
    return value, estimate_groups(paired, lambda a, b: score(a) - score(b)) if paired else None


def _paired(one: Mapping[int, Groups], other: Mapping[int, Groups]) -> list[tuple[Groups, Groups]]:
    """What two rows counted by the seeds that both have; without those where it is of other groups."""
    return [(one[seed], other[seed]) for seed in one if seed in other and one[seed].units == other[seed].units]


def _groups(
    study: Study, results: Results, out: Path, row: str, column: str, test: str, asked: GroupFigure
) -> dict[int, Groups]:
    """By seed what a row counted in each group.

    A row whose columns have test sets of their own with no group in common (one training for each device, say) has the
    groups of all of them, once all are done, in the study's first column; any other row has those of ``column``.
    """
    first = next(iter(study.file.columns))
    of_row = [c for c in study.cells() if c.row == row and (c not in results or test in results[c]["sets"])]
    columns = {cell.column for cell in of_row}
    sets = {str(study.file.columns[name].set.get("data", {}).get(test)) for name in columns}
    apart = len(sets) == len(columns) > 1
    found: dict[int, Groups] = {}
    for seed in study.file.seeds:
        planned = [cell for cell in of_row if cell.seed == seed]
        parts = {
            cell: read_groups(_counts_file(out, cell, test), asked, study.file.groups)
            for cell in planned
            if cell in results
        }
        whole, own = joined_groups(list(parts.values())) if apart and parts else None, Cell(row, column, seed)
        if parts and len(parts) == len(columns):
            files = [_counts_file(out, cell, test) for cell in parts]
            check_groups(set().union(*(group_names(path, asked.column) for path in files)), asked, test)
        if whole is None and own in parts and parts[own].units:
            found[seed] = parts[own]
        elif whole is not None and len(parts) == len(columns) and column == first:
            found[seed] = whole
    return found


def _figure(
    study: Study, results: Results, out: Path, cells: Sequence[Cell], test: str, text: str
) -> tuple[Estimate, Estimate | None]:
    """A figure of some cells, and the paired difference reference − row over the seeds that both have.

    Seeds on other groups each have no interval, and a run on other groups than the reference's has no difference.
    """
    reference = study.file.reference
    others = [cell._replace(row=reference) for cell in cells if reference is not None and cell.row != reference]
    paired = [other in results and test in results[other]["sets"] for other in others]
    ours = [cell for cell, there in zip(cells, paired) if there]
    theirs = [other for other, there in zip(others, paired) if there]
    if text.startswith("results:"):
        path = text.removeprefix("results:")
        units = {cell: units_in(_counts_file(out, cell, test), study.file.groups) for cell in {*cells, *theirs}}
        pairs = [(a, b) for a, b in zip(theirs, ours) if units[a] == units[b]]
        apart = [_value(results[a], test, path) - _value(results[b], test, path) for a, b in pairs]
        value = _over_seeds([_value(results[cell], test, path) for cell in cells], [units[cell] for cell in cells])
        return value, _over_seeds(apart, [units[a] for a, _ in pairs]) if apart else None
    counted = {cell: read_counts(_counts_file(out, cell, test), study.file.groups) for cell in {*cells, *theirs}}
    of, counts = figure(text, counted[cells[0]][0]), [counted[cell][1] for cell in cells]
    value = estimate(counts, of) if same_groups(counts) else interval(each_of(counts, of), ())
    alike = [pair for a, b in zip(theirs, ours) if same_groups(pair := (counted[a][1], counted[b][1]))]
    if not alike:
        return value, None
    of_reference = figure(text, counted[theirs[0]][0])
    one, other = ([pair[place] for pair in alike] for place in (0, 1))
    if same_groups(one):
        return value, difference(one, other, of_reference, of_theirs=of)
    each = zip(each_of(one, of_reference), each_of(other, of))
    return value, interval(tuple(a - b for a, b in each), ())


def _over_seeds(values: Sequence[float], units: Sequence[frozenset[str]]) -> Estimate:
    """The mean of a figure of the results; its interval, over seeds alone, only where all were tested on the same."""
    return of_values(values) if len(set(units)) == 1 else interval(tuple(values), ())


def _counts_file(out: Path, cell: Cell, test: str) -> Path:
    return out / cell.folder / "counts" / f"{test}.json"


def _check_named(study: Study, results: Results) -> None:
    """Raise `ConfigError` where no result has what a figure asks of the results; some may lack it."""
    for text in study.lacking(results.values()):
        known = {name for result in results.values() for test in study.tests(result) for name in test}
        raise ConfigError(f"figure {text!r} is in no results; they have {', '.join(sorted(known))}")


def _value(result: Mapping[str, Any], test: str, path: str) -> float:
    found = at(result["sets"][test], path)
    if isinstance(found, Mapping | list | str):
        raise ConfigError(f"figure 'results:{path}' is no number in the results of {test!r}; write results:{path}.NAME")
    return float("nan") if found is None else float(found)


def _cells(results: Results, row: str, column: str, test: str) -> list[Cell]:
    return [c for c in results if (c.row, c.column) == (row, column) and test in results[c]["sets"]]


def _cost(study: Study, results: Results, out: Path, row: str, column: str) -> list[dict[str, Any]]:
    """Steps, floating-point operations and seconds of a row, what it builds on counted in."""
    cells = [cell for cell in results if (cell.row, cell.column) == (row, column)]
    if not cells:
        return []
    totals = []
    for cell in cells:
        befores = [out / study.before_folder(name, cell) / "results.json" for name in study.needs(cell)]
        if not all(path.is_file() for path in befores):
            return []  # somebody tidied up: what it cost is not known any more
        parts = [results[cell], *(read_kept(path, "steps", "flops") for path in befores)]
        totals.append([sum(part[key] or 0 for part in parts) for key in ("steps", "flops", "seconds")])
    steps, flops, seconds = (sum(column) / len(totals) for column in zip(*totals))
    return [{"row": row, "column": column, "steps": steps, "flops": flops, "seconds": seconds, "runs": len(cells)}]


def _plain(value: Estimate) -> dict[str, Any]:
    return {"mean": value.mean, "low": value.low, "high": value.high, "each": list(value.each)}
