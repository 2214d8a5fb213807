"""The dose of an image from its own noise, and ``lamella noise``."""

import tomllib
from pathlib import Path

import lamella
import numpy as np
import pytest
import torch
from lamella import Batch, Sample, Streams
from lamella.cli.main import main
from lamella.errors import DataError
from lamella.registry.registry import current
from lamella_tem.modality import TemModality
from lamella_tem.photon_transfer import MOST, photon_transfer
from PIL import Image
from scipy.ndimage import gaussian_filter

STEM = Path(__file__).parents[4] / "shared" / "data" / "stem_atomic_raw"


def scene(size=384, seed=0):
    """Layers and pillars between .15 and .8, with soft edges, in nothing like the devices of `synth`."""
    random = np.random.default_rng(seed)
    image = np.full((size, size), 0.15)
    for grey in random.uniform(0.2, 0.8, 24):
        top, left = random.integers(0, size - 64, 2)
        tall, wide = random.integers(32, 160, 2)
        image[top : top + tall, left : left + wide] = grey
    return gaussian_filter(image, 1.0)


def counted(clean, dose, pedestal, seed=0):
    """Electrons counted one by one, by numpy and not by our perturbation."""
    rate = dose * (pedestal + (1 - pedestal) * clean)
    electrons = np.random.default_rng(seed).poisson(rate)
    return (electrons / dose - pedestal) / (1 - pedestal)


@pytest.mark.parametrize("pedestal", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("dose", [80, 400, 3000])
def test_dose_and_pedestal_of_counted_electrons_are_found(dose, pedestal):
    found = [photon_transfer(counted(scene(seed=n), dose, pedestal, n)) for n in range(5)]
    doses, pedestals = (np.array([getattr(one, name) for one in found]) for name in ("dose", "pedestal"))
    assert np.median(doses) == pytest.approx(dose, rel=0.2)
    assert np.median(pedestals) == pytest.approx(pedestal, abs=0.08)
    assert sum(one.low <= dose * 1.1 and one.high >= dose * 0.9 for one in found) >= 4
    assert all(one.independent and one.off < 0.15 for one in found)


@pytest.mark.parametrize(("dose", "pedestal"), [(15, 0.1), (50, 0.0), (3000, 0.3)])
def test_the_noise_of_every_grey_level_is_as_strong_as_it_is(dose, pedestal):
    ramp = np.linspace(0.15, 0.85, 768)[None].repeat(768, 0)
    found = [photon_transfer(counted(ramp, dose, pedestal, n)) for n in range(4)]
    true = [(pedestal + (1 - pedestal) * one.mean) / (dose * (1 - pedestal) ** 2) for one in found]
    assert np.mean([one.variance / line for one, line in zip(found, true)]) == pytest.approx(1, abs=0.008)
    assert np.mean([one.correlated for one in found]) == pytest.approx(1, abs=0.04)
    assert sum(one.low <= dose <= one.high for one in found) >= 3


def test_the_rounding_of_a_file_is_taken_off():
    noisy = np.clip(counted(scene(), 3000, 0.0), 0, 1)
    rounded = np.round(noisy * 80) / 80
    true, told, untold = (photon_transfer(*one) for one in ((noisy,), (rounded, 1 / 80), (rounded,)))
    assert told.dose == pytest.approx(true.dose, rel=0.1)
    assert told.pedestal < 0.02 < untold.pedestal  # it is the same at every grey level


def test_what_was_smoothed_is_not_independent():
    noisy = counted(scene(), 400, 0.0)
    assert photon_transfer(noisy).correlated == pytest.approx(1.0, abs=0.15)
    assert not photon_transfer(gaussian_filter(noisy, 0.7)).independent


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.random.default_rng(0).normal(scene(), 0.03), "does not grow with brightness"),
        (np.random.default_rng(0).normal(np.full((384, 384), 0.5), 0.01), "one grey level"),
        (counted(scene(), 400, 0.0)[:40], "too few blocks"),
        (np.zeros((384, 384)), "too few blocks"),
        (counted(scene(), 400, 0.0)[:1], "too few blocks"),
    ],
)
def test_an_image_that_tells_nothing_says_so(image, words):
    with pytest.raises(DataError, match=words):
        photon_transfer(image)


def test_a_pedestal_beyond_what_shot_noise_takes_is_refused(monkeypatch):
    lamella.build("perturbation", "shot-noise", pedestal=(MOST, MOST))
    monkeypatch.setattr("lamella_tem.photon_transfer.MOST", 0.5)
    with pytest.raises(DataError, match="does not grow"):
        photon_transfer(counted(scene(), 400, 0.6))


@pytest.mark.skipif(not STEM.is_dir(), reason="the real images are not on this machine")
def test_a_raw_stem_image_lies_on_its_line_and_one_with_shared_noise_is_told():
    def of(name):
        pixels = np.asarray(Image.open(STEM / name).convert("L"), float)
        low, high = np.percentile(pixels, (0.1, 99.9))
        return photon_transfer(np.clip((pixels - low) / (high - low), 0, 1), 1 / (high - low))

    raw = of("03_afterimage_8nm_crp.png")
    assert raw.independent and raw.off < 0.05 and 200 < raw.dose < 400
    assert not of("Grain_boundry_gold_512px.png").independent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for number, dose in enumerate((150, 600)):
        noisy = counted(scene(seed=number), dose, 0.2, number)
        Image.fromarray((np.clip(noisy, 0, 1) * 65535).round().astype(np.uint16)).save(images / f"{dose}.png")
    Image.fromarray((gaussian_filter(scene(), 2) * 255).astype(np.uint8)).save(images / "smooth.png")
    return images


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as leaving:
        main(["noise", *arguments])
    out = capsys.readouterr()
    return leaving.value.code or 0, out.out + out.err


