"""The rows of a study over all of its columns, each column a pair of devices: means, and differences that decide.

    python examples/paper/over_pairs.py examples/paper/table3-mapped.toml runs/table3-mapped-small

A figure is taken in every pair and seed, then averaged. Its 95 % interval resamples pairs, and within a pair seeds and
lots (protocol rule 7); with few pairs that is wide, so a second interval keeps the pairs and speaks of them alone.
Rows are compared over what both have done. Writes over_pairs.json into the study's folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lamella.cli.tables import table
from lamella.engine.checkpoint import write_json
from lamella.engine.counts import read_counts
from lamella.study.figures import RESAMPLES, Figure, figure
from lamella.study.study import Cell, Study, read_study


class Pair(NamedTuple):
    """What one or two rows counted in a pair of devices: (rows, seeds, lots, K, K)."""

    counts: np.ndarray
    of: Figure

    def drawn(self, rng: np.random.Generator) -> float:
        """The figure of the first row, less that of the second, on seeds and lots drawn with replacement."""
        _, seeds, lots = self.counts.shape[:3]
        times = np.bincount(rng.integers(lots, size=lots), minlength=lots)
        return self._figure(self.counts[:, rng.integers(seeds, size=seeds)], times)

    def measured(self) -> float:
        """The same on what was counted."""
        return self._figure(self.counts, np.ones(self.counts.shape[2]))

    def _figure(self, counts: np.ndarray, times: np.ndarray) -> float:
        totals = np.tensordot(counts, times, axes=([2], [0]))  # (rows, seeds, K, K)
        each = [float(np.mean([self.of(total) for total in row])) for row in totals]
        return each[0] - each[1] if len(each) > 1 else each[0]


def pair(study: Study, folder: Path, rows: Sequence[str], column: str, test: str, text: str) -> Pair | None:
    """What ``rows`` counted in a column, on the seeds that all of them have done."""
    found, names = [], []
    for seed in study.file.seeds:
        paths = [folder / Cell(row, column, seed).folder / "counts" / f"{test}.json" for row in rows]
        if all(path.exists() for path in paths):
            read = [read_counts(path, study.file.groups) for path in paths]
            names = read[0][0]
            found.append([[counts[lot] for lot in sorted(counts)] for _, counts in read])
    return Pair(np.array(found).swapaxes(0, 1), figure(text, names)) if found else None


def over(pairs: Sequence[Pair]) -> dict[str, float]:
    """The mean over pairs, its interval with pairs resampled, and with the pairs as they are."""
    rng, free, fixed = np.random.default_rng(0), [], []
    for _ in range(RESAMPLES):
        free.append(np.mean([pairs[k].drawn(rng) for k in rng.integers(len(pairs), size=len(pairs))]))
        fixed.append(np.mean([one.drawn(rng) for one in pairs]))
    bounds = [float(x) for sample in (free, fixed) for x in np.percentile(sample, (2.5, 97.5))]
    mean = float(np.mean([one.measured() for one in pairs]))
    return dict(zip(("mean", "low", "high", "low_these", "high_these"), (mean, *bounds))) | {"pairs": len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study file")
    parser.add_argument("folder", type=Path, help="where it ran")
    given = parser.parse_args()
    study, entries = read_study(given.study), []
    reference = study.file.reference
    for test in study.file.sets:
        for title, text in study.file.figures.items():
            if text.startswith("results:"):
                continue  # a figure of a whole run cannot be resampled by lot
            lines = []
            for row in study.file.rows:
                entry = {"set": test, "figure": title, "row": row}
                for name, rows in (("value", [row]), ("difference", [reference, row])):
                    pairs = [pair(study, given.folder, rows, c, test, text) for c in study.file.columns]
                    done = [one for one in pairs if one is not None]
                    if done and (name == "value" or row != reference):
                        entry[name] = over(done)
                if "value" in entry:
                    lines.append([row, *(_words(entry.get(name)) for name in ("value", "difference"))])
                    entries.append(entry)
            print(table([f"{title}, {test}", "mean", f"{reference} − row"], lines), "\n")
    write_json(given.folder / "over_pairs.json", {"study": study.name, "reference": reference, "entries": entries})


def _words(found: dict[str, float] | None) -> str:
    if found is None:
        return ""
    free, these = (f"{found['low' + end]:.3f} to {found['high' + end]:.3f}" for end in ("", "_these"))
    return f"{found['mean']:.3f} ({free}; these {found['pairs']:.0f} pairs {these})"


if __name__ == "__main__":
    main()
