"""``lamella segment``: objects of images by prompts, or all of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from lamella.errors import ConfigError, DataError, LamellaError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from lamella.data.reading import Reading
    from lamella.engine.inputs import Input

    from lamella_sam.prompts import Prompts
    from lamella_sam.segment import Found


def segment(
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    out: Annotated[Path, typer.Option("--out", help="folder for instance maps (16-bit PNG) and overlays")],
    run: Annotated[Path | None, typer.Option(help="a sesami run; else --backbone as it is")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="sam-nano, sam-vit-b, sam-vit-l or sam-vit-h; else sam-nano")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="of the backbone; sam-nano has its own")] = None,
    size: Annotated[
        int | None, typer.Option(min=16, help="longer side images are scaled to; else as the network was trained")
    ] = None,
    point: Annotated[list[str] | None, typer.Option(help="x,y or x,y,0 (outside): clicks on one object")] = None,
    box: Annotated[list[str] | None, typer.Option(help="x0,y0,x1,y1: one object each")] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="file whose values above 0 mark a part of one object each; or a folder of such, named as the images"
        ),
    ] = None,
    grid: Annotated[
        int | None, typer.Option(min=1, max=128, help="without prompts: clicks along each side; else 16")
    ] = None,
    quality: Annotated[
        float | None, typer.Option(min=0, max=1, help="without prompts: least expected IoU; else 0.6")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=64, help="without prompts: images above this side go in tiles; else 1024 pixels")
    ] = None,
) -> None:
    """Segment the objects that points, boxes or masks ask for; without prompts every object there is."""
    from accelerate.utils import send_to_device
    from lamella.engine.inputs import check_apart, find_images, with_frames
    from lamella.engine.session import make_accelerator

    from lamella_sam.segment import everything

    given = [name for name, value in (("--point", point), ("--box", box), ("--mask", mask)) if value]
    if len(given) > 1:
        raise LamellaError(f"give {given[0]} or {given[1]}, not both")
    options: dict[str, Any] = {"grid": grid, "quality": quality, "tile": tile}
    search = {name: value for name, value in options.items() if value is not None}
    if given and search:
        raise LamellaError(f"--{next(iter(search))} is about finding every object; leave it out beside {given[0]}")
    points, boxes, named = _clicks(point or []), _numbers(box or [], (4,)), find_images(images)
    check_apart(out, images)
    network, modality, reading = _network(run, backbone, weights, size)
    device = make_accelerator("no").device
    network.to(device)
    files = with_frames(named, reading)
    marks = {} if mask is None else _marks(mask, files)

    def one(name: str, file: "Input") -> None:
        image, drawn = _read(name, file, modality, reading, marks.get(name))
        prompts = _prompts(network, image, points, boxes, drawn)
        if prompts is None:
            found = everything(network, image.to(device), **search)
        else:
            _check(prompts, file.path)
            found = _asked(network, image.to(device), send_to_device(prompts, device))
        ids = found.instances().cpu().numpy()
        _write(ids, modality.picture(image[0]), out, name)
        _tell(found, ids, _words(point or [], box or [], drawn), out, name)

    failed = _each(files, one)
    if failed:
        print(f"{len(files) - len(failed)} of {len(files)} segmented into {out}")
    for reason in failed:
        print(f"not segmented: {reason}")


def _network(
    run: Path | None, backbone: str | None, weights: str | None, size: int | None
) -> tuple[Any, Any, "Reading"]:
    """The network in eval mode, the modality that makes its images, and how their files are read."""
    network: Any
    own = [name for name, value in (("backbone", backbone), ("weights", weights), ("size", size)) if value is not None]
    if run is not None and own:
        raise LamellaError(f"--{own[0]} is for a network without a run; a run has its own network, weights and size")
    if run is None:
        import lamella
        from lamella.data.reading import AS_TOLD

        given = {"weights": weights, "size": size}
        settings = {name: value for name, value in given.items() if value is not None}
        network = lamella.build("backbone", backbone or "sam-nano", **settings).eval()
        return network, lamella.build("modality", "tem", intensity="image"), AS_TOLD
    from lamella.engine.inputs import as_trained
    from lamella.engine.run import open_run

    experiment, trainer, modality, _ = open_run(run)
    network = getattr(trainer, "backbone", None)
    if not hasattr(network, "masks"):
        raise ConfigError(f"{run}: its trainer has no promptable network; use `lamella predict` for it")
    return network, modality, as_trained(experiment, trainer)


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


def _clicks(given: Sequence[str]) -> list[list[float]]:
    rows = _numbers(given, (2, 3))
    for text, row in zip(given, rows):
        if row[2:] not in ([], [0.0], [1.0]):
            raise LamellaError(f"{text!r}: the third number of a click is 1, on the object, or 0, outside of it")
    return rows


def _marks(given: Path, images: Collection[str]) -> dict[str, Path]:
    """The file of marks for each image: one for all, or of a folder that of the same name."""
    from lamella.engine.inputs import find_images

    files = find_images([given])
    if not given.is_dir():
        return dict.fromkeys(images, given)
    without = [name for name in images if name not in files]
    if without:
        raise LamellaError(f"{given}: there is no mask named {without[0]} ({len(without)} of {len(images)} lack one)")
    return files


def _each(files: Mapping[str, "Input"], one: Callable[[str, "Input"], None]) -> list[str]:
    """Do ``one`` with each image; what is wrong with some is told and returned, and the others are done.

    Raises:
        DataError: the only image cannot be segmented, or none of several.
    """
    from lamella.data.formats.files import readable

    failed = []
    for name, file in files.items():
        try:
            one(name, file)
        except DataError as error:
            if len(files) == 1:
                raise
            typer.echo(f"not segmented: {error}", err=True)
            failed.append(readable(str(error)))
    if len(failed) == len(files):
        raise DataError(f"none of the {len(files)} images can be segmented; see above what is wrong with each")
    return failed


def _read(
    name: str, file: "Input", modality: Any, reading: "Reading", marks: Path | None
) -> tuple["torch.Tensor", "np.ndarray | None"]:
    """An image, and what is drawn in it; raises `DataError`."""
    from lamella.engine.inputs import read_sample

    image = modality.collate([read_sample(name, file, reading)]).image
    size = (image.shape[-2], image.shape[-1])
    if min(size) < 2:
        raise DataError(f"{file.path}: {size[0]}×{size[1]} pixels are too few to segment; an image needs 2×2 at least")
    return image, None if marks is None else _drawn(marks, file, reading, size)


def _check(prompts: "Prompts", image: Path) -> None:
    """Refuse prompts that the image has no place for, by its name."""
    from lamella_sam.prompts import check_prompts

    try:
        check_prompts(prompts)
    except DataError as error:
        raise DataError(f"{image}: {error}") from None


def _drawn(marks: Path, image: "Input", reading: "Reading", size: tuple[int, int]) -> "np.ndarray":
    """The values of a file of marks, for an image of ``size`` without its data bar, if it has one."""
    values = reading.mask(marks, reading.micrograph(image.path, image.frame), image.frame)
    if values.ndim != 2:
        raise DataError(f"{marks}: marks are grey or palette values, one for each object; this file has colours")
    if values.shape != size:
        raise DataError(f"{marks}: {values.shape[0]}×{values.shape[1]} pixels, its image has {size[0]}×{size[1]}")
    if not (values > 0).any():
        raise DataError(f"{marks}: it marks no pixel; draw in each object, by a value above 0 of its own")
    return values


def _prompts(
    network: Any,
    image: "torch.Tensor",
    points: list[list[float]],
    boxes: list[list[float]],
    drawn: "np.ndarray | None",
) -> "Prompts | None":
    """What is asked of an image; None asks for everything."""
    import torch

    from lamella_sam.prompts import box_prompts, point_prompts

    size = (image.shape[-2], image.shape[-1])
    if points:
        labels = torch.tensor([[[int(row[2]) if len(row) == 3 else 1 for row in points]]])
        return point_prompts(torch.tensor([[[row[:2] for row in points]]]), labels, size)
    if boxes:
        return box_prompts(torch.tensor([boxes]), size)
    return None if drawn is None else _mask_prompts(network, drawn, size)


def _mask_prompts(network: Any, values: "np.ndarray", size: tuple[int, int]) -> "Prompts":
    """A prompt for each value above 0 that was drawn, in the order of the values, as in training."""
    import numpy as np
    import torch

    from lamella_sam.prompting import logits_of_masks
    from lamella_sam.prompts import mask_prompts

    objects = [value for value in np.unique(values) if value > 0]
    masks = torch.stack([torch.from_numpy(values == value) for value in objects]).unsqueeze(0)
    return mask_prompts(logits_of_masks(masks, network), size)


def _asked(network: Any, image: "torch.Tensor", prompts: "Prompts") -> "Found":
    import torch

    from lamella_sam.segment import ask

    with torch.no_grad():
        embedding = network.embed(image)
    return ask(network, embedding, prompts)


def _words(point: Sequence[str], box: Sequence[str], drawn: "np.ndarray | None") -> list[str]:
    """How each of the prompts of an image was given; nothing where everything is asked for."""
    import numpy as np

    if point:
        return [" ".join(f"--point {text}" for text in point)]
    values = [] if drawn is None else [value for value in np.unique(drawn) if value > 0]
    return [f"--box {text}" for text in box] + [f"value {value} of --mask" for value in values]


def _tell(found: "Found", ids: "np.ndarray", words: Sequence[str], out: Path, name: str) -> None:
    """Say how many objects a map holds, and which prompts have none in it."""
    import numpy as np

    there = set(np.unique(ids).tolist()) - {0}
    print(f"{name}: {len(there)} object{'' if len(there) == 1 else 's'} in {out / name}.instances.png")
    lacking = [(text, mask) for number, (text, mask) in enumerate(zip(words, found.mask), 1) if number not in there]
    empty = [text for text, mask in lacking if not mask.any()]
    under = [text for text, mask in lacking if mask.any()]
    reasons = (("nothing found for", empty), ("wholly under others:", under))
    if told := [f"{reason} {', '.join(texts)}" for reason, texts in reasons if texts]:
        print(f"{name}: {'; '.join(told)}")


def _write(ids: "np.ndarray", picture: Any, out: Path, name: str) -> None:
    import numpy as np
    from lamella.engine.labelmap import save_image
    from lamella.engine.pictures import label_picture
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    save_image(Image.fromarray(ids.astype(np.uint16)), out / f"{name}.instances.png")
    colours = label_picture((ids - 1) % 12, [str(number) for number in range(12)])
    mixed = np.where((ids > 0)[..., None], 0.5 * picture + 0.5 * colours, picture)
    save_image(Image.fromarray(mixed.astype(np.uint8)), out / f"{name}.overlay.png")
