"""What a pre-training has learnt to see: linear probes for the class and for the groups of its validation pairs.

    python examples/paper/sem_probes.py runs/table4-small/seed-0/before/*

A probe is the ridge regression of `probe_accuracy`, for the high image alone, the low one alone, and both. The first
line is how often the most frequent answer is right, the second an encoder of the first run's shape, untrained.
"""

import sys
from pathlib import Path

import torch
from lamella.data.loaders import evaluation_batches
from lamella.engine.run import open_run
from lamella_sem.embedding import probe_accuracy

GROUPS = ("pattern", "tool")


def embedded(trainer, batches):
    """(N, 2, D) of all pairs."""
    with torch.inference_mode():
        return torch.cat([trainer.eval().predict(batch) for batch in batches])


def numbered(names):
    """(N,) int64: every name as a number."""
    known = sorted(set(names))
    return torch.tensor([known.index(name) for name in names])


def line(name, figures):
    print(f"{name:<12}" + "".join(f"{figure:>26}" for figure in figures))


def main(runs):
    experiment, _, modality, header = open_run(Path(runs[0]))
    table = experiment.open("validation")
    batches = [batch for batch, _ in evaluation_batches(table, modality, 250)]
    sought = {"class": torch.cat([batch["high"].label for batch in batches])}
    sought |= {group: numbered([row.groups[group] for row in table.rows]) for group in GROUPS}
    line("", [f"{name} (high low both)" for name in sought])
    line("most often", [f"{torch.bincount(truth).max() / len(truth):.3f}" for truth in sought.values()])
    fresh = experiment.trainer.build(seed=0, data=header["data"], opened=True)
    for name, made in [("untrained", fresh), *((Path(run).name, open_run(Path(run))[1]) for run in runs)]:
        found = embedded(made, batches)
        seen = (found[:, 0], found[:, 1], found.flatten(1))
        line(name, [" ".join(f"{probe_accuracy(x, truth):.3f}" for x in seen) for truth in sought.values()])


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit(__doc__))
