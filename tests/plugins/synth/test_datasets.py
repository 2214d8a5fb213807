"""The two registered datasets, and the commands that write them."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import typer
from datasets import ClassLabel, load_dataset
from lamella.errors import ConfigError, DataError
from lamella_synth import plugin
from lamella_synth.command import gallery, synth
from lamella_synth.dataset import synth_tem
from lamella_synth.gallery import coloured, contact_sheet
from lamella_synth.presets import preset
from lamella_synth.sem.dataset import synth_sem
from lamella_synth.sem.presets import sem_preset
from lamella_synth.sem.review import review
from lamella_synth.tem.render import render
from PIL import Image
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run renders afresh, and leaves the user's cache alone."""
    folder = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)


def test_tem_rows_hold_what_was_rendered() -> None:
    made = preset("device-b")
    table = synth_tem(preset="device-b", count=3, seed=2, size=64, nuisance="in-family")
    row, shot = table[1], render(made, seed=2, index=1, size=64, nuisance="in-family")
    assert (np.asarray(row["image"]) == shot.image).all()
    assert (np.asarray(row["label"]) == shot.label).all()
    assert (np.asarray(row["instance"]) == shot.instance).all()
    assert row["classes"] == np.unique(shot.label).tolist()
    assert row["polarity"] == 1.0 and row["name"] == "device-b-s2-00001"
    assert row["pixel_nm"] == pytest.approx([118 / 64] * 2)
    assert {entry["quantity"]: entry["nm"] for entry in row["truth"]} == pytest.approx(shot.truth, rel=1e-6)
    assert (row["lot"], row["tool"], row["specimen"]) == tuple(shot.groups[k] for k in ("lot", "tool", "specimen"))
    assert row["nuisances"] == list(shot.nuisances)
    names = table.features["classes"].feature
    assert isinstance(names, ClassLabel) and tuple(names.names) == made.classes
    assert len(set(table["name"])) == 3


def test_neither_count_nor_workers_change_an_image() -> None:
    one = synth_tem(preset="gaa-a", count=4, size=64)
    two = synth_tem(preset="gaa-a", count=6, size=64, workers=2)
    assert one["name"] == two["name"][:4]
    for k in (0, 3):
        assert one[k] == {**two[k], **{c: one[k][c] for c in ("image", "label", "instance")}}
        for column in ("image", "label", "instance"):
            assert (np.asarray(one[k][column]) == np.asarray(two[k][column])).all()


def test_bright_field_is_asked_for_by_mode() -> None:
    table = synth_tem(preset="multilayer-a", count=2, size=64, mode="bright-field")
    assert set(table["polarity"]) == {-1.0}


def test_sem_rows_hold_both_magnifications() -> None:
    shot = review(sem_preset("sem-a"), seed=1, index=2, size=64)
    stacked = synth_sem(preset="sem-a", count=3, seed=1, size=64, layout="stacked")[2]
    apart = synth_sem(preset="sem-a", count=3, seed=1, size=64)[2]
    both = np.asarray(stacked["image"])
    assert both.shape == (64, 64, 2)
    assert (both[..., 0] == shot.high).all() and (both[..., 1] == shot.low).all()
    assert (np.asarray(apart["image"]) == shot.high).all() and (np.asarray(apart["low"]) == shot.low).all()
    assert ((np.asarray(apart["mask"]) == 255) == shot.mask_high).all()
    assert stacked["label"] == shot.label and stacked["classes"] == [shot.label]
    assert stacked["magnification"] == pytest.approx(shot.low_nm / shot.high_nm)
    assert stacked["wafer"] == shot.groups["wafer"]


@pytest.mark.parametrize("make", [lambda: synth_tem(count=0), lambda: synth_sem(count=0),
                                  lambda: synth_tem(preset="nothing"), lambda: synth_sem(layout="side")])
def test_bad_settings_are_told_before_anything_is_rendered(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError):
        make()


