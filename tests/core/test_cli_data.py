"""``lamella data``: what is in a set, what is there twice, and a set on the Hub that comes back as it went."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from datasets import ClassLabel
from hub_server import Hub
from lamella import IGNORE
from lamella.cli.main import main
from lamella.data.balanced import classes_of
from lamella.data.duplicates import clusters, near_duplicates, thumbnail
from lamella.data.sources import SourceConfig, open_source
from lamella.data.splits import by_fold
from lamella.engine.publish import write_set
from lamella.errors import ConfigError, DataError
from PIL import Image
from tiny_plugin import squares


@pytest.fixture
def lamella(capsys, tiny_registry_file, tmp_path, monkeypatch):
    """Run the command line in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def scans(tmp_path):
    """Eight images and masks in a folder, among them a copy, a turned copy, a flat and a damaged one."""
    folder = tmp_path / "scans"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows = list(squares(count=8, seed=11, size=48))
    for i, row in enumerate(rows):
        name, pixels = f"{'ab'[i % 2]}_{i}", np.asarray(row["image"]).copy()
        if i == 4:
            pixels = np.clip(np.asarray(rows[0]["image"]) * 0.7 + 20, 0, 255).astype(np.uint8)
        if i == 5:
            pixels = np.rot90(np.asarray(rows[1]["image"]))
        if i == 6:
            pixels[:] = 90
        tifffile.imwrite(folder / "images" / f"{name}.tif", pixels, imagej=True, resolution=(4.0, 2.0),
                         metadata={"unit": "nm"})  # fmt: skip
        row["label"].save(folder / "masks" / f"{name}.png")
    (folder / "images" / "b_7.tif").write_bytes(b"II*\0nothing")
    return folder


SET = ["--set", "images=images/*", "--set", "labels=masks/*", "--set", "classes=['ground', 'square', 'disc']",
       "--set", "group='^(?P<lot>[ab])_'"]  # fmt: skip


def test_inspect_says_what_is_there_and_what_is_strange(lamella, scans, tmp_path):
    code, out, _ = lamella("data", "inspect", scans, *SET, "--sheet", tmp_path / "sheet.png", "--files")
    assert code == 0
    for line in (
        "sizes: 48×48 (7)", "pixels: uint8 (7)", "pixel size: 0.5 × 0.25 nm (7)", "lot: a (4), b (4)",
        "contact sheet:", "2 near-duplicates:",
    ):  # fmt: skip
        assert line in out
    assert "images/a_0.tif and images/a_4.tif (1.00)" in out
    assert "images/b_1.tif and images/b_5.tif (1.00, turned)" in out
    assert "images/a_6.tif: the image is nearly flat (grey values 90 to 90)" in out
    assert "b_7.tif: the file cannot be read" in out
    assert "images/a_2.tif: 48×48  uint8  pixel 0.5 × 0.25 nm  lot a" in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900


def test_a_sheet_replaces_earlier_sheets_alone(lamella, scans, tmp_path):
    import tifffile

    for mine in (scans / "images" / "a_0.tif", scans / "masks" / "a_0.png", tmp_path):
        before = mine.is_file() and mine.read_bytes()
        code, _, err = lamella("data", "inspect", scans, *SET, "--sheet", mine)
        assert code == 2 and f"{mine} exists, and is no sheet that lamella wrote" in err
        assert (mine.is_file() and mine.read_bytes()) == before
    for name, kind in (("sheet.png", "PNG"), ("sheet.JPG", "JPEG")):
        for _ in range(2):
            assert lamella("data", "inspect", scans, *SET, "--sheet", tmp_path / name)[0] == 0
        with Image.open(tmp_path / name) as sheet:
            assert sheet.format == kind
    (tmp_path / "sheet.png").unlink()
    tifffile.imwrite(tmp_path / "sheet.png", np.zeros((8, 8), np.uint8), software="lamella contact sheet")
    assert lamella("data", "inspect", scans, *SET, "--sheet", tmp_path / "sheet.png")[0] == 2


