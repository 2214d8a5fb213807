"""``lamella demo``."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from lamella.cli.tables import results_table


def demo(
    out: Annotated[Path, typer.Option("--out", help="run folder")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(help="optimizer steps, for a shorter or longer look")] = None,
) -> None:
    """Train a segmentation of synthetic FinFET cross-sections, with nothing to download (about 4 minutes)."""
    from lamella.engine.experiment import read_experiment
    from lamella.engine.fit import fit
    from lamella.engine.run import new_folder

    with as_file(files("lamella.cli").joinpath("demo.toml")) as path:
        experiment = read_experiment(path, [] if steps is None else [f"fit.steps={steps}"])
    run = new_folder(out)
    results = fit(experiment, run)
    print(results_table(results))
    print(f"pictures: {run / 'pictures' / 'test.png'}")
    print(f"report:   {run / 'report.html'}")
