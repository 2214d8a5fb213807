"""SEM scenes: both magnifications show one defect, and what it is called."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lamella.errors import DataError
from lamella_synth.seeds import stream
from lamella_synth.sem.formation import Column, image_scene
from lamella_synth.sem.presets import PRESETS, sem_preset
from lamella_synth.sem.review import Review, review
from lamella_synth.sem.scene import CLASSES, PATTERNS, lay_out


def cut(mask: np.ndarray) -> bool:
    """Whether a defect reaches the border of its image."""
    return bool(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any())


def middle(mask: np.ndarray, pixel: float, centre: np.ndarray) -> np.ndarray:
    """Centroid (x, y) of a mask in nm from the defect's nominal place."""
    rows, columns = np.nonzero(mask)
    return (np.array([columns.mean(), rows.mean()]) + 0.5 - mask.shape[0] / 2) * pixel + centre


@settings(max_examples=16, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(PRESETS)))
def test_both_magnifications_show_the_same_defect(index: int, name: str) -> None:
    shot = review(sem_preset(name), seed=1, index=index, size=224)
    if CLASSES[shot.label] == "none":
        assert not shot.mask_high.any() and not shot.mask_low.any()
        return
    assert shot.mask_high.any()
    assume(not cut(shot.mask_high) and shot.mask_low.any())
    apart = middle(shot.mask_high, shot.high_nm, shot.centre_high) - middle(shot.mask_low, shot.low_nm, shot.centre_low)
    assert np.abs(apart).max() <= shot.low_nm, "more than one pixel of the low magnification"
    if shot.mask_low.sum() >= 40:
        ratio = shot.mask_high.sum() / shot.mask_low.sum() / (shot.low_nm / shot.high_nm) ** 2
        assert ratio == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_can_be_drawn_on_its_patterns(kind: str) -> None:
    for pattern in PATTERNS[kind]:
        scene = lay_out(stream("draw", kind, pattern), kind=kind, pattern=pattern, pitch=120, duty=0.5, ler=3,
                        width=3000, step=4, key=("draw", kind))
        image, mask = image_scene(scene, Column(), stream("scan"), pixel=8, size=96, centre=np.zeros(2))
        assert image.dtype == np.uint8 and image.std() > 10
        assert mask.any() == (kind != "none")
        assert mask.mean() < 0.4


def test_lines_have_their_pitch_and_width() -> None:
    scene = lay_out(stream("lines"), kind="none", pattern="lines", pitch=100, duty=0.4, ler=2, width=3000, step=2,
                    key=("lines",))
    x = np.arange(-1000, 1000, 1.0, dtype=np.float32)[None] + np.zeros((200, 1), np.float32)
    y = np.zeros_like(x) + np.linspace(-500, 500, 200, dtype=np.float32)[:, None]
    inside = scene.pattern.distance(x, y) < 0
    assert inside.mean() == pytest.approx(0.4, abs=0.015)
    assert np.diff(inside.astype(int), axis=1).clip(0).sum(1).mean() == pytest.approx(20, abs=1)


def test_a_scene_is_the_same_at_equal_points() -> None:
    scene = lay_out(stream("equal"), kind="residue", pattern="routes", pitch=120, duty=0.5, ler=3, width=3000, step=4,
                    key=("equal",))
    x, y = np.meshgrid(np.arange(-300, 300, 7, dtype=np.float32), np.arange(-300, 300, 7, dtype=np.float32))
    whole, part = scene.at(x, y), scene.at(x[10:20, 5:9], y[10:20, 5:9])
    assert np.allclose(whole.feature[10:20, 5:9], part.feature)
    assert np.allclose(whole.defect[10:20, 5:9], part.defect)


def same(one: Review, two: Review) -> bool:
    """Whether two reviews show the same."""
    return bool((one.high == two.high).all() and (one.low == two.low).all() and one.groups == two.groups)


def test_a_review_depends_on_preset_seed_and_index_alone() -> None:
    made = sem_preset("sem-a")
    alone = review(made, seed=3, index=5, size=64)
    review(made, seed=3, index=9, size=64)
    assert same(alone, review(made, seed=3, index=5, size=64))
    other = review(made, seed=4, index=5, size=64)
    assert not same(alone, other) and other.high_nm != alone.high_nm
    assert not same(alone, review(sem_preset("sem-b"), seed=3, index=5, size=64))
    assert len({product.hash for product in PRESETS.values()}) == len(PRESETS)


def test_the_defect_is_near_the_middle_and_the_ratio_in_range() -> None:
    made = sem_preset("sem-a")
    for index in range(12):
        shot = review(made, seed=0, index=index, size=64)
        assert made.ratio[0] <= shot.low_nm / shot.high_nm <= made.ratio[1]
        assert np.abs(shot.centre_low).max() <= 0.25 * 64 * shot.low_nm
        assert np.abs(shot.centre_high).max() <= 0.1 * 64 * shot.high_nm
        assert shot.groups["die"].startswith(shot.groups["wafer"])


def test_bad_settings_are_told_in_one_sentence() -> None:
    with pytest.raises(DataError, match=r"'sem-z'.*sem-a"):
        sem_preset("sem-z")
    with pytest.raises(DataError, match=r"even size from 32.*31"):
        review(sem_preset("sem-a"), seed=0, index=0, size=31)
