"""Headers that promise what their file cannot hold are refused before the readers believe them."""

import struct

import numpy as np
import pytest
import tifffile
from lamella.data.formats.files import read_mask, read_micrograph
from lamella.data.formats.plausible import plausible
from lamella.errors import DataError


def ser(elements=1, text=4):
    dimension = struct.pack("<I2dII", 1, 0.0, 1.0, 0, text) + b"Numb" + struct.pack("<I", 0)
    return struct.pack("<2s2H5I", b"II", 0x197, 0x210, 0x4122, 0x4152, elements, elements, 70) + struct.pack("<I", 1) + dimension  # noqa: E501  # fmt: skip


def img(width, height):
    return b"\0" * 40 + b"\x05\0\0\0Size\0" + struct.pack("<4i", 8, 8, width, height) + b"\0" * 100


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.ser", ser(elements=2**32 - 7), "4294967289 images"),
        ("a.ser", ser(text=2**31), "a text of 2147483648 bytes"),
        ("a.ser", b"II", "a header"),
        ("a.mrc", struct.pack("<4i", 40000, 40000, 9, 1) + b"\0" * 2000, "40000 × 40000 × 9 pixels"),
        ("a.mrc", struct.pack(">4i", 40000, 40000, 9, 1) + b"\0" * 2000, "40000 × 40000 × 9 pixels"),
        ("a.mrc", struct.pack("<4i", 8, -8, 1, 0) + b"\0" * 2000, "8 × -8 × 1 pixels"),
        ("a.img", img(2**20, 2**20), "1048576 × 1048576 pixels"),
    ],
)
def test_a_promise_beyond_the_file_is_said(tmp_path, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"its header promises .*; it is damaged or cut short") as caught:
        plausible(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.ser", ser()),
        ("a.mrc", struct.pack("<4i", 8, 8, 1, 1) + b"\0" * 2000),
        ("a.img", img(10, 10)),
        ("a.dm3", b"anything"),
        ("a.tif", b"no TIFF at all, whatever it is called"),
    ],
)
def test_what_may_be_whole_is_left_to_its_reader(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    plausible(path)


def test_a_set_in_an_emd_file_that_was_never_written_is_seen(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.emd", "w") as file:
        file.create_dataset("Data/Image/x/Data", (512, 512, 2**30), "u2", chunks=(64, 64, 1))
    with pytest.raises(DataError, match="512 × 512 × 1073741824 values in Data/Image/x/Data"):
        plausible(tmp_path / "a.emd")


@pytest.mark.parametrize("large", [False, True])
def test_pages_that_go_round_in_a_circle_are_refused(tmp_path, large):
    path, image = tmp_path / "a.tif", np.zeros((5, 8, 9), np.uint8)
    tifffile.imwrite(path, image, photometric="minisblack", metadata=None, bigtiff=large)
    plausible(path)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
        tags, entry, count = len(file.pages[4].tags), *((20, 8) if large else (12, 2))
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q" if large else "<I", data, offsets[4] + count + entry * tags, offsets[2])
    path.write_bytes(data)
    for read in (plausible, read_mask, read_micrograph):
        with pytest.raises(DataError, match="circle"):
            read(path)


def test_what_does_not_fit_into_memory_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")

    def full(*_, **__):
        raise MemoryError("16 GiB")

    monkeypatch.setattr("lamella.data.formats.files.read_raster", full)
    with pytest.raises(DataError, match="does not fit into memory"):
        read_micrograph(path)
