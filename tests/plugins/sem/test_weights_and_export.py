"""Encoders out into the world and back: runs, timm files, the Hub, ONNX; every mistake in one sentence."""

import json
import shutil
import sys
import warnings

import pytest
import timm
import torch
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import open_run
from lamella.errors import ContractError, RunError
from lamella_sem.export import export
from lamella_sem.vit import vit
from pairs import ENCODER
from safetensors.torch import save_file

SHAPE = {key: value for key, value in ENCODER.items() if key != "name"}
PAIRS = {"source": {"name": "synth-sem", "count": 6, "size": 32, "layout": "apart"},
         "columns": {"image": {"high": "image", "low": "low"}}}  # fmt: skip
SMALL = {"name": "vit", "size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 2}
PRETRAIN = {"name": "mae-contrastive", "views": "sem-views", "encoder": SMALL, "decoder_width": 16, "decoder_depth": 1}
FIT = {"steps": 3, "batch_size": 4, "log_every": 1, "best": "last"}


def trained(folder, name, role, trainer, **fit_changes):
    data, changed = {role: PAIRS, "test": PAIRS}, {**FIT, **fit_changes}
    tables = {"modality": "sem", "data": data, "trainer": trainer, "fit": changed}
    run = folder / name
    return run, fit(check_experiment(tables, name=name, folder=folder), run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A pre-training, and a classification that starts from it."""
    folder = tmp_path_factory.mktemp("runs")
    pretrained, first = trained(folder, "pre", "unlabelled", PRETRAIN)
    start = {**SMALL, "weights": str(pretrained)}
    classified, second = trained(folder, "cls", "labelled", {"name": "classify", "encoder": start}, ema=0.5)
    return {"pre": pretrained, "cls": classified, "results": (first, second)}


def encoder_of(run):
    return open_run(run)[1].encoder


def same(one, other):
    return all((one.state_dict()[name] == value).all() for name, value in other.state_dict().items())


def test_both_trainers_run_end_to_end_and_report(runs):
    first, second = (results["sets"]["test"] for results in runs["results"])
    assert first["pairs"] == 6 and {"recall_at_1", "knn_accuracy", "probe_accuracy"} <= first.keys()
    assert second["samples"] == 6 and len(second["confusion"]) == 8 and len(second["embedding_map"]) == 6
    page = (runs["cls"] / "report.html").read_text(encoding="utf-8")
    assert "calibration error" in page and page.count("<img") >= 4
    assert "retrieval recall@1" in (runs["pre"] / "report.html").read_text(encoding="utf-8")
    log = [json.loads(line) for line in (runs["pre"] / "log.jsonl").read_text().splitlines()]
    assert all(entry["paired"] == 1 for entry in log)


def test_an_encoder_starts_from_a_run_of_either_trainer(runs):
    shape = {key: value for key, value in SMALL.items() if key != "name"}
    for name in ("pre", "cls"):
        assert same(vit(**shape, weights=str(runs[name]), channels=1), encoder_of(runs[name])), name
    assert not same(encoder_of(runs["pre"]), encoder_of(runs["cls"]))


def test_weights_of_an_encoder_with_other_heads_are_refused_where_it_is_known(runs, tmp_path):
    export(runs["pre"], tmp_path, onnx=False)
    other = {**{key: value for key, value in SMALL.items() if key != "name"}, "heads": 3, "channels": 1}
    for weights, run in ((runs["pre"], "pre"), (runs["cls"], "cls"), (tmp_path / "model.safetensors", "pre")):
        with pytest.raises(ContractError, match="are of an encoder with heads = 2, not 3; set that") as caught:
            vit(**other, weights=str(weights))
        assert "\n" not in str(caught.value)
        assert same(vit(**{**other, "heads": 2}, weights=str(weights)), encoder_of(runs[run]))
    (tmp_path / "config.json").unlink()  # of a bare file nobody knows
    vit(**other, weights=str(tmp_path / "model.safetensors"))


def test_a_run_is_opened_after_the_run_it_started_from_is_gone(runs, tmp_path):
    moved = shutil.copytree(runs["cls"], tmp_path / "moved")
    text = (moved / "experiment.toml").read_text()
    (moved / "experiment.toml").write_text(text.replace(str(runs["pre"]), str(tmp_path / "gone")))
    assert str(runs["pre"]) in text and same(encoder_of(moved), encoder_of(runs["cls"]))


def test_a_timm_file_of_colour_and_another_size_is_resampled(tmp_path):
    torch.manual_seed(0)
    colour = vit(**{**SHAPE, "size": 32}, channels=3)
    save_file({**colour.state_dict(), "head.weight": torch.zeros(5, 24)}, tmp_path / "timm.safetensors")
    grey = vit(**SHAPE, weights=str(tmp_path / "timm.safetensors"), channels=1)
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        patches = [net.eval().patch_embed(x) for net, x in ((grey, image), (colour, image.expand(-1, 3, -1, -1)))]
    assert (patches[0] - patches[1]).abs().max() < 1e-5
    assert grey.pos_embed.shape == (1, 17, 24)
    assert (grey.blocks[1].mlp.fc1.weight == colour.blocks[1].mlp.fc1.weight).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: "nowhere.safetensors", "is no run folder, no .safetensors file, and no Hub id"),
        (lambda folder: str(folder), "this is no run folder"),
        (lambda folder: _file(folder, depth=3), r"has 'blocks.2\..*2 tensors missing|which the encoder has not"),
        (lambda folder: _file(folder, depth=1), "lacks 'blocks.1"),
        (lambda folder: _file(folder, width=48), r"do not fit: .* is .* there and .* here"),
        (lambda folder: _broken(folder), "cannot be read as safetensors"),
        (lambda folder: "timm/no-such-model", "cannot be had from the Hub, and there is no folder of that name"),
    ],
)
def test_wrong_weights_are_named_in_one_sentence(make, message, tmp_path):
    with pytest.raises(ContractError, match=message) as caught:
        vit(**SHAPE, weights=make(tmp_path), channels=1)
    assert "\n" not in str(caught.value)


def test_a_mistyped_run_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", lambda *given, **more: pytest.fail("it asks the Hub"))
    for source in ("runs/pretraned", str(tmp_path / "runs" / "pretraned")):
        with pytest.raises(ContractError, match=r"runs has no run folder and no file of that name"):
            vit(**SHAPE, weights=source, channels=1)


def _file(folder, **changes):
    save_file(vit(**{**SHAPE, **changes}, channels=1).state_dict(), folder / "other.safetensors")
    return str(folder / "other.safetensors")


def _broken(folder):
    (folder / "broken.safetensors").write_bytes(b"no weights")
    return str(folder / "broken.safetensors")


def test_sizes_that_do_not_go_together_are_named():
    with pytest.raises(ContractError, match="size = 20 is no multiple of patch = 8"):
        vit(size=20, patch=8, channels=1)
    with pytest.raises(ContractError, match="heads = 5 do not divide width = 24"):
        vit(size=16, patch=8, width=24, heads=5, channels=1)


def test_the_export_is_loaded_by_timm_alone(runs, tmp_path):
    done = export(runs["pre"], tmp_path, onnx=False)
    assert done["files"] == ["model.safetensors", "config.json"] and done["differences"]["timm"] < 1e-6
    config = json.loads((tmp_path / "config.json").read_text())
    file = str(tmp_path / "model.safetensors")
    model = timm.create_model(config["architecture"], num_classes=0, checkpoint_path=file, **config["model_args"])
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        found, wanted = (net.eval().forward_features(image) for net in (model, encoder_of(runs["pre"])))
    assert (found - wanted).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_onnx_export_gives_the_same(runs, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        done = export(runs["cls"], tmp_path)
    assert not [str(one.message) for one in told if "training mode" in str(one.message)]
    assert done["files"][-1] == "encoder.onnx" and done["differences"]["onnx"] < 1e-4
    assert (tmp_path / "encoder.onnx").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "encoder.onnx"])
def test_files_that_are_of_no_export_are_left_alone(name, runs, tmp_path):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(RunError, match=f"{name} is there and not of `lamella sem-export`"):
        export(runs["pre"], tmp_path, onnx=False)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, '{"mine": 1}')]
    (tmp_path / name).unlink()
    for run in ("cls", "pre"):  # its own are replaced
        export(runs[run], tmp_path, onnx=False)
        assert not (tmp_path / "encoder.onnx").exists()  # that of other weights goes
        (tmp_path / "encoder.onnx").write_text("of these weights")
    assert json.loads((tmp_path / "config.json").read_text())["run"] == "pre"


def test_onnx_is_looked_for_before_anything_is_written(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RunError, match="ONNX needs further packages"):
        export(runs["pre"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_is_refused(runs, tmp_path, monkeypatch):
    from lamella_sem import export as module

    monkeypatch.setattr(module, "MEAN", 0.4)  # as if normalisation were forgotten on one side

    class Shifted(module.Embedder):
        def forward(self, image):
            return super().forward(image) + 0.01

    monkeypatch.setattr(module, "_through_timm", lambda out: Shifted(encoder_of(runs["pre"])))
    with pytest.raises(RunError, match=r"differs by 0\.01; it is not to be used"):
        export(runs["pre"], tmp_path, onnx=False)
