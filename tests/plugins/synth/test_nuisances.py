"""What disturbs an image without being a defect, and that it is written apart from any training noise."""

import ast
from pathlib import Path

import lamella_synth
import numpy as np
import pytest
from lamella_synth.presets import preset
from lamella_synth.seeds import stream
from lamella_synth.tem import in_family, unseen
from lamella_synth.tem.render import render


@pytest.mark.parametrize("group", ["in-family", "unseen"])
def test_a_nuisance_changes_the_image_and_not_the_specimen(group: str) -> None:
    made = preset("gate-stack-c")
    for index in range(8):
        plain = render(made, seed=0, index=index, size=96)
        shot = render(made, seed=0, index=index, size=96, nuisance=group)
        assert shot.nuisances and not plain.nuisances
        assert (shot.image != plain.image).any()
        if "drift" in shot.nuisances:
            assert (shot.label != plain.label).mean() < 0.3
        else:
            assert (shot.label == plain.label).all() and shot.truth == plain.truth


def test_every_nuisance_occurs() -> None:
    for group in (in_family, unseen):
        family = group.InFamily if group is in_family else group.Unseen
        drawn = [family(stream("drawn", number)).applied for number in range(60)]
        assert {kind for kinds in drawn for kind in kinds} == set(group.KINDS)
        assert all(1 <= len(kinds) <= 3 for kinds in drawn)


def test_drift_moves_rows_sideways_and_keeps_widths() -> None:
    made = preset("finfet-a")
    for index in range(40):
        moved = render(made, seed=0, index=index, size=128, nuisance="unseen")
        if "drift" in moved.nuisances:
            still = render(made, seed=0, index=index, size=128)
            assert (moved.label != still.label).any()
            silicon = [(shot.label == 0)[40:64].sum() for shot in (moved, still)]
            assert silicon[0] == pytest.approx(silicon[1], rel=0.25)
            assert moved.truth.keys() == still.truth.keys()
            return
    raise AssertionError("no drift in forty images")


def only(kind: str, family: type, number: int = 0):
    """A nuisance of one kind."""
    made = family(stream("only", kind, number))
    made.applied = (kind,)
    return made


def test_dirt_brightens_haadf_and_darkens_bright_field() -> None:
    flat = np.full((96, 96), 0.7, np.float32)
    for kind in ("contamination", "splatter"):
        for number in range(3):
            bright = only(kind, in_family.InFamily, number).disturb(flat, fractions={}, mode="haadf", pixel=1.0)
            dark = only(kind, in_family.InFamily, number).disturb(flat, fractions={}, mode="bright-field", pixel=1.0)
            assert bright.min() >= 0.7 - 0.1 and bright.max() > 0.7
            assert dark.max() <= 0.7 + 0.1 and dark.min() < 0.7


def test_curtains_thin_the_foil_and_low_dose_is_noisier() -> None:
    groove = only("curtains", in_family.InFamily).relief(96)
    assert groove.max() <= 1 and 0.3 <= groove.min() < 1
    flat = np.full((96, 96), 0.5, np.float32)
    noisy = only("low-dose", in_family.InFamily).record(flat, white=1.0, dose=700)
    assert noisy.mean() == pytest.approx(0.5, rel=0.1)
    assert noisy.std() > 0.08 and len(np.unique(noisy)) < 200


def test_a_scale_bar_covers_little_and_leaves_the_rest() -> None:
    levels = np.full((128, 128), 0.5, np.float32)
    drawn = only("scale-bar", in_family.InFamily).overlay(levels, pixel=0.5)
    changed = np.abs(drawn - levels) > 0.01
    assert 0 < changed.mean() < 0.1


def test_fringes_and_contours_spare_amorphous_material() -> None:
    flat = np.full((96, 96), 0.8, np.float32)
    for kind in ("bend-contours", "thickness-fringes"):
        glass = only(kind, unseen.Unseen).disturb(
            flat, fractions={("oxide", "SiO2"): np.ones_like(flat)}, mode="bright-field", pixel=1.0
        )
        crystal = only(kind, unseen.Unseen).disturb(
            flat, fractions={("silicon", "Si"): np.ones_like(flat)}, mode="bright-field", pixel=1.0
        )
        assert np.allclose(glass, flat) and crystal.std() > 0.01


def test_defocus_keeps_the_mean() -> None:
    picture = np.zeros((96, 96), np.float32)
    picture[30:60, 40:50] = 1
    for mode in ("haadf", "bright-field"):
        out = only("defocus", unseen.Unseen).disturb(picture, fractions={}, mode=mode, pixel=1.0)
        assert out.mean() == pytest.approx(picture.mean(), rel=0.02)
        assert np.abs(out - picture).max() > 0.1


def test_the_generator_knows_no_training_noise() -> None:
    banned = ("torch", "kornia", "lamella_tem", "lamella_sem", "lamella_sam", "perturbation")
    for path in Path(lamella_synth.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                imported.append(node.module or "")
            words = imported + ([node.id] if isinstance(node, ast.Name) else [])
            for word in words:
                assert not any(bad in word.lower() for bad in banned), f"{path.name}: {word}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "lamella_perturbations" not in node.value, path.name
