"""Segmentation figures against torchmetrics, scikit-image and slow loops that follow the definitions."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lamella import IGNORE, Batch, SegmentationMetrics
from lamella.engine.metrics import boundary, confusion, iou_of
from lamella.errors import ContractError

NAMES = ["a", "b", "c", "d"]
SHARE = 0.02


def blobs(seed: int, count: int, height: int, width: int, classes: int, ignored: float = 0.0) -> torch.Tensor:
    """Label maps with compact regions; some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (count, 1, 5, 5), generator=generator).float()
    label = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")[:, 0].long()
    return torch.where(torch.rand(label.shape, generator=generator) < ignored, IGNORE, label)


def measured(predicted: torch.Tensor, label: torch.Tensor, names: list[str] = NAMES, parts: int = 1) -> dict:
    """The figures, with the images given in several batches."""
    metrics = SegmentationMetrics(names)
    scores = torch.nn.functional.one_hot(predicted, len(names)).movedim(-1, 1).float()
    for piece in torch.arange(len(label)).chunk(parts):
        metrics.update(scores[piece], Batch.of(torch.zeros(len(piece), 1, *label.shape[1:]), label=label[piece]))
    return metrics.compute()


def same(ours: float, theirs: float) -> bool:
    return math.isclose(ours, theirs, abs_tol=1e-6) or (math.isnan(ours) and math.isnan(theirs))


