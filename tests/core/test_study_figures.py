"""Figures from counts against another library, and intervals that cover what they should."""

import json

import numpy as np
import pytest
import torch
from lamella import Batch
from lamella.errors import ConfigError
from lamella.study.figures import difference, estimate, figure, of_values
from lamella.study.report import _difference
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

CLASSES = ["ground", "layer", "defect"]


@pytest.fixture
def drawn():
    """(labels, predictions, counts) of three classes."""
    random = np.random.default_rng(0)
    label = random.integers(0, 3, 500)
    predicted = np.where(random.random(500) < 0.7, label, random.integers(0, 3, 500))
    counts = np.zeros((3, 3), np.int64)
    np.add.at(counts, (label, predicted), 1)
    return label, predicted, counts


def test_figures_equal_those_of_another_library(drawn):
    label, predicted, counts = drawn
    pair = torch.from_numpy(predicted), torch.from_numpy(label), 3
    each = multiclass_jaccard_index(*pair, average=None).numpy()
    recall = multiclass_accuracy(*pair, average=None).numpy()
    assert figure("miou", CLASSES)(counts) == pytest.approx(each.mean())
    assert figure("miou:-defect", CLASSES)(counts) == pytest.approx(each[:2].mean())
    assert figure("iou:defect", CLASSES)(counts) == pytest.approx(each[2])
    assert figure("accuracy", CLASSES)(counts) == pytest.approx((label == predicted).mean())
    assert figure("macro-recall", CLASSES)(counts) == pytest.approx(recall.mean())
    assert figure("recall:layer", CLASSES)(counts) == pytest.approx(recall[1])


def test_a_class_that_does_not_occur_counts_nowhere():
    counts = np.array([[5, 0, 0], [1, 4, 0], [0, 0, 0]])
    assert figure("miou", CLASSES)(counts) == pytest.approx((5 / 6 + 4 / 5) / 2)
    assert np.isnan(figure("iou:defect", CLASSES)(counts))


@pytest.mark.parametrize("text", ["iou", "iou:-defect", "miou:defect", "f1", "recall", "iou:deffect"])
def test_what_is_no_figure_is_refused(text):
    with pytest.raises(ConfigError, match="figure"):
        figure(text, CLASSES)


def _lots(random, share, lots=12):
    """Counts of two classes by lot, each lot with its own accuracy around ``share``."""
    found = {}
    for lot in range(lots):
        right = random.binomial(200, np.clip(random.normal(share, 0.05), 0, 1))
        found[f"lot {lot}"] = np.array([[right, 200 - right], [0, 0]])
    return found


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    accuracy, covered = figure("accuracy", ["a", "b"]), 0
    for trial in range(100):
        random = np.random.default_rng(trial)
        found = estimate([_lots(random, 0.8)], accuracy, seed=trial)
        covered += found.low <= 0.8 <= found.high
    assert 82 <= covered <= 99  # percentile intervals of 12 groups are a little short


def test_a_class_that_one_lot_alone_has_does_not_shift_the_interval():
    """Left out of the resamples that lack its lot, it would lift all of them by a third here."""
    common, rare = np.diag([90, 80, 0]), np.array([[90, 0, 10], [0, 80, 0], [20, 0, 1]])
    found = estimate([{"lot 0": rare, "lot 1": common, "lot 2": common}], figure("miou", CLASSES))
    assert found.low <= found.mean <= found.high < found.mean + 0.1


def test_a_paired_difference_is_sharper_than_its_parts():
    random = np.random.default_rng(1)
    ours, theirs = [], []
    for _ in range(3):
        lots = _lots(random, 0.8)
        ours.append(lots)
        theirs.append({name: counts + np.array([[-4, 4], [0, 0]]) for name, counts in lots.items()})
    accuracy = figure("accuracy", ["a", "b"])
    apart = difference(ours, theirs, accuracy)
    assert apart.mean == pytest.approx(0.02)
    assert apart.high - apart.low < 0.1 * (estimate(ours, accuracy).high - estimate(ours, accuracy).low)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        difference(ours, theirs[:2], accuracy)


