"""``lamella study``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamella.cli.tables import table

if TYPE_CHECKING:
    from lamella.study.study import Study


def study(
    file: Annotated[Path, typer.Argument(help="study file (TOML)")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of its runs; default runs/NAME-SIZE")] = None,
    size: Annotated[str | None, typer.Option("--size", help="one of the study's sizes; default the first")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="train at most so many, then show the table")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="list the runs and what is done; train nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the table as JSON")] = False,
) -> None:
    """Train a grid of methods, conditions and seeds, and put them in one table with intervals.

    Stopped at any time, it goes on where it was when started again; started several times at once, it shares the work.
    Writes table.json and report.html beside the runs.
    """
    from lamella.study.run import FailedRuns, run_study
    from lamella.study.share import first_process
    from lamella.study.study import read_study

    read = read_study(file, size)
    folder = out or Path("runs") / (f"{read.name}-{read.size}" if read.size else read.name)
    if plan:
        for cell in read.cells():
            state = "done" if (folder / cell.folder / "results.json").is_file() else "to do"
            print(f"{state:<6} {cell.folder.as_posix()}")
        return
    first = first_process()
    failed = None
    try:
        run_study(read, folder, limit=limit, tell=lambda line: typer.echo(line, err=True) if first else None)
    except FailedRuns as error:
        failed = error
    if first:
        show(read, folder, as_json=as_json)
    if failed is not None:
        raise failed


def show(study: "Study", folder: Path, *, as_json: bool = False) -> None:
    """Write the page of what is done of a study, and print its tables; one process after the other."""
    from lamella.study.share import taken

    with taken(folder / "report", wait=lambda: None):  # what is done is read within: the last to write knows of all
        _show(study, folder, as_json)


def _show(study: "Study", folder: Path, as_json: bool) -> None:
    import torch

    from lamella.engine.whole import json_text
    from lamella.errors import LamellaError
    from lamella.study.pictures import sheet
    from lamella.study.report import text_rows, write_study
    from lamella.study.run import results
    from lamella.study.table import study_table

    done = results(study, folder)
    found = study_table(study, done, folder)
    picture = None
    try:
        picture = sheet(study, done, folder)
    except (LamellaError, torch.OutOfMemoryError) as error:
        reason = str(error).partition("\n")[0]
        typer.echo(f"the pictures are left out: {reason}", err=True)
    page = write_study(study, found, folder, picture)
    if as_json:
        print(json_text(found))
        return
    for test in study.file.sets:
        header, rows = text_rows(study, found, test)
        if rows:
            print(f"{test}\n{table(header, rows)}\n")
    if picture is not None:
        print(f"pictures: {folder / 'comparison.png'}")
    print(f"report:   {page}")
