"""``lamella segment``: objects of images by prompts, or all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lamella.errors import ConfigError, LamellaError

if TYPE_CHECKING:
    import torch

    from lamella_sam.segment import Found


def segment(
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    out: Annotated[Path, typer.Option("--out", help="folder for instance maps (16-bit PNG) and overlays")],
    run: Annotated[Path | None, typer.Option(help="a sesami run; else --backbone as it is")] = None,
    backbone: Annotated[str, typer.Option(help="sam-nano, sam-vit-b, sam-vit-l or sam-vit-h")] = "sam-nano",
    weights: Annotated[str | None, typer.Option(help="of the backbone; sam-nano has its own")] = None,
    point: Annotated[list[str] | None, typer.Option(help="x,y or x,y,0 (outside): clicks on one object")] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1: one object each")] = None,
    grid: Annotated[int, typer.Option(min=1, max=128, help="without prompts: clicks along each side")] = 16,
    quality: Annotated[float, typer.Option(min=0, max=1, help="least expected IoU")] = 0.6,
    tile: Annotated[int, typer.Option(min=64, help="images above this side go in tiles (pixels)")] = 1024,
) -> None:
    """Segment the objects that points or boxes ask for; without prompts every object there is."""
    from lamella.engine.inputs import find_images

    if point and box:
        raise LamellaError("give --point or --box, not both")
    network, modality = _network(run, backbone, weights)
    for name, path in find_images(images).items():
        image = _image(path, modality)
        found = _found(network, image, _numbers(point or [], (2, 3)), _numbers(box or [], (4,)), grid, quality, tile)
        _write(found, modality.picture(image[0]), out, name)
        print(f"{name}: {len(found.quality)} objects in {out / name}.instances.png")


def _network(run: Path | None, backbone: str, weights: str | None) -> tuple[Any, Any]:
    """The network in eval mode, and the modality that reads images for it."""
    import lamella

    if run is None:
        settings = {} if weights is None else {"weights": weights}
        return lamella.build("backbone", backbone, **settings).eval(), lamella.build(
            "modality", "tem", intensity="image"
        )
    from lamella.engine.run import open_run

    _, trainer, modality, _ = open_run(run)
    network: Any = getattr(trainer, "backbone", None)
    if not hasattr(network, "masks"):
        raise ConfigError(f"{run}: its trainer has no promptable network; use `lamella predict` for it")
    return network, modality


def _image(path: Path, modality: Any) -> "torch.Tensor":
    """(1, C, H, W) in [0, 1]."""
    import numpy as np
    from lamella import Sample
    from lamella.data.formats.files import read_image

    pixels: np.ndarray = read_image(path)
    sample = Sample(pixels, None, None, 0, 0, (float("nan"), float("nan")), {}, path.stem)
    return modality.collate([sample]).image


def _numbers(given: Sequence[str], counts: tuple[int, ...]) -> list[list[float]]:
    rows = []
    for text in given:
        try:
            row = [float(part) for part in text.split(",")]
        except ValueError:
            row = []
        if len(row) not in counts:
            wanted = " or ".join(str(count) for count in counts)
            raise LamellaError(f"{text!r} must be {wanted} numbers with commas between them")
        rows.append(row)
    return rows


def _found(
    network: Any, image: "torch.Tensor", points: list[list[float]], boxes: list[list[float]], grid: int, quality: float,
    tile: int,
) -> "Found":  # fmt: skip
    import torch

    from lamella_sam.prompts import box_prompts, point_prompts
    from lamella_sam.segment import ask, everything

    size = (image.shape[-2], image.shape[-1])
    if points:
        labels = torch.tensor([[[int(row[2]) if len(row) == 3 else 1 for row in points]]])
        prompts = point_prompts(torch.tensor([[[row[:2] for row in points]]]), labels, size)
    elif boxes:
        prompts = box_prompts(torch.tensor([boxes]), size)
    else:
        return everything(network, image, grid=grid, quality=quality, tile=tile)
    with torch.no_grad():
        embedding = network.embed(image)
    return ask(network, embedding, prompts)


def _write(found: "Found", picture: Any, out: Path, name: str) -> None:
    import numpy as np
    from lamella.engine.labelmap import save_image
    from lamella.engine.pictures import label_picture
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    ids = found.instances().numpy()
    save_image(Image.fromarray(ids.astype(np.uint16)), out / f"{name}.instances.png")
    colours = label_picture((ids - 1) % 12, [str(number) for number in range(12)])
    mixed = np.where((ids > 0)[..., None], 0.5 * picture + 0.5 * colours, picture)
    save_image(Image.fromarray(mixed.astype(np.uint8)), out / f"{name}.overlay.png")