@pytest.mark.parametrize("name", ["2024", "true", "a = b"])
def test_a_folder_may_have_a_name_that_is_a_value(lamella, tmp_path, name):
    (tmp_path / name).mkdir()
    next(iter(squares(count=1)))["image"].save(tmp_path / name / "a.png")
    assert f"{name}: 1 sample\n" in lamella("data", "inspect", name)[1]


def test_an_image_of_twelve_bits_in_sixteen_is_not_called_flat(lamella, tmp_path):
    (tmp_path / "deep").mkdir()
    chance = np.random.default_rng(0)
    for name, mean, spread in (("a", 2000, 400), ("b", 205, 2), ("c", 30000, 20)):
        pixels = chance.normal(mean, spread, (64, 64)).clip(0, 65535).astype(np.uint16)
        tifffile.imwrite(tmp_path / "deep" / f"{name}.tif", pixels)
    flat = [line for line in lamella("data", "inspect", "deep")[1].splitlines() if "nearly flat" in line]
    assert [line.strip()[0] for line in flat] == ["b", "c"]


def test_inspect_as_json_counts_classes(lamella, scans):
    found = json.loads(lamella("data", "inspect", scans, *SET, "--json")[1])["sets"]["data"]
    masks = [np.asarray(Image.open(path)) for path in sorted((scans / "masks").glob("*.png")) if path.stem != "b_7"]
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=3)
    for name, count in zip(("ground", "square", "disc"), counts, strict=True):
        assert found["classes"][name]["share"] == pytest.approx(count / counts.sum())
        assert found["classes"][name]["samples"] == 7
    assert found["duplicate_groups"] == [["images/a_0.tif", "images/a_4.tif"], ["images/b_1.tif", "images/b_5.tif"]]


def test_inspect_takes_a_registered_set_and_its_columns(lamella):
    code, out, _ = lamella("data", "inspect", "{ name = 'tiny-squares', count = 3 }", "--limit", "2")
    assert (code, "3 samples" in out, "sizes: 32×32 (2)" in out) == (0, True, True)
    assert "classes          List of ClassLabel (ground, square, disc)" in out
    assert "pixel_nm         List of float32" in out


def test_what_roles_share_is_said(lamella, tmp_path, tiny_text):
    (tmp_path / "leak.toml").write_text(tiny_text.replace("count = 4, seed = 1", "count = 2, seed = 0"))
    code, out, _ = lamella("data", "inspect", "leak.toml")
    assert code == 0
    assert "[labelled]" in out and "[test]" in out
    assert "2 shared between roles:" in out
    assert "s0-0001 of labelled and s0-0001 of test show the same (1.00)" in out
    (tmp_path / "sound.toml").write_text(tiny_text)
    assert "shared between roles" not in lamella("data", "inspect", "sound.toml")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "nowhere"], "source = 'nowhere' is no registered dataset"),
        (["inspect", "scans", "--set", "labels"], "--set 'labels' must read KEY=VALUE"),
        (["inspect", "scans", "--set", "lables=x"], "unknown key 'lables'"),
        (["push", "scans", "squares"], "'squares' must read org/name"),
    ],
)
def test_a_mistake_is_one_sentence(lamella, scans, arguments, said):
    code, _, err = lamella("data", *arguments)
    assert code == 2
    assert said in err and len(err.splitlines()) == 1


# Near-duplicates


def altered(image):
    """Ways in which one image comes twice."""
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    random = np.random.default_rng(0)
    return {
        "jpeg": np.asarray(Image.open(buffer)),
        "16 bit": image.astype(np.uint16) * 150 + 300,
        "dim": (image * 0.5 + 30).astype(np.uint8),
        "half": image[::2, ::2],
        "noise": np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8),
        "turned": np.rot90(image),
        "mirrored": image[:, ::-1],
        "colour": np.repeat(image[..., None], 3, axis=2),
    }


