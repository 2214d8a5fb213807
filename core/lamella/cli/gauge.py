"""``lamella gauge``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lamella.contracts.data import Sample
    from lamella.data.reading import Reading


def gauge(
    run: Annotated[Path, typer.Argument(help="run folder")],
    images: Annotated[list[Path], typer.Argument(help="image files of different parts, or folders of them")],
    out: Annotated[Path, typer.Option("--out", help="folder for the tables and the picture")],
    setups: Annotated[int, typer.Option(min=2, help="how often every image is set up: moved, and focused anew")] = 3,
    repeats: Annotated[int, typer.Option(min=2, help="how often it is taken from each setup, with other noise")] = 3,
    setup: Annotated[str, typer.Option(help="perturbation set that sets an image up")] = "gauge-setup",
    repeat: Annotated[str, typer.Option(help="perturbation set that takes it again")] = "gauge-repeat",
    name: Annotated[list[str] | None, typer.Option("--class", help="class or structure to judge; else all")] = None,
    structure: Annotated[
        list[str] | None, typer.Option(metavar="NAME=CLASS+CLASS", help="measure several classes as one structure")
    ] = None,
    tolerance_nm: Annotated[float | None, typer.Option(min=1e-6, help="width of the specification, for 6σ/T")] = None,
    pixel_nm: Annotated[float | None, typer.Option(min=1e-4, help="nm per pixel where the files do not say")] = None,
    seed: Annotated[int, typer.Option(help="seed of everything drawn")] = 0,
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default best where there is one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Gauge R&R of a run's measurements: would the same part measure the same, set up and taken again?

    Every image (a part) is moved and focused anew, and taken again with other noise, in simulation; the scatter of
    what is measured is parted into repeats, setups and true differences of the images (analysis of variance, AIAG).
    """
    import torch

    from lamella.engine.inputs import as_trained
    from lamella.engine.predict_classes import classifies
    from lamella.engine.progress import Progress
    from lamella.engine.run import open_run
    from lamella.engine.session import make_accelerator
    from lamella.engine.trust.gauge import Measurer, Study, summary, trials
    from lamella.engine.whole import json_text
    from lamella.errors import RunError
    from lamella.measure.columns import with_structures
    from lamella.measure.tables import parse_structures

    if (out / "gauge.csv").exists():
        raise RunError(f"{out} holds a gauge study already; choose another --out, or move it away")
    experiment, trainer, modality, header = open_run(run, checkpoint)
    if trainer.embeds or classifies(trainer):
        raise RunError(f"{run}: it makes no label maps, so there is nothing to measure in nm")
    classes: list[str] = header["data"]["class_names"]
    known = with_structures(classes, parse_structures(structure or (), classes))
    parts = {one: known[one] for one in _judged(name or [], list(known))}
    chains = [experiment.registry.plan("chain", given, option).build() for given, option in
              ((setup, "--setup"), (repeat, "--repeat"))]  # fmt: skip
    samples = _samples(images, as_trained(experiment, trainer), pixel_nm)
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)
    study = Study(chains[0], chains[1], setups, repeats, seed)
    measurer = Measurer(trainer, modality, accelerator.device, classes, parts, experiment.fit.tile_for(trainer))
    out.mkdir(parents=True, exist_ok=True)
    with Progress("measuring", len(samples), every=1) as progress, torch.inference_mode(), accelerator.autocast():
        rows = trials(study, measurer, samples, lambda done: progress.at(done, {}))
    found = summary(rows, study, tolerance_nm)
    if not found:
        raise RunError("no figure was measured in every trial of two images; look at the label maps: lamella predict")
    _write(out, found, rows)
    print(json_text(found) if as_json else _text(found, out))


def _write(out: Path, found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    from lamella.engine.export import write_table
    from lamella.engine.labelmap import save_image
    from lamella.engine.trust.gauge import SUMMARY, TRIALS
    from lamella.engine.trust.gauge_chart import gauge_chart

    save_image(gauge_chart(found, rows), out / "gauge.png")
    write_table(out / "trials", TRIALS, rows)
    write_table(out / "gauge", SUMMARY, found)


def _judged(wanted: list[str], known: list[str]) -> list[str]:
    from lamella.errors import ConfigError

    if stray := [name for name in wanted if name not in known]:
        raise ConfigError(f"--class {stray[0]}: there is no such class or structure; there are {', '.join(known)}")
    return wanted or known


def _samples(images: list[Path], reading: "Reading", pixel_nm: float | None) -> dict[str, "Sample"]:
    """What can be read and has a pixel size, by name; what cannot be used is said."""
    from lamella.engine.inputs import find_images, read_sample, with_frames
    from lamella.errors import DataError

    found = {}
    for name, image in with_frames(find_images(images), reading).items():
        try:
            sample = read_sample(name, image, reading, pixel_nm)
        except DataError as error:
            typer.echo(f"not read: {error}", err=True)
            continue
        if math.isnan(sample.pixel_nm[0]):
            raise DataError(f"{image.path} does not say its pixel size; give it with --pixel-nm")
        found[name] = sample
    if len(found) < 2:
        raise DataError("a gauge study compares images of different parts: give two at least, better ten")
    return found


def _text(found: list[dict[str, Any]], out: Path) -> str:
    from lamella.cli.tables import table

    header = ["class, figure", "images", "mean", "bias", "repeats σ", "setups σ", "images σ", "R&R % of all (95 %)",
              "kinds", "6σ/T %", "lost %"]  # fmt: skip
    rows = [
        [
            f"{one['class']} {one['figure']}", str(one["images"]), f"{one['mean']:.2f}", f"{one['bias']:+.2f}",
            f"{one['repeatability']:.3f}", f"{math.hypot(one['setup'], one['interaction']):.3f}", f"{one['part']:.3f}",
            f"{one['rr_percent']:.0f} ({one['rr_percent_low']:.0f} to {one['rr_percent_high']:.0f})",
            f"{one['categories']:.0f}", *("–" if math.isnan(value) else f"{value:.0f}" for value in
                                          (one["tolerance_percent"], 100 * one["lost"])),
        ]
        for one in found
    ]  # fmt: skip
    return (
        f"{table(header, rows)}\n\n"
        "R&R below 10 % of all scatter: a good gauge for telling these images apart; above 30 %: none (AIAG)\n"
        f"tables: {out / 'gauge.csv'}, trials.csv (and .parquet); picture: {out / 'gauge.png'}"
    )
