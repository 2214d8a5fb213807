"""What the paper compares with, from the same parts as the method itself."""

from typing import Annotated

from lamella import Chain, FromData, Loss, SegmentationBackbone
from pydantic import Field

from lamella_tem.supervised import Supervised
from lamella_tem.weak_to_strong import WeakToStrong

Names = Annotated[list[str], FromData]
Losses = Annotated[dict[str, Loss] | None, Field(description="of the labelled images, as `supervised`")]


def cutmix_supervised(
    *,
    backbone: SegmentationBackbone,
    augment: Annotated[Chain | None, Field(description="perturbation set of the training images")] = None,
    p: Annotated[float, Field(ge=0, le=1, description="probability of CutMix")] = 0.5,
    losses: Losses = None,
    class_names: Names,
) -> Supervised:
    """Supervised training with CutMix on the labelled images.

    Source: Yun et al., CutMix, ICCV 2019, with label maps in place of label shares.
    """
    return Supervised(backbone=backbone, augment=augment, losses=losses, mix=p, class_names=class_names)


def cutmix_consistency(
    *,
    backbone: SegmentationBackbone,
    weak: Annotated[Chain | None, Field(description="perturbation set of the weak view, and of labels")] = None,
    tau: Annotated[float, Field(ge=0, le=1, description="threshold τ of the pseudo-label")] = 0.95,
    losses: Losses = None,
    class_names: Names,
) -> WeakToStrong:
    """Consistency of unlabelled images under CutMix alone: no other strong perturbation, none of features.

    Source: French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations", BMVC
    2020, with the threshold and the loss of equation 4 in place of their mean teacher.
    """
    return WeakToStrong(
        backbone=backbone, sets=[Chain([])], weak=weak, select="all", lam=1.0, mix=1.0, tau=tau, losses=losses,
        statistics="all", class_names=class_names,
    )  # fmt: skip


def unimatch(
    *,
    backbone: SegmentationBackbone,
    weak: Annotated[Chain | None, Field(description="perturbation set of the weak view, and of labels")] = None,
    strong: Annotated[Chain, Field(description="the strong set that both views draw from")],
    tau: Annotated[float, Field(ge=0, le=1, description="threshold τ of the pseudo-label")] = 0.95,
    losses: Losses = None,
    class_names: Names,
) -> WeakToStrong:
    """UniMatch (V1) on one channel: two strong views of one set, CutMix, and dropped feature channels.

    Its loss is (x + ¼s₁ + ¼s₂ + ½fp)/2: weak-to-strong with the mean of two equal sets and λ = ½. Hue and grey
    have no meaning on one channel, so its colour jitter is brightness and contrast: give ``strong`` the set
    ``natural``. Avoided traps of its code: CutMix draws its partner from the batch, not from a second iterator
    over the same sampler, so the pseudo-label of what is pasted is of the same pass in train mode, where its code
    asks the network in eval mode; the divisor is guarded; no checkpoint is chosen on a validation set.

    Source: Yang et al., "Revisiting weak-to-strong consistency", CVPR 2023.
    """
    return WeakToStrong(
        backbone=backbone, sets=[strong, strong], weak=weak, select="mean", lam=0.5, mix=0.5, tau=tau, drop=0.5,
        losses=losses, statistics="all", class_names=class_names,
    )  # fmt: skip