@pytest.mark.parametrize("way", list(altered(np.zeros((4, 4), np.uint8))))
def test_an_altered_copy_is_found_and_another_image_is_not(way):
    images = [np.asarray(row["image"]) for row in squares(count=12, seed=3, size=96)]
    thumbnails = [thumbnail(image) for image in [*images, altered(images[5])[way]]]
    pairs = near_duplicates(thumbnails)
    assert [(pair.first, pair.second, pair.turned) for pair in pairs] == [(5, 12, way in ("turned", "mirrored"))]
    assert clusters(pairs, 13) == [[5, 12]]


def test_flat_images_are_like_none():
    flat = thumbnail(np.full((40, 40), 7, np.uint8))
    assert near_duplicates([flat, flat, thumbnail(np.zeros((5, 9)))]) == []
    assert near_duplicates([]) == near_duplicates([flat]) == []


# Parts that share no group


def test_folds_keep_groups_whole_and_are_about_equal():
    rows = [{"lot": f"L{i % 7}"} for i in range(70)] + [{"lot": "L9"}] * 20
    parts = [by_fold(rows, "lot", 3, [part]) for part in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(90))
    lots = [{rows[i]["lot"] for i in part} for part in parts]
    assert all(not one & other for one, other in ((lots[0], lots[1]), (lots[0], lots[2]), (lots[1], lots[2])))
    assert [len(part) for part in parts] == [30, 30, 30]
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(90)]
    assert {shuffled[i]["lot"] for i in by_fold(shuffled, "lot", 3, [1])} == lots[1]
    assert by_fold(rows, "lot", 3, [0, 2]) == sorted(parts[0] + parts[2])


def test_folds_of_a_source_part_it(tiny_registry, tmp_path):
    def names(take):
        config = SourceConfig(source="tiny-squares", fold={"column": "lot", "of": 2, "take": take})
        return [row.name for row in open_source(config, tiny_registry, "here", folder=tmp_path).rows]

    assert names([0]) == ["s0-0000", "s0-0002", "s0-0004", "s0-0006"]
    assert names([1]) == ["s0-0001", "s0-0003", "s0-0005", "s0-0007"]
    for of, take, column, said in (
        (3, [0], "lot", "only 2 groups"),
        (2, [2], "lot", "no part 2"),
        (2, [0], "die", "columns are lot"),
    ):
        config = SourceConfig(source="tiny-squares", fold={"column": column, "of": of, "take": take})
        with pytest.raises(ConfigError, match=said):
            open_source(config, tiny_registry, "here", folder=tmp_path)


# To the Hub


def test_a_set_written_as_parquet_comes_back_as_it_was(scans, tiny_registry, tmp_path):
    float_image = np.linspace(0, 3, 48 * 48, dtype=np.float32).reshape(48, 48)
    tifffile.imwrite(scans / "images" / "a_6.tif", float_image)
    (scans / "images" / "b_7.tif").unlink()
    config = SourceConfig(source=str(scans), images="images/*", labels="masks/*", group="^(?P<lot>[ab])_",
                          classes=["ground", "square", "disc"])  # fmt: skip
    table = open_source(config, tiny_registry, "here", folder=tmp_path)
    files = write_set(table, tmp_path / "out", "train", shard=3000)
    assert len(files) > 1
    assert files[0].name == f"train-00000-of-{len(files):05d}.parquet"
    read = 0
    for file in files:
        again = open_source(SourceConfig(source=str(file)), tiny_registry, "here", folder=tmp_path)
        assert again.classes.names == table.classes.names
        for i in range(len(again)):
            one, other = table.read(read), again.read(i)
            assert one.image.dtype == other.image.dtype
            assert (one.image == other.image).all() and (one.label == other.label).all()
            assert (one.name, one.groups["lot"]) == (other.name, other.groups["lot"])
            assert np.array_equal(one.pixel_nm, other.pixel_nm, equal_nan=True)
            read += 1
    assert read == len(table) == 7


