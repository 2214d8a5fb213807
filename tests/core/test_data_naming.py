"""Names of classes: from the command line or a file beside the masks, into the experiment file of ``lamella init``."""

import json
import tomllib
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import tifffile
from lamella.cli.drafts import _rare
from lamella.cli.main import main
from lamella.data.duplicates import thumbnail
from lamella.data.formats.files import spelled_as
from lamella.data.holdout import hold_out
from lamella.data.naming import find_names, name_classes, parse_names
from lamella.data.survey import Survey, survey
from lamella.engine.experiment import read_experiment
from lamella.errors import ConfigError, DataError
from PIL import Image

TINY = ["--modality", "tiny-grey", "--trainer", "tiny-plain", "--backbone", "tiny-conv"]


@pytest.fixture
def folders(tiny_registry_file, tmp_path, monkeypatch):
    """Four images, and masks whose values are given."""
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    monkeypatch.chdir(tmp_path)
    chance = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()

    def write(values):
        colours = isinstance(values[0], tuple)
        for number in range(4):
            Image.fromarray(chance.integers(0, 255, (24, 24), np.uint8)).save(tmp_path / "images" / f"{number}.png")
            mask = np.zeros((24, 24, 3) if colours else (24, 24), np.uint8)
            for place, value in enumerate(values):
                mask[place * 6 : place * 6 + 6] = value
            mask[len(values) * 6 :] = values[0]
            Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        return tmp_path / "masks"

    return write


def classes_of(capsys, *more):
    """The classes of the file that ``lamella init`` writes, and what it said."""
    with pytest.raises(SystemExit) as leaving:
        main(["init", "images", "--labels", "masks", *TINY, *more])
    assert not leaving.value.code
    with open("experiment.toml", "rb") as file:
        told = tomllib.load(file)
    assert told["data"]["labelled"]["classes"] == told["data"]["test"]["classes"]
    return told["data"]["labelled"]["classes"], capsys.readouterr().out


def test_without_names_it_says_how_to_give_them(folders, capsys):
    folders([0, 7, 9])
    classes, said = classes_of(capsys)
    assert classes == {"background": 0, "class-1": 7, "class-2": 9}
    assert "name them: --classes NAME,NAME,… in this order" in said


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ([0, 255], "substrate, gate", {"substrate": 0, "gate": 255}),
        ([0, 7, 9], "air,oxide,gate", {"air": 0, "oxide": 7, "gate": 9}),
        ([0, 2], "air,oxide,gate", {"air": 0, "oxide": 1, "gate": 2}),
        ([0, 7, 9], "gate=9,oxide=7,air=rest", {"gate": 9, "oxide": 7, "air": "rest"}),
        ([(0, 0, 0), (255, 0, 0)], "air,gate", {"air": "rest", "gate": "#ff0000"}),
        ([(0, 0, 0), (255, 0, 0)], "gate=#FF0000,air=rest", {"gate": "#ff0000", "air": "rest"}),
    ],
)
def test_names_on_the_command_line_stand_in_the_file(folders, capsys, values, given, expected):
    folders(values)
    classes, said = classes_of(capsys, "--classes", given)
    assert classes == expected
    assert list(classes) == list(expected)
    assert "classes, named by --classes:" in said


