"""Rounds of the data engine: training on what was accepted, the locked images, and the gate."""

import json
import shutil

import numpy as np
import pytest
import torch
from lamella.engine.experiment import check_experiment, read_experiment
from lamella.engine.fit import fit
from lamella.errors import DataError
from lamella_sam.annotate import retrain
from lamella_sam.annotate.folder import AnnotationFolder
from lamella_sam.annotate.gate import judge
from lamella_sam.annotate.retrain import locked_figures, promote
from six_images import CLASSES, accept_two, command, experiment_tables, truth


def figures(miou, **iou):
    return {"miou_pooled": miou, "iou": iou}


def test_the_gate_wants_better_than_each_and_no_collapse():
    others = {"zero-shot": figures(0.5, a=0.6, b=0.4), "round-1": figures(0.6, a=0.7, b=0.5)}
    assert judge(figures(0.61, a=0.72, b=0.5), others).promoted
    assert not judge(figures(0.6, a=0.7, b=0.5), others).promoted  # as good is not better
    worse = judge(figures(0.55, a=0.6, b=0.5), others)
    assert not worse.promoted and "does not beat 0.6000 of round-1" in worse.reasons[0]
    collapsed = judge(figures(0.9, a=0.99, b=0.1), others)
    assert not collapsed.promoted and collapsed.alarms[0].startswith("class b collapsed: IoU 0.1000")
    assert not judge(figures(None, a=None, b=None), others).promoted


TEMPLATE = """
modality = { name = "tem", intensity = "image" }
[data.labelled]
source = "x"
[trainer]
name = "sesami"
backbone = { name = "sam-nano", weights = "none" }
prompts = 2
corrections = 0
[fit]
steps = 1
batch_size = 1
log_every = 1
"""


def test_what_is_accepted_while_a_round_trains_stays_accepted(folder, run, tmp_path, monkeypatch):
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    (tmp_path / "template.toml").write_text(TEMPLATE)

    def slowly(experiment, where):
        other = AnnotationFolder(folder.path)
        other.write_mask("im3", truth(3))
        other.accept("im3", by="ann")
        return fit(experiment, where)

    monkeypatch.setattr(retrain, "fit", slowly)
    retrain.retrain(folder, tmp_path / "template.toml")
    again = AnnotationFolder(folder.path)
    assert [e.name for e in again.of("accepted")] == ["im0", "im1", "im3"]
    assert again.entry("im3").provenance == [{"accepted": "ann", "changed": None}]
    assert len(again.facts["rounds"]) == 1 and again.facts["rounds"][0]["accepted"] == 2


def scores(monkeypatch, **runs):
    """Let each run have a figure for each image."""
    monkeypatch.setattr(retrain, "locked_figures", lambda folder, run: figures(
        float(np.mean([runs[run.name.replace("-", "_")][entry.name] for entry in folder.of("locked")]))
    ))  # fmt: skip


def test_a_round_is_compared_on_the_locked_images_of_now(folder, tmp_path, monkeypatch):
    scores(
        monkeypatch, zero={"im0": 0.2, "im1": 0.2}, round_1={"im0": 0.9, "im1": 0.1}, round_2={"im0": 0.8, "im1": 0.6}
    )
    folder.write_mask("im0", truth(0))
    folder.accept("im0", by="test", lock=True)
    folder.facts["zero_shot"] = {"run": str(tmp_path / "zero"), "figures": figures(0.2), "locked": ["im0"]}
    assert promote(folder, tmp_path / "round-1").promoted
    folder.write_mask("im1", truth(1))
    folder.accept("im1", by="test", lock=True)
    assert promote(folder, tmp_path / "round-2").promoted
    noted = AnnotationFolder(folder.path).facts["rounds"]
    assert [entry["figures"]["miou_pooled"] for entry in noted] == [0.5, 0.7]
    assert [list(entry["locked"]) for entry in noted] == [["im0", "im1"]] * 2


