"""The studies of real micrographs: each can be begun, and reads what `arrange.py` makes of its download."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lamella.study.study import read_study
from PIL import Image
from public_stand_ins import picture, save

EXAMPLES = Path(__file__).parents[2] / "examples"


def loops(folder: Path) -> None:
    frame, mask = picture(1024, 1024), (picture(1024, 1024) > 230).astype(np.uint8) * 255
    for kind, pixels in (("imgs", frame), ("masks1", mask)):
        save(folder / "test" / kind / "3.png", pixels)
        for number in range(16):
            row, column = number // 8 * 128, number % 8 * 128
            crop = pixels[row : row + 128, column : column + 128].repeat(4, 0).repeat(4, 1)
            save(folder / "fov200nm" / kind / f"{number + 1}.png", crop)


def superalloy(folder: Path) -> None:
    for part, spots in (("train", (3, 4, 5)), ("val", (1,)), ("test", (2,))):
        for name in (f"spot{spot}_{angle}d_0" for spot in spots for angle in (0, 180)):
            image = picture(64, 64)
            over = np.stack([image] * 3, -1)
            over[:20, :20], over[40:44, 40:44] = (0, 0, 255), (255, 0, 0)
            save(folder / part / f"{name}.png", image)
            save(folder / f"{part}_annot" / f"{name}_mask.png", over)


@pytest.fixture
def arranged(request, tmp_path):
    """The study of a set whose stand-in was arranged, in a folder laid out as a checkout."""
    request.param(tmp_path / "download")
    name = request.param.__name__
    subprocess.run(
        [sys.executable, str(EXAMPLES / "public" / "arrange.py"), name, "download"], cwd=tmp_path, check=True
    )
    for folder in ("real", "paper"):
        shutil.copytree(EXAMPLES / folder, tmp_path / "examples" / folder)
    return tmp_path, read_study(tmp_path / "examples" / "real" / f"{name}.toml")


def begun(study, folder):
    for cell in study.cells():
        runs = {before: folder for before in study.needs(cell)}
        assert all(study.experiment_before(before, cell, runs).resolved() for before in runs)
        experiment = study.experiment(cell, runs)
        assert experiment.resolved()
        yield cell, experiment


@pytest.mark.parametrize("arranged", [loops], indirect=True)
def test_the_test_of_the_loops_is_no_part_of_what_is_learned_from(arranged):
    folder, study = arranged
    experiments = list(begun(study, folder))
    assert len(experiments) == 24
    cell, experiment = next(each for each in experiments if each[0].row == "anchored")
    labelled, unlabelled, test = (experiment.open(role) for role in ("labelled", "unlabelled", "test"))
    assert (cell.column, len(labelled), len(unlabelled), len(test)) == ("labels-2", 2, 16, 12)
    assert list(labelled.classes.names) == ["background", "defect"]
    frame, mask = (np.asarray(Image.open(folder / "download" / "test" / kind / "3.png")) for kind in ("imgs", "masks1"))
    for sample in (unlabelled.read(i) for i in range(16)):
        assert np.array_equal(sample.image.squeeze(), frame[place_of(sample)])
    for sample in (labelled.read(i) for i in range(2)):
        assert np.array_equal(sample.label, mask[place_of(sample)] // 255)
    tiles = [test.read(i) for i in range(12)]
    whole = np.concatenate([np.concatenate([t.image.squeeze() for t in row], 1) for row in by_place(tiles)])
    assert np.array_equal(whole, frame[256:])
    assert len({sample.groups["tile"] for sample in tiles}) == 12


def place_of(crop):
    row, column = divmod(int(Path(crop.name).stem) - 1, 8)
    return slice(row * 128, row * 128 + 128), slice(column * 128, column * 128 + 128)


def by_place(tiles):
    places = {tuple(int(x) for x in Path(t.name).stem.split("-")): t for t in tiles}
    return [[places[row, column] for column in range(0, 1024, 256)] for row in range(256, 1024, 256)]


@pytest.mark.parametrize("arranged", [superalloy], indirect=True)
def test_spots_of_the_superalloy_are_in_one_part_alone(arranged):
    folder, study = arranged
    experiment = next(e for cell, e in begun(study, folder) if (cell.row, cell.column) == ("anchored", "labels-4"))
    labelled, unlabelled, test = (experiment.open(role) for role in ("labelled", "unlabelled", "test"))
    assert (len(labelled), len(unlabelled), len(test)) == (4, 6, 4)
    assert {test.read(i).groups["spot"] for i in range(4)} == {"spot1", "spot2"}
    assert {Path(unlabelled.read(i).name).name[:5] for i in range(6)} == {"spot3", "spot4", "spot5"}
    label = test.read(0).label
    assert label.shape == (32, 32) and np.bincount(label.ravel(), minlength=3).tolist() == [1024 - 104, 100, 4]


@pytest.mark.parametrize("arranged", [superalloy], indirect=True)
def test_the_study_of_starts_reads_the_same_folders(arranged):
    folder, _ = arranged
    study = read_study(folder / "examples" / "real" / "start.toml")
    experiments = {(cell.column, cell.row): experiment for cell, experiment in begun(study, folder)}
    assert len(experiments) == 6 and len(list(study.cells())) == 18
    assert len(experiments["superalloy", "random"].open("labelled")) == 4
    starts = {row: e.file.trainer["backbone"].get("start") for (column, row), e in experiments.items()}
    assert starts == {"start": "gaa", "random": None, "random-fast": None}
