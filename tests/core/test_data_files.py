"""Reading image and mask files: every bit depth as it is, and a sentence that names the file where it cannot be."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lamella.data.config import SourceConfig
from lamella.data.folders import from_folder
from lamella.data.formats.files import count_frames, image_stem, read_image, read_mask, read_micrograph
from lamella.data.reading import Reading
from lamella.data.survey import survey
from lamella.engine.inputs import find_images, with_frames
from lamella.errors import DataError
from PIL import Image

RAMP = np.arange(96, dtype=np.uint8).reshape(8, 12)


def saved(path, pixels, mode=None):
    """Write with Pillow, or with tifffile for a TIFF."""
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels)
    else:
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_eight_and_sixteen_bits_are_read_as_they_are(tmp_path, name, dtype):
    pixels = RAMP.astype(dtype) * (257 if dtype == np.uint16 else 1)
    image = read_image(saved(tmp_path / name, pixels))
    assert image.dtype == dtype
    assert (image == pixels).all()


def test_floating_point_tiffs_are_read_as_float32(tmp_path):
    image = read_image(saved(tmp_path / "a.tif", RAMP.astype(np.float64) / 7))
    assert (image.dtype, image.max()) == (np.float32, np.float32(95 / 7))


@pytest.mark.parametrize(
    ("mode", "shape"), [("RGB", (8, 12, 3)), ("RGBA", (8, 12, 3)), ("L", (8, 12)), ("LA", (8, 12)), ("P", (8, 12, 3))]
)
def test_images_of_any_mode_come_without_alpha_and_palette(tmp_path, mode, shape):
    image = read_image(saved(tmp_path / "a.png", RAMP, mode))
    assert (image.dtype, image.shape) == (np.uint8, shape)
    assert (image.reshape(8, 12, -1)[..., 0] == RAMP).all()


def test_one_bit_images_are_black_and_white(tmp_path):
    image = read_image(saved(tmp_path / "a.png", RAMP > 40))
    assert (image.dtype, np.unique(image).tolist()) == (np.uint8, [0, 255])
    assert ((image == 255) == (RAMP > 40)).all()


def test_grey_with_alpha_palettes_and_inks_of_a_tiff_are_seen_as_those_of_a_png(tmp_path):
    palette = Image.fromarray(RAMP)
    palette.putpalette([255 - v for v in range(256) for _ in range(3)])
    for name, image in (("la", Image.fromarray(RAMP).convert("LA")), ("p", palette)):
        image.save(tmp_path / f"{name}.png")
        image.save(tmp_path / f"{name}.tif")
        assert (read_image(tmp_path / f"{name}.tif") == read_image(tmp_path / f"{name}.png")).all()
    inks = np.zeros((8, 12, 4), np.uint8)
    inks[..., 0], inks[:4, :, 3] = RAMP, 100
    tifffile.imwrite(tmp_path / "inks.tif", inks, photometric="separated")
    by_pillow = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")).astype(int)
    assert abs(read_image(tmp_path / "inks.tif") - by_pillow).max() <= 1


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_may_lie_plane_after_plane(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 255, (2, channels, 6, 8), np.uint8)
    path = tmp_path / "planes.tif"
    tifffile.imwrite(path, pixels[0], photometric="rgb", planarconfig="separate")
    expected = pixels.transpose(0, 2, 3, 1)
    assert (read_image(path) == expected[0, ..., :3]).all() and (read_mask(path) == expected[0]).all()
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="separate")
    assert count_frames(path) == 2
    assert (read_micrograph(path, 1).image == expected[1, ..., :3]).all()


@pytest.mark.parametrize(("dtype", "expected"), [(np.uint8, 2), (np.uint16, 2), (np.float32, 1.75)])
def test_the_mean_of_a_stack_is_of_the_type_of_its_frames(tmp_path, dtype, expected):
    frames = np.stack([np.full((6, 8), value, dtype) for value in (1, 2, 2, 2)])
    tifffile.imwrite(tmp_path / "stack.tif", frames, photometric="minisblack")
    mean = read_micrograph(tmp_path / "stack.tif", "mean").image
    assert mean.dtype == dtype and (mean == expected).all()


def test_where_white_is_zero_white_is_bright(tmp_path):
    tifffile.imwrite(tmp_path / "grey.tif", RAMP, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "bits.tif", RAMP > 40, photometric="miniswhite")
    Image.fromarray(RAMP).save(tmp_path / "lzw.tif", compression="tiff_lzw", tiffinfo={262: 0})
    assert (read_image(tmp_path / "grey.tif") == 255 - RAMP).all()
    assert ((read_image(tmp_path / "bits.tif") == 0) == (RAMP > 40)).all()
    assert (read_image(tmp_path / "lzw.tif") == np.asarray(Image.open(tmp_path / "lzw.tif"))).all()
    assert (read_mask(tmp_path / "lzw.tif") == read_image(tmp_path / "lzw.tif")).all()


@pytest.mark.parametrize(("kind", "values"), [(2, 3), (6, 4), (4, 2)])
def test_a_png_of_sixteen_bits_and_several_values_keeps_them(tmp_path, kind, values):
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 12, values)).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 12, 8, 16, kind, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks.items()]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    if kind == 4:
        with pytest.raises(DataError, match=r"a\.png: grey of 16 bits with an alpha channel"):
            read_image(tmp_path / "a.png")
        return
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint16 and (image == pixels[..., :3]).all()


@pytest.mark.parametrize("colours", [2, 4, 8])
def test_a_mask_of_one_class_is_not_damaged(tmp_path, colours):
    image = Image.fromarray(np.zeros((4096, 4096), np.uint8))
    image.putpalette([v for c in range(colours) for v in (c, c, c)])
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").shape == (4096, 4096)
    Image.fromarray(np.random.default_rng(0).random((1024, 1024)) > 0.5).save(tmp_path / "b.tif")
    assert read_mask(tmp_path / "b.tif").shape == (1024, 1024)


def test_a_tiff_that_only_looks_like_a_makers_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RAMP, description="no XML", extratags=[(271, "s", 0, "JEOL Ltd.", True)])
    assert (read_image(tmp_path / "a.tif") == RAMP).all()


def test_jpeg_is_read_as_grey_values(tmp_path):
    image = read_image(saved(tmp_path / "a.jpg", np.full((8, 8), 100, np.uint8)))
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)
    assert abs(int(image.mean()) - 100) <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_a_mask_saved_as_jpeg_is_refused_and_read_as_an_image_all_the_same(tmp_path, name):
    path = saved(tmp_path / name, (np.eye(32) * 255).astype(np.uint8))
    assert len(np.unique(read_image(path))) > 2  # what is drawn in two values has many
    with pytest.raises(DataError, match="JPEG changes the values of a mask; save it as PNG from where it was drawn"):
        read_mask(path)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("factor", [1, -1, 700])
def test_other_integers_become_floating_point_whatever_their_values(tmp_path, dtype, factor):
    values = (RAMP.astype(np.int64) * factor).astype(dtype)
    image = read_image(saved(tmp_path / "a.tif", values))
    assert (image.dtype, image.tolist()) == (np.float32, values.astype(np.float32).tolist())
    assert (read_mask(tmp_path / "a.tif") == values).all() and read_mask(tmp_path / "a.tif").dtype == dtype


def test_palette_masks_are_read_as_their_indices_and_palette_images_as_colours(tmp_path):
    mask = Image.fromarray((RAMP % 3).astype(np.uint8))
    mask.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    mask.save(tmp_path / "a.png")
    assert (read_mask(tmp_path / "a.png") == RAMP % 3).all()
    assert read_image(tmp_path / "a.png")[0, 1].tolist() == [40, 50, 60]


@given(pixels=arrays(np.uint16, (3, 5), elements=st.integers(0, 65535)))
def test_what_is_written_is_what_is_read(tmp_path_factory, pixels):
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.png", "a.tif"):
        assert (read_image(saved(folder / name, pixels)) == pixels).all()
        assert (read_mask(folder / name) == pixels).all()


def cut(path):
    saved(path, np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def holed(value):
    def make(path):
        pixels = RAMP.astype(np.float32)
        pixels[3, 3] = value
        tifffile.imwrite(path, pixels)

    return make


BAD = {
    "cut.png": cut,
    "cut.jpg": cut,
    "cut.tif": cut,
    "empty.png": lambda path: path.write_bytes(b""),
    "empty.tif": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("these are no pixels"),
    "text.tif": lambda path: path.write_text("these are no pixels"),
    "nan.tif": holed(np.nan),
    "inf.tif": holed(np.inf),
    "large.tif": lambda path: tifffile.imwrite(path, np.full((8, 12), 1e300)),
    "stack.tif": lambda path: tifffile.imwrite(path, np.zeros((5, 8, 12), np.uint8), photometric="minisblack"),
    "complex.tif": lambda path: tifffile.imwrite(path, RAMP.astype(np.complex64)),
    "gone.png": lambda path: None,
    "folder.png": lambda path: path.mkdir(),
    "notes.txt": lambda path: path.write_text("no image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path, name, capfd):
    BAD[name](tmp_path / name)
    with pytest.raises(DataError) as raised:
        read_image(tmp_path / name)
    message = str(raised.value)
    assert message.startswith(str(tmp_path / name))
    assert "\n" not in message
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", [name for name in BAD if name.split(".")[0] in ("cut", "empty", "text", "gone")])
def test_a_bad_mask_is_one_sentence_that_names_it(tmp_path, name):
    BAD[name](tmp_path / name)
    with pytest.raises(DataError, match=name):
        read_mask(tmp_path / name)


@pytest.mark.parametrize(
    ("mask", "image"),
    [("a", "a"), ("a_mask", "a"), ("a-label", "a"), ("a_GT", "a"), ("a_1_seg", "a_1"), ("masked", "masked")],
)
def test_the_ending_of_a_mask_is_no_part_of_the_name_of_its_image(mask, image):
    assert image_stem(mask) == image


def test_images_in_folders_below_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    for ask in (lambda: survey(tmp_path), lambda: find_images([tmp_path])):
        with pytest.raises(DataError, match=r"the folder holds no image \(\.png"):
            ask()
    for number in range(1, 8):
        (tmp_path / f"lot{number}").mkdir()
        saved(tmp_path / f"lot{number}" / "x.png", RAMP)
    below = r"holds no image itself, only below it, in lot1, lot2, lot3, lot4, lot5 and 2 more: "
    with pytest.raises(DataError, match=below + r"give one of these; an .*, as images = \[\"lot1/\*\", \"lot2/\*\"\]"):
        survey(tmp_path)
    with pytest.raises(DataError, match=below + "give these$"):
        find_images([tmp_path])
    config = SourceConfig(source=str(tmp_path), images=["lot1/*", "lot2/*"])
    assert len(from_folder(tmp_path, config, None)) == 2  # as it says


def test_a_stack_is_refused_with_the_places_where_it_is_said_what_to_do(tmp_path):
    path = saved(tmp_path / "a.tif", np.zeros((7, 8, 12), np.uint8))
    with pytest.raises(DataError, match=r"in \[data\.ROLE\] of the experiment or as predict --stack, says what"):
        read_image(path)


def test_a_frame_never_takes_the_name_of_another_image(tmp_path):
    saved(tmp_path / "scan-f0000.png", RAMP)
    for name in ("scan.tif", "scan.tiff"):
        tifffile.imwrite(tmp_path / name, np.stack([RAMP, RAMP]), photometric="minisblack")
    found = with_frames(find_images([tmp_path]), Reading(stack="each"))
    assert {name: (one.path.name, one.frame) for name, one in found.items()} == {
        "scan-f0000": ("scan-f0000.png", None), "scan.tif-f0000": ("scan.tif", 0), "scan-f0001": ("scan.tif", 1),
        "scan.tiff-f0000": ("scan.tiff", 0), "scan.tiff-f0001": ("scan.tiff", 1),
    }  # fmt: skip


def test_what_macos_keeps_beside_a_file_is_no_image(tmp_path):
    for name in ("x.png", "_y.png", ".z.png"):
        saved(tmp_path / name, RAMP)
    (tmp_path / "._x.png").write_bytes(b"Mac OS X")
    found = survey(tmp_path)
    assert (sorted(found.pairs), found.problems) == ([".z", "_y", "x"], [])
    assert sorted(find_images([tmp_path])) == [".z", "_y", "x"]


def test_a_folder_in_place_of_a_file_is_called_one(tmp_path):
    with pytest.raises(DataError, match="it is a folder; one image file is asked for"):
        read_image(tmp_path)