def program() -> typer.Typer:
    """Both commands, as the command line would hold them."""
    app = typer.Typer()
    app.command()(synth)
    app.command()(gallery)
    return app


@pytest.mark.parametrize(("name", "column"), [("gaa-b", "truth"), ("sem-c", "low")])
def test_the_command_writes_a_folder_that_datasets_loads(name: str, column: str, tmp_path: Path) -> None:
    settings = ["--preset", name, "--count", "2", "--size", "64", "--out", str(tmp_path)]
    ran = CliRunner().invoke(program(), ["synth", *settings])
    assert ran.exit_code == 0, ran.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "train.parquet"]
    table = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == 2 and column in table.column_names
    assert isinstance(table[0]["image"], Image.Image)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert name in card and table.features["classes"].feature.names[-1] in card


@pytest.mark.parametrize("name", ["README.md", "train.parquet"])
def test_files_that_the_command_did_not_write_are_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    settings = ["synth", "--preset", "demo-finfet", "--count", "2", "--size", "32", "--out", str(tmp_path)]
    ran = CliRunner().invoke(program(), settings)
    assert isinstance(ran.exception, DataError) and f"{name} is there and not of" in str(ran.exception)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]
    (tmp_path / name).unlink()
    for seed in ("0", "1"):  # its own are replaced
        assert CliRunner().invoke(program(), [*settings, "--seed", seed]).exit_code == 0
    assert "seed 1" in (tmp_path / "README.md").read_text()


def test_nothing_is_rendered_for_a_folder_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = Mock()
    monkeypatch.setattr("lamella_synth.dataset.synth_tem", rendered)
    (tmp_path / "file").write_text("mine")
    ran = CliRunner().invoke(program(), ["synth", "--out", str(tmp_path / "file")])
    assert isinstance(ran.exception, FileExistsError)  # which the command line tells as a sentence
    rendered.assert_not_called()


def test_the_listing_names_every_preset() -> None:
    ran = CliRunner().invoke(program(), ["synth", "--list"])
    assert ran.exit_code == 0 and "device-a" in ran.output and "sem-b" in ran.output
    assert preset("device-a").hash in ran.output


def test_a_command_without_a_target_says_so(tmp_path: Path) -> None:
    for arguments, told in (
        (["synth"], "--out"),
        (["synth", "--preset", "sem-a", "--nuisance", "unseen", "--out", str(tmp_path)], "nuisance"),
        (["synth", "--preset", "nope", "--out", str(tmp_path / "new")], "demo-finfet, sem-a, sem-b"),
        (["gallery", "--out", str(tmp_path / "sheet.txt")], "sheet.txt"),
    ):
        ran = CliRunner().invoke(program(), arguments)
        assert isinstance(ran.exception, DataError) and told in str(ran.exception)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg"])
def test_the_gallery_replaces_earlier_sheets_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamella_synth.gallery.contact_sheet", lambda **_: Image.new("RGB", (8, 8)))
    arguments = ["gallery", "--out", str(tmp_path / name)]
    assert [CliRunner().invoke(program(), arguments).exit_code for _ in range(2)] == [0, 0]
    Image.new("RGB", (4, 4)).save(tmp_path / name)
    ran = CliRunner().invoke(program(), arguments)
    assert isinstance(ran.exception, ConfigError) and f"{name} exists" in str(ran.exception)
    with Image.open(tmp_path / name) as mine:
        assert mine.size == (4, 4)


def test_the_contact_sheet_shows_every_generation() -> None:
    sheet = contact_sheet(size=32, devices=("gaa",))
    assert sheet.width == 150 + 5 * 32 and sheet.height >= 3 * 32
    assert coloured(np.array([[0, 6]]), 7)[0, 1].tolist() == [242, 25, 25]


def test_the_plugin_registers_what_exists() -> None:
    targets = list(plugin.lamella_datasets().values()) + [target for _, target in plugin.lamella_commands().values()]
    from importlib import import_module

    for target in targets:
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
    assert plugin.LAMELLA_API == 1
