"""Scale bars burnt into an image: found, read, or refused; drawn with other fonts and renderers than the templates.

``LAMELLA_BARS=300 pytest -s tests/core/test_scale_bar.py`` draws so many, reads every real image, and prints
how many are read right and wrong; ``LAMELLA_FONTS=FOLDER`` draws with the ``*.ttf`` of a folder.
"""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lamella.data.burnt_in.barline import find_bars
from lamella.data.burnt_in.scalebar import SURE, read_scale_bar
from lamella.data.config import SourceConfig
from lamella.data.formats.files import SUFFIXES, read_image
from lamella.data.reading import Reading
from lamella.data.sources import open_source
from lamella.errors import DataError
from PIL import Image, ImageDraw, ImageFont

REAL = Path(__file__).parents[3] / "shared" / "data"
COUNT = int(os.environ.get("LAMELLA_BARS", "12"))
TTF = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
OTHERS = ("DejaVuSans-Oblique", "DejaVuSerif-Italic", "DejaVuSansMono-Bold", "STIXGeneralItalic", "cmss10", "cmr10")
"""Fonts that no template is drawn from; the last two have no µ."""
FONTS = sorted(Path(os.environ["LAMELLA_FONTS"]).glob("*.ttf")) if "LAMELLA_FONTS" in os.environ else [
    TTF / f"{name}.ttf" for name in OTHERS
]  # fmt: skip
STEP = 1 if COUNT >= 100 else 6
"""Every which real image is read."""
LENGTHS = ("1", "2", "5", "10", "20", "50", "100", "200", "500", "0.5", "1.0", "2.5", "300", "25")
TEXTS = {  # what a person reads in the images of EMPS; those not named have no bar, no text, or only a ruler of dots
    "00655d9628": 200, "027f25010a": 100, "03a1d18cc6": 10, "1a29c5b84f": 200, "1e0f5d817e": 100, "3027f9ffe7": 1e4,
    "33f8a59619": 20, "36de69b2c0": 100, "3bbd05202e": 50, "47286679c2": 100, "5737e0c2c7": 200, "611b9564a4": 100,
    "62594342ac": 200, "6db657d4f7": 1000, "707120d0f5": 100, "78bda6c73b": 50, "7f1a5b0782": 1000, "802e607c7c": 50,
    "82c99bbb53": 200, "893215335a": 10, "9dc60257e5": 500, "a3eb38c236": 500, "a4b639ab1a": 200, "bf6f1a320a": 50,
    "ce2f96aae1": 3000, "dc25ff5266": 200, "dedf11eb6c": 500, "e4268d7502": 200, "e6bfc43298": 200, "e853d120fa": 100,
    "ec62d76c0a": 200, "f6f3758bf4": 1000, "fcc97c015c": 100,
}  # fmt: skip


def draw(seed, ground=None):
    """An image with a bar; what it says in nm; its pixels."""
    chance = random.Random(seed)
    noise = np.random.default_rng(seed)
    size = chance.choice([(480, 640), (512, 512), (768, 1024)])
    if ground is None:
        ground = chance.uniform(50, 190) + np.linspace(-25, 25, size[1]) + noise.normal(0, chance.uniform(1, 20), size)
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    file, number = chance.choice(FONTS), chance.choice(LENGTHS)
    unit = chance.choice(["nm", "um"] if file.name.startswith("cm") else ["nm", "µm", "um"])
    text, light = f"{number}{chance.choice([' ', ''])}{unit}", chance.random() < 0.6
    ink = chance.randrange(240, 256) if light else chance.randrange(12)
    font = ImageFont.truetype(str(file), chance.randrange(18, 44))
    long, thick = chance.randrange(50, size[1] // 3), chance.randrange(2, 12)
    pen = ImageDraw.Draw(image)
    x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
    left, top = chance.randrange(12, size[1] - max(long, x1 - x0) - 12), size[0] - thick - 14
    at = left + (long - x1 + x0) // 2 if chance.random() < 0.5 else left
    at = min(max(at, 4), size[1] - (x1 - x0) - 4)
    if chance.random() < 0.4:  # in a box or data bar
        pen.rectangle([0, top - (y1 - y0) - 20, size[1], size[0]], fill=0 if light else 255)
        ink = 255 if light else 0
    pen.rectangle([left, top, left + long - 1, top + thick - 1], fill=ink)
    pen.text((at - x0, top - 8 - y1), text, fill=ink, font=font)
    if chance.random() < 0.3:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=85)
        image = Image.open(packed)
    return np.asarray(image), float(number) * (1 if unit == "nm" else 1000), long


