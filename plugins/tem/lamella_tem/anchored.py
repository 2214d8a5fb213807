"""Weak-to-strong training that goes on from another one and stays near it: what did best in docs/results.md."""

from typing import Annotated

from lamella import Chain, FromData, Loss, NeedsStart, SegmentationBackbone
from lamella.errors import ConfigError
from pydantic import Field

from lamella_tem.weak_to_strong import WeakToStrong


def anchored(
    *,
    backbone: Annotated[SegmentationBackbone, NeedsStart, Field(description="with the first training as its start")],
    sets: Annotated[list[Chain], Field(min_length=1, description="strong perturbation sets: `sample` and `post`")],
    weak: Annotated[Chain | None, Field(description="perturbation set of the weak view, and of labels")] = None,
    paste: Annotated[
        list[str] | None, Field(description="rare classes: pasted into half of the images, learned from labels alone")
    ] = None,
    tau: Annotated[float, Field(ge=0, le=1, description="threshold τ of the pseudo-label")] = 0.95,
    teacher_share: Annotated[
        float, Field(ge=0, le=1, description="share of the first network in the weights that predict")
    ] = 0.0,
    losses: Annotated[dict[str, Loss] | None, Field(description="of the labelled images, as `supervised`")] = None,
    class_names: Annotated[list[str], FromData],
) -> WeakToStrong:
    """The second of two trainings: it begins with a network that labels made, which stays its teacher throughout.

    Half of the unlabelled images stay without noise, so that nothing drifts; τ is lowered for classes that are seldom
    confident; strong views have Dice beside cross-entropy; no pseudo-label is of a class of ``paste``, and where one
    is suspected none is trusted. It is `weak-to-strong` with these settings, and features are not perturbed (λ = 1).

    Source: ours; how it was found is in examples/paper/PROTOCOL.md, "Anchored", what it brings in docs/results.md.

    Raises:
        ConfigError: a start that does not know every class of the data.
    """
    if unknown := getattr(backbone, "unknown_to_start", []):
        raise ConfigError(
            f"anchored: the start of the backbone does not know {', '.join(unknown)}, and stays the teacher: it would "
            "tell them by chance; begin with a training on labels of these classes, called the same there"
        )
    return WeakToStrong(
        backbone=backbone, sets=sets, weak=weak, probe_scale=0.5, tau=tau, class_tau=True, lam=1.0, ema=1.0, anchor=0.5,
        dice=True, paste=paste, doubt=16.0 if paste else 0.0, cap=0.0 if paste else None, teacher_share=teacher_share,
        losses=losses, class_names=class_names,
    )  # fmt: skip
