"""Whatever a user hands over: one sentence that names it, exit code 2, no traceback, nothing lost."""

import json
import os
import re
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lamella.cli.main import main
from lamella.data.classes import Classes
from lamella.data.formats.files import read_image, read_mask
from lamella.data.sources import SourceConfig, open_source
from lamella.engine.experiment import check_experiment, read_experiment
from lamella.errors import LamellaError
from lamella.registry.plugins import RegistryFile
from PIL import Image

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
OUTCOMES: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def counted():
    """Print how many bad inputs were tried, and what became of them."""
    yield
    print("\nbad inputs:", dict(OUTCOMES), "in all", sum(OUTCOMES.values()))


def told(attempt, what):
    """Run ``attempt``; it may succeed, or fail in one sentence that holds ``what``; nothing else."""
    try:
        attempt()
    except LamellaError as error:
        OUTCOMES["clear error"] += 1
        assert "\n" not in str(error) and len(str(error)) > 15
        assert what in str(error)
    else:
        OUTCOMES["read"] += 1


def encoded(kind):
    """A small valid file of a kind, as bytes."""
    pixels = np.arange(30 * 20, dtype=np.uint16).reshape(30, 20) * 100
    buffer = BytesIO()
    if kind == "tif":
        tifffile.imwrite(buffer, pixels)
    else:
        Image.fromarray((pixels >> 8).astype(np.uint8)).save(buffer, {"png": "PNG", "jpg": "JPEG"}[kind])
    return buffer.getvalue()


@MANY
@given(kind=st.sampled_from(["png", "jpg", "tif"]), cut=st.floats(0, 1), data=st.data())
def test_damaged_files(tmp_path_factory, kind, cut, data):
    whole = bytearray(encoded(kind))
    if data.draw(st.booleans(), "cut short"):
        whole = whole[: int(cut * len(whole))]
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), "bytes"):
        if place < len(whole):
            whole[place] = value
    path = tmp_path_factory.mktemp("damaged") / f"image.{kind}"
    path.write_bytes(bytes(whole))
    told(lambda: read_image(path), path.name)
    told(lambda: read_mask(path), path.name)


@MANY
@given(content=st.binary(max_size=200), kind=st.sampled_from(["png", "jpg", "tif", "txt", ""]))
def test_files_of_anything(tmp_path_factory, content, kind):
    path = tmp_path_factory.mktemp("anything") / f"image.{kind}"
    path.write_bytes(content)
    told(lambda: read_image(path), path.name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(-2, 2) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "seed",
    "modality",
    "data",
    "data.labelled",
    "data.labelled.source",
    "data.labelled.classes",
    "data.labelled.slice",
    "data.labelled.subset",
    "data.labelled.only",
    "data.labelled.pixel_nm",
    "trainer",
    "trainer.name",
    "trainer.backbone",
    "trainer.loss",
    "fit",
    "fit.steps",
    "fit.batch_size",
    "fit.crop",
    "fit.optimizer",
    "fit.optimizer.lr",
    "fit.schedule",
    "fit.precision",
    "unknown",
    "fit.unknown",
    "trainer.unknown",
    "data.labelled.unknown",
]


@MANY
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_wrong_values_in_an_experiment(tiny_registry, key, value):
    tables = {
        "modality": "tiny-grey",
        "data": {"labelled": {"source": {"name": "tiny-squares", "count": 3}}},
        "trainer": {"name": "tiny-plain", "backbone": "tiny-conv"},
        "fit": {"optimizer": {}},
    }
    *parents, last = key.split(".")
    table = tables
    for parent in parents:
        table = table[parent]
    table[last] = value

    def attempt():
        experiment = check_experiment(tables, name="x", folder=Path("."), registry=tiny_registry, where="x.toml")
        experiment.open("labelled")

    told(attempt, "")


@MANY
@given(text=st.text(max_size=60))
def test_experiment_and_registry_files_of_anything(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("toml") / "some.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    told(lambda: read_experiment(path), "some.toml")
    told(lambda: RegistryFile.read(path), "some.toml")


@MANY
@given(spec=st.lists(st.text(max_size=5), max_size=4) | st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_classes_of_anything(spec):
    told(lambda: Classes.of(spec), "class")


def folder_with(tmp_path, image, mask):
    for name, content in (("a.png", image), ("b.png", image)):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(content)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(mask)
    (tmp_path / "masks" / "b.png").write_bytes(mask)
    return tmp_path


def png(pixels, mode=None):
    buffer = BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, "PNG")
    return buffer.getvalue()


GREY = png(np.full((16, 16), 9, np.uint8))
BAD_MASKS = {
    "coloured": (png(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)), "colours"),
    "of another size": (png(np.zeros((8, 16), np.uint8)), "8×16"),
    "out of range": (png(np.full((16, 16), 7, np.uint8)), "value 7"),
    "16 bit out of range": (png(np.full((16, 16), 700, np.uint16)), "value 700"),
    "cut short": (GREY[:40], "damaged or cut short"),
    "empty": (b"", "0 bytes"),
}


