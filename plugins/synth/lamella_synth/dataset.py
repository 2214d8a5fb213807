"""The dataset ``synth-tem``: device cross-sections of known truth."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from lamella.errors import DataError
from pydantic import Field

from lamella_synth.png import png
from lamella_synth.presets import Preset
from lamella_synth.presets import preset as find
from lamella_synth.tem.contrast import HAADF
from lamella_synth.tem.render import Micrograph, render
from lamella_synth.version import sources


def synth_tem(
    *,
    preset: Annotated[str, Field(description="device and generation, as `lamella synth --list` shows")] = "demo-finfet",
    count: Annotated[int, Field(ge=1, description="number of images")] = 64,
    seed: Annotated[int, Field(ge=0, description="another seed gives other images of the same product")] = 0,
    size: Annotated[int, Field(ge=32, description="side of the images, pixels; even")] = 256,
    mode: Annotated[
        Literal["preset", "haadf", "bright-field"], Field(description="imaging mode; the preset has its own")
    ] = "preset",
    nuisance: Annotated[
        Literal["none", "in-family", "unseen"],
        Field(description="what disturbs the images: nothing, the usual troubles, or those nobody trains against"),
    ] = "none",
    exposure: Annotated[int, Field(ge=0, description="another: the same specimens taken once more, other noise")] = 0,
    workers: Annotated[int, Field(ge=1, description="processes that render; the images do not depend on it")] = 1,
) -> Dataset:
    """TEM cross-sections of a synthetic device with label, defect and instance maps and true dimensions.

    Columns: ``image`` (8 bit), ``label`` (class ids), ``instance`` (16 bit, 0 = none), ``classes`` (those
    present; the names are the set's, ``defect`` last), ``pixel_nm`` (y, x), ``polarity`` (+1 HAADF, −1 bright
    field), ``name``, the groups ``device``, ``generation``, ``lot``, ``tool``, ``specimen``, ``truth`` (quantity,
    nm), and ``nuisances`` by name. Image i depends on (preset, seed, i, size, mode, nuisance, exposure) alone. Rendered
    once, then read from the cache of `datasets`.

    Raises: DataError for an unknown preset, mode or nuisance, or a number out of range.
    """
    if count < 1 or workers < 1:
        raise DataError(f"synth-tem needs count and workers of at least 1, not {count} and {workers}")
    made = find(preset)
    # One image here says what is wrong with the settings before any worker starts.
    render(made, seed=seed, index=0, size=size, mode=mode, nuisance=nuisance, exposure=exposure)
    return Dataset.from_generator(
        _rows,
        features=features(made),
        gen_kwargs={
            "indices": list(range(count)), "preset": preset, "version": made.hash + sources(), "seed": seed,
            "size": size, "mode": mode, "nuisance": nuisance, "exposure": exposure,
        },
        num_proc=workers if workers > 1 else None,
    )


def features(preset: Preset) -> Features:
    """The columns of `synth_tem` for a preset."""
    return Features(
        {
            "image": Image(), "label": Image(), "instance": Image(),
            "classes": List(ClassLabel(names=list(preset.classes))),
            "pixel_nm": List(Value("float32"), length=2),
            "polarity": Value("float32"),
            "name": Value("string"),
            **{group: Value("string") for group in ("device", "generation", "lot", "tool", "specimen")},
            "truth": List({"quantity": Value("string"), "nm": Value("float32")}),
            "nuisances": List(Value("string")),
        }
    )


def _rows(
    indices: Sequence[int], preset: str, version: str, seed: int, size: int, mode: str, nuisance: str,
    exposure: int,
) -> Iterator[dict[str, Any]]:
    """Rows of the given indices; `version` only tells the cache one state of a preset from another."""
    made = find(preset)
    for index in indices:
        shot = render(made, seed=seed, index=index, size=size, mode=mode, nuisance=nuisance, exposure=exposure)
        yield row(shot, name=f"{preset}-s{seed}-{index:05d}")


def row(shot: Micrograph, *, name: str) -> dict[str, Any]:
    """A micrograph as a row of `features`."""
    return {
        "image": png(shot.image), "label": png(shot.label), "instance": png(shot.instance),
        "classes": np.unique(shot.label).tolist(),
        "pixel_nm": [shot.pixel_nm, shot.pixel_nm],
        "polarity": 1.0 if shot.mode == HAADF else -1.0,
        "name": name,
        **shot.groups,
        "truth": [{"quantity": quantity, "nm": nm} for quantity, nm in shot.truth.items()],
        "nuisances": list(shot.nuisances),
    }