def judged(images):
    """How many are read right, wrong, and refused: wrong is another text, or a bar that is 2 % and 1.5 pixels off."""
    counts = {"right": 0, "wrong": [], "refused": 0}
    for name, image, nm, long in images:
        try:
            found = read_scale_bar(image)
        except DataError:
            counts["refused"] += 1
            continue
        right = found.nm == pytest.approx(nm) and (long is None or abs(found.pixels - long) <= max(1.5, 0.02 * long))
        if right:
            counts["right"] += 1
        else:
            counts["wrong"].append((name, found.text, found.pixels, nm, long))
    return counts


def test_drawn_bars_are_read_or_refused():
    counts = judged((seed, *draw(seed)) for seed in range(COUNT))
    print(f"{COUNT} drawn: {counts['right']} right, {counts['refused']} refused, wrong: {counts['wrong']}")
    assert counts["right"] >= 0.3 * COUNT
    assert len(counts["wrong"]) <= 0.02 * COUNT


@pytest.mark.parametrize(("text", "nm"), [("200 nm", 200), ("5 µm", 5000), ("0.5 µm", 500)])
def test_bars_that_matplotlib_draws_are_read(text, nm):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    figure = Figure((6, 5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(np.random.default_rng(0).normal(90, 8, (500, 600)), cmap="gray", vmin=0, vmax=255)
    axes.add_artist(
        AnchoredSizeBar(axes.transData, 150, text, "lower right", pad=1, color="white", frameon=False, size_vertical=5,
                        sep=6, fontproperties=FontProperties(size=16))
    )  # fmt: skip
    canvas.draw()
    found = read_scale_bar(np.asarray(canvas.buffer_rgba())[..., :3])
    assert found.nm == nm
    assert found.pixels == pytest.approx(150, abs=1.5)
    assert found.confidence >= SURE


@settings(max_examples=40, deadline=None)
@given(
    top=st.integers(5, 50), thick=st.integers(1, 9), left=st.integers(5, 60), long=st.integers(30, 90),
    ink=st.sampled_from([0, 255]), end=st.floats(0, 1),
)  # fmt: skip
def test_the_length_of_a_bar_is_known_to_a_fraction_of_a_pixel(top, thick, left, long, ink, end):
    grey = np.full((70, 200), 120, np.float32)
    grey[0, 0], grey[0, 1] = 0, 255
    grey[top : top + thick, left : left + long] = ink
    grey[top : top + thick, left + long] = 120 + end * (ink - 120)  # a pixel that is bar in part
    bars = [bar for bar in find_bars(grey) if bar.top == top and bar.bottom == top + thick]
    assert len(bars) == 1
    assert bars[0].length == pytest.approx(long + end, abs=0.01)


def test_two_bars_that_disagree_are_refused_and_two_that_agree_are_not():
    image = np.full((300, 500), 80, np.uint8)
    image[::7, ::5] = 90
    pen = ImageDraw.Draw(picture := Image.fromarray(image))
    font = ImageFont.truetype(str(TTF / "DejaVuSans.ttf"), 22)
    for top, text in ((250, "100 nm"), (100, "100 nm")):
        pen.rectangle([60, top, 259, top + 5], fill=255)
        pen.text((120, top - 34), text, fill=255, font=font)
    assert read_scale_bar(np.asarray(picture)).pixel_nm == pytest.approx(0.5, rel=0.01)
    pen.rectangle([60, 60, 300, 105], fill=80)
    pen.rectangle([60, 100, 179, 105], fill=255)
    pen.text((80, 66), "200 nm", fill=255, font=font)
    with pytest.raises(DataError, match="disagree"):
        read_scale_bar(np.asarray(picture))


def test_a_bar_without_a_text_and_a_text_without_a_bar_are_refused():
    image = np.full((300, 500), 80, np.uint8)
    image[250:255, 60:260] = 255
    with pytest.raises(DataError, match="no length"):
        read_scale_bar(image, "a.png")
    pen = ImageDraw.Draw(picture := Image.fromarray(np.full((300, 500), 80, np.uint8)))
    pen.text((120, 200), "100 nm", fill=255, font=ImageFont.truetype(str(TTF / "DejaVuSans.ttf"), 22))
    with pytest.raises(DataError, match=r"a\.png: "):
        read_scale_bar(np.asarray(picture), "a.png")


@pytest.mark.parametrize("image", [np.zeros((64, 64), np.uint8), np.zeros((8, 90), np.uint8), np.eye(200) * 9])
def test_flat_tiny_and_empty_images_have_none(image):
    with pytest.raises(DataError, match="no scale bar"):
        read_scale_bar(image)


@pytest.fixture
def barred(tmp_path):
    """A folder of an image with a bar in a data bar, and one without."""
    image, nm, long = draw(3)
    assert read_scale_bar(image).nm == nm
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 120), np.uint8)).save(tmp_path / "b.png")
    return tmp_path, nm / long


