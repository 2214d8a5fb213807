"""Files of microscopes: pixels, pixel sizes and facts as the files, and the tests of others, state them."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from lamella.data.burnt_in.databar import find_bar
from lamella.data.formats.files import count_frames, files_of, image_files, read_image, read_mask, read_micrograph
from lamella.data.reading import Reading
from lamella.data.samples import FileRow
from lamella.data.sources import SourceConfig, open_source
from lamella.engine.inputs import Input, read_sample
from lamella.errors import DataError
from PIL import Image, ImageDraw

SHARED = Path(__file__).parents[3] / "shared" / "data"
FORMATS = SHARED / "microscope_formats"
real = pytest.mark.skipif(not FORMATS.is_dir(), reason="the microscope files are not beside this checkout")

# (size y, size x in nm; None unknown), (H, W), dtype, what the facts must hold. Some sizes stand in
# rosettasciio's own tests or were read from the headers by other means (h5py, struct, a TIFF's tags); the others are
# what rosettasciio and tifffile read, so for those the test guards against change only.
STATED = {
    "openncem/16_STOimage_1.ser": ((0.010012704, 0.010012704), (1024, 1024), "uint16", {}),
    "openncem/Camera Ceta Imaging Micro.emd": ((3.13883705, 3.13883705), (512, 512), "float32",
                                               {"detector": "BM-Ceta", "voltage_kv": "300", "instrument": "Titan"}),
    "openncem/STEM HAADF Diffraction Micro.emd": ((87.3707961, 87.3707961), (128, 128), "uint16",
                                                  {"detector": "HAADF"}),
    "openncem/dmTest_float32_nonSquare_diffPixelSize.dm3": ((0.2, 1.0), (64, 128), "float32", {}),
    "openncem/dmTest_float32_nonSquare_diffPixelSize.dm4": ((0.2, 1.0), (64, 128), "float32", {}),
    "rosettasciio/128x128_TEM_acquire-sum1.emi": ((21.4793175, 21.4793175), (128, 128), "float32",
                                                  {"magnification": "5500", "voltage_kv": "200"}),
    "rosettasciio/128x128_TEM_acquire-sum1_1.ser": ((21.4793175, 21.4793175), (128, 128), "float32",
                                                    {"instrument": "TalosF200X 200 kV D6308 XTwin"}),
    "rosettasciio/64x64_TEM_images_acquire_1.ser": ((6.2818336, 6.2818336), (64, 64), "float32",
                                                    {"detector": "WA-Orius", "magnification": "19500"}),
    "rosettasciio/FEI-Helios-Ebeam-16bits.tif": ((3372.4, 3372.4), (471, 512), "uint16",
                                                 {"detector": "ETD", "voltage_kv": "5", "magnification": "120"}),
    "rosettasciio/FEI-Helios-Ebeam-8bits.tif": ((3372.4, 3372.4), (471, 512), "uint8", {"voltage_kv": "5"}),
    "rosettasciio/HAADFscan.mrc": ((5.67913132, 5.67913132), (16, 16), "uint16", {}),
    "rosettasciio/TVIPS_bin4.tif": ((1.42080367, 1.42080367), (1024, 1024), "uint8",
                                    {"magnification": "32000", "voltage_kv": "99", "detector": "F416"}),
    "rosettasciio/View000_0000000.img": ((8.69140625, 8.69140625), (512, 512), "uint8", {"magnification": "40000"}),
    "rosettasciio/example_image.emd": (None, (3, 3), "float32", {"maker": "NCEM EMD"}),
    "rosettasciio/olympus_SIS.tif": ((0.0239279178, 0.0239279178), (101, 112), "uint16", {"magnification": "600000"}),
    "rosettasciio/test-1.dm3": (None, (2, 2), "float32", {}),
    "rosettasciio/test-1.dm4": (None, (2, 2), "float32", {}),
    "rosettasciio/test-MonarcCL_mono-image.dm4": ((18325.3498, 18325.3498), (2, 2), "uint16", {"voltage_kv": "3"}),
    "rosettasciio/test_STEM_image.dm3": ((0.248538017, 0.248538017), (68, 68), "float32",
                                         {"magnification": "225000", "voltage_kv": "200", "instrument": "FEI Titan"}),
    "rosettasciio/test_dm_image_um_unit.dm3": ((168.674693, 168.674693), (68, 68), "float32", {"voltage_kv": "200"}),
    "rosettasciio/test_loading_image_saved_with_DM.tif": ((168.674693, 168.674693), (68, 68), "float32", {}),
    "rosettasciio/test_loading_image_saved_with_imageJ.tif": ((168.674711, 168.674711), (68, 68), "float32", {}),
    "rosettasciio/test_loading_image_saved_with_imageJ_no_scale.tif": (None, (68, 68), "float32", {}),
    "rosettasciio/test_tiff_Zeiss_SEM_1k.tif": ((2614.514, 2614.514), (768, 1024), "uint8",
                                                {"detector": "HE-SE2", "voltage_kv": "25", "magnification": "105"}),
    # The file says 5.825 nm, which is a 1024th of its stated width of 5.965 µm; it has 512 pixels across.
    "rosettasciio/test_tiff_Zeiss_SEM_512pix.tif": ((11.649976, 11.649976), (384, 512), "uint8", {"voltage_kv": "5"}),
}  # fmt: skip
REFUSED = {
    "openncem/08_carbon.dm3": "no image of a specimen, but a spectrum of 2048 (eV)",
    "openncem/temp.mrc": "a stack of 3 frames",
    "rosettasciio/fei_example_tem_stack.emd": "a stack of 2 frames",
    "rosettasciio/test_diffraction_pattern.dm3": "a diffraction pattern of 87 (1/nm) × 87 (1/nm)",
    "rosettasciio/Elid2Version4.elid": "export the images of a Phenom project as TIFF",
    "rosettasciio/JEOL-SightX-TEM-mag-dummy.tif.gz": "unpack it first",
}
BOTH = {"rosettasciio/64x64_TEM_images_acquire.emi"}  # the same image as its .ser


@real
def test_every_file_is_either_read_or_refused():
    there = {path.relative_to(FORMATS).as_posix() for path in FORMATS.rglob("*") if path.is_file()}
    there -= {name for name in there if name.endswith((".md", ".npy"))}
    assert there == {*STATED, *REFUSED, *BOTH}


@real
@pytest.mark.parametrize("name", STATED, ids=lambda name: Path(name).name)
def test_a_file_gives_the_pixel_size_it_states(name):
    size, shape, dtype, facts = STATED[name]
    found = read_micrograph(FORMATS / name)
    assert (found.image.shape[:2], found.image.dtype.name) == (shape, dtype)
    if size is None:
        assert all(math.isnan(value) for value in found.pixel_nm)
    else:
        assert found.pixel_nm == pytest.approx(size, rel=1e-6)
    assert facts.items() <= found.facts.texts().items()


@real
@pytest.mark.parametrize("name", REFUSED, ids=lambda name: Path(name).name)
def test_what_is_no_image_is_refused_with_a_reason(name):
    with pytest.raises(DataError) as raised:
        read_micrograph(FORMATS / name)
    assert REFUSED[name] in str(raised.value)
    assert "\n" not in str(raised.value)


@real
def test_pixels_are_those_that_the_microscope_saved():
    expected = np.load(FORMATS / "rosettasciio" / "64x64_TEM_images_acquire.npy")
    for name in ("64x64_TEM_images_acquire_1.ser", "64x64_TEM_images_acquire.emi"):
        assert (read_image(FORMATS / "rosettasciio" / name) == expected).all()
    dm3, dm4 = (
        read_image(FORMATS / "openncem" / f"dmTest_float32_nonSquare_diffPixelSize.{s}") for s in ("dm3", "dm4")
    )
    assert (dm3 == dm4).all()
    with tifffile.TiffFile(FORMATS / "rosettasciio" / "olympus_SIS.tif") as file:
        assert (read_image(FORMATS / "rosettasciio" / "olympus_SIS.tif") == file.pages[1].asarray()).all()


@real
def test_jeol_sightx_divides_the_print_resolution_by_the_magnification(tmp_path):
    packed = FORMATS / "rosettasciio" / "JEOL-SightX-TEM-mag-dummy.tif.gz"
    (tmp_path / "jeol.tif").write_bytes(gzip.decompress(packed.read_bytes()))
    found = read_micrograph(tmp_path / "jeol.tif")
    assert found.pixel_nm == pytest.approx((0.0254 / 93 / 150000 * 1e9,) * 2, rel=1e-9)
    assert found.facts.texts()["instrument"] == "JEM-ARM200F"


@real
def test_frames_of_a_stack_are_samples_or_their_mean(tiny_registry):
    folder = FORMATS / "openncem"
    assert count_frames(folder / "temp.mrc") == 3
    each, mean = (
        open_source(SourceConfig(source=str(folder), images="*.mrc", stack=how), tiny_registry, "x", folder=Path())
        for how in ("each", "mean")
    )
    assert [row.name for row in each.rows] == ["temp.mrc-f0000", "temp.mrc-f0001", "temp.mrc-f0002"]
    frames = np.stack([each.read(i).image for i in range(3)])
    assert frames.std(0).max() > 0
    assert np.allclose(mean.read(0).image, frames.mean(0))
    assert each.read(1).pixel_nm == mean.read(0).pixel_nm == (0.2, 0.2)


@real
def test_facts_are_in_the_sample_and_on_request_group_columns(tiny_registry):
    config = SourceConfig(
        source=str(FORMATS), images="rosettasciio/*Zeiss*.tif", metadata=True, only={"detector": "InLens"}
    )
    table = open_source(config, tiny_registry, "here", folder=Path())
    assert [row.name for row in table.rows] == ["rosettasciio/test_tiff_Zeiss_SEM_512pix.tif"]
    sample = table.read(0)
    assert (sample.meta, sample.pixel_nm) == ({"magnification": 50000.0, "voltage_kv": 5.0}, (11.649976, 11.649976))
    assert table.rows[0].groups["instrument"] == "ULTRA 55-36-06"


def test_a_series_and_its_index_count_once(tmp_path):
    for name in ("a_1.ser", "a.emi", "b.emi", "c.dm3", "d.txt", "e.png"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path.iterdir())] == ["a_1.ser", "b.emi", "c.dm3", "e.png"]


def test_a_file_depends_on_what_is_read_with_it(tmp_path):
    for name in ("a_1.ser", "a.emi", "b_1.ser", "b_2.ser", "b.emi", "c_1.ser", "d.tif", "d.txt"):
        (tmp_path / name).write_bytes(b"x")

    def beside(name):
        first, *others = files_of(tmp_path / name)
        assert first == tmp_path / name
        return [path.name for path in others]

    assert beside("a_1.ser") == ["a.emi"] and beside("a.emi") == ["a_1.ser"]
    assert beside("b_1.ser") == [] and beside("b.emi") == ["b_1.ser", "b_2.ser"]  # not read for one of two
    assert beside("c_1.ser") == [] and beside("d.tif") == ["d.txt"]
    assert FileRow(tmp_path / "a_1.ser", None, None).files() == files_of(tmp_path / "a_1.ser")


# Data bars


@real
@pytest.mark.parametrize("bits", [8, 16])
def test_a_bar_that_the_file_tells_of_is_cut(bits):
    path = FORMATS / "rosettasciio" / f"FEI-Helios-Ebeam-{bits}bits.tif"
    whole, cut = read_micrograph(path), Reading().micrograph(path)
    assert (whole.image.shape[0], cut.image.shape[0], cut.pixel_nm) == (471, 442, whole.pixel_nm)
    assert whole.image[442:].max() > 0
    assert cut.image.max() == 0  # its pixels are blank but for the bar
    assert Reading("keep").micrograph(path).image.shape[0] == 471


@real
def test_bars_are_found_where_there_are_some_and_nowhere_else():
    sec = sorted((SHARED / "sem_ncm_x500_sidecar").glob("*.jpg"))
    assert {find_bar(read_image(path)) for path in sec} == {896}
    zeiss = {name: find_bar(read_image(FORMATS / "rosettasciio" / name)) for name in
             ("test_tiff_Zeiss_SEM_1k.tif", "test_tiff_Zeiss_SEM_512pix.tif")}  # fmt: skip
    assert list(zeiss.values()) == [691, 350]
    plain = [*(SHARED / "tem_dislocation_loops").rglob("*.png"), *(SHARED / "stem_atomic_raw").glob("*.png"),
             *(SHARED / "sem_ic_defect_pairs").glob("*.tif"),
             *(SHARED / "sem_nasa_superalloy_ebc").rglob("train/*.png")]  # fmt: skip
    assert len(plain) > 30
    assert [path.name for path in plain if find_bar(read_image(path)) is not None] == []


def drawn(height, width, bar, ground, ink):
    """Noise with a data bar below: text, a frame line."""
    pixels = np.random.default_rng(3).integers(70, 180, (height, width), np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, height - bar, width, height), fill=ground)
    draw.line((0, height - bar, width, height - bar), fill=ink)
    draw.text((8, height - bar + 6), "15.0 kV  x50.0k  SE  500 nm", fill=ink)
    return picture


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0), (12, 240)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_drawn_bar_is_found(tmp_path, ground, ink, suffix):
    drawn(240, 320, 30, ground, ink).save(tmp_path / f"a.{suffix}")
    found = find_bar(read_image(tmp_path / f"a.{suffix}"))
    assert found is not None and abs(found - 210) <= (0 if suffix == "png" else 1)


def test_an_image_that_fades_to_black_has_no_bar():
    ramp = np.linspace(255, 0, 240)[:, None].repeat(320, 1) + np.random.default_rng(0).normal(0, 3, (240, 320))
    assert find_bar(ramp.clip(0, 255).astype(np.uint8)) is None
    assert find_bar(np.zeros((64, 64), np.uint8)) is None


def test_a_mask_is_cut_with_its_image_whether_or_not_it_covers_the_bar(tmp_path, tiny_registry):
    mask = np.random.default_rng(0).integers(0, 2, (240, 320), np.uint8)
    for name, rows in (("whole", 240), ("cut", 210)):
        folder = tmp_path / name
        (folder / "masks").mkdir(parents=True)
        drawn(240, 320, 30, 0, 255).save(folder / "a.png")
        Image.fromarray(mask[:rows]).save(folder / "masks" / "a.png")
        config = SourceConfig(source=name, images="*.png", labels="masks/*", classes=["a", "b"], data_bar="find")
        sample = open_source(config, tiny_registry, "here", folder=tmp_path).read(0)
        assert sample.image.shape == (210, 320)
        assert (sample.label == mask[:210]).all()


# What is written beside an image

HITACHI = """[SemImageFile]
InstructName=SU8000
SerialNumber=123456-01
SignalName=SE(UL)
DataSize=320x200
PixelSize=3.96875
Magnification=25000
AcceleratingVoltage=5000 Volt
"""
JEOL = "$CM_FORMAT JEOL\n$CM_MAG 5000\n$CM_ACCEL_VOLT 15.00\n$CM_SIGNAL SEI\n$CM_INSTRUMENT 7001F\n" \
       "$CM_FULL_SIZE 320 200\n$$SM_MICRON_BAR 160\n$$SM_MICRON_MARKER 5um\n"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "encoding", "nm", "facts"),
    [
        (HITACHI, "utf-8", 3.96875, ("Hitachi", "SU8000", "SE(UL)", "25000", "5")),
        (HITACHI.replace("\n", "\r\n"), "utf-16", 3.96875, ("Hitachi", "SU8000", "SE(UL)", "25000", "5")),
        (JEOL, "utf-8", 5000 / 160, ("JEOL", "7001F", "SEI", "5000", "15")),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.tif.txt"])
def test_a_text_beside_the_image_tells_pixel_size_facts_and_data_bar(tmp_path, text, encoding, nm, facts, name):
    drawn(230, 320, 30, 0, 255).save(tmp_path / "a.tif")
    (tmp_path / name).write_bytes(text.encode(encoding))
    found = read_micrograph(tmp_path / "a.tif")
    assert found.pixel_nm == pytest.approx((nm, nm))
    assert tuple(found.facts.texts().values()) == facts
    assert Reading().micrograph(tmp_path / "a.tif").image.shape == (200, 320)


@real
def test_the_text_of_a_tabletop_microscope_is_read():
    found = read_micrograph(next((SHARED / "sem_ncm_x500_sidecar").glob("*.jpg")))
    assert tuple(found.facts.texts().values()) == ("SEC", "SNE-4500M Plus", "SED", "500", "20")


@pytest.mark.parametrize(
    "text", ["", "just a note: it rained", "[SemImageFile]\nPixelSize=none\n", "$CM_ \n$$SM_MICRON_BAR 0"]
)
def test_a_text_that_says_nothing_changes_nothing(tmp_path, text):
    Image.new("L", (8, 8), 3).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(text)
    found = read_micrograph(tmp_path / "a.png")
    assert (found.image.max(), found.rows) == (3, None)
    assert all(math.isnan(value) for value in found.pixel_nm)


# TIFF


@pytest.mark.parametrize(
    ("unit", "nm"), [("nm", 1.0), ("um", 1e3), ("micron", 1e3), ("\\u00B5m", 1e3), ("angstrom", 0.1)]
)
def test_imagej_units_become_nm(tmp_path, unit, nm):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6), np.uint16), imagej=True, resolution=(4.0, 2.0),
                     metadata={"unit": unit})  # fmt: skip
    assert read_micrograph(tmp_path / "a.tif").pixel_nm == pytest.approx((nm / 2, nm / 4))


def test_ome_sizes_become_nm(tmp_path):
    told = {
        "axes": "YX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 6), np.uint16), metadata=told)
    assert read_micrograph(tmp_path / "a.ome.tif").pixel_nm == pytest.approx((500.0, 0.25))


@pytest.mark.parametrize("axis", ["X", "Y"])
def test_a_size_in_one_direction_is_none_and_what_is_told_beside_the_image_counts(tmp_path, axis):
    told = {"axes": "YX", f"PhysicalSize{axis}": 0.5, f"PhysicalSize{axis}Unit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 6), np.uint16), metadata=told)
    assert np.isnan(read_micrograph(tmp_path / "a.ome.tif").pixel_nm).all()
    given = read_sample("a", Input(tmp_path / "a.ome.tif"), Reading(), 3.0)
    assert given.pixel_nm == (3.0, 3.0)
    (tmp_path / "a.ome.txt").write_text(HITACHI)
    assert read_micrograph(tmp_path / "a.ome.tif").pixel_nm == (3.96875, 3.96875)


def test_a_print_resolution_is_no_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6), np.uint8), resolution=(300, 300), resolutionunit="INCH")
    assert math.isnan(read_micrograph(tmp_path / "a.tif").pixel_nm[0])


def test_white_is_zero_is_turned_round_in_images_and_left_alone_in_masks(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 10], [20, 255]], np.uint8), photometric="miniswhite")
    assert read_image(tmp_path / "a.tif").tolist() == [[255, 245], [235, 0]]
    assert read_mask(tmp_path / "a.tif").tolist() == [[0, 10], [20, 255]]


def test_compressed_tiffs_are_read_without_further_packages(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 9, (40, 30), np.uint8)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "zstd"):
        Image.fromarray(pixels).save(tmp_path / f"{compression}.tif", compression=compression)
        assert (read_image(tmp_path / f"{compression}.tif") == pixels).all()


def test_a_header_that_promises_more_than_the_file_holds_is_refused_before_memory_is_taken(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.uint8))
    raw = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    for place in places:
        raw[place : place + 4] = (60000).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.tif.*(promises|damaged)"):
        read_image(tmp_path / "a.tif")


def test_the_package_that_a_format_needs_is_named(monkeypatch, tmp_path):
    from lamella.data.formats import rosetta

    def missing(name):
        raise ImportError("No module named 'rsciio'", name="rsciio")

    monkeypatch.setattr(rosetta, "import_module", missing)
    (tmp_path / "a.dm3").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"a\.dm3: Gatan DM3 files need the package 'rsciio': install lamella\[microscopes\]"
    ):
        read_image(tmp_path / "a.dm3")
