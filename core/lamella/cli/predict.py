"""``lamella predict``."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lamella.cli.init import Bar


class LabelFormat(StrEnum):
    """What label maps are written as."""

    PNG = "png"
    TIFF = "tiff"


class Stacked(StrEnum):
    """What becomes of a file of several frames."""

    REFUSE = "refuse"
    EACH = "each"
    MEAN = "mean"


def predict(
    run: Annotated[Path, typer.Argument(help="run folder")],
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    out: Annotated[Path, typer.Option("--out", help="folder for label maps, overlays and tables")],
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default best where there is one")] = None,
    pixel_nm: Annotated[float | None, typer.Option(min=1e-4, help="nm per pixel where the files do not say")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="tables of thickness, CD and objects in nm")] = False,
    structure: Annotated[
        list[str] | None, typer.Option(metavar="NAME=CLASS+CLASS", help="measure several classes as one structure")
    ] = None,
    coco: Annotated[bool, typer.Option("--coco", help="coco.json with a mask for every object")] = False,
    label_format: Annotated[LabelFormat, typer.Option(help="what label maps are written as")] = LabelFormat.PNG,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="a picture of every class's too")] = False,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="no class (255) where the run is not sure; after lamella calibrate")
    ] = False,
    data_bar: Annotated[Bar | None, typer.Option(help="which data bars are cut; default as in training")] = None,
    stack: Annotated[Stacked | None, typer.Option(help="files of several frames; default as in training")] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATTERN", help="files of a view, where an object has several; default as trained"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Predict new images with a trained run: label maps, overlays, areas, and measurements in nm; or their classes.

    Files that are done already are skipped, so a command that was stopped can simply be given again; given other
    images, it adds them to the tables.
    """
    from lamella.engine.predict import Wanted
    from lamella.engine.predict import predict as run_predict

    wanted = Wanted(
        probabilities, measure or bool(structure), coco, label_format.value, structure or (), pixel_nm,
        None if data_bar is None else data_bar.value, None if stack is None else stack.value, abstain,
        _patterns(view or []),
    )  # fmt: skip
    outcome = run_predict(run, images, out, checkpoint=checkpoint, wanted=wanted)
    if as_json:
        print(json.dumps(outcome, indent=2))
        return
    already = f", {len(outcome['skipped'])} were there already" if outcome["skipped"] else ""
    print(f"{len(outcome['done'])} predicted into {out}{already}")
    for name, count in outcome.get("lacking", {}).items():
        print(f"{count} have no {name!r} image and are judged without it")
    if (out / "predictions.csv").is_file():
        print(f"table: {out / 'predictions.csv'} (and .parquet)")
    if wanted.measurements:
        print(f"tables: {out / 'measurements.csv'}, instances.csv, columns.csv (and .parquet)")
    if outcome["failed"]:
        print(f"{len(outcome['failed'])} could not be read; {out / 'failed.json'} says why")
    for doubt in outcome.get("unlike", []):
        print(f"beware: {doubt}")


def _patterns(given: list[str]) -> dict[str, str | list[str]]:
    """``NAME=PATTERN`` as patterns by view; several of one view add up."""
    from lamella.errors import ConfigError

    found: dict[str, str | list[str]] = {}
    for text in given:
        name, equals, pattern = text.partition("=")
        if not (name and equals and pattern):
            raise ConfigError(f"--view {text!r} must read NAME=PATTERN, as high=high/*.png")
        found[name] = [*found.get(name, []), pattern]
    return found