def test_values_of_seeds_are_resampled():
    found = of_values([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3) and found.low == pytest.approx(0.1) and found.high == pytest.approx(0.6)
    assert of_values([0.4]).mean == 0.4 and np.isnan(of_values([0.4]).high)


def test_one_seed_with_one_group_has_no_interval():
    accuracy, one = figure("accuracy", ["a", "b"]), [{"": np.array([[8, 2], [0, 10]])}]
    for found in (estimate(one, accuracy), difference(one, one, accuracy)):
        assert np.isnan(found.low) and np.isnan(found.high) and np.isfinite(found.mean)
    assert np.isfinite(estimate(one * 2, accuracy).low)


def test_runs_on_other_groups_are_refused():
    accuracy, lots = figure("accuracy", ["a", "b"]), _lots(np.random.default_rng(0), 0.8, 3)
    fewer = {name: counts for name, counts in lots.items() if name != "lot 1"}
    for pair in ([lots, fewer], [fewer, lots]):
        with pytest.raises(ConfigError, match=r"not measured on the same groups \(lot 1\)"):
            estimate(pair, accuracy)
        with pytest.raises(ConfigError, match=r"not measured on the same groups \(lot 1\)"):
            difference(pair[:1], pair[1:], accuracy)


def test_a_seed_without_the_figure_leaves_neither_mean_nor_interval():
    found = of_values([0.5, np.nan, 0.7])
    assert np.isnan([found.mean, found.low, found.high]).all()
    assert _difference({"difference": found._asdict()}) == "<td>–</td>"


def test_counts_of_images_come_back_by_group(tmp_path, tiny_file, tiny_registry):
    from lamella.engine.experiment import read_experiment
    from lamella.engine.fit import fit
    from lamella.study.groups import read_counts

    found = fit(read_experiment(tiny_file, ["fit.steps=2"], registry=tiny_registry), tmp_path / "run")
    classes, lots = read_counts(tmp_path / "run" / "counts" / "test.json", "lot")
    assert classes == found["classes"] and sorted(lots) == ["A", "B"]
    assert torch.equal(torch.from_numpy(sum(lots.values())), torch.tensor(found["sets"]["test"]["confusion"]))


def test_counts_have_the_groups_that_any_image_has(tmp_path):
    from lamella.data.samples import Row, SampleTable
    from lamella.engine.counts import ImageCounts

    rows = [Row(name, 0, groups, (1.0, 1.0), None, True) for name, groups in (("a", {}), ("b", {"lot": "B"}))]
    counts = ImageCounts(SampleTable(rows, None, "set"), ["x", "y"])
    batch = Batch.of(torch.zeros(2, 1, 4, 4), label=torch.tensor([0, 1]))
    counts.watch(batch, torch.eye(2), ["a", "b"])
    counts.save(tmp_path / "counts.json")
    assert json.loads((tmp_path / "counts.json").read_text())["groups"] == {"lot": ["", "B"]}


@pytest.mark.parametrize("groups, stride, transposed", [(1, 1, False), (8, 1, False), (4, 2, False), (1, 2, True)])
def test_operations_of_a_backward_are_counted_by_group(groups, stride, transposed):
    from lamella.engine.flops import Flops

    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    conv, image = kind(8, 16, 3, stride=stride, groups=groups), torch.rand(2, 8, 11, 13, requires_grad=True)
    flops = Flops(1)
    with flops.step():
        out = conv(image)
        out.sum().backward()
    places = 11 * 13 if transposed else out.shape[2] * out.shape[3]
    forward = 2 * 2 * places * 16 * (8 // groups) * 9  # multiply and add, per image
    assert flops.per_step == 3 * forward


def test_operations_of_attention_are_counted_on_a_cpu_as_on_a_gpu():
    from lamella.engine.flops import Flops

    batch, heads, queries, keys, width = 2, 3, 10, 14, 8
    q, k, v = (torch.rand(batch, heads, count, width, requires_grad=True) for count in (queries, keys, keys))
    flops = Flops(1)
    with flops.step():
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * batch * heads * queries * keys * width
    assert flops.per_step == (2 + 5) * product  # scores and values; backward the scores once more, and four gradients