def test_the_key_gives_samples_their_pixel_size_and_where_it_is_from(barred, tiny_registry):
    folder, pixel = barred
    table = open_source(SourceConfig(source=".", pixel_nm="scale-bar"), tiny_registry, "here", folder=folder)
    first, second = table.read(0), table.read(1)
    assert first.pixel_nm == pytest.approx((pixel, pixel), rel=0.02)
    assert SURE <= first.meta["scale_bar"] <= 1
    assert np.isnan(second.pixel_nm).all() and second.meta["scale_bar"] == 0
    plain = open_source(SourceConfig(source="."), tiny_registry, "here", folder=folder).read(0)
    assert np.isnan(plain.pixel_nm).all() and "scale_bar" not in plain.meta


def test_what_the_file_says_comes_before_the_bar(barred):
    import tifffile

    folder, _ = barred
    tifffile.imwrite(
        folder / "c.tif", read_image(folder / "a.png"), imagej=True, resolution=(2, 2), metadata={"unit": "nm"}
    )
    found = Reading(scale_bar=True).micrograph(folder / "c.tif")
    assert found.pixel_nm == (0.5, 0.5) and found.facts.scale_bar == 0


def test_the_bar_is_read_before_it_is_cut_off(barred):
    folder, pixel = barred
    found = Reading("find", scale_bar=True).micrograph(folder / "a.png")
    assert found.pixel_nm[0] == pytest.approx(pixel, rel=0.02)


def test_a_parquet_file_of_images_can_be_read_so_too(barred, tiny_registry):
    import datasets

    folder, pixel = barred
    rows = {"image": [str(folder / "a.png")]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "set.parquet"))
    config = SourceConfig(source="set.parquet", pixel_nm="scale-bar")
    assert open_source(config, tiny_registry, "here", folder=folder).read(0).pixel_nm[0] == pytest.approx(
        pixel, rel=0.02
    )


def test_inspect_says_what_was_read_and_why_not(barred):
    folder, _ = barred
    command = [sys.executable, "-m", "lamella", "data", "inspect", str(folder), "--set", "pixel_nm=scale-bar", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)["sets"]["data"]
    assert sorted(size.endswith("by the scale bar") for size in facts["pixel_nm"]) == [False, True]
    assert any(line.startswith("b.png: no scale bar was found") for line in facts["suspicious"])
    assert [row["scale_bar"] >= SURE for row in facts["rows"]] == [True, False]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside this checkout")
def test_real_images_are_read_as_a_person_reads_them():
    emps = ((path.stem, read_image(path), TEXTS.get(path.stem, -1), None)
            for path in sorted((REAL / "em_particles_emps" / "images").iterdir())[::STEP])  # fmt: skip
    counts = judged(emps)
    print(f"EMPS, {len(TEXTS)} of 44 with bar and text: {counts['right']} right, wrong: {counts['wrong']}")
    assert counts["right"] >= (20 if STEP == 1 else 1)
    assert counts["wrong"] == []
    files = sorted((REAL / "sem_ncm_x500_sidecar").glob("*.jpg"))[::STEP]
    counts = judged((path.stem, read_image(path), 1e5, 376.5) for path in files)
    print(f"SEC, {len(files)} images of 100 µm: {counts['right']} right, wrong: {counts['wrong']}")
    assert counts["right"] == len(files)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "nm", "length"),
    [("test_tiff_Zeiss_SEM_1k.tif", 2614.51, 2e5), ("test_tiff_Zeiss_SEM_512pix.tif", 11.65, 200),
     ("FEI-Helios-Ebeam-8bits.tif", 3372.4, 5e5), ("TVIPS_bin4.tif", 1.4208, 200)],
)  # fmt: skip
def test_the_bar_says_what_the_header_says(name, nm, length):
    from lamella.data.formats.files import read_micrograph

    path = next((REAL / "microscope_formats").rglob(name))
    found = read_scale_bar(read_micrograph(path).image)
    print(f"{name}: {found.text} on {found.pixels:.1f} pixels, {found.pixel_nm:.2f} nm; the header says {nm}")
    assert found.nm == length
    assert abs(found.pixels - length / nm) <= 3  # a bar is drawn in whole pixels, with strokes at its ends


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside this checkout")
def test_images_without_a_bar_have_none():
    skipped = ("annot", "masks", "segmaps", "sem_ncm", "Zeiss", "Helios", "TVIPS")
    paths = [path for path in sorted(REAL.rglob("*")) if path.suffix.lower() in SUFFIXES
             and not any(part in str(path) for part in skipped) and path.stem not in TEXTS]  # fmt: skip
    paths = paths[:: 2 * STEP - 1]
    false, tried = [], 0
    for path in paths:
        try:
            image = read_image(path)
        except DataError:
            continue
        tried += 1
        try:
            false.append((path.name, read_scale_bar(image).text))
        except DataError:
            continue
    print(f"{tried} images without a bar: {len(false)} read nevertheless")
    assert tried and false == []
