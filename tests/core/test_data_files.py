"""Reading image and mask files: every bit depth as it is, and a sentence that names the file where it cannot be."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lamella.data.formats.files import image_stem, read_image, read_mask
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


def test_jpeg_is_read_as_grey_values(tmp_path):
    image = read_image(saved(tmp_path / "a.jpg", np.full((8, 8), 100, np.uint8)))
    assert (image.shape, image.dtype) == ((8, 8), np.uint8)
    assert abs(int(image.mean()) - 100) <= 1


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64])
def test_wider_integers_are_read_where_they_fit_sixteen_bits(tmp_path, dtype):
    image = read_image(saved(tmp_path / "a.tif", RAMP.astype(dtype) * 300))
    assert (image.dtype, image.tolist()) == (np.uint16, (RAMP.astype(np.uint16) * 300).tolist())


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_become_floating_point_exactly(tmp_path, value):
    image = read_image(saved(tmp_path / "a.tif", np.full((4, 4), value, np.int32)))
    assert (image.dtype, image.tolist()) == (np.float32, np.full((4, 4), float(value)).tolist())


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
