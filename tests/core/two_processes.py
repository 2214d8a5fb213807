"""Trains the tiny experiment under torchrun: started by test_engine_processes.py, not by pytest."""

import os
import sys
from pathlib import Path

import torch
from lamella.engine.experiment import read_experiment
from lamella.engine.meters import Meters
from lamella.engine.session import prepare
from lamella.engine.update import update

from lamella.engine.fit import training_batches  # isort: skip


def main() -> None:
    file, run, *settings = sys.argv[1:]
    session = prepare(read_experiment(Path(file), settings), Path(run))
    session.trainer.train()
    losses, meters = [], Meters(session.accelerator.device)
    for number, batches in training_batches(session):
        named, finite = update(session, batches, number)
        meters.add(number, named, finite, batches)
        losses.append(named["loss"])
    logged = meters.read()[0]
    if session.main:
        Path(run).mkdir(parents=True, exist_ok=True)
        facts = {"processes": session.accelerator.num_processes, "losses": torch.stack(losses).tolist()}
        facts["logged"] = logged
        torch.save({"weights": session.trainer.state_dict(), **facts}, Path(run) / "end.pt")
    if torch.distributed.is_initialized():
        os._exit(0)  # as the command line does


if __name__ == "__main__":
    main()
