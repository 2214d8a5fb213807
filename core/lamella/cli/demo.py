"""``lamella demo``."""

from pathlib import Path
from typing import Annotated

import typer

FILES = Path(__file__).with_name("demo_files")


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder of both runs and the report")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(min=1, help="optimizer steps, for a shorter or longer look")] = None,
) -> None:
    """Segment synthetic FinFETs from 20 labels, supervised and weak-to-strong, and compare (about 4 minutes).

    Nothing is downloaded. Both methods are tested on device A, on contaminated images of it, and on device B, of
    which no label was seen.
    """
    from lamella.cli.study import show
    from lamella.engine.run import new_folder
    from lamella.study.run import run_study
    from lamella.study.study import read_study

    study = read_study(FILES / "demo.toml")
    if steps is not None:
        study.file.set["fit"] = {"steps": steps}
    folder = new_folder(out)
    run_study(study, folder, tell=lambda line: typer.echo(line, err=True))
    show(study, folder)
