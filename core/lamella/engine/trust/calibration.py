"""How far a network's confidence can be believed, and from which confidence on its classes keep a promise.

Over images i of a labelled set that training did not see, with the probability p of every class k of a pixel:

    temperature  q_k ∝ p_k^(1/T), with the T at which the mean of −log q_label is least; 1 where that does not make
                 the calibration error smaller
    loss         ℓ_i(t) = share of the pixels of image i whose class is given (max_k p_k ≥ t) and wrong
    threshold    t̂ = the least t with (Σ_i ℓ_i(t) + 1)/(n + 1) ≤ α

ℓ never grows with t and is at most 1, so that for one more image like these n the mean of ℓ(t̂) is at most α, whatever
the network is (conformal risk control). T has no part in t̂: it was found on the same images.

Source: Guo et al., "On calibration of modern neural networks", ICML 2017; Angelopoulos et al., "Conformal risk
control", ICLR 2024.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.engine.run import checkpoint_folder
from lamella.engine.trust.abstain import Abstention, confidence
from lamella.errors import RunError

FILE = "calibration.json"
"""In the run folder: what `calibrate` returns, with ``set`` and ``checkpoint``."""
MOST, MOST_FOR_T = 2**14, 2**11
"""Pixels of an image, drawn at random, that are kept for the threshold and for the temperature."""
BINS = 15
"""Of confidence, in the calibration error."""
_GRID = 2000
_COOLEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels of one image."""

    likely: Tensor
    """(K, P) probabilities."""
    label: Tensor
    """(P,) classes."""


class Collected:
    """What a set shows: called with every batch of an evaluation."""

    def __init__(self) -> None:
        self.images: list[Pixels] = []

    def __call__(self, batch: Batch | dict[str, Batch], likely: Tensor, names: Sequence[str]) -> None:
        """Keep up to `MOST` labelled pixels of every image; raises `RunError` where there are no label maps."""
        if isinstance(batch, dict) or batch.label is None or batch.label.ndim != 3:
            raise RunError("confidence is calibrated for label maps; this run makes none")
        for probabilities, label, key in zip(likely.cpu(), batch.label.cpu(), batch.key.cpu()):
            known = (label != IGNORE).flatten().nonzero().squeeze(1)
            if len(known):
                drawn = np.random.default_rng([int(key) & (2**63 - 1)]).permutation(len(known))[:MOST]
                known = known[torch.from_numpy(drawn)]
                self.images.append(Pixels(probabilities.flatten(1)[:, known], label.flatten()[known]))


def temperature(images: Sequence[Pixels]) -> float:
    """T with the least mean −log q_label over pixels, `MOST_FOR_T` of every image at most."""
    likely = torch.cat([one.likely[:, :MOST_FOR_T] for one in images], 1).clamp(min=1e-12).log().double()
    label = torch.cat([one.label[:MOST_FOR_T] for one in images])

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy((likely / math.exp(log_t)).T, label))

    best = minimize_scalar(loss, bounds=(math.log(_COOLEST), math.log(_HOTTEST)), method="bounded")
    return float(math.exp(best.x))


