"""Signed distances, painting, roughness: the geometry before any contrast."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lamella_synth.fields import cells, cloud, mottle, wave
from lamella_synth.roughness import Roughness
from lamella_synth.seeds import stream
from lamella_synth.shapes import box, disc, intersect, union
from lamella_synth.tem.canvas import Canvas, label_map
from lamella_synth.tem.columns import Columns


def flat(size: int = 96, view: float = 100.0) -> Canvas:
    """A canvas that is neither turned nor bent, so that areas are known."""
    return Canvas(stream("flat"), size=size, view_nm=view, turn_deg=0.0, bow_nm=0.0)


@settings(max_examples=15, deadline=None)
@given(st.floats(4, 40), st.floats(-5, 5), st.floats(-5, 5))
def test_a_disc_covers_its_area(radius: float, cx: float, cy: float) -> None:
    canvas = flat()
    canvas.paint(("a", "Si"), np.full_like(canvas.x, -1e3))
    canvas.paint(("b", "W"), disc(canvas.x, canvas.y, cx=cx, cy=cy, radius=radius))
    fractions = canvas.fractions()
    total = sum(fractions.values())
    area = float(fractions["b", "W"].sum()) * canvas.pixel**2
    assert np.allclose(total, 1, atol=1e-5)
    assert area == pytest.approx(np.pi * radius**2, rel=0.01)


@settings(max_examples=15, deadline=None)
@given(st.floats(3, 60), st.floats(3, 60), st.floats(-9, 9))
def test_a_box_covers_its_share_and_its_label(width: float, height: float, cx: float) -> None:
    canvas = flat()
    canvas.paint(("a", "Si"), np.full_like(canvas.x, -1e3))
    canvas.paint(("b", "W"), box(canvas.x, canvas.y, cx=cx, cy=0.0, width=width, height=height))
    fractions = canvas.fractions()
    assert float(fractions["b", "W"].mean()) == pytest.approx(width * height / 1e4, rel=0.01, abs=2e-5)
    labels = label_map(fractions, ("a", "b"))
    rows = (labels == 1).sum(1)
    assert abs(rows[len(rows) // 2] * canvas.pixel - width) <= canvas.pixel * 1.001


def test_painting_within_a_class_takes_from_it_alone() -> None:
    canvas = flat(48)
    canvas.paint(("a", "Si"), np.full_like(canvas.x, -1e3))
    canvas.paint(("b", "W"), canvas.x)
    before = canvas.fractions()["a", "Si"]
    canvas.paint(("c", "void"), disc(canvas.x, canvas.y, cx=0, cy=0, radius=20), within="b", strength=0.4)
    after = canvas.fractions()
    assert np.allclose(after["a", "Si"], before)
    assert after["c", "void"].max() == pytest.approx(0.4, abs=1e-5)
    assert np.allclose(sum(after.values()), 1, atol=1e-5)


def test_rounded_corners_keep_edges_and_lose_corners() -> None:
    a, b = np.array([-9.0, -0.5, 3.0]), np.array([-1.0, -0.5, -9.0])
    assert np.allclose(intersect(a, b), [-1, -0.5, 3])
    assert intersect(a, b, 2.0)[1] > -0.5
    assert np.allclose(intersect(a, b, 2.0)[[0, 2]], [-1, 3], atol=0.3)
    assert union(a, b, 2.0)[1] < -0.5


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 3.0), st.floats(5, 30), st.floats(0.5, 0.9))
def test_edges_have_the_roughness_they_were_asked_for(ler: float, length: float, hurst: float) -> None:
    edges = Roughness(ler, length, hurst).edges(stream("edges"), 200, np.arange(0, 500, 0.25))
    assert 3 * edges.std() == pytest.approx(ler, rel=0.1)
    lag = int(length / 0.25)
    near = (edges[:, :-lag] * edges[:, lag:]).mean() / edges.var()
    far = (edges[:, : -8 * lag] * edges[:, 8 * lag :]).mean() / edges.var() if 9 * lag < edges.shape[1] else 0
    assert 0.1 < near < 0.75
    assert abs(far) < 0.25


def test_fields_have_unit_variance_and_do_not_repeat() -> None:
    rng = stream("fields")
    for field in (cloud(rng, (128, 128), 3), mottle(rng, (128, 128), 10)):
        assert field.std() == pytest.approx(1, rel=0.2)
        assert abs(field.mean()) < 1e-4
    lines = np.stack([wave(rng, 400, 20) for _ in range(200)])
    assert lines.std() == pytest.approx(1, rel=0.1)
    assert np.abs(lines[:, 0] - lines[:, -1]).mean() > 0.5


def test_grains_have_their_size() -> None:
    x, y = np.meshgrid(np.arange(200, dtype=np.float32), np.arange(200, dtype=np.float32))
    value, edge = cells(stream("grains"), x, y, 20.0)
    assert value.min() >= -1 and value.max() < 1 and edge.min() >= 0
    assert len(np.unique(value)) == pytest.approx(100, rel=0.4)


def test_a_bent_column_leaves_the_true_dimensions() -> None:
    canvas = flat()
    row = Columns(canvas, stream("row"), pitch=20, offset=0, width=np.full(canvas.grid.shape, 8.0), spread=0.0,
                  rough=Roughness(0.5, 10, 0.7))
    assert row.measure(-40, 40) == pytest.approx(8, abs=0.1)
    k = row.nearby(stream("pick"))
    row.reshape(k, lambda y: 4 + 0 * y)
    assert not row.sound[k]
    assert row.lateral().min() < -3
    empty = np.zeros(len(row.centre), bool)
    assert np.isnan(row.measure(-40, 40, empty)) and np.isnan(row.roughness(-40, 40, empty)[0])


def test_true_roughness_is_three_sigma_about_lines_of_two_degrees_of_freedom() -> None:
    canvas = flat()
    row = Columns(canvas, stream("row"), pitch=20, offset=0, width=np.full(canvas.grid.shape, 8.0),
                  rough=Roughness(2.0, 3, 0.7), spread=0.0)  # fmt: skip
    rows = np.flatnonzero((canvas.grid >= -4) & (canvas.grid <= 4))
    assert 8 <= len(rows) < 40

    def three_sigma(edges: np.ndarray) -> float:
        left = [np.sum(np.polyfit(rows, edge, 1, full=True)[1]) / (len(rows) - 2) for edge in edges[:, rows]]
        return float(3 * np.sqrt(np.mean(left)))

    expected = three_sigma(np.concatenate([row.left, row.right])), three_sigma(row.right - row.left)
    assert row.roughness(-4, 4, row.sound) == pytest.approx(expected, rel=1e-3)