@pytest.mark.parametrize(
    ("values", "name", "text", "expected"),
    [
        ([0, 1, 2], "classes.txt", "air\noxide\n\ngate\n", {"air": 0, "oxide": 1, "gate": 2}),
        ([0, 255], "labels.txt", "# of wafer 7\nair\ngate\n", {"air": 0, "gate": 255}),
        ([0, 1], "classes.json", '{"air": 0, "gate": 1, "spacer": 2}', {"air": 0, "gate": 1, "spacer": 2}),
        ([0, 1], "classes.json", '{"0": "air", "1": "gate"}', {"air": 0, "gate": 1}),
        ([0, 1], "classes.json", '["air", "gate"]', {"air": 0, "gate": 1}),
        ([(0, 0, 0), (0, 160, 255)], "classes.json", '{"gate": [0, 160, 255], "air": [0, 0, 0]}',
         {"gate": "#00a0ff", "air": "rest"}),
        ([(0, 0, 0), (250, 50, 83)], "labelmap.txt", "# label:color_rgb:parts:actions\nair:0,0,0::\ngate:250,50,83::\n",
         {"air": "rest", "gate": "#fa3253"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("above", [False, True])
def test_a_file_beside_the_masks_names_them(folders, capsys, values, name, text, expected, above):
    masks = folders(values)
    ((masks.parent if above else masks) / name).write_text(text, encoding="utf-8")
    classes, said = classes_of(capsys)
    assert classes == expected
    assert name in said


def test_the_names_that_a_prediction_wrote_are_taken_as_they_are(folders, capsys):
    masks = folders([0, 1])
    (masks / "classes.json").write_text(json.dumps({"air": 0, "gate": 1}, indent=2), encoding="utf-8")
    assert classes_of(capsys)[0] == {"air": 0, "gate": 1}


@pytest.mark.parametrize("text", ["one\n", '{"air": null}', "air\nair\n", "0: {", "\x00\xff"])
def test_a_file_that_names_something_else_does_not_stand_in_the_way(folders, capsys, text):
    masks = folders([0, 7, 9])
    (masks / ("classes.json" if "{" in text else "labels.txt")).write_text(text, encoding="utf-8")
    classes, said = classes_of(capsys)
    assert classes == {"background": 0, "class-1": 7, "class-2": 9}
    assert "not used for names" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("air", "1 names (air) for 3 classes (0, 7, 9)"),
        ("air,gate,oxide,metal", "4 names"),
        ("air=0,gate=7", "the masks also hold 9, which has no name"),
        ("air,gate=7", "must be names"),
        ("air,air,gate", "each once"),
        ("air=0,gate=7,oxide=purple", "'purple'"),
        (",", "must be names"),
        ("air,gate,\udcff", "'air,gate,\\udcff' must be names"),
    ],
)
def test_names_that_do_not_fit_are_one_sentence(folders, capsys, given, said):
    folders([0, 7, 9])
    with pytest.raises(SystemExit) as leaving:
        main(["init", "images", "--labels", "masks", *TINY, "--classes", given])
    assert leaving.value.code == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_a_coloured_mask_keeps_a_grey_class_beside_its_ground(tmp_path):
    found = Survey(tmp_path, tmp_path)
    found.marks.update({"rest": 90, "#ff0000": 10})
    named = name_classes(found, {"air": "#000000", "gate": "#FF0000", "oxide": "#808080"}, "labelmap.txt")
    assert named == {"air": "rest", "gate": "#ff0000", "oxide": "#808080"}


RED, BLACK, GREY, WHITE = (255, 0, 0), (0, 0, 0), (128, 128, 128), (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "classes", "lines"),
    [
        ([0, 128, 255], {"background": 0, "foreground": 128}, ["255 counts as no class: 25.000% of the pixels; a"]),
        (
            [BLACK, RED, WHITE],
            {"background": "rest", "class-1": "#ff0000", "class-2": "#ffffff"},
            ["class-2        #ffffff   25.000% of the pixels"],
        ),
        (
            [BLACK, RED, GREY],
            {"background": "rest", "foreground": "#ff0000"},
            ["rest has the greys 0, 128; a class of one: --classes NAME=128"],
        ),
    ],
)
def test_no_value_of_the_masks_is_dropped_without_a_word(folders, capsys, values, classes, lines):
    folders(values)
    found, said = classes_of(capsys)
    assert found == classes
    assert all(line in said for line in lines)


def test_what_is_told_of_a_value_can_be_given(folders, capsys):
    folders([0, 128, 255])
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "masks", *TINY, "--classes", "a,b,c"])
    assert "3 names (a, b, c) for 2 classes (0, 128); 255 is no class unless it is named" in capsys.readouterr().err
    assert "no class" not in classes_of(capsys, "--classes", "a=0,b=128,c=255")[1]


