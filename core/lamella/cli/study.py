"""``lamella study``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lamella.cli.tables import table


def study(
    file: Annotated[Path, typer.Argument(help="study file (TOML)")],
    out: Annotated[Path | None, typer.Option("--out", help="folder of its runs; default runs/NAME-SIZE")] = None,
    size: Annotated[str | None, typer.Option("--size", help="one of the study's sizes; default the first")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="run at most so many, then show the table")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="list the runs and what is done; train nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the table as JSON")] = False,
) -> None:
    """Train a grid of methods, conditions and seeds, and put them in one table with intervals.

    Stopped at any time, it goes on where it was when started again. Writes table.json and report.html beside the runs.
    """
    from lamella.engine.study import read_study
    from lamella.engine.study_report import text_rows, write_study
    from lamella.engine.study_run import results, run_study
    from lamella.engine.study_table import study_table

    read = read_study(file, size)
    folder = out or Path("runs") / (f"{read.name}-{read.size}" if read.size else read.name)
    if plan:
        for cell in read.cells():
            state = "done" if (folder / cell.folder / "results.json").is_file() else "to do"
            print(f"{state:<6} {cell.folder.as_posix()}")
        return
    done = run_study(read, folder, limit=limit, tell=lambda line: typer.echo(line, err=True))
    found = study_table(read, results(read, folder) or done, folder)
    page = write_study(read, found, folder)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for test in read.file.sets:
        header, rows = text_rows(read, found, test)
        if rows:
            print(f"{test}\n{table(header, rows)}\n")
    print(f"report: {page}")