@pytest.mark.parametrize("noted", [True, False])
def test_what_a_promoted_run_has_learned_from_does_not_measure(folder, tmp_path, monkeypatch, noted):
    scores(monkeypatch, zero={"im5": 0.2}, round_1={"im5": 0.9})
    for name in ("im0", "im5"):
        folder.write_mask(name, truth(int(name[-1])))
        folder.accept(name, by="test", lock=name == "im5")
    folder.facts["zero_shot"] = {"run": str(tmp_path / "zero"), "figures": figures(0.2), "locked": ["im5"]}
    assert promote(folder, tmp_path / "round-1").promoted
    if not noted:  # as earlier versions wrote it
        del folder.facts["rounds"][0]["learned"]
    with pytest.raises(DataError, match="im0: round-1 is promoted and has learned from it"):
        folder.accept("im0", by="test", lock=True)
    folder.write_mask("im1", truth(1))
    assert folder.accept("im1", by="test").status == "accepted"
    if noted:
        assert folder.accept("im1", by="test", lock=True).status == "locked"


def test_a_locked_image_is_learned_from_where_somebody_says_so_alone(folder, capsys):
    folder.write_mask("im0", truth(0))
    assert command("accept", folder.path, "im0", "--lock") == 0
    assert command("accept", folder.path, "im0") == 2
    assert "im0 is locked, to measure on; --lock accepts its mask anew, --unlock" in capsys.readouterr().err
    assert AnnotationFolder(folder.path).entry("im0").status == "locked"
    assert command("accept", folder.path, "im0", "--lock") == 0
    assert command("accept", folder.path, "im0", "--unlock") == 0
    assert AnnotationFolder(folder.path).entry("im0").status == "accepted"


def test_grey_level_is_that_of_the_locked_images_of_now(folder, run, monkeypatch):
    """Grey values tell the mask of the first locked image, and not that of the second, which is upside down."""
    scores(monkeypatch, run={"im2": 0.9, "im3": 0.9})
    said, true = [truth(2), truth(3)], [truth(2), truth(3)[::-1]]
    for count in (1, 2):
        name = f"im{count + 1}"
        folder.write_mask(name, true[count - 1])
        folder.accept(name, by="test", lock=True)
        verdict = promote(folder, run)
        found, wanted = np.stack(said[:count]), np.stack(true[:count])
        ious = [((found == k) & (wanted == k)).sum() / ((found == k) | (wanted == k)).sum() for k in range(3)]
        assert folder.facts["zero_shot"]["figures"]["miou_pooled"] == pytest.approx(np.mean(ious), abs=0.02)
        assert list(folder.facts["zero_shot"]["locked"]) == ["im2", "im3"][:count]
        assert verdict.promoted is (count == 2)


def test_the_gate_measures_in_the_precision_of_the_run(folder, run, tmp_path, monkeypatch):
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    half = shutil.copytree(run, tmp_path / "half")
    file = half / "experiment.toml"
    file.write_text(file.read_text().replace('precision = "no"', 'precision = "bf16"'))
    cast = []
    monkeypatch.setattr(
        retrain, "evaluate", lambda *_, device, tile: cast.append(torch.is_autocast_enabled(device.type)) or {}
    )
    for measured in (run, half):
        locked_figures(folder, measured)
    assert cast == [False, True]


def test_a_promoted_run_goes_with_the_folder(folder, tmp_path, monkeypatch):
    scores(monkeypatch, zero={"im0": 0.2}, round_1={"im0": 0.9})
    folder.write_mask("im0", truth(0))
    folder.accept("im0", by="test", lock=True)
    monkeypatch.chdir(tmp_path)
    here = AnnotationFolder(folder.path.relative_to(tmp_path))
    here.facts["zero_shot"] = {"run": here.note(tmp_path / "zero"), "figures": {}}
    assert promote(here, here.path / "runs" / "round-1").promoted
    folder.path.rename(tmp_path / "moved")
    assert AnnotationFolder(tmp_path / "moved").promoted == tmp_path / "moved" / "runs" / "round-1"
    assert here.run(here.facts["zero_shot"]["run"]) == tmp_path / "zero"


def test_a_zero_shot_run_of_other_classes_is_refused_before_the_training(folder, run, tmp_path, capsys):
    other = AnnotationFolder.create(tmp_path / "other", [tmp_path / "given"], ["bar", "ground", "dot"])
    for number in (0, 1):
        other.write_mask(f"im{number}", truth(number))
        other.accept(f"im{number}", by="test", lock=number == 1)
    (tmp_path / "template.toml").write_text(TEMPLATE)
    assert command("retrain", other.path, "--experiment", tmp_path / "template.toml", "--zero-shot", run) == 2
    assert "tells the classes ground, bar, dot, the folder has bar, ground, dot" in capsys.readouterr().err
    assert not (other.path / "runs").exists()


