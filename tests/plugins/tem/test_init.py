"""``lamella init`` with real components: grey values, and the second file for unlabelled images."""

import shlex
import tomllib

import lamella
import numpy as np
import pytest
from lamella.cli.main import main
from lamella.data.holdout import hold_out, shown_in
from lamella.data.survey import survey
from lamella.engine.experiment import read_experiment
from lamella.registry.registry import current
from PIL import Image


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Five labelled images of a device with defects, and three others of it without labels."""
    monkeypatch.chdir(tmp_path)
    rows = list(lamella.build("dataset", "synth-tem", preset="demo-finfet", count=8, size=64))
    for folder in ("images", "masks", "more"):
        (tmp_path / folder).mkdir()
    for number, row in enumerate(rows):
        row["image"].save(tmp_path / ("images" if number < 5 else "more") / f"{number}.png")
        if number < 5:
            label = np.array(row["label"])
            label[2:4, 2:4 + number] = 9
            Image.fromarray(label).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


def init(capsys, *more):
    """What ``lamella init images --labels masks`` says, and what it leaves with."""
    with pytest.raises(SystemExit) as leaving:
        main(["init", "images", "--labels", "masks", *more])
    said = capsys.readouterr()
    return leaving.value.code or 0, said.out + said.err


@pytest.mark.parametrize(
    ("kinds", "expected"), [(["u1"] * 4, "dtype"), (["u2"] * 4, "data"), (["u1", "u2", "u1", "u2"], "image")]
)
def test_images_of_several_bit_depths_get_a_range_each(folders, capsys, kinds, expected):
    (folders / "images" / "4.png").unlink()
    for number, kind in enumerate(kinds):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64)).astype(kind)
        Image.fromarray(pixels).save(folders / "images" / f"{number}.png")
    assert init(capsys)[0] == 0
    assert f'intensity = "{expected}"' in (folders / "experiment.toml").read_text(encoding="utf-8")


def test_where_no_set_is_called_weak_the_modality_has_its_own(folders, capsys, monkeypatch):
    monkeypatch.delitem(current().sets, "weak")
    assert init(capsys)[0] == 0
    written = read_experiment(folders / "experiment.toml").file.trainer
    assert written["augment"] == [{"name": "gain-noise", "pixel": [0.0, 0.01]}]


def test_unlabelled_images_count_for_the_range_too(folders, capsys):
    Image.fromarray(np.full((64, 64), 3000, np.uint16)).save(folders / "more" / "x.png")
    assert init(capsys, "--unlabelled", "more")[0] == 0
    for name in ("experiment", "experiment-unlabelled"):
        assert read_experiment(folders / f"{name}.toml").file.modality["intensity"] == "image"


def test_of_unlabelled_images_what_cannot_be_read_is_left_out_and_other_sizes_are_cropped(folders, capsys):
    (folders / "more" / "4.png").write_bytes(b"no image")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 72), np.uint8)).save(folders / "more" / "x.png")
    assert "1 to look at:" in init(capsys, "--unlabelled", "more")[1]
    first, second = (read_experiment(folders / f"{name}.toml").file for name in ("experiment", "experiment-unlabelled"))
    assert second.data["unlabelled"].images == ["5.png", "6.png", "7.png", "x.png"]
    assert (first.fit.crop, second.fit.crop) == (None, 64)


def test_unlabelled_images_get_a_second_training_that_goes_on_from_the_first(folders, capsys):
    code, said = init(capsys, "--unlabelled", "more")
    assert code == 0
    assert "lamella train experiment.toml --out runs/experiment\n" in said
    assert "lamella train experiment-unlabelled.toml\n" in said
    first, second = (read_experiment(folders / f"{name}.toml").file for name in ("experiment", "experiment-unlabelled"))
    assert set(first.data) == {"labelled", "test"}
    assert set(second.data) == {"labelled", "test", "unlabelled"}
    assert first.data["test"] == second.data["test"]
    assert second.trainer["backbone"]["start"] == "runs/experiment"
    assert second.trainer["name"] == "anchored"


def test_the_commands_that_come_next_can_be_given(folders, capsys):
    for more in ((), ("--unlabelled", "more")):
        out = folders / "My device" / f"fin {len(more)}.toml"
        said = init(capsys, "--out", str(out), *more)[1]
        words = [shlex.split(line.partition("lamella ")[2]) for line in said.splitlines() if "lamella train" in line]
        first = ["train", str(out)]
        second = [[*first, "--out", "runs/fin 2"], ["train", str(out.with_name("fin 2-unlabelled.toml"))]]
        assert words == (second if more else [first])


def test_a_rare_class_is_pasted_and_no_pseudo_label(folders, capsys):
    assert init(capsys, "--unlabelled", "more")[0] == 0
    first, second = (tomllib.loads((folders / f"experiment{end}.toml").read_text()) for end in ("", "-unlabelled"))
    rare = [name for name, mark in first["data"]["test"]["classes"].items() if mark == 9]
    assert rare[0] in first["trainer"]["paste"]
    assert second["trainer"]["paste"] == first["trainer"]["paste"]


def test_unlabelled_images_that_show_a_test_image_are_left_out(folders, capsys):
    held = next(iter(hold_out(survey(folders / "images", folders / "masks")).test))
    again = Image.open(folders / "images" / f"{held}.png").transpose(Image.Transpose.ROTATE_90)
    again.point(lambda grey: grey // 2 + 9).save(folders / "more" / "again.png")
    assert init(capsys, "--unlabelled", "more")[0] == 0
    text = (folders / "experiment-unlabelled.toml").read_text(encoding="utf-8")
    assert "Left out, since test images show the same: again." in text
    assert len(tomllib.loads(text)["data"]["unlabelled"]["images"]) == 3


def test_nothing_but_test_images_is_said_in_a_sentence(folders, capsys):
    held = hold_out(survey(folders / "images", folders / "masks")).test
    (folders / "same").mkdir()
    for stem in held:
        (folders / "images" / f"{stem}.png").rename(folders / "same" / f"{stem}.png")
        Image.open(folders / "same" / f"{stem}.png").save(folders / "images" / f"{stem}.png")
    code, said = init(capsys, "--unlabelled", "same")
    assert code == 2
    assert "every image there shows what an image held out for the test shows" in said
    assert not (folders / "experiment.toml").exists()


def test_no_image_is_like_an_empty_test(folders):
    found = survey(folders / "images", folders / "masks")
    assert shown_in(set(), found, survey(folders / "images")) == set()


def test_a_file_that_is_there_is_kept(folders, capsys):
    (folders / "experiment-unlabelled.toml").write_text("mine")
    code, said = init(capsys, "--unlabelled", "more")
    assert code == 2
    assert "experiment-unlabelled.toml exists" in said
    assert (folders / "experiment-unlabelled.toml").read_text() == "mine"
    assert not (folders / "experiment.toml").exists()


def test_a_trainer_that_needs_more_than_images_tell_says_what(folders, capsys):
    code, said = init(capsys, "--trainer", "weak-to-strong")
    assert code == 2
    assert "trainer 'weak-to-strong' has to be given sets, and init cannot choose that" in said
    assert not (folders / "experiment.toml").exists()


def test_a_trainer_without_augment_is_not_given_any(folders, capsys):
    assert init(capsys, "--trainer", "cutmix-consistency", "--unlabelled", "more")[0] == 0
    assert not (folders / "experiment-unlabelled.toml").exists()
    trainer = tomllib.loads((folders / "experiment.toml").read_text())["trainer"]
    assert "augment" not in trainer
    assert trainer["weak"] == "weak"


def test_images_may_be_links_out_of_their_folder(folders, capsys, tmp_path_factory):
    far = tmp_path_factory.mktemp("far")
    for path in (folders / "images").iterdir():
        path.rename(far / path.name)
        path.symlink_to(far / path.name)
    code, said = init(capsys)
    assert code == 0, said
    assert '"images/1.png"' in (folders / "experiment.toml").read_text(encoding="utf-8")
