"""The commands ``lamella synth`` and ``lamella gallery``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from lamella.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Mode = Literal["preset", "haadf", "bright-field"]
Trouble = Literal["none", "in-family", "unseen"]


def synth(
    out: Annotated[Path | None, typer.Option(help="folder for the parquet file and its card")] = None,
    preset: Annotated[str, typer.Option(help="device and generation, or a SEM product")] = "demo-finfet",
    count: Annotated[int, typer.Option(help="number of images", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="another seed gives other images of the same product", min=0)] = 0,
    size: Annotated[int, typer.Option(help="side of the images in pixels, even", min=32)] = 256,
    mode: Annotated[Mode, typer.Option(help="imaging mode (TEM)")] = "preset",
    nuisance: Annotated[Trouble, typer.Option(help="what disturbs the images (TEM)")] = "none",
    exposure: Annotated[int, typer.Option(help="another: the same specimens, other noise (TEM)", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="processes that render", min=1)] = 1,
    show: Annotated[bool, typer.Option("--list", help="list the presets and their classes, and stop")] = False,
) -> None:
    """Write synthetic TEM or SEM images with their truth as a dataset folder that `datasets` loads."""
    if show:
        typer.echo(listing())
        return
    if out is None:
        raise DataError("lamella synth needs --out FOLDER (or --list to see the presets)")
    _check(out)
    from lamella_synth.presets import preset as tem_preset
    from lamella_synth.sem.presets import PRESETS

    sem = preset in PRESETS
    if sem and (mode, nuisance, exposure) != ("preset", "none", 0):
        raise DataError(f"synth SEM preset {preset!r} has no mode, nuisance or exposure: leave them out")
    if not sem:
        try:
            tem_preset(preset)
        except DataError as error:
            raise DataError(f"{error}, {', '.join(PRESETS)}") from None
    out.mkdir(parents=True, exist_ok=True)
    if sem:
        from lamella_synth.sem.dataset import synth_sem

        table = synth_sem(preset=preset, count=count, seed=seed, size=size, layout="apart", workers=workers)
    else:
        from lamella_synth.dataset import synth_tem

        table = synth_tem(preset=preset, count=count, seed=seed, size=size, mode=mode, nuisance=nuisance,
                          exposure=exposure, workers=workers)
    facts = f"preset `{preset}` (hash `{_hash(preset)}`), seed {seed}, {count} images of {size} × {size} pixels"
    write(table, out, facts if sem else f"{facts}; mode `{mode}`, nuisance `{nuisance}`, exposure {exposure}")
    typer.echo(f"{count} images of {preset} ({_hash(preset)}) in {out / 'train.parquet'}")


def gallery(
    out: Annotated[Path, typer.Option(help="picture to write, .png or .jpg")] = Path("gallery.png"),
    seed: Annotated[int, typer.Option(help="another seed shows other images", min=0)] = 0,
    size: Annotated[int, typer.Option(help="side of each picture in pixels, even", min=32)] = 192,
    sem: Annotated[bool, typer.Option("--sem", help="the SEM defects instead of the TEM devices")] = False,
) -> None:
    """Write a contact sheet: every device, generation, mode and nuisance group, or every SEM defect."""
    from lamella.engine.contact_sheet import check_sheet, save_sheet

    from lamella_synth.gallery import contact_sheet, defect_sheet

    if out.suffix.lower() not in (".png", ".jpg"):
        raise DataError(f"lamella gallery writes .png or .jpg, not {out.name!r}")
    check_sheet(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet = defect_sheet(seed=seed, size=size) if sem else contact_sheet(seed=seed, size=size)
    save_sheet(sheet, out)
    typer.echo(f"{sheet.width} × {sheet.height} pixels in {out}")


def listing() -> str:
    """The presets, one a line: name, hash, field of view, mode and classes."""
    from lamella_synth.presets import names, preset
    from lamella_synth.sem.presets import PRESETS
    from lamella_synth.sem.scene import CLASSES

    lines = []
    for name in names():
        made = preset(name)
        lines.append(f"{name:17} {made.hash}  {made.view_nm:5g} nm  {made.mode:12}  {', '.join(made.classes)}")
    for name, product in PRESETS.items():
        low, high = product.field_nm
        lines.append(f"{name:17} {product.hash}  {low:g}–{high:g} nm  SEM  {', '.join(CLASSES)}")
    return "\n".join(lines)


def _check(out: Path) -> None:
    """Raise `DataError` where a folder holds a card, or images without one, that are not of `lamella synth`."""
    card, images = out / "README.md", out / "train.parquet"
    there = next((path for path in (card, images) if path.exists()), None)
    ours = card.is_file() and _OURS in card.read_text(encoding="utf-8", errors="replace")
    if there is not None and not ours:
        raise DataError(f"{there} is there and not of `lamella synth`; choose another --out, or move it away")


def write(table: "Dataset", out: Path, facts: str) -> None:
    """Write a dataset as ``train.parquet`` with a card beside it; each file appears whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    names = table.features["classes"].feature.names
    part = out / f".{os.getpid()}.parquet"
    table.to_parquet(str(part))
    text = _CARD.format(ours=_OURS, facts=facts, classes=", ".join(f"{k} {name}" for k, name in enumerate(names)))
    card = out / f".{os.getpid()}.md"
    card.write_text(text, encoding="utf-8")
    card.replace(out / "README.md")
    part.replace(out / "train.parquet")


def _hash(name: str) -> str:
    from lamella_synth.presets import preset
    from lamella_synth.sem.presets import PRESETS

    return PRESETS[name].hash if name in PRESETS else preset(name).hash


_OURS = "Rendered by lamella-synth: "
_CARD = """\
---
license: apache-2.0
configs:
- config_name: default
  data_files: [{{split: train, path: train.parquet}}]
---
# Synthetic micrographs

{ours}{facts}.

Classes, by number: {classes}.

`truth` gives true dimensions in nm; text columns such as `device`, `lot`, `wafer` and `tool` are groups to split by.
No real device has these dimensions.
"""
