"""The rows of a study over all of its columns, each column a pair of devices: means, and differences that decide.

    python examples/paper/over_pairs.py examples/paper/table3-mapped.toml runs/table3-mapped-small

A figure is taken in every pair and seed, then averaged. Its 95 % interval resamples pairs, and within a pair seeds and
lots (protocol rule 7); with few pairs that is wide, so a second interval keeps the pairs and speaks of them alone.
Rows are compared over what both have done. Writes over_pairs.json into the study's folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lamella.cli.tables import table
from lamella.engine.whole import write_json
from lamella.study.figures import Counts, difference, estimate, figure, resampled, resampled_difference
from lamella.study.groups import read_counts
from lamella.study.study import Cell, Study, read_study


def counted(
    study: Study, folder: Path, rows: Sequence[str], column: str, test: str
) -> tuple[list[list[Counts]], list[str]]:
    """Of each row its counts by seed, on the seeds that all of ``rows`` have done; and the classes."""
    found, classes = [], []
    for seed in study.file.seeds:
        paths = [folder / Cell(row, column, seed).folder / "counts" / f"{test}.json" for row in rows]
        if all(path.exists() for path in paths):
            read = [read_counts(path, study.file.groups) for path in paths]
            classes = read[0][0]
            found.append([counts for _, counts in read])
    return [list(row) for row in zip(*found)], classes


def over(study: Study, folder: Path, rows: Sequence[str], test: str, text: str) -> dict[str, float] | None:
    """The mean over pairs of a row's figure, or of that of the first less the second; None where nothing is done.

    Its interval, ``low`` to ``high``, has pairs resampled; ``low_these`` to ``high_these`` keeps them as they are.
    """
    means, samples = [], []
    for number, column in enumerate(study.file.columns):
        counts, classes = counted(study, folder, rows, column, test)
        if counts:
            of = figure(text, classes)
            means.append((estimate if len(rows) == 1 else difference)(*counts, of).mean)
            samples.append((resampled if len(rows) == 1 else resampled_difference)(*counts, of, number))
    if not means:
        return None
    drawn, rng = np.array(samples), np.random.default_rng(0)  # (pairs, resamples)
    shape = drawn.T.shape
    free = drawn[rng.integers(len(drawn), size=shape), rng.integers(drawn.shape[1], size=shape)].mean(1)
    bounds = [float(x) for sample in (free, drawn.mean(0)) for x in np.percentile(sample, (2.5, 97.5))]
    named = zip(("low", "high", "low_these", "high_these"), bounds)
    return {"mean": float(np.mean(means)), **dict(named), "pairs": len(means)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study file")
    parser.add_argument("folder", type=Path, help="where it ran")
    given = parser.parse_args()
    study, entries = read_study(given.study), []
    reference = study.file.reference
    # A figure of a whole run, as results:defect_recall, cannot be resampled by lot.
    figures = {title: text for title, text in study.file.figures.items() if not text.startswith("results:")}
    for test in study.file.sets:
        for title, text in figures.items():
            lines = []
            for row in study.file.rows:
                value = over(study, given.folder, [row], test, text)
                if value is None:
                    continue
                apart = None if row == reference else over(study, given.folder, [reference, row], test, text)
                lines.append([row, _words(value), _words(apart)])
                entries.append({"set": test, "figure": title, "row": row, "value": value, "difference": apart})
            print(table([f"{title}, {test}", "mean", f"{reference} − row"], lines), "\n")
    write_json(given.folder / "over_pairs.json", {"study": study.name, "reference": reference, "entries": entries})


def _words(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    free, these = (f"{found['low' + end]:.3f} to {found['high' + end]:.3f}" for end in ("", "_these"))
    return f"{found['mean']:.3f} ({free}; these {found['pairs']:.0f} pairs {these})"


if __name__ == "__main__":
    main()