def test_a_written_set_keeps_classes_and_facts_and_nothing_of_an_older_one(tiny_registry, tmp_path):
    rows = squares(count=3).remove_columns(["label"])
    rows = rows.add_column("label", [2, 0, 1]).add_column("stage", [None, 1.5, None])
    rows.cast_column("label", ClassLabel(names=["a", "b", "c"])).to_parquet(tmp_path / "a.parquet")
    config = SourceConfig(source=str(tmp_path / "a.parquet"))
    table = open_source(config, tiny_registry, "here", folder=tmp_path)
    write_set(table, tmp_path / "out", "train", shard=1)
    (file,) = write_set(table, tmp_path / "out", "train")
    assert [path for path in (tmp_path / "out" / "data").iterdir()] == [file]
    again = open_source(SourceConfig(source=str(file)), tiny_registry, "here", folder=tmp_path)
    assert [again.read(i).label for i in range(3)] == [2, 0, 1] and again.classes.names == ("a", "b", "c")
    assert again.read(1).meta["stage"] == 1.5 and "stage" not in again.read(0).meta


def test_the_hubs_minus_one_is_no_label(lamella, tiny_registry, tmp_path):
    rows = squares(count=3).remove_columns(["label"]).add_column("label", [1, -1, 0])
    rows.cast_column("label", ClassLabel(names=["a", "b"])).to_parquet(tmp_path / "a.parquet")
    table = open_source(SourceConfig(source="a.parquet"), tiny_registry, "here", folder=tmp_path)
    (file,) = write_set(table, tmp_path / "out", "train")
    for source in ("a.parquet", str(file)):
        table = open_source(SourceConfig(source=source), tiny_registry, "here", folder=tmp_path)
        assert classes_of(table, "labelled") == [1, IGNORE, 0]
        found = json.loads(lamella("data", "inspect", source, "--json")[1])["sets"]["data"]
        assert found["classes"] == {"a": {"share": 0.5, "samples": 1}, "b": {"share": 0.5, "samples": 1}}


