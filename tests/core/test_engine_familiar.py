"""New images beside the labelled ones: display and shares of classes, without any label of theirs."""

import json
import shutil

import numpy as np
import pytest
from lamella.engine.predict import predict
from lamella.engine.run import open_run
from lamella.engine.trust.familiar import grey_points, learned_from, unlike
from PIL import Image

NAMES = ["ground", "disc", "defect"]
LEARNED = {
    "grey": [[0.1, 0.14], [0.3, 0.4], [0.9, 1.0]],
    "share": {"ground": [0.7, 0.8], "disc": [0.297, 0.4], "defect": [0.003, 0.02]},
}


def entry(*pixels, grey=(0.12, 0.35, 0.95)):
    return {"pixels": list(pixels), "grey": list(grey)}


def test_images_like_the_labelled_ones_raise_no_doubt():
    assert unlike(LEARNED, [entry(700, 297, 3), entry(650, 340, 10)], NAMES) == []
    assert unlike(LEARNED, [], NAMES) == []


def test_a_class_that_takes_more_than_any_labelled_image_shows_is_named():
    assert unlike(LEARNED, [entry(400, 190, 410), entry(400, 200, 400)], NAMES) == [
        "defect takes 40.5% of these images, and of no labelled image more than 2.0%"
    ]


def test_a_class_that_is_hardly_found_is_named_and_a_rare_one_is_not():
    assert unlike(LEARNED, [entry(980, 20, 0)], NAMES) == [
        "disc takes 2.0% of these images, and 29.7% of the labelled ones"
    ]


def test_another_display_is_named_with_its_grey_values():
    (found,) = unlike(LEARNED, [entry(700, 297, 3, grey=(0.22, 0.42, 0.95))] * 3, NAMES)
    assert "percentile 1 is 0.22 (labelled: 0.10 to 0.14)" in found and "percentile 50" not in found


def test_entries_of_an_older_journal_have_no_grey():
    assert unlike(LEARNED, [{"pixels": [700, 297, 3]}], NAMES) == []


def test_grey_points_are_percentiles():
    picture = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert grey_points(picture) == pytest.approx([p / 100 for p in (1, 50, 99)], abs=0.003)


def test_a_run_says_what_it_learned_from_and_predict_compares(tiny_run, tiny_registry_file, tmp_path, monkeypatch):
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    experiment, _, modality, header = open_run(tiny_run)
    learned, names = json.loads((tiny_run / "results.json").read_text())["learned_from"], header["data"]["class_names"]
    table = experiment.open("labelled")
    assert learned == learned_from(table, modality, names)
    labels = np.stack([table.read(number).label for number in range(len(table))])
    for number, name in enumerate(names):
        each = (labels == number).mean((1, 2))
        assert learned["share"][name] == pytest.approx([each.mean(), each.max()])
    same, other = tmp_path / "same", tmp_path / "other"
    for number in range(len(table)):
        pixels = np.asarray(table.read(number).image)
        for folder, shown in ((same, pixels), (other, pixels // 2 + 110)):
            folder.mkdir(exist_ok=True)
            Image.fromarray(shown).save(folder / f"{number}.png")
    found = predict(tiny_run, [same], tmp_path / "out-same")["unlike"]
    assert not [doubt for doubt in found if "displayed" in doubt]
    found = predict(tiny_run, [other], tmp_path / "out-other")["unlike"]
    assert [doubt for doubt in found if "displayed unlike the labelled ones" in doubt]
    assert json.loads((tmp_path / "out-other" / "unlike.json").read_text()) == found


def test_a_run_without_results_is_not_compared(tiny_run, tiny_registry_file, tmp_path, monkeypatch):
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "results.json").unlink()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.png")
    assert predict(run, [tmp_path / "a.png"], tmp_path / "out")["unlike"] == []