def test_other_roles_of_the_template_stay_and_are_found_beside_it(folder, run, tmp_path):
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    (tmp_path / "template.toml").write_text(
        TEMPLATE.replace("[trainer]", '[data.validation]\nsource = "work"\nimages = ["images/im0.png"]\n'
                         f'labels = ["masks/im0.png"]\nclasses = {CLASSES}\n[trainer]')
    )  # fmt: skip
    made, _ = retrain.retrain(folder, tmp_path / "template.toml")
    data = read_experiment(made / "experiment.toml").file.data
    assert list(data) == ["labelled", "validation", "test"] and len(data["labelled"].images) == 2
    assert data["validation"].source == str(folder.path)


def test_a_bad_adapter_is_refused_and_a_better_run_promoted(folder, run, tmp_path):
    for number in (2, 3):
        folder.write_mask(f"im{number}", truth(number))
        folder.accept(f"im{number}", by="test", lock=True)
    template = tmp_path / "template.toml"
    tables = experiment_tables(folder, semantic="exemplars")
    fit(check_experiment(tables, name="good", folder=tmp_path), tmp_path / "good")
    ranked = sorted([run, tmp_path / "good"], key=lambda path: locked_figures(folder, path)["miou_pooled"])
    worst, best = ranked[0], ranked[-1]
    assert best == tmp_path / "good"  # a discriminant on random features beats untrained tokens
    folder.facts["zero_shot"] = {"run": str(worst), "figures": locked_figures(folder, worst)}
    verdict = promote(folder, best)
    assert verdict.promoted and AnnotationFolder(folder.path).facts["promoted"] == str(best)
    refused = promote(folder, worst)
    assert not refused.promoted and "does not beat" in refused.reasons[0]
    assert AnnotationFolder(folder.path).facts["promoted"] == str(best)
    template.write_text(TEMPLATE)
    assert command("retrain", folder.path, "--experiment", template) == 0
    rounds = AnnotationFolder(folder.path).facts["rounds"]
    assert [entry["promoted"] for entry in rounds] == [True, False, False] and rounds[2]["accepted"] == 2


def test_without_a_zero_shot_run_the_first_round_has_to_beat_grey_level(folder, tmp_path, capsys):
    accept_two(folder)
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    template = tmp_path / "template.toml"
    template.write_text(TEMPLATE)
    assert command("retrain", folder.path, "--experiment", template) == 0
    assert "of grey level alone" in capsys.readouterr().out
    first = AnnotationFolder(folder.path).facts
    results = json.loads((folder.path / "runs" / "round-1" / "results.json").read_text())
    assert first["zero_shot"]["figures"]["miou_pooled"] == results["sets"]["test"]["grey_level"]["miou_pooled"] > 0.3
    assert "promoted" not in first and len(first["rounds"]) == 1


def test_images_are_read_for_the_gate_as_the_run_and_the_template_read_them(folder, tmp_path, monkeypatch):
    """Keys of the data tables, not the file's own facts alone: a bar that is found, a pixel size that is given."""
    accept_two(folder)
    for number in (2, 3):
        folder.write_mask(f"im{number}", truth(number))
        folder.accept(f"im{number}", by="test", lock=True)
    seen = []
    checked = retrain.check_experiment
    monkeypatch.setattr(
        retrain, "check_experiment", lambda tables, **named: seen.append(tables["data"]) or checked(tables, **named)
    )
    template = tmp_path / "template.toml"
    template.write_text(TEMPLATE.replace('source = "x"', 'source = "x"\ndata_bar = "find"\npixel_nm = 2.5'))
    run, _ = retrain.retrain(folder, template)
    locked_figures(folder, run)
    roles = [table for tables in seen for table in tables.values()]
    assert len(roles) >= 3 and all((r["data_bar"], r["pixel_nm"]) == ("find", 2.5) for r in roles)
    trained = read_experiment(run / "experiment.toml").file.data
    assert {role.data_bar for role in trained.values()} == {"find"}


