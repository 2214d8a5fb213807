"""The training loop: a run goes all the way, is a function of its seed, and says what is wrong."""

import json
import math
import re
import tomllib
from types import SimpleNamespace

import pytest
import torch
from lamella import Step, __version__
from lamella.data.loaders import training_loader
from lamella.engine.evaluate import evaluate
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.engine.run import new_folder, open_run, read_header
from lamella.engine.schedule import lr_factor
from lamella.engine.session import Session, _log_lines
from lamella.errors import ConfigError, DataError, LamellaError, RunError
from PIL import Image
from safetensors.torch import load_file
from tiny_plugin import CLASSES, Grey, squares

VALIDATION = "data.validation.source={ name = 'tiny-squares', count = 3, seed = 2 }"


def train(file, registry, run, *settings, **options):
    return fit(read_experiment(file, settings, registry=registry), run, **options)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights_of(run, name="last"):
    pointer = json.loads((run / "checkpoints" / f"{name}.json").read_text())
    return load_file(run / "checkpoints" / pointer["folder"] / "trainer.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_registry, tiny_text):
    """A run with validation, and what `fit` returned."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "tiny.toml").write_text(tiny_text)
    settings = (
        "fit.steps=60", "fit.evaluate_every=25", "fit.checkpoint_every=20", "trainer.backbone.width=16",
        "data.validation.source={ name = 'tiny-squares', count = 3, seed = 2 }",
    )  # fmt: skip
    return folder / "run", train(folder / "tiny.toml", tiny_registry, folder / "run", *settings)


def test_a_run_leaves_everything_a_person_needs(finished):
    run, results = finished
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"experiment.toml", "run.json", "results.json", "log.jsonl", "report.html"} <= files
    assert {"pictures/test.png", "pictures/validation.png", "pictures/step-000025.png"} <= files
    assert {"checkpoints/last.json", "checkpoints/best.json"} <= files
    assert any(file.startswith("tensorboard/") for file in files)
    assert not [file for file in files if "/." in f"/{file}"]
    assert json.loads((run / "results.json").read_text()) == results


def test_the_results_say_what_was_trained_on_what_and_how_good_it_is(finished):
    _, results = finished
    assert (results["trainer"], results["seed"], results["steps"]) == ("tiny_plugin:tiny-plain", 0, 60)
    assert results["images"] == {"labelled": 6, "validation": 3, "test": 4}
    assert results["classes"] == list(CLASSES)
    assert set(results["sets"]) == {"validation", "test"}
    for figures in results["sets"].values():
        assert 0.5 < figures["miou_pooled"] <= 1
        assert 0 < figures["grey_level"]["miou_pooled"] <= 1
        assert set(figures["iou"]) == set(CLASSES)


def test_the_loss_falls(finished):
    losses = [entry["loss"] for entry in log_of(finished[0]) if "loss" in entry]
    assert len(losses) == 60 // 5
    assert losses[-1] < 0.5 * losses[0]


def test_the_log_has_rate_and_named_losses_at_every_log_step(finished):
    entries = [entry for entry in log_of(finished[0]) if "lr" in entry]
    assert [entry["step"] for entry in entries] == list(range(5, 61, 5))
    assert all({"pixels", "loss"} < set(entry) for entry in entries)
    assert entries[0]["lr"] == pytest.approx(0.03 * (1 - 4 / 60) ** 0.9)


def test_a_figure_that_is_not_finite_is_null_in_the_log_and_nan_again_where_a_run_goes_on(tmp_path):
    entry = {"step": 2, "validation": {"recall": math.nan, "miou": 0.5}}
    session = SimpleNamespace(log=[], main=True, run=tmp_path)
    Session.write_log(session, entry)
    text = (tmp_path / "log.jsonl").read_text()
    assert text == '{"step": 2, "validation": {"recall": null, "miou": 0.5}}\n'
    (again,) = _log_lines(tmp_path / "log.jsonl")
    assert math.isnan(again["validation"].pop("recall")) and again == {"step": 2, "validation": {"miou": 0.5}}


def test_the_header_names_format_versions_plugins_and_data(finished):
    header = read_header(finished[0])
    assert header["format"] == 1
    assert header["data"] == {"channels": 1, "classes": 3, "class_names": list(CLASSES)}
    assert header["versions"]["lamella"] == __version__
    assert header["versions"]["torch"] == torch.__version__.partition("+")[0] or header["versions"]["torch"]
    assert header["plugins"] == {"tiny_plugin": "-"}


def test_the_report_needs_nothing_beside_it(finished):
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert len(sources) >= 3
    assert [source[:30] for source in sources if not source.startswith("data:image/png;base64,")] == []
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", page)


def test_the_report_shows_figures_classes_and_the_experiment(finished):
    run, results = finished
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"{results['sets']['test']['miou_pooled']:.4f}" in page
    assert f"{results['sets']['test']['grey_level']['miou_pooled']:.4f}" in page
    assert all(name in page for name in (*CLASSES, "mIoU pooled", "mIoU per image", "tiny-plain"))


def test_pictures_show_image_label_prediction_and_difference(finished):
    with Image.open(finished[0] / "pictures" / "test.png") as sheet:
        assert (sheet.mode, sheet.width) == ("RGB", 4 * 256 + 3 * 6)
        assert sheet.height > 4 * 256


def test_the_best_checkpoint_is_that_of_the_best_validation(finished):
    run, results = finished
    checks = {entry["step"]: entry["validation"]["miou_pooled"] for entry in log_of(run) if "validation" in entry}
    best = json.loads((run / "checkpoints" / "best.json").read_text())["step"]
    assert list(checks) == [25, 50, 60]
    assert checks[best] == max(checks.values())
    assert results["checkpoint"] == "best"
    assert results["sets"]["validation"]["miou_pooled"] == pytest.approx(checks[best])


@pytest.mark.parametrize("role", ["validation", "test"])
def test_an_opened_run_reproduces_its_evaluation(finished, tiny_registry, role):
    run, results = finished
    experiment, trainer, modality, header = open_run(run, registry=tiny_registry)
    assert not trainer.training
    tile = experiment.fit.tile_for(trainer)
    figures = evaluate(trainer, experiment.open(role), modality, device=torch.device("cpu"), batch_size=2, tile=tile)
    expected = results["sets"][role]
    assert figures["confusion"] == expected["confusion"]
    assert figures["miou_per_image"] == pytest.approx(expected["miou_per_image"], abs=1e-12)
    assert header["data"]["class_names"] == list(CLASSES)


def test_a_run_is_opened_with_the_checkpoint_that_is_asked_for(finished, tiny_registry):
    for name in ("best", "last"):
        _, trainer, _, _ = open_run(finished[0], name, registry=tiny_registry)
        assert same(trainer.state_dict(), weights_of(finished[0], name))
    with pytest.raises(RunError, match="'first'"):
        open_run(finished[0], "first", registry=tiny_registry)


@pytest.mark.parametrize("settings", [(), ("fit.optimizer.name=sgd", "fit.clip=0.05"), ("fit.warmup=4",)])
def test_the_loop_does_what_a_plain_one_would(tiny_file, tiny_registry, tmp_path, settings):
    train(tiny_file, tiny_registry, tmp_path / "run", "fit.steps=8", "fit.crop=24", *settings)
    experiment = read_experiment(tmp_path / "run" / "experiment.toml", registry=tiny_registry)
    config, header = experiment.fit, read_header(tmp_path / "run")
    trainer = experiment.trainer.build(seed=0, data=header["data"])
    if config.optimizer.name == "sgd":
        optimizer = torch.optim.SGD(trainer.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = torch.optim.AdamW(trainer.parameters(), lr=0.03, weight_decay=1e-4)
    loader = training_loader(
        experiment.open("labelled"), Grey(), batch_size=4, crop=24, seed=0, steps=range(8)
    )
    for number, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * lr_factor(number, config)
        optimizer.zero_grad()
        trainer({"labelled": batch}, Step(number, 8, 0))["loss"].backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(trainer.parameters(), config.clip)
        optimizer.step()
    for name, value in weights_of(tmp_path / "run").items():
        torch.testing.assert_close(value, trainer.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_one_seed_gives_one_result_and_another_another(tiny_file, tiny_registry, tmp_path):
    torch.manual_seed(1)
    one = train(tiny_file, tiny_registry, tmp_path / "one")
    torch.manual_seed(2)
    two = train(tiny_file, tiny_registry, tmp_path / "two")
    train(tiny_file, tiny_registry, tmp_path / "three", "seed=1")
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))
    assert one["sets"] == two["sets"]
    assert (tmp_path / "one" / "log.jsonl").read_text() == (tmp_path / "two" / "log.jsonl").read_text()
    assert not same(weights_of(tmp_path / "one"), weights_of(tmp_path / "three"))


def test_the_resolved_experiment_of_a_run_trains_the_same_again(tiny_file, tiny_registry, tmp_path):
    train(tiny_file, tiny_registry, tmp_path / "one", "fit.steps=6", "seed=4")
    train(tmp_path / "one" / "experiment.toml", tiny_registry, tmp_path / "two")
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


def test_evaluating_in_between_does_not_change_the_training(tiny_file, tiny_registry, tmp_path):
    train(tiny_file, tiny_registry, tmp_path / "one", "fit.steps=9")
    train(tiny_file, tiny_registry, tmp_path / "two", "fit.steps=9", "fit.evaluate_every=2", "fit.log_every=1")
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))
    assert (tmp_path / "two" / "pictures" / "step-000008.png").is_file()


def test_the_decoded_cache_does_not_change_the_training(tiny_file, tiny_registry, tmp_path):
    train(tiny_file, tiny_registry, tmp_path / "one", "fit.steps=6", "fit.crop=16")
    train(tiny_file, tiny_registry, tmp_path / "two", "fit.steps=6", "fit.crop=16", "fit.cache=false")
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


@pytest.mark.parametrize("settings", [("fit.optimizer.name=sgd",), ("fit.schedule=cosine", "fit.warmup=3")])
def test_other_optimizers_and_schedules_train_too(tiny_file, tiny_registry, tmp_path, settings):
    train(tiny_file, tiny_registry, tmp_path / "run", *settings)
    losses = [entry["loss"] for entry in log_of(tmp_path / "run") if "loss" in entry]
    assert losses[-1] < losses[0]


def test_the_intensity_mapping_of_the_training_goes_with_the_run(tiny_file, tiny_registry, tmp_path):
    train(tiny_file, tiny_registry, tmp_path / "run", "fit.steps=2", "modality={ name = 'tiny-grey', stretch = true }")
    experiment, _, modality, _ = open_run(tmp_path / "run", registry=tiny_registry)
    table = experiment.open("labelled")
    assert modality.top == max(table.read(i).image.max() for i in range(len(table)))


def test_a_loss_that_is_once_nan_is_left_out_and_named_with_its_samples(tiny_file, tiny_registry, tmp_path):
    experiment = read_experiment(tiny_file, ["trainer.bad_step=7"], registry=tiny_registry)
    fit(experiment, tmp_path / "run")
    trouble = [entry["trouble"] for entry in log_of(tmp_path / "run") if "trouble" in entry]
    assert len(trouble) == 1
    assert "step 7" in trouble[0]
    named = {int(key) for key in re.findall(r"\d{9,}", trouble[0])}
    assert len(named) in (3, 4)  # of a batch of four, of which one may come twice
    assert named <= set(experiment.open("labelled").keys())
    assert all(value.isfinite().all() for value in weights_of(tmp_path / "run").values())


@pytest.mark.parametrize("settings", [["fit.log_every=1"], ["fit.log_every=4", "fit.checkpoint_every=5"]])
@pytest.mark.parametrize("bad", [0, 4])
def test_a_step_that_is_not_finite_and_read_alone_does_not_end_the_run(
    tiny_file, tiny_registry, tmp_path, settings, bad
):
    results = train(tiny_file, tiny_registry, tmp_path / "run", "fit.steps=8", f"trainer.bad_step={bad}", *settings)
    assert [f"step {bad} " in entry["trouble"] for entry in log_of(tmp_path / "run") if "trouble" in entry] == [True]
    assert results["sets"]["test"]["miou_pooled"] > 0
    assert "Curves" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [[], ["fit.log_every=1"], ["fit.steps=4"]])
def test_losses_that_stay_nan_end_the_run_and_keep_no_bad_weights(tiny_file, tiny_registry, tmp_path, settings):
    settings = ["trainer.loss={ name = 'tiny-loss', factor = inf }", *settings]
    with pytest.raises(RunError, match=r"not finite from step 0 on.*learning rate"):
        train(tiny_file, tiny_registry, tmp_path / "run", *settings)
    assert log_of(tmp_path / "run")[-1]["step"] == (2 if "fit.steps=4" in settings else 10)
    for path in (tmp_path / "run").rglob("trainer.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.labelled={ source = 'pictures', images = '*.png' }", "data.test={ source = 'pictures' }"], "no labels"),
        (["data.test={ source = 'pictures', labels = '*.png', images = '*.png', classes = ['x', 'y'] }"],
         r"\[data\.test\] has the classes x, y, \[data\.labelled\] ground, square, disc"),
        (["fit.batch_size={ other = 3 }"], "labelled"),
        (["fit.evaluate_every=2", "fit.best=iou_of_the_year", "data.validation={ source = 'tiny-squares' }"],
         "iou_of_the_year.*miou_pooled"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit_the_trainer_are_one_sentence(tiny_file, tiny_registry, tmp_path, settings, said):
    (tmp_path / "pictures").mkdir()
    Image.new("L", (32, 32)).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(ConfigError, match=said):
        train(tiny_file, tiny_registry, tmp_path / "run", *settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["fit.accumulate=3"], "accumulate = 3 does not divide the 4 images of 'labelled' per process"),
        (["fit.balanced=['labelled']"], "whose samples have no one class each"),
        (["fit.best=miou_poled", VALIDATION], "best = 'miou_poled' is none of the figures .*miou_pooled"),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(tiny_file, tiny_registry, tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        train(tiny_file, tiny_registry, tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()


def test_a_validation_set_is_looked_at_in_the_end_at_least(tiny_file, tiny_registry, tmp_path):
    results = train(tiny_file, tiny_registry, tmp_path / "run", "fit.steps=4", VALIDATION)
    assert results["checkpoint"] == "best"
    assert [entry["step"] for entry in log_of(tmp_path / "run") if "validation" in entry] == [4]


def test_a_damaged_training_image_is_named(tiny_file, tiny_registry, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("L", (32, 32)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "b.png").write_bytes(b"")
    table = "data.labelled={ source = 'pictures', images = '*.png', labels = '*.png', classes = ['a', 'b', 'c'] }"
    with pytest.raises(DataError, match=r"b\.png.*0 bytes"):
        train(tiny_file, tiny_registry, tmp_path / "run", table, "data.test.classes=['a', 'b', 'c']")


def test_there_is_nothing_to_resume_in_a_folder_that_is_no_run(tiny_file, tiny_registry, tmp_path):
    with pytest.raises(LamellaError, match=re.escape(str(tmp_path))):
        train(tiny_file, tiny_registry, tmp_path / "nowhere", resume=True)


def test_a_folder_that_is_taken_gives_the_next_number(tmp_path):
    for name in ("run", "run-2", "run-3"):
        assert new_folder(tmp_path / "run") == tmp_path / name
        assert (tmp_path / name).is_dir()  # made at once: trainings that start together have folders of their own


def test_a_folder_in_which_no_run_began_is_removed_and_one_with_something_in_it_stays(
    tiny_file, tiny_registry, tmp_path
):
    for name in ("run", "mine"):
        run = new_folder(tmp_path / name)
        if name == "mine":
            (run / "notes.txt").write_text("mine")
        with pytest.raises(ConfigError, match="is read by nothing"):
            train(tiny_file, tiny_registry, run, "data.labeled.source=tiny-squares")
        assert run.exists() == (name == "mine")


def test_a_run_of_another_format_says_what_to_do(finished, tmp_path, tiny_registry):
    header = json.loads((finished[0] / "run.json").read_text())
    for found, advice in ((2, "install a newer Lamella"), (0, "train it again"), ("x", "train it again")):
        (tmp_path / "run.json").write_text(json.dumps({**header, "format": found}))
        with pytest.raises(RunError, match=rf"format {found}.*{advice}"):
            open_run(tmp_path, registry=tiny_registry)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_that_is_no_run_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=re.escape(str(tmp_path))):
        read_header(tmp_path)


def test_the_resolved_experiment_in_the_run_is_toml_with_full_names(finished):
    tables = tomllib.loads((finished[0] / "experiment.toml").read_text(encoding="utf-8"))
    assert tables["trainer"]["backbone"]["name"] == "tiny_plugin:tiny-conv"
    assert tables["fit"]["steps"] == 60


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (["data.labelled.classes=['ground', 'square', 'disc']"], None),
        (["data.labelled.classes={ ground = 'rest', square = 7, disc = 8 }"], "one class only, ground: there is"),
        (["fit.crop=32"], None),
        (["fit.crop=40"], "crop = 40 is larger than every training image (at most 32×32): the rest of every crop is"),
    ],
)
def test_what_makes_a_training_pointless_is_said_before_it_begins(
    tiny_file, tiny_registry, tmp_path, capsys, settings, warned
):
    folder = tmp_path / "scans"
    folder.mkdir()
    for row in squares(count=4):
        row["image"].save(folder / f"{row['name']}.png")
        row["label"].save(folder / f"{row['name']}_mask.png")
    if "crop" not in settings[0]:
        keys = [settings[0].partition("labelled.")[2], f"source='{folder.as_posix()}'", "labels='*_mask.png'"]
        settings = [f"data.{role}.{key}" for role in ("labelled", "test") for key in keys]
    train(tiny_file, tiny_registry, tmp_path / "run", "fit.steps=1", *settings)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("beware")]
    assert len(said) == (warned is not None) and (warned is None or warned in said[0])
