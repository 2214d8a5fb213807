"""``lamella predict``."""

import json
from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="run folder")],
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    out: Annotated[Path, typer.Option("--out", help="folder for label maps, overlays and areas.csv")],
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default best where there is one")] = None,
    pixel_nm: Annotated[float | None, typer.Option(min=0, help="nm per pixel, for areas in nm²")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="a picture of every class's too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Predict new images with a trained run: label maps, overlays and the area of every class.

    Files that are done already are skipped, so a command that was stopped can simply be given again.
    """
    from lamella.engine.predict import predict as run_predict

    outcome = run_predict(
        run, images, out, checkpoint=checkpoint, pixel_nm=pixel_nm, probabilities=probabilities
    )  # fmt: skip
    if as_json:
        print(json.dumps(outcome, indent=2))
        return
    already = f", {len(outcome['skipped'])} were there already" if outcome["skipped"] else ""
    print(f"{len(outcome['done'])} predicted into {out}{already}")
    for reason in outcome["failed"].values():
        print(f"not read: {reason}")
