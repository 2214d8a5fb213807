"""``lamella train``."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from lamella.cli.tables import results_table
from lamella.errors import ConfigError


def train(
    file: Annotated[Path, typer.Argument(help="experiment file (TOML), or with --resume a run folder")],
    out: Annotated[Path | None, typer.Option("--out", help="run folder; default runs/NAME")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key, as fit.steps=200")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint of a run folder")] = False,
) -> None:
    """Train an experiment: log, checkpoints, results and a report go into a run folder.

    Several GPUs: accelerate launch -m lamella train FILE. Two processes on a CPU:
    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m lamella train FILE.
    """
    from lamella.engine.experiment import read_experiment
    from lamella.engine.run import run_experiment

    if resume:
        if not file.is_dir():
            raise ConfigError(f"--resume takes a run folder, not {file}")
        if settings:
            raise ConfigError(f"--resume takes no --set; change {file / 'experiment.toml'} instead")
        if out:
            raise ConfigError(f"--resume takes no --out; a run goes on in its own folder, {file}")
        experiment, run = run_experiment(file), file
    else:
        if (file / "run.json").is_file():
            raise ConfigError(f"{file} is a run folder; go on with: lamella train {quote(str(file))} --resume")
        experiment = read_experiment(file, settings or [])
        run = _shared_folder(out or Path("runs") / experiment.name)
    from lamella.engine.fit import fit

    results = fit(experiment, run, resume=resume)
    if results:
        print(results_table(results))
        print(f"report: {run / 'report.html'}")


def _shared_folder(wanted: Path) -> Path:
    """A new folder; under several processes the first makes it for all."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, parse_flag_from_env

    from lamella.engine.run import new_folder

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # unlike Accelerator, it does not look itself
    chosen = [new_folder(wanted) if state.is_main_process else wanted]
    return Path(broadcast_object_list(chosen)[0]) if state.num_processes > 1 else chosen[0]
