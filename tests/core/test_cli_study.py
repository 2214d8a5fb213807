"""``lamella study`` and the pictures it puts side by side."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lamella.cli.main import main
from lamella.errors import ConfigError
from lamella.study.figures import figure
from lamella.study.groups import read_counts
from lamella.study.pictures import comparison, ranked
from lamella.study.run import run_study
from lamella.study.study import Cell, read_study
from PIL import Image

STUDY = """
title = "Two"
base = "tiny.toml"
figures = { mIoU = "miou" }
groups = "lot"
pictures = "test"
[rows.short]
title = "Short"
set.fit.steps = 1
[rows.long]
set.fit.steps = 12
"""


@pytest.fixture
def here(tiny_file, tiny_registry_file, monkeypatch):
    """An empty folder with the study and its base, which is the working directory."""
    monkeypatch.chdir(tiny_file.parent)
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    Path("two.toml").write_text(STUDY)
    return tiny_file.parent


@pytest.fixture
def lamella(here, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as leaving:
            main(["study", "two.toml", *arguments])
        assert not leaving.value.code
        return capsys.readouterr().out

    return run


def test_planned_then_run_in_two_goes(lamella):
    assert lamella("--plan").split() == ["to", "do", "seed-0/all/short", "to", "do", "seed-0/all/long"]
    first = lamella("--limit", "1")
    assert "Short" in first and "long" not in first and "pictures" not in first
    assert lamella("--plan").splitlines()[0] == "done   seed-0/all/short"
    table = lamella()
    assert "Short" in table and "long" in table and "comparison.png" in table
    found = json.loads(lamella("--json"))
    assert [entry["row"] for entry in found["entries"]] == ["short", "long"]
    assert Path("runs/two/report.html").read_text(encoding="utf-8").count("<img") == 1


def test_the_table_of_the_others_is_shown_where_a_run_fails(here, capsys):
    Path("two.toml").write_text(STUDY.replace("steps = 1\n", "steps = 12\nset.fit.optimizer.lr = 1e38\n"))
    with pytest.raises(SystemExit) as leaving:
        main(["study", "two.toml"])
    out, err = capsys.readouterr()
    assert leaving.value.code == 2 and "lamella: run 1 of 2: short · seed 0: the losses stay not finite" in err
    assert "long" in out and "report.html" in out


def test_two_processes_show_their_tables_one_after_the_other(lamella, monkeypatch):
    """Else one that read what is done long ago would write its table over a newer one."""
    from lamella.study import table

    program = "from pathlib import Path; from lamella.study.share import taken\n"
    program += "with taken(Path('runs/two/report')) as mine: print(mine)"
    real, found = table.study_table, []

    def meanwhile(*given):
        found.append(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout)
        return real(*given)

    monkeypatch.setattr(table, "study_table", meanwhile)
    lamella("--limit", "1")
    assert found == ["False\n"]


def test_the_table_is_shown_where_there_can_be_no_pictures(here, capsys):
    Path("two.toml").write_text(STUDY + "set.data.test.source.count = 3\n")
    with pytest.raises(SystemExit) as leaving:
        main(["study", "two.toml"])
    out, err = capsys.readouterr()
    assert not leaving.value.code and "Short" in out and "long" in out and "report.html" in out
    assert "the pictures are left out: pictures of 'test': short has 4 images there and long 3" in err
    assert "<img" not in Path("runs/two/report.html").read_text(encoding="utf-8")


def test_pictures_are_of_the_first_column_that_has_the_rows(lamella):
    rows = "".join(f'[rows.{name}]\ncolumns = ["{column}"]\nset.fit.steps = 1\n' for name, column in ("ac", "bd", "ed"))
    Path("two.toml").write_text(STUDY.partition("[rows.short]")[0] + "[columns.c]\n[columns.d]\n" + rows)
    assert "comparison.png" in lamella()


def test_json_has_null_where_there_is_no_interval(lamella):
    Path("two.toml").write_text(STUDY.replace('groups = "lot"\n', ""))
    found = json.loads(lamella("--limit", "1", "--json"), parse_constant=pytest.fail)
    assert found["entries"][0]["low"] is None


def test_the_images_are_those_the_rule_names(lamella, here, tiny_registry):
    lamella()
    study = read_study(Path("two.toml"), registry=tiny_registry)
    cells = [Cell("short", "", 0), Cell("long", "", 0)]
    sheet = comparison(study, cells, "test", here / "runs" / "two")
    assert np.array_equal(np.asarray(sheet), np.asarray(Image.open("runs/two/comparison.png")))
    chosen = ranked(cells, "test", here / "runs" / "two")
    gains = np.zeros(4)
    for row, sign in (("short", -1), ("long", 1)):
        classes, counts = read_counts(here / "runs/two/seed-0/all" / row / "counts/test.json", "name")
        gains += sign * np.array([figure("miou", classes)(one) for one in counts.values()])
    assert gains[chosen[0]] == gains.max() and gains[chosen[-1]] == gains.min()
    flipped = comparison(study, cells[::-1], "test", here / "runs" / "two")
    assert not np.array_equal(np.asarray(sheet), np.asarray(flipped))
    with pytest.raises(ConfigError, match="two finished rows, not 1"):
        comparison(study, cells[:1], "test", here / "runs" / "two")


def counted(out, row, each):
    """Counts of one run, written as an evaluation writes them: images that are all called alike."""
    path = out / Cell(row, "", 0).folder / "counts" / "test.json"
    path.parent.mkdir(parents=True)
    confusion = [np.asarray(one).ravel().tolist() for one in each]
    kept = {"classes": ["a", "b"], "names": ["same"] * len(each), "groups": {}, "confusion": confusion}
    path.write_text(json.dumps(kept))


def test_images_are_ranked_one_by_one_without_those_that_have_no_label(tmp_path):
    empty, shares = np.zeros((2, 2)), (4, 9, 6, 7, 5)
    counted(tmp_path, "short", [[[5, 5], [0, 10]], [[5, 5], [0, 10]], empty, *[[[5, 5], [0, 10]]] * 3])
    each = [[[share, 10 - share], [0, 10]] for share in shares]
    counted(tmp_path, "long", [*each[:2], empty, *each[2:]])
    chosen = ranked([Cell("short", "", 0), Cell("long", "", 0)], "test", tmp_path)
    assert chosen == [1, 3, 0]


def test_rows_of_other_test_sets_are_not_compared_in_pictures(tmp_path):
    counted(tmp_path, "short", [[[5, 5], [0, 10]]] * 3)
    counted(tmp_path, "long", [[[5, 5], [0, 10]]] * 2)
    with pytest.raises(ConfigError, match="short has 3 images there and long 2; pictures compare rows on one test set"):
        ranked([Cell("short", "", 0), Cell("long", "", 0)], "test", tmp_path)


def test_rows_with_their_classes_in_another_order_are_not_compared_in_pictures(lamella, here, tiny_registry):
    lamella()
    path = here / "runs/two/seed-0/all/long/run.json"
    header = json.loads(path.read_text(encoding="utf-8"))
    header["data"]["class_names"].reverse()
    path.write_text(json.dumps(header), encoding="utf-8")
    study = read_study(Path("two.toml"), registry=tiny_registry)
    with pytest.raises(ConfigError, match="pictures of 'test': rows have other classes, or in another order"):
        comparison(study, study.cells(), "test", here / "runs" / "two")


def test_every_row_sees_its_pictures_as_it_was_trained(lamella, here, tiny_registry, monkeypatch):
    from lamella.study import pictures

    lamella()
    study = read_study(Path("two.toml"), registry=tiny_registry)
    honest, opened, seen = pictures.open_run, [], []

    class Marked:
        def __init__(self, number, modality):
            self.number, self.modality = number, modality

        def collate(self, samples):
            return self.modality.collate(samples)._replace(visit=torch.full((1,), self.number))

        def picture(self, image):
            return self.modality.picture(image)

    def opening(run, **named):
        experiment, trainer, modality, header = honest(run, **named)
        opened.append(run)
        return experiment, trainer, Marked(len(opened), modality), header

    real = pictures.predict_whole
    monkeypatch.setattr(pictures, "open_run", opening)
    monkeypatch.setattr(pictures, "predict_whole", lambda *given: seen.append(int(given[1].visit)) or real(*given))
    comparison(study, study.cells(), "test", here / "runs" / "two")
    assert seen == [1, 2] * (len(seen) // 2) and seen


def test_pixels_without_a_label_are_not_wrong():
    from lamella import Batch
    from lamella.study.pictures import _titled

    label = torch.zeros(1, 10, 10, dtype=torch.long)
    label[:, :4] = 255
    predicted = np.zeros((10, 10), np.int64)
    predicted[4, :6] = 1
    assert _titled("Ours", Batch.of(torch.zeros(1, 1, 10, 10), label=label), predicted) == "Ours: 10.0% wrong"


def test_pictures_are_predicted_in_the_tiles_that_were_measured(lamella, here, tiny_registry, monkeypatch):
    from lamella.study import pictures

    Path("two.toml").write_text(STUDY.replace("set.fit.steps = 1\n", "set.fit = { steps = 1, tile = 64 }\n"))
    lamella()
    tiles, real = [], pictures.predict_whole
    monkeypatch.setattr(pictures, "predict_whole", lambda *given: tiles.append(given[2]) or real(*given))
    study = read_study(Path("two.toml"), registry=tiny_registry)
    comparison(study, study.cells(), "test", here / "runs" / "two")
    assert tiles[:2] == [64, 1024]


def test_pictures_of_what_has_no_label_maps_are_refused_before_anything_is_trained(here, tiny_registry):
    folder = here / "classes"
    for name in ("a-1", "b-2"):
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / f"{name}.png")
    classified = f'''
[set.data]
test = {{ source = "{folder}", images = "*.png", group = "(?P<label>[ab])-", classes = ["a", "b"] }}
'''
    Path("two.toml").write_text(STUDY.replace('groups = "lot"\n', "") + classified)
    study = read_study(Path("two.toml"), registry=tiny_registry)
    with pytest.raises(ConfigError, match=r"pictures = 'test' shows label maps side by side; a-1\.png has none"):
        run_study(study, here / "out", tell=lambda line: None)
