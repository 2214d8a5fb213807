"""The sets are whole and in physical order; `lamella perturb` shows them on an image."""

import math

import numpy as np
import pytest
import torch
from lamella import About, Batch, Streams
from lamella.errors import LamellaError
from lamella.registry.registry import current
from lamella_tem.perturb_command import _write, perturb
from lamella_tem.perturbations.metal_spots import transmission
from lamella_tem.sets import NAMES, SETS
from lamella_tem.strengths import LEVELS, at_strength
from PIL import Image, ImageDraw
from tem_trial import component


def _names(set_name):
    return [spec["name"] for spec in SETS[set_name]]


def test_families_are_where_they_belong():
    assert set(SETS) == {"sample", "machine", "post", "tem-strong", "weak", "natural", "gauge-setup", "gauge-repeat"}
    for family in ("sample", "machine", "post"):
        assert {component(name).family for name in _names(family)} == {family}


def test_tem_strong_is_everything_in_physical_order():
    order = [NAMES.index(name) for name in _names("tem-strong")]
    assert order == sorted(order)
    # The camera is shot noise, gain, dark current and readout in one.
    assert set(_names("tem-strong")) == set(NAMES) - {"camera"}
    assert _names("tem-strong")[-1] == "scale-bar"


@pytest.mark.parametrize("set_name", sorted(SETS))
def test_sets_build_and_run(set_name):
    chain = current().plan("chain", SETS[set_name], set_name).build()
    batch = Batch.of(torch.rand(2, 1, 64, 80), label=torch.ones(2, 64, 80, dtype=torch.int64))
    image = chain(batch, Streams(torch.arange(2))).image
    assert image.shape == batch.image.shape and not torch.equal(image, batch.image)


def test_strengths_run_from_weak_to_strong():
    dose = {"dose": (10.0, 500.0)}
    nothing = {"dose": (math.inf, math.inf)}
    assert [at_strength(dose, nothing, level)["dose"][0] for level in LEVELS.values()] == pytest.approx(
        [500.0, 500.0 * (10 / 500) ** 0.5, 10.0]
    )
    assert at_strength(nothing, nothing, 0.5) == nothing
    assert at_strength({"shear": (-0.02, 0.02)}, {"shear": (0.0, 0.0)}, 0.5) == {"shear": (0.01, 0.01)}
    assert at_strength({"bits": (6.0, 8.0), "p": 0.5}, {"bits": (24.0, 24.0)}, 1.0) == {"bits": (6.0,) * 2, "p": 1.0}


@pytest.mark.parametrize("height_nm", [0.25, 1.0, 3.0])
def test_a_metal_spot_is_round_in_nm(height_nm):
    drawn = {name: torch.tensor([[value]]) for name, value in (("radius", 8.0), ("opacity", 1.0))}
    about = About.of(Batch.of(torch.zeros(1, 1, 128, 128), pixel_nm=torch.tensor([[height_nm, 1.0]])))
    seen = transmission({"centre": torch.tensor([[[0.5, 0.5]]]), **drawn}, about, reach=12)[0] < 0.5
    high, wide = (seen.any(1 - dim).sum().item() for dim in (0, 1))
    assert abs(high * height_nm - wide) <= 1.0 and max(high, wide) > 8


@pytest.mark.parametrize("name", [name for name in NAMES if name != "scale-bar"])
def test_more_strength_changes_more(name):
    cls = component(name)
    defaults = {n: v for n, v in cls().__dict__.items() if isinstance(v, tuple | float) and n in cls.identity}
    batch = Batch.of(torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2)
    change = [
        (cls(**at_strength(defaults, cls.identity, level)).perturb(batch, Streams(torch.arange(8))).image - batch.image)
        .abs().mean().item()
        for level in (0.0, 1.0)
    ]  # fmt: skip
    assert change[1] > change[0]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "device.png"
    Image.fromarray((np.random.default_rng(0).random((70, 90)) * 255).astype(np.uint8)).save(path)
    return path


def test_the_sheet_shows_every_perturbation(picture, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    perturb(picture, set_name="tem-strong", out=out, size=48, polarity="bright-field", pixel_nm=0.5, seed=1)
    with Image.open(out) as sheet:
        assert sheet.size == (4 * 52 + 4, (len(SETS["tem-strong"]) + 1) * 88 + 4)
    assert "15 perturbations" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


@pytest.mark.parametrize("size", [16, 48, 128])
def test_titles_end_before_the_next_one_begins(tmp_path, monkeypatch, size):
    titles, write = {}, ImageDraw.ImageDraw.text

    def noted(pen, place, title, **drawn):
        titles.setdefault(place[1], []).append((place[0], place[0] + drawn["font"].getlength(title), title))
        write(pen, place, title, **drawn)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    _write([("thickness-wedge", [np.zeros((size, size))] * 4), ("set tem-strong", [np.ones((size, size))] * 4)],
           tmp_path / "sheet.png")  # fmt: skip
    with Image.open(tmp_path / "sheet.png") as sheet:
        edge = sheet.width
    assert "thickness-wedge" in str(titles) and "middle" in str(titles)
    for line in titles.values():
        ends, begins = [end for _, end, _ in line], [left for left, _, _ in line]
        assert all(end <= begin for end, begin in zip(ends, [*begins[1:], edge]))


def test_every_frame_of_a_stack_has_a_sheet(tmp_path, capsys):
    frames = [Image.fromarray(np.full((40, 40), grey, np.uint8)) for grey in (50, 150, 200)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    out = tmp_path / "sheet.png"
    perturb(tmp_path / "stack.tif", set_name="post", out=out, size=32, polarity="haadf", pixel_nm=None, seed=0)
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [f"sheet-f000{n}.png" for n in range(3)]
    assert "on stack.tif-f0002" in capsys.readouterr().out


def test_the_sheet_never_replaces_an_image(picture, tmp_path):
    given = {"set_name": "post", "size": 32, "polarity": "haadf", "pixel_nm": None, "seed": 0}
    before = picture.read_bytes()
    with pytest.raises(LamellaError, match=r"device.png exists, and is no sheet"):
        perturb(picture, out=picture, **given)
    assert picture.read_bytes() == before
    for _ in range(2):
        perturb(picture, out=tmp_path / "sheet.png", **given)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"set_name": "no-such"}, "there is no perturbation set 'no-such'"),
        ({"polarity": "dark"}, "neither haadf nor bright-field"),
        ({"out": "sheet.jpg"}, "end its name with .png"),
        ({"out": "nowhere/sheet.png"}, "there is no folder"),
        ({"image": "absent.png"}, "there is no such file"),
    ],
)
def test_mistakes_are_told_in_one_sentence(picture, tmp_path, wrong, message):
    given = {"image": picture, "set_name": "post", "out": tmp_path / "sheet.png", "size": 48}
    given |= {"polarity": "haadf", "pixel_nm": None, "seed": 0} | wrong
    given |= {name: tmp_path / given[name] for name in ("image", "out")}
    with pytest.raises(LamellaError, match=message) as caught:
        perturb(**given)
    assert "\n" not in str(caught.value)