def test_a_grey_class_beside_colours_has_its_pixels(folders, capsys):
    folders([BLACK, RED, GREY])
    classes, said = classes_of(capsys, "--classes", "air=rest,gate=#ff0000,oxide=128")
    assert classes == {"air": "rest", "gate": "#ff0000", "oxide": 128}
    shares = [line.split()[2] for line in said.splitlines() if "of the pixels" in line]
    assert shares == ["50.000%", "25.000%", "25.000%"]
    assert len(read_experiment(Path("experiment.toml")).open("test")) == 1


def test_a_mask_with_a_value_that_no_class_can_have_is_a_problem(folders, tmp_path):
    folders([0, 7])
    for name, value in (("0", -1), ("1", 70000)):
        (tmp_path / "masks" / f"{name}.png").unlink()
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", np.full((24, 24), value, np.int32))
    found = survey(tmp_path / "images", tmp_path / "masks")
    assert found.labelled == ["2", "3"] and set(found.marks) == {0, 7}
    assert [problem.partition(": ")[2] for problem in found.problems] == [
        "the mask holds -1; grey values of classes are 0 to 65535",
        "the mask holds 70000; grey values of classes are 0 to 65535",
    ]


def test_the_class_rest_has_the_pixels_that_no_other_class_claims(folders, capsys, tmp_path):
    folders([0, 7, 9])
    _, said = classes_of(capsys, "--classes", "gate=9,air=rest")
    assert "rest      75.000% of the pixels" in said and "9         25.000% of the pixels" in said
    found = Survey(tmp_path, tmp_path)
    found.marks.update({0: 3, 7: 2, 9: 995})
    assert _rare(found, {"gate": 9, "air": "rest"}) == ["air"]


def test_the_folder_of_the_experiment_file_is_made(folders, capsys, tmp_path):
    folders([0, 1])
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "masks", *TINY, "--out", "sub/deep/exp.toml"])
    assert (tmp_path / "sub" / "deep" / "exp.toml").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as leaving:
        main(["init", "images", "--labels", "masks", *TINY, "--out", "file/exp.toml"])
    said = capsys.readouterr()
    assert leaving.value.code == 2 and said.err.count("\n") == 1 and "file" in said.err


def test_what_is_no_list_of_names_is_refused(tmp_path):
    assert find_names(tmp_path) is None
    (tmp_path / "classes.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"classes\.json: it names no classes"):
        find_names(tmp_path)
    with pytest.raises(ConfigError, match="all with their mark"):
        parse_names("a=1,b")


def test_a_modality_that_maps_no_grey_values_is_not_asked_to(folders, capsys, tmp_path):
    folders([0, 1])
    classes_of(capsys)
    assert "intensity" not in (tmp_path / "experiment.toml").read_text(encoding="utf-8")
    read_experiment(tmp_path / "experiment.toml")


def test_data_bars_that_are_left_in_the_images_are_told_of(folders, capsys, tmp_path):
    folders([0, 1])
    chance = np.random.default_rng(5)
    for number in range(4):
        pixels = chance.integers(60, 200, (64, 64), np.uint8)
        if number == 3:
            pixels[56:] = 0
            pixels[58:62, 5:40:3] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "masks", *TINY])
    assert "data bars: seen in 1, and left there; --data-bar find cuts them" in capsys.readouterr().out


