"""The contract of datasets: a correct one keeps it, broken ones are caught and named."""

from itertools import count

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value
from lamella.testing import BrokenPromise, dataset_contract
from PIL import Image as Picture

COLUMNS = {
    "image": Image(),
    "label": Image(),
    "classes": List(ClassLabel(names=["ground", "line"])),
    "pixel_nm": List(Value("float32"), length=2),
    "name": Value("string"),
}


def rows(*, top=1, classes=(0, 1), side=12, shift=0, columns=COLUMNS):
    found = []
    for i in range(5):
        image = np.random.default_rng(i + shift).integers(0, 255, (12, 12)).astype(np.uint8)
        label = np.zeros((side, side), np.uint8)
        label[2:4] = top
        label[5] = 255
        row = {
            "image": Picture.fromarray(image),
            "label": Picture.fromarray(label),
            "classes": list(classes),
            "pixel_nm": [0.5, 0.5],
            "name": f"image {i}",
        }
        found.append({key: row[key] for key in columns})
    return found


def correct():
    return Dataset.from_list(rows(), features=Features(COLUMNS))


def streamed():
    return IterableDataset.from_generator(rows, features=Features(COLUMNS))


def classification(least=0):
    columns = {"image": Image(), "label": ClassLabel(names=["good", "bad"])}
    found = [{"image": row["image"], "label": least + i % 2} for i, row in enumerate(rows())]
    return Dataset.from_list(found, features=Features(columns))


def partly_labelled():
    return classification(-1)


def below_no_label():
    data = classification()
    label = pa.array([-2, 0, 1, 0, 1], pa.int64())
    return Dataset(data.data.table.set_column(1, "label", label), info=data.info)


def unlabelled():
    columns = {"image": Image()}
    return Dataset.from_list(rows(columns=columns), features=Features(columns))


def no_names():
    columns = {**COLUMNS, "classes": List(Value("int64"))}
    return Dataset.from_list(rows(), features=Features(columns))


def unnamed_class():
    return Dataset.from_list(rows(top=2), features=Features(COLUMNS))


def unlisted_class():
    return Dataset.from_list(rows(classes=(0,)), features=Features(COLUMNS))


def other_size():
    return Dataset.from_list(rows(side=16), features=Features(COLUMNS))


def no_image():
    return Dataset.from_list([{"image": [[0, 1]]}])


def a_list():
    return rows()


def empty():
    return correct().select([])


numbers = count()


def other_each_time():
    return Dataset.from_list(rows(shift=next(numbers)), features=Features(COLUMNS))


class Restless(Dataset):
    """Items that depend on what was asked for before."""

    asked = 0

    def __getitem__(self, key):
        self.asked += 1
        row = super().__getitem__(key)
        return {**row, "name": f"{self.asked}"} if isinstance(key, int) else row


def depends_on_order():
    return Restless(correct().data, info=correct().info)


BROKEN = {
    no_names: "name its classes",
    unnamed_class: r"label pixels by class id: 2 is none of 2 classes \(ground, line\)",
    unlisted_class: "list in classes those that are present: 'line'",
    below_no_label: "label images by class id: -2",
    other_size: r"one label per pixel: \(16, 16\) beside an image \(12, 12\)",
    no_image: "have a column image",
    streamed: "return a datasets.Dataset: it is a IterableDataset",
    a_list: "return a datasets.Dataset",
    empty: "hold items",
    other_each_time: "same item i in any order: column 'image' of item 0 is another, built anew",
    depends_on_order: "same item i in any order: column 'name'",
}


CORRECT = [correct, classification, partly_labelled, unlabelled]


@pytest.mark.parametrize("dataset", CORRECT, ids=lambda f: f.__name__)
def test_correct_dataset(dataset):
    dataset_contract(dataset)()


@pytest.mark.parametrize("dataset", BROKEN, ids=lambda f: f.__name__)
def test_broken_promise_is_caught_and_named(dataset):
    with pytest.raises(BrokenPromise, match=f"{dataset.__name__} must .*{BROKEN[dataset]}"):
        dataset_contract(dataset)()
