"""``lamella noise``: the dose that your own images were taken with, and a perturbation set of that noise."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from lamella.errors import DataError, LamellaError

if TYPE_CHECKING:
    import numpy as np

    from lamella_tem.modality import TemModality
    from lamella_tem.photon_transfer import PhotonTransfer


def noise(
    images: Annotated[Path, typer.Argument(help="folder of images or stacks as the microscope gave them, or one file")],
    name: Annotated[str, typer.Option(help="what to call the perturbation set")] = "my-microscope",
    out: Annotated[Path, typer.Option("--out", help="file for the set; a figure goes beside it")] = Path("noise.toml"),
    intensity: Annotated[
        Literal["dtype", "image", "data"],
        typer.Option(
            help="what maps grey values, as in the modality of your experiment: the range of the file's type, each "
            "image's percentiles, or those of all these images"
        ),
    ] = "dtype",
    data_bar: Annotated[Literal["find", "metadata", "keep"], typer.Option(help="data bars below images")] = "find",
) -> None:
    """Measure the dose of images from how their noise grows with brightness, and write a set of that noise."""
    if out.suffix != ".toml":
        raise LamellaError(f"--out {out}: the set is a TOML file; end its name with .toml")
    figure = out.with_suffix(".png")
    for path in (out, figure):
        if path.exists():
            raise LamellaError(f"{path} exists; choose another name with --out, or move it away")
    files = _files(images)
    modality = _modality(files, intensity, data_bar)
    found: dict[str, PhotonTransfer | str] = {}
    for path in files:
        for file, one in _measured(path, modality, data_bar):
            found[file] = one
            print(_line(file, one), flush=True)
    usable = {file: one for file, one in found.items() if not isinstance(one, str)}
    if not usable:
        raise DataError(f"{images}: no image of which the noise tells a dose; take them as the microscope gave them")
    _write(out, _text(name, usable), figure, usable)
    print(
        f"{len(usable)} of {len(found)} images tell their dose: {figure}\n"
        f"wrote {out}: the perturbation set {name!r}; copy it into registry.toml, and name it in place of 'machine'"
    )


def _files(images: Path) -> list[Path]:
    from lamella.data.formats.files import SUFFIXES

    if images.is_file():
        return [images]
    if not images.is_dir():
        raise DataError(f"{images} is no folder and no file")
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{images}: no image is in it (it looks for {', '.join(sorted(SUFFIXES))})")
    return files


def _modality(files: Iterable[Path], intensity: Any, data_bar: Any) -> "TemModality":
    """What maps grey values in training, with the ends of all images that can be read where it wants those."""
    from lamella_tem.modality import TemModality

    modality = TemModality(intensity=intensity)
    if intensity == "data":
        frames = (frame for path in files for _, frame in _frames(path, data_bar))
        readable = (image for image in frames if not isinstance(image, str))
        if (first := next(readable, None)) is not None:
            modality.calibrate(chain([first], readable))
    return modality


def _measured(path: Path, modality: "TemModality", data_bar: Any) -> Iterator[tuple[str, "PhotonTransfer | str"]]:
    """The name of an image, or of each frame of a stack, and what its noise tells, or why it tells nothing."""
    for name, image in _frames(path, data_bar):
        yield name, image if isinstance(image, str) else _of_frame(name, image, modality)


def _frames(path: Path, data_bar: Any) -> Iterator[tuple[str, "np.ndarray | str"]]:
    """The name of an image, or of each frame of a stack, and its pixels, or why it cannot be read."""
    from lamella.data.reading import Reading, frame_name

    reading = Reading(data_bar=data_bar, stack="each")
    try:
        frames = reading.frames(path)
    except DataError as error:
        yield path.name, str(error)
        return
    for frame in frames:
        try:
            yield frame_name(path.name, frame), reading.micrograph(path, frame).image
        except DataError as error:
            yield frame_name(path.name, frame), str(error)


def _of_frame(name: str, pixels: "np.ndarray", modality: "TemModality") -> "PhotonTransfer | str":
    from lamella_tem.photon_transfer import photon_transfer

    try:
        one = photon_transfer(*_grey(name, pixels, modality))
    except DataError as error:
        return str(error).removeprefix(f"{name}: ")
    if not one.independent:
        return (
            f"the noise of neighbouring pixels is not independent ({one.correlated:.1f}, where a camera's has 1): "
            "it was scaled, smoothed or compressed since"
        )
    return one


def _grey(name: str, pixels: "np.ndarray", modality: "TemModality") -> tuple["np.ndarray", float]:
    """(H, W) in [0, 1], and the distance of two grey levels there."""
    import numpy as np
    from lamella import Sample
    from lamella.data.grey import grey

    low, high = modality.ends(Sample(pixels, None, None, 0, 0, (np.nan, np.nan), {}, name))
    span = max(high - low, 1e-9)
    whole = pixels.dtype.kind in "iu"
    return np.clip((grey(pixels).astype(np.float64) - low) / span, 0.0, 1.0), 1 / span if whole else 0.0


def _line(file: str, one: "PhotonTransfer | str") -> str:
    if isinstance(one, str):
        return f"{file}: {one}"
    return (
        f"{file}: dose {one.dose:.3g} e⁻/px at white ({one.low:.3g} to {one.high:.3g}), pedestal {one.pedestal:.2f}; "
        f"off its line by {100 * one.off:.0f} %"
    )


def _text(name: str, usable: Mapping[str, "PhotonTransfer"]) -> str:
    """The set, from the least dose that was measured to the greatest."""
    ends = {
        key: [round(pick(values), 3) for pick in (min, max)]
        for key in ("dose", "pedestal")
        for values in [[getattr(one, key) for one in usable.values()]]
    }
    return (
        f"# Written by `lamella noise` from {len(usable)} images: as much noise again as they have.\n"
        f"[sets.{json.dumps(name, ensure_ascii=False)}]\n"
        f'chain = [{{ name = "shot-noise", dose = {ends["dose"]}, pedestal = {ends["pedestal"]} }}]\n'
    )


def _write(out: Path, text: str, figure: Path, usable: Mapping[str, "PhotonTransfer"]) -> None:
    from lamella.engine.whole import write_text

    try:
        write_text(out, text)
        _draw(usable, figure)
    except OSError as error:
        raise LamellaError(f"--out {out}: cannot be written ({error})") from error


def _draw(usable: Mapping[str, "PhotonTransfer"], out: Path) -> None:
    """Variance over mean of every image, and its line."""
    import numpy as np
    from lamella.engine.charts import drawn
    from lamella.engine.labelmap import save_image
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, (file, one) in enumerate(usable.items()):
        axes.plot(one.mean, one.variance, "o", ms=4, color=f"C{number % 10}")
        label = f"{file}: {one.dose:.3g} e⁻/px" if number < 8 else None
        ends = np.array([0.0, one.mean[-1]])
        axes.plot(ends, one.line(ends), "-", lw=1, color=f"C{number % 10}", label=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="mean grey (0 black, 1 white)", ylabel="variance of the noise", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    save_image(drawn(figure), out)