def test_near_duplicates_stay_on_one_side(folders, capsys, tmp_path):
    folders([0, 1])
    first = np.asarray(Image.open(tmp_path / "images" / "0.png"))
    chance = np.random.default_rng(7)
    for number in range(10):
        Image.fromarray(chance.integers(0, 255, (24, 24), np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.eye(24, dtype=np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    Image.fromarray(first).save(tmp_path / "images" / "0.png")
    Image.fromarray(first // 2 + 30).save(tmp_path / "images" / "1.png")
    classes_of(capsys)
    with open("experiment.toml", "rb") as file:
        data = tomllib.load(file)["data"]
    assert {"images/0.png", "images/1.png"} <= set(data["labelled"]["images"])
    assert data["test"]["images"] == ["images/5.png"]


def test_a_mask_of_an_images_own_stem_comes_before_one_of_that_stem_and_an_ending(tmp_path):
    stems = ["scan1", "scan1_gt", "scan2"]
    for folder, names in (("images", stems), ("masks", [*stems, "scan2_mask", "other"])):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / f"{name}.png")
    found = survey(tmp_path / "images", tmp_path / "masks")
    assert {stem: mask.stem for stem, (_, mask) in found.pairs.items()} == {stem: stem for stem in stems}
    assert [problem.rpartition("masks/")[2] for problem in found.problems] == [
        "other.png: no image has this stem",
        "scan2_mask.png: scan2.png belongs to the same image; this one is left out",
    ]


def test_in_one_folder_no_file_is_its_own_mask(folders, capsys, tmp_path):
    for path in folders([0, 7]).iterdir():
        path.rename(tmp_path / "images" / f"{path.stem}_mask.png")
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "images", *TINY])
    said = capsys.readouterr().out
    assert "4 images, 4 of them with a mask" in said and "to look at" not in said
    experiment = read_experiment(tmp_path / "experiment.toml")
    data = experiment.file.data
    assert data["labelled"].classes == {"background": 0, "foreground": 7}
    assert sorted([*data["labelled"].labels, *data["test"].labels]) == [f"{number}_mask.png" for number in range(4)]
    assert len(experiment.open("labelled")) == 3


@pytest.mark.parametrize(
    ("alike", "test"), [(("a_0", "d_0"), ["b_0", "b_1"]), (("c_0", "d_0"), ["a_0", "a_1", "b_0", "b_1"])]
)
def test_a_group_with_an_image_like_a_trained_one_is_trained_on_whole(tmp_path, alike, test):
    found, chance = Survey(tmp_path, tmp_path), np.random.default_rng(0)
    for stem in [f"{group}_{i}" for group, count in (("a", 2), ("b", 2), ("c", 7), ("d", 9)) for i in range(count)]:
        found.pairs[stem], found.thumbnails[stem] = (tmp_path, tmp_path), thumbnail(chance.random((64, 64)))
    found.thumbnails[alike[1]] = found.thumbnails[alike[0]]
    assert sorted(hold_out(found).test) == test


@pytest.mark.parametrize(
    ("stems", "alike", "test", "rule"),
    [
        ("0 1 2 3 4", ["0 1"], "2", "single images that are like no image trained on"),
        ("a_0 b_0 b_1 c_0 c_1", ["a_0 c_1"], "b_0 b_1", "groups, by the beginning of the file name, of images that "),
        ("a_0 b_0 b_1", ["a_0 b_0"], "b_1", "single images that are like no image trained on"),
        ("0 1 2 3", ["0 1", "2 3"], "0", "every fifth image; the file names show no groups; beware: all show what"),
    ],
)
def test_an_image_with_a_like_is_not_held_out_where_there_is_one_without(tmp_path, stems, alike, test, rule):
    found, chance = Survey(tmp_path, tmp_path), np.random.default_rng(0)
    for stem in stems.split():
        found.pairs[stem], found.thumbnails[stem] = (tmp_path, tmp_path), thumbnail(chance.random((64, 64)))
    for first, second in map(str.split, alike):
        found.thumbnails[second] = found.thumbnails[first]
    held = hold_out(found)
    assert held.test == set(test.split()) and held.rule.startswith(rule)


@pytest.fixture
def objects(folders, tmp_path):
    """Masks that number objects: 3, 20, 9 and, in 16 bit, 300 of them."""
    folders([0, 1])
    for name, count in (("0", 3), ("1", 20), ("2", 9), ("3", 300)):
        numbers = np.arange(24 * 24, dtype=np.uint16).reshape(24, 24).clip(0, count)
        Image.fromarray(numbers).save(tmp_path / "masks" / f"{name}.png")


def test_numbers_of_objects_are_told_from_classes(folders, objects, capsys):
    _, said = classes_of(capsys)
    assert "masks: values run up to 20, in other masks less far: they look like numbers of objects; as two" in said
    assert "301 different grey values are no classes; is this an image, or numbers of objects (then --classes" in said
    Path("experiment.toml").unlink()
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "masks", *TINY, "--classes", "air,particle"])
    assert "look like numbers of objects: as two classes they are --classes background=0,particle=rest" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("beside", [False, True])