def test_a_locked_mask_that_was_accepted_anew_is_measured_anew(folder, tmp_path, monkeypatch):
    folder.write_mask("im0", truth(0))
    folder.accept("im0", by="test", lock=True)
    monkeypatch.setattr(
        retrain, "locked_figures", lambda folder, run: figures(0.9 if (folder.mask("im0") == truth(1)).all() else 0.3)
    )
    folder.facts["zero_shot"] = {"run": str(tmp_path / "zero"), **retrain._measured(folder, tmp_path / "zero")}
    assert not promote(folder, tmp_path / "round-1").promoted
    folder.write_mask("im0", truth(1))
    folder.accept("im0", by="test", lock=True)
    verdict = promote(folder, tmp_path / "round-2")
    assert verdict.reasons == ["miou_pooled 0.9000 does not beat 0.9000 of zero-shot"]


@pytest.mark.parametrize("answer", ["box", "point", "mask"])
def test_a_trainer_that_answers_prompts_is_refused_before_it_trains(folder, run, tmp_path, capsys, answer):
    accept_two(folder)
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    template = tmp_path / "template.toml"
    template.write_text(TEMPLATE.replace("prompts = 2", f'prompts = 2\nanswer = "{answer}"'))
    assert command("retrain", folder.path, "--experiment", template) == 2
    assert f"it answers prompts made from labels (answer = '{answer}')" in capsys.readouterr().err
    assert not (folder.path / "runs").exists()
    tables = experiment_tables(folder, answer=answer)
    fit(check_experiment(tables, name="told", folder=tmp_path), tmp_path / "told")
    assert command("suggest", folder.path, "--run", tmp_path / "told") == 2
    assert "it answers prompts made from labels" in capsys.readouterr().err


def test_what_is_locked_while_a_run_learns_from_it_keeps_the_run_from_promotion(folder, tmp_path, monkeypatch):
    accept_two(folder)
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    (tmp_path / "template.toml").write_text(TEMPLATE)
    monkeypatch.setattr(retrain, "judge", lambda *_: judge(figures(0.9), {}))

    def meanwhile(experiment, where):
        AnnotationFolder(folder.path).accept("im0", by="ann", lock=True)
        return fit(experiment, where)

    monkeypatch.setattr(retrain, "fit", meanwhile)
    _, verdict = retrain.retrain(folder, tmp_path / "template.toml")
    assert not verdict.promoted and verdict.reasons == [
        "im0: locked since it has learned from them, so they cannot measure it"
    ]
    assert AnnotationFolder(folder.path).promoted is None


def test_a_round_that_was_interrupted_is_judged_when_it_is_trained(folder, tmp_path, capsys, monkeypatch):
    accept_two(folder)
    folder.write_mask("im2", truth(2))
    folder.accept("im2", by="test", lock=True)
    template = tmp_path / "template.toml"
    template.write_text(TEMPLATE)

    def stopped(experiment, where):
        fit(experiment, where)  # to the end, in place of `lamella train RUN --resume`
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(retrain, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            retrain.retrain(folder, template)
    run = folder.path / "runs" / "round-1"
    assert f"then judge it: lamella annotate retrain {folder.path} --judge {run}" in capsys.readouterr().out
    folder.write_mask("im3", truth(3))
    folder.accept("im3", by="ann")
    assert command("retrain", folder.path, "--judge", run) == 0
    assert "round-1: " in capsys.readouterr().out
    (noted,) = AnnotationFolder(folder.path).facts["rounds"]
    assert noted["run"] == "runs/round-1" and noted["learned"] == ["im0", "im1"]
    assert command("retrain", folder.path, "--judge", run) == 2
    assert "was judged already" in capsys.readouterr().err
    assert command("retrain", folder.path, "--judge", run, "--experiment", template) == 2
    assert command("retrain", folder.path) == 2
    assert "needs --experiment FILE, or --judge RUN" in capsys.readouterr().err


def test_a_run_of_other_images_is_not_judged(folder, run, tmp_path, capsys):
    other = AnnotationFolder.create(tmp_path / "other", [tmp_path / "given"], CLASSES)
    assert command("retrain", other.path, "--judge", run) == 2
    assert "it did not learn from images of" in capsys.readouterr().err
