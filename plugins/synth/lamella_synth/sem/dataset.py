"""The dataset ``synth-sem``: wafer defects, each at two magnifications."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from lamella.errors import DataError
from pydantic import Field

from lamella_synth.png import png
from lamella_synth.sem.presets import sem_preset
from lamella_synth.sem.review import Review, review
from lamella_synth.sem.scene import CLASSES
from lamella_synth.version import sources

GROUPS = ("device", "wafer", "die", "tool", "pattern")


def synth_sem(
    *,
    preset: Annotated[str, Field(description="product: sem-a, sem-b or sem-c")] = "sem-a",
    count: Annotated[int, Field(ge=1, description="number of defects, each imaged twice")] = 64,
    seed: Annotated[int, Field(ge=0, description="another seed gives other wafers of the same product")] = 0,
    size: Annotated[int, Field(ge=32, description="side of the images, pixels; even")] = 224,
    layout: Annotated[
        Literal["apart", "stacked"], Field(description="both magnifications in two image columns, or in one")
    ] = "apart",
    workers: Annotated[int, Field(ge=1, description="processes that render; the images do not depend on it")] = 1,
) -> Dataset:
    """SEM images of wafer defects from above, at high and low magnification, with the class of the defect.

    Columns: ``image``, ``label`` (``none`` is class 0), ``classes`` (the one present), ``pixel_nm`` (of the high
    magnification, y and x), ``high_nm`` and ``low_nm`` (nm per pixel), ``magnification`` (their ratio), ``name``, the
    groups ``device``, ``wafer``, ``die``, ``tool``, ``pattern``, and ``truth`` (quantity, nm). ``image`` is the
    high magnification, ``low`` the low one, ``mask`` and ``low_mask`` show the defect's pixels (255). With the layout
    ``stacked``, ``image`` is (size, size, 2) uint8, high magnification, then low: for programs of your own, since
    Lamella reads a PNG of two channels as grey and opacity. Image i depends on
    (preset, seed, i, size) alone. Rendered once, then read from the cache of `datasets`.

    Raises: DataError for an unknown preset or layout, or a number out of range.
    """
    if count < 1 or workers < 1:
        raise DataError(f"synth-sem needs count and workers of at least 1, not {count} and {workers}")
    if layout not in ("stacked", "apart"):
        raise DataError(f"synth-sem layout {layout!r} is unknown; allowed are apart and stacked")
    made = sem_preset(preset)
    # One image here says what is wrong with the settings before any worker starts.
    review(made, seed=seed, index=0, size=size)
    return Dataset.from_generator(
        _rows,
        features=sem_features(layout),
        gen_kwargs={
            "indices": list(range(count)), "preset": preset, "version": made.hash + sources(), "seed": seed,
            "size": size,
            "layout": layout,
        },
        num_proc=workers if workers > 1 else None,
    )


def sem_features(layout: str) -> Features:
    """The columns of `synth_sem`."""
    pictures = {"image": Image()}
    if layout == "apart":
        pictures |= {"low": Image(), "mask": Image(), "low_mask": Image()}
    return Features(
        {
            **pictures,
            "label": ClassLabel(names=list(CLASSES)),
            "classes": List(ClassLabel(names=list(CLASSES))),
            "pixel_nm": List(Value("float32"), length=2),
            **{number: Value("float32") for number in ("high_nm", "low_nm", "magnification")},
            "name": Value("string"),
            **{group: Value("string") for group in GROUPS},
            "truth": List({"quantity": Value("string"), "nm": Value("float32")}),
        }
    )


def _rows(
    indices: Sequence[int], preset: str, version: str, seed: int, size: int, layout: str
) -> Iterator[dict[str, Any]]:
    """Rows of the given indices; `version` only tells the cache one state of a preset from another."""
    made = sem_preset(preset)
    for index in indices:
        yield _row(review(made, seed=seed, index=index, size=size), f"{preset}-s{seed}-{index:06d}", layout)


def _row(shot: Review, name: str, layout: str) -> dict[str, Any]:
    if layout == "stacked":
        pictures = {"image": png(np.stack([shot.high, shot.low], 2))}
    else:
        pictures = {
            "image": png(shot.high), "low": png(shot.low),
            "mask": png(255 * shot.mask_high.astype(np.uint8)), "low_mask": png(255 * shot.mask_low.astype(np.uint8)),
        }
    return {
        **pictures,
        "label": shot.label, "classes": [shot.label],
        "pixel_nm": [shot.high_nm, shot.high_nm], "high_nm": shot.high_nm, "low_nm": shot.low_nm,
        "magnification": shot.low_nm / shot.high_nm,
        "name": name,
        **shot.groups,
        "truth": [{"quantity": quantity, "nm": nm} for quantity, nm in shot.truth.items()],
    }
