"""Pictures of the report: what is drawn, and that drawing never fails for want of something to draw."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lamella import IGNORE
from lamella.engine.pictures import (
    DEFECT,
    _short,
    colours,
    difference_picture,
    label_picture,
    overlay_picture,
    row,
    stack,
)
from PIL import ImageFont

NAMES = ["ground", "layer", "defect"]
GREY = np.full((4, 6, 3), 200, np.uint8)


def test_defects_are_always_red_and_colours_differ():
    table = np.array(colours([*(str(i) for i in range(24)), "defect"]))
    assert table[-1].tolist() == [int(DEFECT[i : i + 2], 16) for i in (1, 3, 5)]
    apart = np.linalg.norm(table[:, None] - table, axis=-1)
    assert apart[~np.eye(25, dtype=bool)].min() > 35  # told apart by eye, also beside each other in a joined set


def test_a_label_picture_has_the_colour_of_every_class_and_ignored_pixels_dark():
    picture = label_picture(np.array([[0, 1, 2, IGNORE]]), NAMES)
    assert [tuple(pixel) for pixel in picture[0, :3].tolist()] == colours(NAMES)
    assert picture[0, 3].max() < 60


def test_a_difference_picture_marks_wrong_pixels_and_no_ignored_ones():
    label, prediction = np.zeros((4, 6), int), np.zeros((4, 6), int)
    prediction[0, 0] = prediction[1, 1] = 1
    label[1, 1] = IGNORE
    red = (difference_picture(GREY, label, prediction)[..., 0] == 255).nonzero()
    assert [axis.tolist() for axis in red] == [[0], [0]]


def test_an_overlay_lies_between_image_and_colours():
    label = np.ones((4, 6), int)
    overlay = overlay_picture(GREY, label, NAMES, strength=0.5)
    assert overlay[0, 0].tolist() == pytest.approx([(200 + c) / 2 for c in colours(NAMES)[1]], abs=1)
    assert (overlay_picture(GREY, label, NAMES, strength=0.0) == GREY).all()


@example(256, 256, math.nextafter(1e-9, 0) / 64, False)  # a quarter of the width is just below a power of ten
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.one_of(st.just(math.nan), st.just(0.0), st.floats(1e-6, 1e6), st.sampled_from([0.001, 0.01, 0.1, 1.0, 10.0])),
    st.booleans(),
)
def test_a_strip_is_drawn_for_every_size_and_pixel_size(height, width, pixel_nm, labelled):
    image, zeros = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), int)
    strip = row(image, zeros if labelled else None, zeros, NAMES, name="one", pixel_nm=pixel_nm)
    panels = 4 if labelled else 3
    assert strip.width <= panels * 256 + (panels - 1) * 6
    sheet = stack([strip, strip], NAMES)
    assert sheet.height > 2 * strip.height
    assert sheet.width == strip.width


def test_a_strip_of_ignored_pixels_alone_is_drawn():
    label = np.full((8, 8), IGNORE)
    assert row(np.zeros((8, 8, 3), np.uint8), label, np.zeros((8, 8), int), NAMES).width > 0


def test_a_scale_bar_is_drawn_below_where_the_pixel_size_is_known():
    image, zeros = np.full((256, 256, 3), 100, np.uint8), np.zeros((256, 256), int)
    with_bar, without = (np.asarray(row(image, None, zeros, NAMES, pixel_nm=nm)) for nm in (1.0, math.nan))
    height = len(without)
    assert np.array_equal(with_bar[:height], without), "it covers something of the pictures"
    foot = with_bar[height:]
    assert (foot != 255).any(2).nonzero()[1].max() < 128
    bar = (foot[-5, :128] == 255).all(1)[: (foot[-5, :128] != 255).any(1).nonzero()[0].max()].sum()
    assert bar == pytest.approx(50, abs=2)  # nm: the longest of 1, 2, 5 × 10ⁿ within a quarter of 256


@pytest.mark.parametrize("title", ["image", "weak-to-strong with a very long name indeed, anchored: 5.6% wrong"])
def test_a_title_keeps_both_ends_and_its_place(title):
    font = ImageFont.load_default(12)
    short = _short(title, 256, font)
    assert font.getlength(short) <= 256
    assert short == title or (short[:15], short[-11:]) == (title[:15], title[-11:])
    assert (short == title) == (font.getlength(title) <= 256)
