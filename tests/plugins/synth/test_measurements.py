"""What Lamella measures in the label maps of synthetic devices, against the dimensions they were drawn with."""

import math
from functools import cache

import numpy as np
import pytest
from lamella.measure.columns import columns
from lamella.measure.instances import instances
from lamella_synth.presets import preset
from lamella_synth.tem.render import render

GATE = {"gate": ["high-k", "liner", "metal"]}


@cache
def shot(name, index, size=256, seed=7):
    return render(preset(name), seed=seed, index=index, size=size, mode="preset", nuisance="none")


def classes(name):
    return list(preset(name).classes)


def gates(name, index):
    """The whole gates of an image, not the contacts beside them, whose shell is of the same class as the liner."""
    made = shot(name, index)
    found = columns(made.label, classes(name), (made.pixel_nm, made.pixel_nm), GATE)
    wide = 0.6 * made.truth["gate cd mid"]
    return [
        one for one in found if one.label == "gate" and not one.cut_off and one.cd_mid_nm > wide and one.height_nm > 30
    ]


# Images in which no gate has a defect, so that all of them enter the truth.
SOUND = (
    [("gate-stack-a", i) for i in (4, 11, 18, 29)] + [("gate-stack-b", i) for i in (5, 9, 26)] + [("gate-stack-c", 3)]
)


@pytest.mark.parametrize(("name", "index"), SOUND)
def test_the_gate_length_is_found_within_half_a_pixel(name, index):
    made = shot(name, index)
    assert not (made.label == classes(name).index("defect")).any()
    found = gates(name, index)
    assert len(found) >= 2
    for part in ("top", "mid", "bottom"):
        measured = float(np.mean([getattr(one, f"cd_{part}_nm") for one in found]))
        assert abs(measured - made.truth[f"gate cd {part}"]) < 0.5 * made.pixel_nm, part


def test_roughness_agrees_with_the_truth_on_average():
    """Single images scatter: a gate has some 90 rows, and its roughness a correlation length of 15 of them."""
    measured, true = {"ler": [], "lwr": []}, {"ler": [], "lwr": []}
    for name, index in SOUND:
        for figure in measured:
            measured[figure].append(np.mean([getattr(one, f"{figure}_nm") for one in gates(name, index)]))
            true[figure].append(shot(name, index).truth[f"gate {figure}"])
    for figure in measured:
        assert np.mean(measured[figure]) == pytest.approx(np.mean(true[figure]), rel=0.12), figure


def films(name, index):
    """(true, measured) thickness of every film of a multilayer that can be told from its neighbours."""
    made = shot(name, index)
    size = made.label.shape[1]
    found = [one for one in instances(made.label, classes(name), (made.pixel_nm, made.pixel_nm))
             if one.right - one.left > 0.3 * size and not math.isnan(one.thickness_nm)]  # fmt: skip
    for quantity, nm in made.truth.items():
        if quantity.endswith("thickness"):
            alike = [one.thickness_nm for one in found if one.label == quantity.split()[2]]
            yield nm, min(alike, key=lambda measured, nm=nm: abs(measured - nm))


def test_films_are_as_thick_as_they_were_drawn_within_half_a_pixel():
    """Films with a pinhole, a hillock or a void in them are among these; the truth is the film without it."""
    errors = np.array([
        (measured - true) / shot(name, index).pixel_nm
        for name in ("multilayer-a", "multilayer-b", "multilayer-c")
        for index in range(4)
        for true, measured in films(name, index)
    ])  # fmt: skip
    assert len(errors) >= 90
    assert abs(errors.mean()) < 0.1
    assert np.median(np.abs(errors)) < 0.1  # the median of whole pixels was .15 away
    assert np.abs(errors).max() < 0.5


@pytest.mark.parametrize(
    ("name", "film"),
    [("finfet-a", "high-k"), ("finfet-a", "liner"), ("finfet-b", "liner"), ("gaa-a", "high-k"), ("gaa-b", "liner"),
     ("gate-stack-a", "high-k"), ("dram-capacitor-a", "high-k"), ("dram-bwl-a", "liner")],
)  # fmt: skip
def test_films_that_follow_a_structure_are_measured_across(name, film):
    made = shot(name, 0, size=512, seed=5)
    found = [one.thickness_nm for one in instances(made.label, classes(name), (made.pixel_nm, made.pixel_nm))
             if one.label == film and one.area_px > 200 and not math.isnan(one.thickness_nm)]  # fmt: skip
    assert abs(float(np.median(found)) - made.truth[f"{film} thickness"]) < 0.5 * made.pixel_nm
