"""``lamella perturb``: what the perturbations make of your own image."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lamella.errors import DataError, LamellaError, RegistryError

if TYPE_CHECKING:
    import numpy as np
    from lamella import Batch


def perturb(
    image: Annotated[Path, typer.Argument(help="image file, or a stack: a sheet of each frame")],
    set_name: Annotated[str, typer.Option("--set", help="perturbation set to show")] = "tem-strong",
    out: Annotated[Path, typer.Option("--out", help="contact sheet to write (PNG)")] = Path("sheet.png"),
    size: Annotated[int, typer.Option(min=16, max=2048, help="side of the central crop that is shown (px)")] = 320,
    polarity: Annotated[str, typer.Option(help="haadf or bright-field")] = "haadf",
    pixel_nm: Annotated[float | None, typer.Option(min=1e-4, help="nm per pixel, where you know it")] = None,
    seed: Annotated[int, typer.Option(help="seed of everything drawn")] = 0,
) -> None:
    """Show every perturbation of a set at low, middle and high strength on your own image, and the whole set."""
    if polarity not in ("haadf", "bright-field"):
        raise LamellaError(f"--polarity {polarity!r} is neither haadf nor bright-field")
    if out.suffix.lower() != ".png":
        raise LamellaError(f"--out {out}: the sheet is a PNG file; end its name with .png")
    if not out.parent.is_dir():
        raise LamellaError(f"--out {out}: there is no folder {out.parent}")
    from lamella.data.reading import Reading, frame_name
    from lamella.engine.contact_sheet import check_sheet

    reading = Reading(data_bar="keep", stack="each")
    for frame in reading.frames(image):
        sheet = out.with_stem(frame_name(out.stem, frame))
        check_sheet(sheet)
        grey = _grey(reading.micrograph(image, frame).image, image, size)
        rows = _rows(set_name, _batch(grey, 1.0 if polarity == "haadf" else -1.0, pixel_nm), seed)
        _write(rows, sheet)
        print(f"{len(rows) - 1} perturbations of set {set_name!r} on {frame_name(image.name, frame)}: {sheet}")


def _grey(image: "np.ndarray", path: Path, size: int) -> "np.ndarray":
    """The central crop (H, W) float32 in [0, 1], stretched to the image's own 0.1 and 99.9 percentiles."""
    import numpy as np
    from lamella.data.grey import grey

    pixels = grey(image).astype(np.float32)
    if min(pixels.shape) < 8:
        raise DataError(f"{path}: {pixels.shape[0]} × {pixels.shape[1]} pixels are too few; 8 × 8 are needed")
    low, high = np.percentile(pixels, (0.1, 99.9))
    top, left = ((side - min(side, size)) // 2 for side in pixels.shape)
    crop = pixels[top : top + size, left : left + size]
    return np.clip((crop - low) / (high - low if high > low else 1.0), 0.0, 1.0).astype(np.float32)


def _batch(grey: "np.ndarray", polarity: float, pixel_nm: float | None) -> "Batch":
    import torch
    from lamella import Batch

    size = torch.tensor([[pixel_nm or torch.nan] * 2])
    image = torch.from_numpy(grey)[None, None]
    return Batch.of(image, pixel_nm=size, meta={"polarity": torch.tensor([polarity])})


def _rows(set_name: str, batch: "Batch", seed: int) -> list[tuple[str, list["np.ndarray"]]]:
    """A name and four pictures each: the image, then low, middle and high; last the whole set, drawn thrice."""
    import torch
    from lamella import Streams
    from lamella.registry.registry import current

    registry = current()
    chain = registry.plan("chain", set_name, "--set")
    if not chain.plans:
        raise RegistryError(f"--set {set_name!r} is empty: there is nothing to show")
    before = batch.image[0, 0].numpy()
    rows = []
    for plan in chain.plans:
        shown = [
            built.perturb(batch, Streams.root(seed, batch.key, batch.visit, f"{plan.component.name} {level}"))
            for level, built in enumerate(_strengths(registry, plan))
        ]
        rows.append((plan.component.name, [before, *(b.image[0, 0].numpy() for b in shown)]))
    whole = chain.build()
    drawn = [
        whole(batch, Streams.root(seed, batch.key, torch.tensor([visit]), "sheet")).image[0, 0].numpy()
        for visit in range(3)
    ]
    return [*rows, (f"set {set_name}", [before, *drawn])]


def _strengths(registry: Any, plan: Any) -> list[Any]:
    """The perturbation of a plan at low, middle and high strength; as it is where it names no identity."""
    from lamella_tem.strengths import LEVELS, at_strength

    values = {p.name: p.default for p in plan.component.parameters()} | dict(plan.parameters)
    identity = getattr(plan.component.resolve(), "identity", None)
    if not identity:
        return [plan.build()] * len(LEVELS)
    name = plan.component.full_name
    return [
        registry.plan(
            "perturbation", {"name": name, **plan.parameters, **at_strength(values, identity, level)}, "--set"
        ).build()
        for level in LEVELS.values()
    ]


def _write(rows: list[tuple[str, list["np.ndarray"]]], out: Path) -> None:
    """The sheet as a PNG."""
    import numpy as np
    from lamella.engine.contact_sheet import save_sheet
    from PIL import Image, ImageDraw, ImageFont

    height, width = rows[0][1][0].shape
    font, line, gap = ImageFont.load_default(size=13), 18, 4
    levels, draws = ("as it is", "low", "middle", "high"), ("as it is", "draw 1", "draw 2", "draw 3")
    cell = max(width, *(math.ceil(font.getlength(title)) for title in (*levels, *draws)))
    head = 2 * line  # the name over the whole row, below it a title for each picture
    wide = max(4 * (cell + gap), *(math.ceil(font.getlength(name)) + gap for name, _ in rows))
    sheet = Image.new("L", (wide + gap, len(rows) * (height + head + gap) + gap), 255)
    pen = ImageDraw.Draw(sheet)
    for i, (name, pictures) in enumerate(rows):
        top = gap + i * (height + head + gap)
        pen.text((gap, top), name, fill=0, font=font)
        for j, (title, picture) in enumerate(zip(draws if i == len(rows) - 1 else levels, pictures)):
            left = gap + j * (cell + gap)
            pen.text((left, top + line), title, fill=0, font=font)
            sheet.paste(Image.fromarray((picture * 255).round().astype(np.uint8)), (left, top + head))
    try:
        save_sheet(sheet, out)
    except OSError as error:
        raise LamellaError(f"--out {out}: cannot be written ({error})") from error