def test_what_is_pushed_replaces_parquet_files_of_the_split_alone_and_only_once_it_is_written(
    lamella, tiny_registry, tmp_path
):
    for number, row in enumerate(squares(count=3)):
        (tmp_path / "data").mkdir(exist_ok=True)
        row["image"].save(tmp_path / "data" / f"train-{number:03d}.png")
    assert lamella("data", "push", "data", "lab/mine", "--out", ".")[0] == 0
    there = {"train-000.png", "train-001.png", "train-002.png", "train-00000-of-00001.parquet"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == there
    tifffile.imwrite(tmp_path / "data" / "a.tif", np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    table = open_source(SourceConfig(source=str(tmp_path / "data")), tiny_registry, "here", folder=tmp_path)
    with pytest.raises(DataError, match="16 bits"):
        write_set(table, tmp_path, "train")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {*there, "a.tif"}


def test_group_columns_of_every_source_are_pushed(scans, tiny_registry, tmp_path):
    (scans / "images" / "b_7.tif").unlink()
    plain = SourceConfig(source=str(scans), images="images/*")
    lots = SourceConfig(source=str(scans), images="images/*", group="^(?P<lot>[ab])_")
    table = open_source(plain.model_copy(update={"more": [lots]}), tiny_registry, "here", folder=tmp_path)
    (file,) = write_set(table, tmp_path / "out", "train")
    again = open_source(SourceConfig(source=str(file)), tiny_registry, "here", folder=tmp_path)
    assert [row.groups["lot"] for row in again.rows[7:]] == [row.groups["lot"] for row in table.rows[7:]]


def test_what_no_picture_can_hold_is_not_pushed(tiny_registry, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    table = open_source(SourceConfig(source=str(tmp_path)), tiny_registry, "here", folder=tmp_path)
    with pytest.raises(DataError, match="several channels of 16 bits"):
        write_set(table, tmp_path / "out", "train")


def test_a_readme_of_somebody_else_is_left_as_it_is(lamella, tmp_path):
    source, out = "{ name = 'tiny-squares', count = 3, seed = 2 }", tmp_path / "mine"
    out.mkdir()
    (out / "README.md").write_text("# My notes\n")
    code, _, err = lamella("data", "push", source, "lab/mine", "--out", out)
    assert code == 2 and "README.md is there and no card of `lamella data push`" in err
    assert (out / "README.md").read_text() == "# My notes\n" and not (out / "data").exists()
    (out / "README.md").unlink()
    assert [lamella("data", "push", source, "lab/mine", "--out", out)[0] for _ in range(2)] == [0, 0]


def test_an_experiment_of_one_role_becomes_a_set_of_that_split(lamella, tmp_path, tiny_text):
    one = tiny_text[: tiny_text.index("[data.test]")] + tiny_text[tiny_text.index("[trainer]") :]
    (tmp_path / "one.toml").write_text(one)
    assert lamella("data", "push", "one.toml", "lab/mine", "--out", "mine")[0] == 0
    assert [path.name for path in (tmp_path / "mine" / "data").iterdir()] == ["labelled-00000-of-00001.parquet"]
    assert 'split = "labelled"' in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def test_the_card_of_an_experiment_counts_all_of_its_splits(lamella, tmp_path, tiny_text):
    (tmp_path / "tiny.toml").write_text(tiny_text)
    assert lamella("data", "push", "tiny.toml", "lab/mine", "--out", "mine")[0] == 0
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert re.search(r"- samples: (\d+) \(labelled \d+, .*test \d+\); what follows is of labelled\n", card)


@pytest.mark.parametrize(
    ("source", "split", "said"),
    [
        ("{ name = 'tiny-squares', count = 3, seed = 2 }", "test-a", "letters, digits, _ and single dots inside alone"),
        ("tiny.toml", "test", "--split goes with one source; the splits of an experiment file are its roles"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_anything_is_written(
    lamella, tmp_path, tiny_text, source, split, said
):
    (tmp_path / "tiny.toml").write_text(tiny_text)
    code, _, err = lamella("data", "push", source, "lab/mine", "--out", "mine", "--split", split)
    assert code == 2 and said in err and not (tmp_path / "mine").exists()


def test_a_pushed_set_is_on_the_hub_with_a_card_and_loads(tiny_registry_file, tmp_path):
    hub = Hub({})
    source = "{ name = 'tiny-squares', count = 5, seed = 2 }"
    code = (
        "import contextlib\nfrom lamella.cli.main import main\nwith contextlib.suppress(SystemExit):\n"
        f"    main(['data', 'push', {source!r}, 'lab/mine', '--license', 'cc0-1.0', '--note', 'Five squares.'])\n"
        "main(['data', 'inspect', 'lab/mine', '--json'])\n"
    )
    with hub.serve() as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0",
                       "HF_DATASETS_CACHE": str(tmp_path / "sets"), "HF_TOKEN": "hf_right", "HF_HUB_DISABLE_XET": "1",
                       "LAMELLA_REGISTRY": str(tiny_registry_file)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert "5 samples in 1 parquet file" in done.stdout
    assert f"pushed to {url}/datasets/lab/mine" in done.stdout
    found = json.loads(done.stdout[done.stdout.index("{") :])["sets"]["data"]
    assert (found["samples"], found["pixel_nm"]) == (5, {"0.5 nm": 5})
    assert [row["name"] for row in found["rows"]] == [f"s2-{i:04d}" for i in range(5)]
    card = hub.uploaded["README.md"].decode()
    for line in ("license: cc0-1.0", "Five squares.", "- samples: 5", "path: data/train-*", 'source = "lab/mine"'):
        assert line in card