def test_with_a_class_for_the_rest_masks_may_have_any_number_of_values(folders, objects, capsys, beside):
    if beside:
        Path("masks/classes.json").write_text('{"background": 0, "particle": "rest"}')
    classes, said = classes_of(capsys, *([] if beside else ["--classes", "background=0,particle=rest"]))
    assert classes == {"background": 0, "particle": "rest"}
    assert "4 images, 4 of them with a mask" in said and "to look at" not in said
    assert len(read_experiment(Path("experiment.toml")).open("labelled")) == 3


def test_classes_that_some_masks_lack_are_no_numbers_of_objects(folders, capsys, tmp_path):
    folders([0, 1, 2])
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(tmp_path / "masks" / "3.png")
    assert "look like numbers" not in classes_of(capsys)[1]


def test_masks_of_one_class_are_told(folders, capsys):
    folders([0])
    assert "masks: masks show one class only, background: there is nothing to learn" in classes_of(capsys)[1]
    Path("experiment.toml").unlink()
    folders([0, 3])
    assert "one class only" not in classes_of(capsys)[1]


@pytest.fixture
def rare(folders, tmp_path):
    """Writes images by name, of which those named have a third class (9) too."""
    folders([0, 7])
    for folder in ("images", "masks"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()

    def write(names, having):
        for number, name in enumerate(names.split()):
            pixels = np.random.default_rng(number).integers(0, 255, (24, 24), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
            mask = np.zeros((24, 24), np.uint8)
            mask[4:8], mask[12:16] = 7, 9 if name in having.split() else 0
            Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")

    return write


@pytest.mark.parametrize(
    ("names", "having", "given", "test", "unseen"),
    [
        ("a_0 b_0 b_1 c_0 c_1 c_2", "b_0 c_1", "", "b_0 b_1", None),  # not the smallest group, which lacks the class
        ("a_0 b_0 b_1 c_0 c_1 c_2", "b_0 c_1", "x=0,y=rest", "a_0", None),  # as two classes it lacks none
        ("0 1 2 3 4", "1 3", "", "1", None),
        ("a_0 b_0 b_1 c_0 c_1 c_2", "a_0 b_0", "", "a_0", None),
        ("a_0 b_0 b_1 c_0 c_1 c_2", "c_0", "", "a_0", "no test image shows class-2"),  # or training would lack it
        ("a_0 b_0 b_1 b_2 b_3", "a_0", "", "a_0", "no image that is trained on shows class-2"),
    ],
)
def test_the_test_shows_every_class_where_it_can(rare, capsys, names, having, given, test, unseen):
    rare(names, having)
    _, said = classes_of(capsys, *(["--classes", given] if given else []))
    data = tomllib.loads(Path("experiment.toml").read_text(encoding="utf-8"))["data"]
    assert data["test"]["images"] == [f"images/{name}.png" for name in test.split()]
    assert [line for line in said.splitlines() if "beware" in line] == ([f"beware: {unseen}"] if unseen else [])


def test_a_list_that_is_cut_short_says_so(folders, capsys, tmp_path):
    folders([0, 7])
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 255, (24 + number, 24), np.uint8)
        file, per_nm = tmp_path / "images" / f"{number}x.tif", (1 + number, 1 + number)
        tifffile.imwrite(file, pixels, imagej=True, resolution=per_nm, metadata={"unit": "nm"})
    said = classes_of(capsys)[1].splitlines()
    assert "sizes: 24×24 (5), 25×24 (1), 26×24 (1), 27×24 (1), 28×24 (1) and 2 other sizes" in said
    assert "pixel size: unknown (4), 1 nm (1), 0.5 nm (1), 0.333333 nm (1), 0.25 nm (1) and 3 other sizes" in said


@pytest.mark.parametrize(
    ("images", "masks", "told"),
    [
        ("img_0 img_1", "mask_0 mask_1", "mask_0 and img_0 differ"),
        ("scan-A1 scan-A2", "A2 A3", "A2 and scan-A2 differ"),
        ("lot_a lot_b", "label_lot_b x", "label_lot_b and lot_b differ"),
        ("0 1", "mask_1 mask_2", "mask_1 and 1 differ"),
        ("a_1 a_2", "a_1_mask b_2", None),  # one has its image: no rule is missed
        ("cat", "mat", None),
    ],
)
def test_names_that_differ_only_in_the_prefix_are_told(tmp_path, images, masks, told):
    for folder, stems in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for stem in stems.split():
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / folder / f"{stem}.png")
    problems = survey(tmp_path / "images", tmp_path / "masks").problems
    said = [one for one in problems if "differ only in the prefix; masks have the image's name, or NAME_mask" in one]
    assert (len(said), problems[0].startswith(told or "")) == (0 if told is None else 1, True)