@pytest.fixture(scope="module")
def torchmetrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional dependencies
        import torchmetrics
        import torchmetrics.classification
    return torchmetrics


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_pooled_figures_are_those_of_torchmetrics(torchmetrics, ignored):
    predicted, label = blobs(1, 5, 40, 30, 4), blobs(2, 5, 40, 30, 4, ignored)
    ours = measured(predicted, label, parts=3)
    options = {"num_classes": 4, "ignore_index": IGNORE}
    each = torchmetrics.classification.MulticlassJaccardIndex(average="none", **options)(predicted, label)
    dice = torchmetrics.classification.MulticlassF1Score(average="none", **options)(predicted, label)
    accuracy = torchmetrics.classification.MulticlassAccuracy(average="micro", **options)(predicted, label)
    assert list(ours["iou"].values()) == pytest.approx(each.tolist(), abs=1e-6)
    assert list(ours["dice"].values()) == pytest.approx(dice.tolist(), abs=1e-6)
    assert ours["accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    assert ours["miou_pooled"] == pytest.approx(each.mean().item(), abs=1e-6)


def slow_iou(predicted: np.ndarray, label: np.ndarray, number: int) -> float:
    hit = either = 0
    for p, t in zip(predicted.ravel().tolist(), label.ravel().tolist()):
        if t != IGNORE:
            hit += p == number and t == number
            either += p == number or t == number
    return hit / either if either else math.nan


maps = arrays(np.uint8, (3, 6, 7), elements=st.sampled_from([0, 1, 2, 3]))
marked = arrays(np.uint8, (3, 6, 7), elements=st.sampled_from([0, 1, 2, 3, IGNORE]))


@given(maps, marked)
def test_per_image_iou_averages_over_the_classes_of_each_image_and_then_over_images(predicted, label):
    ours = measured(torch.from_numpy(predicted).long(), torch.from_numpy(label).long())
    images = []
    for p, t in zip(predicted, label):
        known = [v for v in (slow_iou(p, t, k) for k in range(4)) if not math.isnan(v)]
        images += [sum(known) / len(known)] if known else []
    assert same(ours["miou_per_image"], sum(images) / len(images) if images else math.nan)
    pooled = [slow_iou(predicted, label, k) for k in range(4)]
    assert all(same(a, b) for a, b in zip(ours["iou"].values(), pooled))


@given(maps, marked, st.integers(1, 3))
def test_figures_do_not_depend_on_how_images_are_batched(predicted, label, parts):
    predicted, label = torch.from_numpy(predicted).long(), torch.from_numpy(label).long()
    whole, pieces = measured(predicted, label), measured(predicted, label, parts=parts)
    for name in ("miou_pooled", "miou_per_image", "accuracy", "boundary_miou"):
        assert same(whole[name], pieces[name])
    assert whole["confusion"] == pieces["confusion"]


@given(maps, marked)
def test_what_is_predicted_at_ignored_pixels_counts_nowhere_in_iou(predicted, label):
    other = np.where(label == IGNORE, 3 - predicted, predicted)
    first, second = (measured(torch.from_numpy(p).long(), torch.from_numpy(label).long()) for p in (predicted, other))
    assert first["confusion"] == second["confusion"]
    assert same(first["miou_per_image"], second["miou_per_image"])
    assert sum(map(sum, first["confusion"])) == int((label != IGNORE).sum()) == sum(first["pixels"].values())


def literal_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Cheng et al. to the letter: erode ``width`` times by 3×3, the outside of the image being outside."""
    from skimage.morphology import erosion

    framed = np.pad(mask, 1, constant_values=False)
    for _ in range(width):
        framed = erosion(framed, np.ones((3, 3), bool))
    return mask & ~framed[1:-1, 1:-1]


@given(arrays(bool, (14, 11)), st.integers(1, 4))
def test_the_rim_of_a_mask_is_what_repeated_erosion_takes_away(mask, width):
    ours = boundary(torch.from_numpy(mask)[None].long(), width)[0].numpy() & mask
    assert (ours == literal_boundary(mask, width)).all()


@pytest.mark.parametrize(("height", "width", "rim"), [(40, 30, 1), (150, 200, 5), (64, 240, 5)])
def test_boundary_iou_takes_a_rim_of_two_percent_of_the_diagonal(height, width, rim):
    assert rim == max(1, round(SHARE * math.hypot(height, width)))
    predicted, label = blobs(3, 2, height, width, 3), blobs(4, 2, height, width, 3, ignored=0.1)
    ours = measured(predicted, label, NAMES[:3])
    for number, name in enumerate(NAMES[:3]):
        hit = either = 0
        for p, t in zip(predicted.numpy(), label.numpy()):
            known = np.where(t == IGNORE, IGNORE, p)  # what is ignored is as in the label, and no rim is wrong there
            one, other = (literal_boundary(m == number, rim) for m in (known, t))
            hit, either = hit + (one & other).sum(), either + (one | other).sum()
        assert ours["boundary_iou"][name] == pytest.approx(hit / either, abs=1e-12)
    assert ours["boundary_miou"] == pytest.approx(np.mean(list(ours["boundary_iou"].values())))


def test_a_perfect_prediction_scores_one_everywhere():
    label = blobs(5, 3, 32, 48, 4, ignored=0.2)
    ours = measured(torch.where(label == IGNORE, 0, label), label)
    assert [ours[n] for n in ("miou_pooled", "miou_per_image", "accuracy", "boundary_miou")] == [1.0] * 4


def test_a_class_that_never_occurs_is_nan_and_left_out_of_the_mean():
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    label[:, 4:] = 1
    ours = measured(label, label)
    for name in ("iou", "dice", "boundary_iou"):
        assert [math.isnan(value) for value in ours[name].values()] == [False, False, True, True]
    assert (ours["miou_pooled"], ours["boundary_miou"], ours["pixels"]["c"]) == (1.0, 1.0, 0)


def test_a_class_predicted_where_no_label_has_it_counts_as_wrong():
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    predicted = label.clone()
    predicted[:, 0] = 2
    ours = measured(predicted, label)
    assert ours["iou"]["c"] == 0.0
    assert ours["miou_pooled"] == pytest.approx((56 / 64 + 0) / 2)


def test_a_set_without_a_counted_pixel_gives_nan_and_not_an_error():
    label = torch.full((2, 8, 8), IGNORE)
    ours = measured(torch.zeros_like(label), label)
    assert all(math.isnan(ours[name]) for name in ("miou_pooled", "miou_per_image", "accuracy", "boundary_miou"))
    assert ours["images"] == 2


def test_images_of_different_sizes_are_counted_together():
    metrics = SegmentationMetrics(NAMES[:2])
    for size in (8, 20):
        label = torch.ones(1, size, size, dtype=torch.int64)
        scores = torch.nn.functional.one_hot(label, 2).movedim(-1, 1).float()
        metrics.update(scores, Batch.of(torch.zeros(1, 1, size, size), label=label))
    assert metrics.compute()["pixels"] == {"a": 0, "b": 8 * 8 + 20 * 20}


def test_confusion_has_the_label_in_rows_and_the_prediction_in_columns():
    label, predicted = torch.tensor([[[0, 1, 1, IGNORE]]]), torch.tensor([[[2, 1, 0, 0]]])
    counts = confusion(predicted, label, 3)
    assert counts.tolist() == [[[0, 0, 1], [1, 1, 0], [0, 0, 0]]]
    assert torch.equal(iou_of(counts).isnan(), torch.tensor([[False, False, False]]))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 4, 8, 9), (2, 4, 8, 8), (1, 4, 8)])
def test_predictions_that_do_not_fit_the_labels_are_refused_with_both_shapes(shape):
    batch = Batch.of(torch.zeros(1, 1, 8, 8), label=torch.zeros(1, 8, 8, dtype=torch.int64))
    with pytest.raises(ContractError) as raised:
        SegmentationMetrics(NAMES).update(torch.zeros(shape), batch)
    assert str(shape) in str(raised.value)
    assert "(1, 8, 8)" in str(raised.value)


def test_a_batch_without_labels_is_refused():
    with pytest.raises(ContractError, match="labels"):
        SegmentationMetrics(NAMES).update(torch.zeros(1, 4, 8, 8), Batch.of(torch.zeros(1, 1, 8, 8)))


def test_figures_of_nothing_are_refused():
    with pytest.raises(ContractError, match="no image"):
        SegmentationMetrics(NAMES).compute()