def reliability(confident: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """[mean confidence, share that is right, share of pixels] of each of `BINS` bins of confidence that has any."""
    place = np.minimum((confident * BINS).astype(int), BINS - 1)
    count, sure, hit = (np.bincount(place, weights, BINS) for weights in (None, confident, right))
    return [[float(sure[b] / n), float(hit[b] / n), float(n / len(place))] for b, n in enumerate(count) if n]


def calibration_error(bins: Sequence[Sequence[float]]) -> float:
    """Σ over the bins of `reliability` of |share that is right − mean confidence| times the bin's share of pixels."""
    return sum(abs(right - confident) * share for confident, right, share in bins)


def losses(confident: Sequence[np.ndarray], right: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """ℓ_i(t) (n, G): of every image the share of pixels that are given a class, and a wrong one."""
    found = np.empty((len(confident), len(thresholds)))
    for i, (c, ok) in enumerate(zip(confident, right)):
        wrong = np.sort(c[~ok])
        found[i] = (len(wrong) - np.searchsorted(wrong, thresholds, side="left")) / len(c)
    return found


def controlled(total: np.ndarray, n: int, risk: float) -> int:
    """The place of t̂ among G thresholds, the last where none keeps the promise.

    Args:
        total: Σ_i ℓ_i(t) (G,) over n images, never growing.
    """
    kept = (total + 1) / (n + 1) <= risk
    return int(kept.argmax()) if kept.any() else len(total) - 1


def calibrate(images: Sequence[Pixels], classes: Sequence[str], risk: float) -> dict[str, Any]:
    """Temperature, threshold, and what they do, as JSON values.

    Returns:
        ``temperature``, ``threshold``; ``calibration_error`` before and after the temperature; ``before`` and ``after``
        the threshold: ``given`` (share of pixels with a class), ``wrong`` (share of all pixels), ``wrong_of_given``;
        ``held_out``: where each image has the threshold of the others; ``classes``: by predicted class;
        ``reliability`` and ``curve``: for the picture.

    Raises:
        RunError: too few images for that risk: with n of them none below 1/(n + 1) can be promised.
    """
    n = len(images)
    if n < 2 or 1 / (n + 1) > risk:
        least = f"{100 / (n + 1):.2g} %" if n else "anything"
        raise RunError(
            f"{n} labelled images cannot promise that at most {100 * risk:g} % of all pixels are wrong: their least is "
            f"{least}; label more, or allow more with --risk"
        )
    confident, right = _judged(images)
    rule = Abstention(temperature=temperature(images))
    scaled = [confidence(rule.calibrated(one.likely)).numpy() for one in images]
    bins = [reliability(np.concatenate(each), np.concatenate(right)) for each in (confident, scaled)]
    if calibration_error(bins[1]) >= calibration_error(bins[0]):
        rule, bins = Abstention(), [bins[0]] * 2
    wrong = np.concatenate([c[~ok] for c, ok in zip(confident, right)])
    # Above all of `wrong` no pixel of these images is given a wrong class, at 2 no pixel is given any.
    above = np.nextafter(wrong.max(initial=0.0), np.float32(2))
    grid = np.unique([0.0, *(np.quantile(wrong, np.linspace(0, 1, _GRID)) if len(wrong) else ()), above, 2.0])
    loss = losses(confident, right, grid)
    threshold = float(grid[controlled(loss.sum(0), n, risk)])
    return {
        "images": n, "risk": risk, "temperature": rule.temperature, "threshold": threshold,
        "calibration_error": {"before": calibration_error(bins[0]), "after": calibration_error(bins[1])},
        "before": _figures(confident, right, 0.0), "after": _figures(confident, right, threshold),
        "held_out": _held_out(loss, confident, grid, risk),
        "classes": _by_class(images, confident, right, classes, threshold),
        "reliability": {"before": bins[0], "after": bins[1]},
        "curve": _curve(confident, right),
    }  # fmt: skip


def checked(images: Sequence[Pixels], threshold: float) -> dict[str, dict[str, float]]:
    """``before`` and ``after`` a threshold that was found on other images, as of `calibrate`."""
    confident, right = _judged(images)
    return {"before": _figures(confident, right, 0.0), "after": _figures(confident, right, threshold)}


def read_rule(run: Path, checkpoint: str | None = None) -> Abstention:
    """How a calibrated run leaves pixels without a class; raises `RunError` where it, or this checkpoint, was not."""
    path, command = run / FILE, f"lamella calibrate {quote(str(run))}"
    if not path.is_file():
        raise RunError(f"{run} is not calibrated: {command}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rule = Abstention(float(found["threshold"]), float(found["temperature"]))
        of = found["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); calibrate again: {command}") from error
    if of != (ours := checkpoint_folder(run, checkpoint)):
        raise RunError(f"{run} was calibrated with {of}, and this is {ours}: {command}")
    return rule


def _judged(images: Sequence[Pixels]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of every image's pixels the confidence, and whether the most likely class is the label."""
    right = [(one.likely.argmax(0) == one.label).numpy() for one in images]
    return [confidence(one.likely).numpy() for one in images], right


def _figures(confident: Sequence[np.ndarray], right: Sequence[np.ndarray], threshold: float) -> dict[str, float]:
    """Means over images: the share of pixels with a class, that of those with a wrong one, and what share these are."""
    given = [float((c >= threshold).mean()) for c in confident]
    wrong = [float(((c >= threshold) & ~ok).mean()) for c, ok in zip(confident, right)]
    return {
        "given": float(np.mean(given)), "wrong": float(np.mean(wrong)),
        "wrong_of_given": sum(wrong) / max(sum(given), 1e-12),
    }  # fmt: skip


def _held_out(
    loss: np.ndarray, confident: Sequence[np.ndarray], grid: np.ndarray, risk: float
) -> dict[str, float] | None:
    """Every image under the threshold of all the others; None where those are too few for the risk."""
    n = len(loss)
    if 1 / n > risk:
        return None
    total = loss.sum(0)
    places = [controlled(total - one, n - 1, risk) for one in loss]
    given = [float((c >= grid[place]).mean()) for c, place in zip(confident, places)]
    return {"wrong": float(np.mean([loss[i, place] for i, place in enumerate(places)])), "given": float(np.mean(given))}


def _by_class(
    images: Sequence[Pixels], confident: Sequence[np.ndarray], right: Sequence[np.ndarray], classes: Sequence[str],
    threshold: float,
) -> dict[str, dict[str, float]]:
    """Of the pixels predicted as a class: how many are wrong before, and among those that keep it; and how many do."""
    predicted = np.concatenate([one.likely.argmax(0).numpy() for one in images])
    sure, ok = np.concatenate(confident) >= threshold, np.concatenate(right)
    found = {}
    for number, name in enumerate(classes):
        mine = predicted == number
        kept = mine & sure
        found[name] = {
            "wrong": float((~ok[mine]).mean()) if mine.any() else math.nan,
            "wrong_of_given": float((~ok[kept]).mean()) if kept.any() else math.nan,
            "given": float(kept.sum() / mine.sum()) if mine.any() else math.nan,
        }
    return found


def _curve(confident: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> list[list[float]]:
    """[share of pixels with a class, share of those that are wrong] from all pixels to the surest few."""
    c, ok = np.concatenate(confident), np.concatenate(right)
    wrong = (~ok)[np.argsort(-c, kind="stable")].cumsum()
    counts = np.unique(np.linspace(0.02, 1.0, 100) * len(c)).astype(int).clip(1)
    return [[float(k / len(c)), float(wrong[k - 1] / k)] for k in counts]
