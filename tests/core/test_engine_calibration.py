"""Confidence that can be believed: the threshold's promise, the temperature, and pixels left without a class."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import Batch
from lamella.cli.main import main
from lamella.data.formats.files import read_image, read_mask
from lamella.engine import predictor
from lamella.engine.predict import Wanted, predict
from lamella.engine.trust.abstain import Abstention, confidence
from lamella.engine.trust.calibration import (
    Collected,
    Pixels,
    calibrate,
    calibration_error,
    checked,
    controlled,
    losses,
    read_rule,
    reliability,
    temperature,
)
from lamella.errors import RunError
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

K = 3


def image(random, pixels=400, hard=1.0, sharp=1.0):
    """Labels drawn from known probabilities, which are then told to the power ``sharp``."""
    logits = torch.from_numpy(random.normal(0, 2.0 / hard, (K, pixels)))
    true = logits.softmax(0).numpy()
    label = (random.random(pixels) > true.cumsum(0)).sum(0)
    return Pixels((logits * sharp).softmax(0).float(), torch.from_numpy(label))


@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([0.15, 0.3, 0.5]))
def test_the_threshold_is_the_least_that_keeps_the_inequality(seed, n, risk):
    random = np.random.default_rng(seed)
    c = [random.random(random.integers(3, 30)) for _ in range(n)]
    right = [random.random(len(one)) < 0.6 for one in c]
    thresholds = np.sort(np.append(random.choice(np.concatenate(c), 39), 1.01))
    loss = losses(c, right, thresholds)
    literal = [[sum(1 for p, ok in zip(a, b) if p >= t and not ok) / len(a) for t in thresholds]
               for a, b in zip(c, right)]  # fmt: skip
    assert loss == pytest.approx(np.array(literal))
    keeping = [g for g in range(40) if (sum(one[g] for one in literal) + 1) / (n + 1) <= risk]
    assert controlled(loss.sum(0), n, risk) == (keeping[0] if keeping else 39)


def test_the_promise_is_kept_by_new_images_and_not_by_giving_next_to_nothing():
    """ℓ of an image that was not among n, over many draws: at most α, and no less than α − 2/(n + 1) or so."""
    random, n, risk = np.random.default_rng(0), 20, 0.15
    found = []
    for _ in range(300):
        images = [image(random, hard=random.uniform(0.3, 3.0), sharp=3.0) for _ in range(n + 1)]
        threshold = calibrate(images[:n], "abc", risk)["threshold"]
        found.append(checked(images[n:], threshold)["after"]["wrong"])
    mean, off = np.mean(found), np.std(found) / len(found) ** 0.5
    assert mean < risk + 3 * off
    assert mean > risk - 2 / (n + 1) - 3 * off


def test_the_temperature_is_what_the_probabilities_were_raised_to():
    random = np.random.default_rng(1)
    images = [image(random, 2000, sharp=2.5) for _ in range(20)]
    assert temperature(images) == pytest.approx(2.5, rel=0.05)
    found = calibrate(images, "abc", 0.2)
    assert found["calibration_error"]["after"] < 0.02 < 0.1 < found["calibration_error"]["before"]


def test_a_likelier_temperature_that_makes_the_error_greater_is_not_taken():
    """Pixels of .99 that are always right ask for T < 1; those of .7 that are right as often are spoilt by it."""
    likely = torch.cat([torch.full((600,), 0.99), torch.full((400,), 0.7)])
    label = torch.cat([torch.zeros(600, dtype=torch.int64), (torch.arange(400) >= 280).long()])
    images = [Pixels(torch.stack([likely, 1 - likely]), label)] * 10
    assert temperature(images) < 0.9
    found = calibrate(images, "ab", 0.3)
    assert found["temperature"] == 1.0
    assert found["calibration_error"] == {"before": pytest.approx(0.006), "after": pytest.approx(0.006)}


def test_the_calibration_error_is_torchmetrics():
    one = image(np.random.default_rng(2), 5000, sharp=2.0)
    bins = reliability(confidence(one.likely).numpy(), (one.likely.argmax(0) == one.label).numpy())
    ours = calibration_error(bins)
    theirs = multiclass_calibration_error(one.likely.T, one.label, K, n_bins=15, norm="l1")
    assert ours == pytest.approx(theirs.item(), abs=1e-5)


def test_the_temperature_is_of_pixels_all_over_an_image():
    """Rows above are calibrated, rows below told to the power of 4: half of the pixels decide, not the upper ones."""
    random, seen = np.random.default_rng(5), Collected()
    for key in range(8):
        upper, lower = image(random, 64 * 64), image(random, 64 * 64, sharp=4.0)
        likely = torch.cat([one.likely.view(1, K, 64, 64) for one in (upper, lower)], 2)
        label = torch.cat([one.label.view(1, 64, 64) for one in (upper, lower)], 1)
        seen(Batch.of(torch.zeros(1, 1, 128, 64), label=label, key=torch.tensor([key])), likely, "abc")
    every = [Pixels(one.likely[:, order], one.label[order]) for one in seen.images for order in [torch.randperm(8192)]]
    assert temperature(seen.images) == pytest.approx(temperature(every), rel=0.05)
    assert temperature(seen.images) > 1.5


def test_a_promise_of_no_wrong_pixel_at_all_still_gives_those_that_are_surer():
    """Nineteen images and 5 %: Σ ℓ has to be 0, and every pixel above the surest mistake keeps its class."""
    likely = torch.tensor([[0.6, 0.7, 0.95, 0.99], [0.4, 0.3, 0.05, 0.01]])
    images = [Pixels(likely, torch.tensor([1, 1, 0, 0]))] * 19
    found = calibrate(images, "ab", 0.05)
    assert 0.7 < found["threshold"] < 0.71 and found["after"] == {"given": 0.5, "wrong": 0.0, "wrong_of_given": 0.0}


def test_each_image_is_tried_by_the_threshold_of_the_others():
    random = np.random.default_rng(3)
    images = [image(random, hard=random.uniform(0.3, 3.0)) for _ in range(12)]
    found = calibrate(images, "abc", 0.2)["held_out"]
    by_hand = []
    for i, one in enumerate(images):
        others = images[:i] + images[i + 1 :]
        by_hand.append(checked([one], calibrate(others, "abc", 0.2)["threshold"])["after"]["wrong"])
    assert found["wrong"] == pytest.approx(np.mean(by_hand), abs=0.004)  # the grids of thresholds differ a little


@pytest.mark.parametrize(("count", "risk"), [(1, 0.5), (4, 0.1)])
def test_too_few_images_promise_nothing(count, risk):
    images = [image(np.random.default_rng(seed)) for seed in range(count)]
    with pytest.raises(RunError, match="labelled images cannot promise"):
        calibrate(images, "abc", risk)


def test_a_network_that_is_never_wrong_gives_every_pixel_a_class():
    sure = Pixels(torch.tensor([[0.9, 0.2], [0.1, 0.8]]), torch.tensor([0, 1]))
    found = calibrate([sure] * 9, "ab", 0.1)
    assert (found["threshold"], found["after"]["given"]) == (0.0, 1.0)


def test_multiples_of_probabilities_are_judged_as_they_are():
    likely = torch.rand(4, 5, 6).softmax(0)
    rule = Abstention(threshold=0.3)
    assert torch.equal(rule.labels(likely), rule.labels(7 * likely))
    label = rule.labels(likely)
    assert ((label == 255) == (likely.amax(0) < 0.3)).all()
    assert torch.equal(label[label != 255], likely.argmax(0)[label != 255].to(torch.uint8))


# The commands

SURE = 0.8


@pytest.fixture
def run(tiny_run, tiny_registry_file, tmp_path, monkeypatch):
    """A copy of the tiny run, which is calibrated here."""
    monkeypatch.setenv("LAMELLA_REGISTRY", str(tiny_registry_file))
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture
def lamella(capsys):
    """Call the command line; gives (exit code, standard output, standard error)."""

    def call(*arguments):
        code = 0
        try:
            main([*map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    ramp = np.linspace(30, 230, 1200).reshape(40, 30).astype(np.uint8)
    for name, grey in (("a", ramp), ("b", ramp[::-1])):
        Image.fromarray(np.ascontiguousarray(grey)).save(folder / f"{name}.png")
    return folder


def test_a_calibrated_run_leaves_unsure_pixels_without_a_class(run, pictures, lamella, tmp_path):
    assert lamella("predict", run, pictures, "--out", tmp_path / "all", "--probabilities")[0] == 0
    code, out, _ = lamella("calibrate", run, "--risk", "0.21", "--check", "test")
    assert code == 0
    assert "4 images of 'test'" in out
    found = json.loads((run / "calibration.json").read_text())
    assert (found["set"], found["risk"], list(found["classes"])) == ("test", 0.21, ["ground", "square", "disc"])
    assert found["after"]["wrong"] <= found["before"]["wrong"]
    assert found["checked"]["test"]["after"] == found["after"]
    assert read_image(run / "calibration.png").std() > 5
    found["threshold"] = SURE  # four easy images need no threshold
    (run / "calibration.json").write_text(json.dumps(found))
    assert lamella("predict", run, pictures, "--out", tmp_path / "sure", "--abstain", "--coco")[0] == 0
    for name in "ab":
        whole, sure = (read_mask(tmp_path / folder / f"{name}.label.png") for folder in ("all", "sure"))
        likely = np.stack([read_image(tmp_path / "all" / f"{name}.p-{c}.png") for c in found["classes"]]) / 255
        unsure = likely.max(0) < SURE
        disputed = np.abs(likely.max(0) - SURE) < 0.01
        assert 0 < unsure.mean() < 1
        assert ((sure == 255) == unsure)[~disputed].all()
        assert (sure == whole)[sure != 255].all()
        with (tmp_path / "sure" / "areas.csv").open(encoding="utf-8") as file:
            row = next(row for row in csv.DictReader(file) if row["image"] == name)
        assert int(row["no class (px)"]) == (sure == 255).sum()


def test_large_images_are_judged_by_the_same_rule(run, pictures, monkeypatch, tmp_path):
    (run / "calibration.json").write_text(json.dumps({"threshold": SURE, "temperature": 1.0,
                                                      "checkpoint": checkpoint(run)}))  # fmt: skip
    predict(run, [pictures], tmp_path / "whole", wanted=Wanted(abstain=True))
    monkeypatch.setattr(predictor, "LARGE", 16)
    predict(run, [pictures], tmp_path / "strips", wanted=Wanted(abstain=True))
    for name in "ab":
        whole, strips = (read_mask(tmp_path / folder / f"{name}.label.png") for folder in ("whole", "strips"))
        assert (strips == 255).any()
        assert (whole == strips).mean() > 0.999


def checkpoint(run):
    return json.loads((run / "checkpoints" / "last.json").read_text())["folder"]


def test_nothing_is_measured_in_maps_that_lack_their_interfaces(run, pictures, lamella, tmp_path):
    code, _, err = lamella("predict", run, pictures, "--out", tmp_path / "p", "--abstain", "--measure")
    assert (code, "would measure too thin" in err) == (2, True)
    assert not (tmp_path / "p").exists()


def test_predictions_of_another_threshold_are_not_mixed(run, pictures, lamella, tmp_path):
    assert lamella("predict", run, pictures, "--out", tmp_path / "p")[0] == 0
    lamella("calibrate", run, "--risk", "0.3")
    (run / "calibration.json").write_text(json.dumps({"threshold": SURE, "temperature": 1.0,
                                                      "checkpoint": checkpoint(run)}))  # fmt: skip
    code, _, err = lamella("predict", run, pictures, "--out", tmp_path / "p", "--abstain")
    assert (code, f"was begun with abstain = None, not {SURE}" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--risk", "0.1"], "4 labelled images cannot promise that at most 10 % of all pixels are wrong"),
        (["--risk", "0.1"], "their least is 20 %"),
        (["--on", "labelled"], "'labelled' is no labelled set that training did not see; there are: test"),
        (["--check", "else"], "'else' is no labelled set"),
    ],
)  # fmt: skip
def test_mistakes_of_calibrate_are_one_sentence(run, lamella, arguments, said):
    code, _, err = lamella("calibrate", run, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (run / "calibration.json").exists()


@pytest.mark.parametrize(
    ("written", "said"),
    [(None, "is not calibrated: lamella calibrate"), ("{", "cannot be read"), ('{"threshold": 0.5}', "cannot be read"),
     ('{"threshold": 0.5, "temperature": 1, "checkpoint": "step-1"}', "was calibrated with step-1")],
)  # fmt: skip
def test_a_run_that_is_not_calibrated_says_what_to_do(run, written, said):
    if written is not None:
        (run / "calibration.json").write_text(written)
    with pytest.raises(RunError, match=said):
        read_rule(run)