@pytest.mark.parametrize("what", BAD_MASKS)
def test_bad_masks_are_named(tmp_path, tiny_registry, what):
    mask, reason = BAD_MASKS[what]
    folder = folder_with(tmp_path, GREY, mask)
    config = SourceConfig(source=str(folder), images="images/*", labels="masks/*", classes=["ground", "other"])
    with pytest.raises(LamellaError, match=reason) as caught:
        open_source(config, tiny_registry, "[data.labelled]", folder=tmp_path).read(0)
    assert "a.png" in str(caught.value)
    OUTCOMES["clear error"] += 1


def test_a_palette_mask_is_read_as_its_indices(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((4, 4), np.nan, np.float32), "NaN"),
        (np.zeros((5, 6, 7), np.uint8), r"neither \(H, W\)"),
        (np.zeros((4, 4), np.complex64), "not supported"),
    ],
)
def test_tiff_pixels_that_make_no_image(tmp_path, pixels, reason):
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    with pytest.raises(LamellaError, match=reason):
        read_image(tmp_path / "x.tif")
    OUTCOMES["clear error"] += 1


def test_one_pixel_is_an_image(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.full((1, 1), 3, np.uint8))
    assert read_image(tmp_path / "x.tif").shape == (1, 1)


COMMANDS = [
    ["train", "missing.toml"],
    ["train", "missing", "--resume"],
    ["train", "tiny.toml", "--set", "fit.steps"],
    ["train", "tiny.toml", "--set", "fit.stepz=3"],
    ["train", "tiny.toml", "--set", "fit.steps='many'"],
    ["train", "tiny.toml", "--set", "data.labelled.source='nowhere'"],
    ["train", "tiny.toml", "--set", "trainer.name='supervizd'"],
    ["predict", "missing", "missing.png", "--out", "out"],
    ["evaluate", "missing"],
    ["init", "missing"],
    ["show", "perturbations"],
    ["show", "backbone", "tiny-con"],
    ["nothing"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_end_with_two_and_one_line(arguments, tiny_file, tiny_registry_file, monkeypatch, capsys):
    monkeypatch.chdir(tiny_file.parent)
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    with pytest.raises(SystemExit) as left:
        main(arguments)
    errors = capsys.readouterr().err.strip()
    assert left.value.code == 2
    assert re.fullmatch(r"lamella: .+", errors), errors
    OUTCOMES["clear error"] += 1


def test_aliases_that_go_round_in_a_circle(tmp_path):
    from lamella.registry.registry import Registry

    file = tmp_path / "registry.toml"
    file.write_text('[plugins]\nenable = []\n[alias]\n"loss:a" = "b"\n"loss:b" = "a"\n')
    with pytest.raises(LamellaError, match="circle"):
        Registry.load(RegistryFile.read(file)).get("loss", "a")
    OUTCOMES["clear error"] += 1


@pytest.mark.skipif(os.name == "nt", reason="file names are not bytes there")
def test_names_that_no_experiment_file_can_hold_are_told(tmp_path, tiny_registry_file, monkeypatch, capsys):
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "masks", os.fsdecode(b"k\xff")):
        (tmp_path / folder).mkdir()
        for number, name in enumerate(("a", "b\x7f'\"", "c[1]\n", os.fsdecode(b"k\xff1"))):
            pixels = np.random.default_rng(number).integers(0, 2 if folder == "masks" else 255, (16, 16), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    command = ["init", "images", "--labels", "masks", "--modality", "tiny-grey", "--trainer", "tiny-plain",
               "--backbone", "tiny-conv"]  # fmt: skip
    with pytest.raises(SystemExit):
        main(command)
    said = capsys.readouterr().out
    assert "3 images, 3 of them with a mask" in said
    assert said.count("no experiment file can hold a name that is no UTF-8") == 2
    assert len(read_experiment(tmp_path / "experiment.toml").open("labelled")) == 2
    command[1] = os.fsdecode(b"k\xff")
    with pytest.raises(SystemExit) as leaving:
        main([*command, "--out", "other.toml"])
    assert leaving.value.code == 2 and "k\\udcff: no experiment file can hold" in capsys.readouterr().err
    assert not (tmp_path / "other.toml").exists()


@pytest.mark.skipif(os.name == "nt", reason="file names are not bytes there")
def test_names_that_are_no_utf8_are_predicted_and_written(tmp_path, tiny_file, tiny_registry, monkeypatch):
    from lamella.engine.fit import fit
    from lamella.engine.predict import predict

    experiment = read_experiment(tiny_file, ["fit.steps=1"], registry=tiny_registry)
    fit(experiment, tmp_path / "run")
    monkeypatch.setattr("lamella.engine.run.read_experiment", lambda path, registry=None: experiment)
    images = tmp_path / "images"
    images.mkdir()
    (images / os.fsdecode(b"gr\xfcn.png")).write_bytes(GREY)
    (images / "damaged.png").write_bytes(GREY[:30])
    (images / "fine.png").write_bytes(GREY)
    outcome = predict(tmp_path / "run", [images], tmp_path / "out")
    assert len(outcome["done"]) == 2 and set(outcome["failed"]) == {"damaged"}
    assert "damaged" in json.loads((tmp_path / "out" / "failed.json").read_text())
    assert len((tmp_path / "out" / "areas.csv").read_text().splitlines()) == 3
    again = predict(tmp_path / "run", [images], tmp_path / "out")
    assert again["done"] == [] and len(again["skipped"]) == 2
