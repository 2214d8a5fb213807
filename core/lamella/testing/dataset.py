"""The contract of a dataset."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.testing.promise import BrokenPromise, name_of


def dataset_contract(component: Callable[[], Any], *, items: int = 4) -> Callable[[], None]:
    """A pytest test of everything a dataset promises.

    Args:
        component: builds the dataset without arguments: as small as can be.
        items: how many items to look at.

    Raises:
        BrokenPromise: from the test, a sentence that names the promise and what was seen.
    """
    name = name_of(component)

    def test() -> None:
        import datasets

        data = component()
        if not isinstance(data, datasets.Dataset):
            raise BrokenPromise(name, "return a datasets.Dataset", f"it is a {type(data).__name__}")
        declares_columns(name, data)
        rows = list(islice(data, items))
        if not rows:
            raise BrokenPromise(name, "hold items", "it is empty")
        for i, row in enumerate(rows):
            fits(name, i, row, _names(data))
        stays_the_same(name, component, data, rows)

    return test


def _names(data: Any) -> list[str]:
    """The class names: of the label where that is a class, else of ``classes``."""
    from datasets import ClassLabel

    label, classes = data.features.get("label"), data.features.get("classes")
    feature = label if isinstance(label, ClassLabel) else getattr(classes, "feature", None)
    return list(getattr(feature, "names", []))


def declares_columns(name: str, data: Any) -> None:
    """Features: an image, a label that is an image or a class, and class names."""
    from datasets import ClassLabel, Image

    features = data.features
    if not isinstance(features.get("image"), Image):
        raise BrokenPromise(name, "have a column image of datasets.Image", f"it is {features.get('image')}")
    label = features.get("label")
    if label is not None and not isinstance(label, Image | ClassLabel):
        raise BrokenPromise(name, "have a label of datasets.Image or ClassLabel", f"it is {label}")
    if label is not None and not _names(data):
        seen = f"classes is {features.get('classes')}"
        raise BrokenPromise(name, "name its classes, in classes = List(ClassLabel(names=…))", seen)


def fits(name: str, i: int, row: Mapping[str, Any], names: list[str]) -> None:
    """Label ids have names, and maps have the size of the image."""
    image, where = np.asarray(row["image"]), f"item {i}"
    for column in ("label", "instance"):
        if row.get(column) is None or isinstance(row[column], int):
            continue
        values = np.asarray(row[column])
        if values.shape != image.shape[:2]:
            seen = f"{values.shape} beside an image {image.shape}"
            raise BrokenPromise(name, f"give one {column} per pixel", seen, where)
        if column == "label" and (unknown := set(np.unique(values).tolist()) - {*range(len(names)), IGNORE}):
            seen = f"{sorted(unknown)[0]} is none of {len(names)} classes ({', '.join(names)}) nor {IGNORE}"
            raise BrokenPromise(name, "label pixels by class id", seen, where)
        if column == "label" and "classes" in row:
            there = set(np.unique(values).tolist()) - {IGNORE}
            if extra := there - set(row["classes"]):
                seen = f"{names[sorted(extra)[0]]!r} is in the label and not in classes {row['classes']}"
                raise BrokenPromise(name, "list in classes those that are present", seen, where)
    if "pixel_nm" in row and row["pixel_nm"] is not None and len(row["pixel_nm"]) != 2:
        raise BrokenPromise(name, "give pixel_nm as y and x", f"{row['pixel_nm']}", where)
    if isinstance(row.get("label"), int) and not -1 <= row["label"] < len(names):  # the Hub's −1 is no label
        raise BrokenPromise(name, "label images by class id", f"{row['label']}", where)


def stays_the_same(name: str, component: Any, data: Any, rows: list[dict[str, Any]]) -> None:
    """Item i is the same whatever was asked for before, and in a dataset built anew."""
    orders: dict[str, dict[int, Any]] = {"built anew": dict(enumerate(islice(component(), len(rows))))}
    backwards = range(len(rows) - 1, -1, -1)
    orders["read backwards"] = {i: data[i] for i in backwards}
    orders["selected backwards"] = dict(zip(backwards, data.select(list(backwards))))
    for how, found in orders.items():
        for i, wanted in enumerate(rows):
            for column, value in wanted.items():
                if i not in found or not _same(found[i].get(column), value):
                    seen = f"column {column!r} of item {i} is another, {how}"
                    raise BrokenPromise(name, "give the same item i in any order", seen)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, str | None) or isinstance(b, str | None):
        return a == b
    one, other = np.asarray(a), np.asarray(b)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