def test_one_is_not_told_as_several(folders, capsys, tmp_path):
    folders([0, 7])
    for folder in ("images", "masks"):
        for number in (1, 2, 3):
            (tmp_path / folder / f"{number}.png").unlink()
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "masks", "--unlabelled", "images", *TINY])
    said = capsys.readouterr()
    assert said.out.startswith("1 image, 1 of them with a mask\n") and "\n1 unlabelled image\n" in said.out
    assert said.err == "lamella: masks: 1 usable pair is too few; it takes 2, one to test on\n"


def test_what_lies_beside_the_experiment_file_can_be_moved_with_it(folders, capsys, tmp_path, monkeypatch):
    folders([0, 7])
    (tmp_path / "lab" / "more").mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(9 + number).integers(0, 255, (24, 24), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "lab" / "more" / f"{number}.png")
    for name in ("images", "masks"):
        (tmp_path / name).rename(tmp_path / "lab" / name)
    monkeypatch.chdir(tmp_path / "lab")
    classes_of(capsys, "--unlabelled", "more")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").rename(tmp_path / "moved")
    experiment = read_experiment(Path("moved/experiment.toml"))
    found = {role: (table.source, len(experiment.open(role))) for role, table in experiment.file.data.items()}
    assert found == {"labelled": (".", 3), "test": (".", 1), "unlabelled": ("./more", 4)}
    assert experiment.open("test").read(0).label is not None


def test_what_lies_elsewhere_is_found_from_everywhere(folders, capsys, tmp_path):
    folders([0, 7])
    with pytest.raises(SystemExit):
        main(["init", "images", "--labels", "masks", "--out", "mine/exp.toml", *TINY])
    assert read_experiment(Path("mine/exp.toml")).file.data["labelled"].source == str(tmp_path)


def test_smoothed_masks_are_doubted(folders, capsys):
    folders(list(range(0, 256, 80)))
    for path in Path("masks").iterdir():
        levels = np.linspace(0, 254, 64).astype(np.uint8)
        Image.fromarray(np.resize(levels, (24, 24))).save(path)
    _, said = classes_of(capsys)
    assert "masks: 64 grey values with gaps between them: they look smoothed, or compressed as JPEG; write" in said


def test_names_pair_however_their_letters_are_encoded(folders, capsys, tiny_registry):
    folders([0, 7, 9])
    for number, path in enumerate(sorted(Path("images").iterdir())):
        path.rename(path.with_stem(normalize("NFC", f"Gerät {number}")))
    for number, path in enumerate(sorted(Path("masks").iterdir())):
        path.rename(path.with_stem(normalize("NFD", f"Gerät {number}_mask")))
    _, said = classes_of(capsys)
    assert "4 images, 4 of them with a mask" in said
    experiment = read_experiment(Path("experiment.toml"), registry=tiny_registry)
    assert experiment.open("labelled").read(0).label.max() == 2


def test_masks_that_differ_in_their_letters_encoding_alone_stay_two():
    one, other = (normalize(form, "Gerät") for form in ("NFC", "NFD"))
    masks = {one: Path("one.png"), other: Path("other.png")}
    assert spelled_as(masks, [one]) == masks
