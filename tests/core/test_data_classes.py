"""Class names and marks: how the grey values and colours of masks become class ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lamella import IGNORE
from lamella.data.classes import Classes
from lamella.errors import ConfigError, DataError

GREY = np.array([[0, 1, 2], [2, 1, IGNORE]], np.uint8)
RED, GREEN, OTHER = [255, 0, 0], [0, 255, 0], [1, 2, 3]


def test_a_list_of_names_gives_class_i_the_value_i_and_255_is_ignored():
    assert (Classes.of(["a", "b", "c"]).ids(GREY, "mask") == GREY).all()


@given(arrays(np.uint8, (4, 5), elements=st.sampled_from([10, 20, 200, IGNORE])))
def test_a_table_of_grey_values_is_looked_up(mask):
    ids = Classes.of({"a": 200, "b": 10, "c": 20}).ids(mask, "mask")
    table = {200: 0, 10: 1, 20: 2, IGNORE: IGNORE}
    assert ids.tolist() == [[table[value] for value in row] for row in mask.tolist()]


def test_binary_masks_of_0_and_255_are_read_by_a_table():
    mask = np.array([[0, 255]], np.uint8)
    assert Classes.of({"ground": 0, "layer": 255}).ids(mask, "mask").tolist() == [[0, 1]]
    assert Classes.of({"ground": "rest", "layer": 255}).ids(mask, "mask").tolist() == [[0, 1]]


def test_sixteen_bit_values_are_looked_up():
    mask = np.array([[0, 1000, 65535]], np.uint16)
    assert Classes.of({"a": 65535, "b": 1000, "c": 0}).ids(mask, "mask").tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("alpha", [[], [128]])
def test_colours_are_looked_up_and_the_rest_is_a_class(alpha):
    mask = np.array([[RED + alpha, GREEN + alpha, OTHER + alpha]], np.uint8)
    classes = Classes.of({"ground": "rest", "layer": "#FF0000", "crack": "#00ff00"})
    assert classes.ids(mask, "mask").tolist() == [[1, 2, 0]]


def test_colours_that_no_class_claims_are_refused_as_grey_values_are():
    mask = np.array([[RED, OTHER]], np.uint8)
    with pytest.raises(DataError, match=r"mask\.png.*no class claims .*layer = #ff0000"):
        Classes.of({"layer": "#ff0000"}).ids(mask, "mask.png")


def test_grey_masks_saved_in_colour_are_read_as_grey():
    assert (Classes.of(["a", "b", "c"]).ids(np.repeat(GREY[..., None], 3, 2), "mask") == GREY).all()


def test_a_mask_whose_values_are_no_class_is_refused_with_value_and_file():
    with pytest.raises(DataError, match=r"masks/one\.png.*value 2, .*a = 0, b = 1"):
        Classes.of(["a", "b"]).ids(GREY, "masks/one.png")


def test_a_colour_mask_for_grey_classes_is_refused_with_advice():
    with pytest.raises(DataError, match=r"one\.png.*#rrggbb"):
        Classes.of(["a", "b"]).ids(np.array([[RED, GREEN]], np.uint8), "one.png")


def test_a_grey_mask_for_colour_classes_is_refused():
    with pytest.raises(DataError, match=r"one\.png.*grey"):
        Classes.of({"a": "#ff0000"}).ids(GREY, "one.png")


def test_a_mask_without_any_of_the_colours_is_refused():
    with pytest.raises(DataError, match=r"one\.png.*#ff0000"):
        Classes.of({"a": "#ff0000"}).ids(np.array([[GREEN, OTHER]], np.uint8), "one.png")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ([], "at least one"),
        (["a", "a"], "twice"),
        ({"a": "red"}, "a = 'red'"),
        ({"a": "#ff00"}, "#ff00"),
        ({"a": -1}, "a = -1"),
        ({"a": 70000}, "70000"),
        ({"a": "rest", "b": "rest"}, "only one"),
        ([str(i) for i in range(255)], "too many"),
    ],
)
def test_classes_that_make_no_sense_are_refused(spec, said):
    with pytest.raises(ConfigError, match=said):
        Classes.of(spec)


def test_beside_colours_a_grey_value_is_that_grey():
    mask = np.array([[[0, 0, 0], [128, 128, 128], RED]], np.uint8)
    assert Classes.of({"ground": "rest", "oxide": 128, "gate": "#ff0000"}).ids(mask, "mask").tolist() == [[0, 1, 2]]
