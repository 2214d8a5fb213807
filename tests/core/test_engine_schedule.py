"""The learning rate over the optimizer steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lamella.engine.experiment import FitConfig
from lamella.engine.schedule import lr_factor


def factors(**config):
    config = FitConfig(**config)
    return [lr_factor(step, config) for step in range(config.steps)]


def test_poly_follows_its_formula():
    assert factors(steps=10, schedule="poly", power=0.9) == pytest.approx([(1 - t / 10) ** 0.9 for t in range(10)])


def test_cosine_follows_its_formula():
    expected = [0.5 * (1 + math.cos(math.pi * t / 10)) for t in range(10)]
    assert factors(steps=10, schedule="cosine") == pytest.approx(expected)


def test_constant_stays():
    assert factors(steps=5, schedule="constant") == [1.0] * 5


def test_the_warm_up_is_linear_and_the_schedule_begins_at_its_peak_after_it():
    found = factors(steps=14, schedule="poly", power=1.0, warmup=4)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == pytest.approx([1 - t / 10 for t in range(10)])


@given(
    st.integers(1, 60),
    st.integers(0, 80),
    st.sampled_from(["poly", "cosine", "constant"]),
    st.floats(0.1, 3.0),
)
def test_every_step_has_a_positive_rate_of_at_most_the_peak_that_rises_and_then_falls(steps, warmup, schedule, power):
    found = factors(steps=steps, warmup=warmup, schedule=schedule, power=power)
    assert all(0 < factor <= 1 for factor in found)
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
