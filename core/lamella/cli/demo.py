"""``lamella demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lamella.study.file import StudyFile

FILES = Path(__file__).with_name("demo_files")


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder of both runs and the report")] = Path("runs/demo"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="supervised steps, for a shorter or longer look; others in proportion")
    ] = None,
) -> None:
    """Segment synthetic FinFETs from 20 labels, supervised and weak-to-strong, and compare (about 3 minutes).

    Nothing is downloaded. Both methods are tested on device A, on contaminated images of it, and on device B, of
    which no label was seen.
    """
    from lamella.cli.study import show
    from lamella.engine.run import new_folder
    from lamella.study.run import run_study
    from lamella.study.study import read_study

    study = read_study(FILES / "demo.toml")
    if steps is not None:
        _lengthen(study.file, steps)
    folder = new_folder(out)
    run_study(study, folder, tell=lambda line: typer.echo(line, err=True))
    show(study, folder)


def _lengthen(file: "StudyFile", steps: int) -> None:
    """Give the supervised row so many steps, and every other training as many times more or fewer."""
    usual: int = file.rows["supervised"].set["fit"]["steps"]
    for changes in [row.set for row in file.rows.values()] + [before.set for before in file.before.values()]:
        changes["fit"]["steps"] = max(1, round(changes["fit"]["steps"] * steps / usual))
