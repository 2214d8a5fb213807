"""Whole images: coverage, truth, determinism, groups, difficulty."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lamella.errors import DataError
from lamella_synth.presets import ALIASES, modules, names, preset
from lamella_synth.tem.render import Micrograph, render
from scipy.ndimage import binary_dilation


@pytest.mark.parametrize("name", modules())
def test_every_module_is_whole(name: str) -> None:
    made = preset(name)
    shares = []
    for index in range(2):
        shot = render(made, seed=1, index=index, size=96)
        assert shot.image.dtype == np.uint8 and shot.label.shape == (96, 96) and shot.instance.dtype == np.uint16
        assert shot.label.max() < len(made.classes)
        assert 12 < shot.image.std() < 110, "neither flat nor black and white"
        assert shot.pixel_nm == made.view_nm / 96
        assert shot.truth and all(np.isfinite(nm) and nm > 0 for nm in shot.truth.values())
        defect = shot.label == len(made.classes) - 1
        assert (shot.instance[defect] > 0).all(), "every defect pixel belongs to an object"
        shares.append(defect.mean())
    assert max(shares) < 0.03


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(["finfet-a", "finfet-b", "finfet-c"]))
def test_a_cd_measured_on_the_label_map_is_the_true_one(index: int, name: str) -> None:
    shot = render(preset(name), seed=2, index=index, size=256)
    for at, part in ((0.1, "top"), (0.5, "mid"), (0.9, "bottom")):
        widths = fin_widths(shot, at)
        assume(len(widths) >= 3)
        measured = np.mean(widths) * shot.pixel_nm
        assert measured == pytest.approx(shot.truth[f"fin cd {part}"], abs=0.5 * shot.pixel_nm)


def fin_widths(shot: Micrograph, at: float) -> list[float]:
    """Widths in pixels of the whole, sound fins, in a band around a share of their height.

    None where a fin ends at the border, so that nobody can say whether it counts.
    """
    near = binary_dilation(shot.label == 6, iterations=2)
    widths = []
    for number in np.unique(shot.instance)[1:]:
        own = (shot.instance == number) & (shot.label == 0)
        rows, columns = np.nonzero(own)
        room = min(columns.min(), own.shape[1] - 1 - columns.max()) if len(rows) else 0
        if len(rows) < 50 or room == 0 or near[own].mean() > 0.02:
            continue
        if room < 4:
            return []
        top, height = rows.min(), rows.max() + 1 - rows.min()
        band = own[round(top + (at - 0.04) * height) : round(top + (at + 0.04) * height)]
        widths.append(float(band.sum(1).mean()))
    return widths


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_a_film_measured_on_the_label_map_is_as_thick_as_the_truth_says(index: int) -> None:
    made = preset("multilayer-a")
    shot = render(made, seed=2, index=index, size=256)
    metal = shot.label == made.classes.index("metal")
    sound = ~binary_dilation(shot.label == len(made.classes) - 1, iterations=6).any(0)
    if sound.mean() > 0.7:
        measured = metal[:, sound].sum(0).mean() * shot.pixel_nm
        assert measured == pytest.approx(shot.truth["film 4 metal thickness"], abs=0.5 * shot.pixel_nm)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000))
def test_round_holes_have_the_true_diameter(index: int) -> None:
    made = preset("dram-plan-a")
    shot = render(made, seed=2, index=index, size=256)
    filled = np.isin(shot.label, [made.classes.index("core"), made.classes.index("electrode")])
    near = binary_dilation(shot.label == len(made.classes) - 1, iterations=4)
    wide = []
    for number in np.unique(shot.instance)[1:]:
        own = (shot.instance == number) & (shot.label == made.classes.index("core"))
        if own.sum() > 100 and not (own & near).any():
            edge = np.concatenate([own[0], own[-1], own[:, 0], own[:, -1]]).any()
            if not edge:
                wide.append(2 * np.sqrt(own.sum() / np.pi))
    assert filled.any()
    if len(wide) >= 8:
        # The core is the hole less its wall, which a narrower hole has as well.
        assert np.mean(wide) * shot.pixel_nm == pytest.approx(
            shot.truth["hole cd"] - 2 * shot.truth["wall thickness"], abs=1.0 * shot.pixel_nm
        )


def test_an_image_depends_on_preset_seed_and_index_alone() -> None:
    made = preset("finfet-a")
    alone = render(made, seed=3, index=5, size=64)
    for index in (9, 0, 5):
        again = render(made, seed=3, index=index, size=64)
    assert (again.image == alone.image).all() and (again.label == alone.label).all() and again.truth == alone.truth
    others = [render(made, seed=4, index=5, size=64), render(made, seed=3, index=6, size=64),
              render(preset("finfet-b"), seed=3, index=5, size=64)]
    assert all((other.image != alone.image).mean() > 0.5 for other in others)


def test_an_alias_has_the_images_of_what_it_stands_for() -> None:
    for alias, own in ALIASES.items():
        assert preset(alias).hash == preset(own).hash
    one, two = (render(preset(name), seed=0, index=0, size=64) for name in ("device-a", "finfet-a"))
    assert (one.image == two.image).all()
    assert len({preset(name).hash for name in modules()}) == len(modules()) >= 24
    assert len(modules(small_objects=True)) >= 9


def test_pairs_share_classes_and_development_devices_belong_to_no_pair() -> None:
    pairs = [("device-a", "device-b"), ("pair-2-a", "pair-2-b"), ("pair-3-a", "pair-3-b")]
    families = set()
    for a, b in pairs:
        assert preset(a).classes == preset(b).classes and preset(a).hash != preset(b).hash
        families.add(preset(a).device.name)
    assert len(families) == 3
    assert not families & {preset(name).device.name for name in ("dev-1", "dev-2")}
    assert all(preset(name).classes[-1] == "defect" for name in names())


def test_tools_and_lots_leave_their_mark() -> None:
    made = preset("finfet-a")
    shots = [render(made, seed=0, index=index, size=64) for index in range(40)]
    assert {shot.groups["tool"] for shot in shots} == {"A-T1", "A-T2", "A-T3"}
    assert len({shot.groups["lot"] for shot in shots}) == made.lots
    assert all(shot.groups["specimen"].startswith(shot.groups["lot"]) for shot in shots)
    by_lot: dict[str, list[float]] = {}
    for shot in shots:
        by_lot.setdefault(shot.groups["lot"], []).append(shot.truth["fin height"])
    between = np.std([np.mean(heights) for heights in by_lot.values()])
    within = np.mean([np.std(heights) for heights in by_lot.values() if len(heights) > 2])
    assert between > 0.5 * within


def test_defects_are_small_and_rare() -> None:
    made = preset("device-a")
    shares = np.array([(render(made, seed=7, index=k, size=128).label == 6).mean() for k in range(30)])
    assert 0.5 < (shares > 0).mean() < 0.98
    assert 0.001 < shares[shares > 0].mean() < 0.02


def test_grey_levels_alone_do_not_tell_the_classes_apart() -> None:
    made = preset("device-a")
    train, test = ([render(made, seed=seed, index=k, size=128) for k in range(8)] for seed in (3, 4))
    counts = np.zeros((256, len(made.classes)))
    for shot in train:
        np.add.at(counts, (shot.image.ravel(), shot.label.ravel()), 1)
    guess = counts.argmax(1)
    table = np.zeros((len(made.classes),) * 2)
    for shot in test:
        np.add.at(table, (shot.label.ravel(), guess[shot.image].ravel()), 1)
    hit = np.diag(table)
    assert (hit / (table.sum(0) + table.sum(1) - hit)).mean() < 0.75


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mode": "sem"}, "'sem'.*haadf"),
        ({"size": 31}, "31.*32"),
        ({"size": 33}, "33.*even"),
        ({"seed": -1}, "-1"),
        ({"nuisance": "dust"}, "'dust'.*in-family"),
    ],
)
def test_bad_settings_are_told_in_one_sentence(change: dict, told: str) -> None:
    settings = {"seed": 0, "index": 0, "size": 64, "mode": "preset", "nuisance": "none", **change}
    with pytest.raises(DataError, match=told):
        render(preset("finfet-a"), **settings)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'finfet-z'.*device-a"):
        preset("finfet-z")


@pytest.mark.parametrize("name", ["finfet-a", "finfet-c"])
def test_another_exposure_is_the_same_specimen_with_other_noise(name: str) -> None:
    shots = [render(preset(name), seed=1, index=2, size=96, exposure=exposure) for exposure in range(12)]
    images = np.stack([shot.image for shot in shots]).astype(float)
    assert all((shot.label == shots[0].label).all() and shot.truth == shots[0].truth for shot in shots)
    noise = images - images.mean(0)
    assert (noise.std((1, 2)) > 0.5).all()
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] + 1 / 11) < 0.05, "exposures share noise"
    assert np.ptp(images.mean((1, 2))) < 1.0, "the display changes from one exposure to the next"


def test_exposures_are_of_undisturbed_images() -> None:
    for settings_ in ({"exposure": -1}, {"exposure": 1, "nuisance": "unseen"}):
        with pytest.raises(DataError, match="exposure"):
            render(preset("finfet-a"), seed=1, index=0, size=64, **settings_)