def test_the_set_that_is_written_makes_the_noise_that_was_measured(folder, capsys):
    code, text = said(capsys, "images", "--name", "my tool", "--intensity", "dtype")
    assert code == 0 and "2 of 3 images tell their dose" in text
    chain = tomllib.loads(Path("noise.toml").read_text(encoding="utf-8"))["sets"]["my tool"]["chain"]
    low, high = chain[0]["dose"]
    assert (low, high) == (pytest.approx(150, rel=0.2), pytest.approx(600, rel=0.2))
    with Image.open("noise.png") as figure:
        assert figure.size[0] > 300
    pixels = torch.tensor(scene(seed=5), dtype=torch.float32)[None, None].expand(6, 1, -1, -1)
    made = current().plan("chain", chain, "test").build()(Batch.of(pixels), Streams(torch.arange(6)))
    again = [photon_transfer(image.numpy()[0].astype(float)).dose for image in made.image]
    assert all(0.75 * low < dose < 1.33 * high for dose in again)


@pytest.mark.parametrize(
    ("dtype", "white", "arguments"),
    [(np.uint8, 128, []), (np.uint16, 3000, ["--intensity", "data"]), (np.float32, 3000, ["--intensity", "data"])],
)
def test_the_set_adds_the_noise_that_is_there_under_the_white_of_training(dtype, white, arguments, folder, capsys):
    tifffile = pytest.importorskip("tifffile")
    clean = [scene(seed=n) for n in range(2)]
    noisy = [(white * counted(each, 400, 0.0, n)).round().astype(dtype) for n, each in enumerate(clean)]
    for number, image in enumerate(noisy):
        tifffile.imwrite(f"images/{number}.tif", image)
    for path in folder.glob("*.png"):
        path.unlink()
    code, text = said(capsys, "images", *arguments)
    assert code == 0 and "2 of 2 images tell their dose" in text
    modality = TemModality(intensity=(arguments or ["dtype"])[-1])
    modality.calibrate(noisy)

    def seen(images):
        return modality.collate([Sample(image, None, None, 0, n, (1, 1), {}, "") for n, image in enumerate(images)])

    taken = seen(noisy)
    there = taken.image - seen([(white * each).astype(dtype) for each in clean]).image
    written = tomllib.loads(Path("noise.toml").read_text(encoding="utf-8"))["sets"]["my-microscope"]["chain"]
    added = current().plan("chain", written, "test").build()(taken, Streams(torch.arange(2))).image - taken.image
    assert (added.var() / there.var()).item() == pytest.approx(1, abs=0.2)


def test_floats_have_no_range_of_their_own_here_either(folder, capsys):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("images/float.tif", (1000 * counted(scene(), 400, 0.0)).astype(np.float32))
    code, text = said(capsys, "images")
    assert code == 0 and "2 of 4 images tell their dose" in text
    assert "\nfloat.tif: floating-point pixels have no range of their own, which intensity = 'dtype' goes by" in text


def test_ends_of_all_images_leave_out_what_cannot_be_read(folder, capsys):
    Path("broken").mkdir()
    (Path("broken") / "broken.tif").write_bytes(b"no image")
    assert said(capsys, "broken", "--intensity", "data")[0] == 2
    (folder / "broken.tif").write_bytes(b"no image")
    code, text = said(capsys, "images", "--intensity", "data")
    assert code == 0 and "broken.tif: " in text


def test_every_frame_of_a_stack_tells_its_dose(folder, capsys):
    tifffile = pytest.importorskip("tifffile")
    frames = [np.clip(counted(scene(seed=n), dose, 0.2, n), 0, 1) for n, dose in enumerate((150, 600))]
    tifffile.imwrite("stack.tif", (np.stack(frames) * 65535).round().astype(np.uint16))
    code, text = said(capsys, "stack.tif", "--intensity", "dtype")
    assert code == 0 and "2 of 2 images tell their dose" in text and "stack.tif-f0001: dose" in text
    written = tomllib.loads(Path("noise.toml").read_text(encoding="utf-8"))
    low, high = written["sets"]["my-microscope"]["chain"][0]["dose"]
    assert (low, high) == (pytest.approx(150, rel=0.2), pytest.approx(600, rel=0.2))


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_measured(folder, capsys):
    (folder / "broken.tif").write_bytes(b"no image")
    code, text = said(capsys, "images", "--intensity", "dtype")
    assert code == 0 and "broken.tif: " in text and "2 of 4 images tell their dose" in text


def test_a_folder_without_a_dose_writes_nothing(folder, capsys):
    for path in folder.glob("*0.png"):
        path.unlink()
    code, text = said(capsys, "images")
    assert code == 2 and "take them as the microscope gave them" in text
    assert not Path("noise.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "is no folder and no file"),
        (["empty"], "no image is in it"),
        (["images", "--out", "noise.txt"], "end its name with .toml"),
        (["images", "--out", "there.toml"], "there.toml exists"),
        (["images", "--out", "mine.toml"], "mine.png exists"),
        (["images", "--out", "there.toml/noise.toml"], "cannot be written"),
    ],
)
def test_mistakes_end_in_a_sentence(folder, capsys, arguments, words):
    Path("empty").mkdir()
    Path("there.toml").write_text("mine")
    Path("mine.png").write_text("mine")
    code, text = said(capsys, *arguments)
    assert code == 2 and words in text and "Traceback" not in text
    assert Path("there.toml").read_text() == Path("mine.png").read_text() == "mine"
