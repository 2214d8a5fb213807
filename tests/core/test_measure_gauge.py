"""Gauge R&R against the published example, a literal reference, and components that are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lamella.measure.gauge import gauge_rr, percent_interval
from scipy import stats

# AIAG, Measurement Systems Analysis, 4th edition, figure III-B 15: three trials of ten parts by appraisers A, B, C.
AIAG = np.array([
    [[0.29, -0.56, 1.34, 0.47, -0.80, 0.02, 0.59, -0.31, 2.26, -1.36],
     [0.41, -0.68, 1.17, 0.50, -0.92, -0.11, 0.75, -0.20, 1.99, -1.25],
     [0.64, -0.58, 1.27, 0.64, -0.84, -0.21, 0.66, -0.17, 2.01, -1.31]],
    [[0.08, -0.47, 1.19, 0.01, -0.56, -0.20, 0.47, -0.63, 1.80, -1.68],
     [0.25, -1.22, 0.94, 1.03, -1.20, 0.22, 0.55, 0.08, 2.12, -1.62],
     [0.07, -0.68, 1.34, 0.20, -1.28, 0.06, 0.83, -0.34, 2.19, -1.50]],
    [[0.04, -1.38, 0.88, 0.14, -1.46, -0.29, 0.02, -0.46, 1.77, -1.49],
     [-0.11, -1.13, 1.09, 0.20, -1.07, -0.67, 0.01, -0.56, 1.45, -1.77],
     [-0.15, -0.96, 0.67, 0.11, -1.45, -0.49, 0.21, -0.49, 1.87, -2.16]],
]).transpose(2, 0, 1)  # fmt: skip


def test_the_published_example_comes_out_as_published():
    found = gauge_rr(AIAG)
    assert found.repeatability == pytest.approx(0.199933, abs=1e-6)
    assert found.setup == pytest.approx(0.226838, abs=1e-6)
    assert found.interaction == 0.0
    assert found.rr == pytest.approx(0.302373, abs=2e-6)
    assert found.part == pytest.approx(1.042327, abs=1e-6)
    assert found.percent == pytest.approx(27.9, abs=0.05)
    assert found.categories == 4


def literal(values):
    """(EV², AV², interaction², PV²) with sums written out, as in the docstring."""
    p, o, r = values.shape
    mean = sum(float(x) for x in values.flat) / values.size
    cell = [[sum(values[i, j]) / r for j in range(o)] for i in range(p)]
    row = [sum(cell[i]) / o for i in range(p)]
    column = [sum(cell[i][j] for i in range(p)) / p for j in range(o)]
    ms_p = o * r * sum((row[i] - mean) ** 2 for i in range(p)) / (p - 1)
    ms_o = p * r * sum((column[j] - mean) ** 2 for j in range(o)) / (o - 1)
    df_po, df_e = (p - 1) * (o - 1), p * o * (r - 1)
    ss_po = r * sum((cell[i][j] - row[i] - column[j] + mean) ** 2 for i in range(p) for j in range(o))
    ss_e = sum((values[i, j, k] - cell[i][j]) ** 2 for i in range(p) for j in range(o) for k in range(r))
    ms_po, ms_e = ss_po / df_po, ss_e / df_e
    if 1 - stats.f.cdf(ms_po / ms_e, df_po, df_e) > 0.25:
        ms_po = ms_e = (ss_po + ss_e) / (df_po + df_e)
    return [max(0.0, x) for x in (ms_e, (ms_o - ms_po) / (p * r), (ms_po - ms_e) / r, (ms_p - ms_po) / (o * r))]


@given(
    st.integers(2, 5), st.integers(2, 4), st.integers(2, 4), st.integers(0, 1000),
    st.lists(st.sampled_from([0.0, 0.3, 2.0]), min_size=3, max_size=3),
)  # fmt: skip
def test_it_is_what_the_sums_say(parts, setups, repeats, seed, size):
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.5, (parts, setups, repeats)) + random.normal(0, size[0], (parts, 1, 1))
    values += random.normal(0, size[1], (1, setups, 1)) + random.normal(0, size[2], (parts, setups, 1))
    found = gauge_rr(values)
    ours = [found.repeatability**2, found.setup**2, found.interaction**2, found.part**2]
    assert ours == pytest.approx(literal(values), rel=1e-9, abs=1e-12)
    assert found.total**2 == pytest.approx(sum(ours))


def test_known_components_are_recovered():
    random = np.random.default_rng(0)
    truth = {"part": 3.0, "setup": 2.0, "interaction": 1.5, "repeatability": 1.0}
    values = random.normal(0, 1.0, (60, 60, 4)) + random.normal(0, 3.0, (60, 1, 1))
    values += random.normal(0, 2.0, (1, 60, 1)) + random.normal(0, 1.5, (60, 60, 1)) + 50.0
    found = gauge_rr(values)
    for name, sigma in truth.items():
        assert getattr(found, name) == pytest.approx(sigma, rel=0.2), name
    low, high = percent_interval(values)
    assert low < found.percent < high
    assert high - low < 30


def test_what_does_not_vary_has_no_share_and_rounding_is_no_scatter():
    found = gauge_rr(np.full((4, 3, 2), 0.1) + 0.2)
    assert (found.rr, found.part, found.categories) == (0.0, 0.0, math.inf)
    assert math.isnan(found.percent)
    assert all(map(math.isnan, percent_interval(np.full((4, 3, 2), 0.1))))
    perfect = gauge_rr(np.arange(4.0)[:, None, None] / 3 + np.zeros((4, 3, 2)))
    assert (perfect.percent, perfect.categories) == (0.0, math.inf)


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 1, 3), (3, 3, 1)])
def test_a_study_without_two_of_everything_says_so(shape):
    with pytest.raises(ValueError, match="two parts, setups and repeats"):
        gauge_rr(np.zeros(shape))


def test_where_repeats_are_all_alike_an_interaction_is_not_pooled_with_them():
    of_cell = np.array([[0.0, 1.0, 0.0], [2.0, 1.5, 3.0], [5.0, 4.0, 4.5]])
    found = gauge_rr(np.repeat(of_cell[..., None], 2, axis=2))
    assert found.repeatability == 0.0
    assert found.interaction == pytest.approx(literal_interaction(of_cell))


def literal_interaction(of_cell):
    """√MS_PO of one value per part and setup."""
    p, o = of_cell.shape
    apart = of_cell - of_cell.mean(1, keepdims=True) - of_cell.mean(0, keepdims=True) + of_cell.mean()
    return math.sqrt((apart**2).sum() / ((p - 1) * (o - 1)))
