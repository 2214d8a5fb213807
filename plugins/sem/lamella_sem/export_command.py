"""``lamella sem-export``."""

from pathlib import Path
from typing import Annotated

import typer


def sem_export(
    run: Annotated[Path, typer.Argument(help="run folder of mae-contrastive or classify")],
    out: Annotated[Path, typer.Option("--out", help="folder to write into")],
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default best where there is one")] = None,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="write ONNX too; needs lamella-sem[onnx]")] = True,
) -> None:
    """Write a run's encoder as weights that timm loads and as ONNX, and check that both give the same."""
    from lamella_sem.export import export

    done = export(run, out, checkpoint=checkpoint, onnx=onnx)
    for name in done["files"]:
        print(out / name)
    print(", ".join(f"{name}: differs by {gap:.1e} at most" for name, gap in done["differences"].items()))
