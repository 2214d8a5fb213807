"""A perturbation is a Kornia augmentation too: beside a mask, and repeated exactly by its parameters."""

import torch
from kornia.augmentation import AugmentationBase2D, AugmentationSequential
from torch import Tensor

from lamella.contracts.warp import Warp
from lamella.testing.cases import Case
from lamella.testing.following import mismatch
from lamella.testing.promise import difference, first
from lamella.testing.subject import NO_METADATA, Subject


def replays(subject: Subject, case: Case) -> None:
    """In ``AugmentationSequential`` the mask follows, and ``params=`` gives the same again, noise and all."""
    built = subject.build()
    if not isinstance(built, AugmentationBase2D):
        seen = f"it is a {type(built).__name__}; derive from Perturbation or Warp, or say reduced=True"
        raise subject.broken("be a Kornia augmentation", seen)
    for p in (None, 0.5):
        _replay(subject, case, p)


def _replay(subject: Subject, case: Case, p: float | None) -> None:
    batch = case.two_levels()
    assert batch.label is not None
    image, mask = batch.image, batch.label.unsqueeze(1).to(batch.image.dtype)
    gate = "" if p is None else f" at p = {p}"
    pipeline = _pipeline(subject, p)
    torch.manual_seed(case.seed)
    try:
        moved, moved_mask = pipeline(image.clone(), mask.clone())
    except KeyError as error:
        seen = f"KeyError: {error}, as a plain Kornia module"
        raise subject.broken(NO_METADATA, seen, case) from error
    _same_kind(subject, case, moved, image)
    if not isinstance(subject.build(), Warp):
        if gap := difference(moved_mask, mask):
            raise subject.broken(f"leave a mask beside it in place{gate}", gap, case)
    # Outside the image a mask is 0 there: the label 0 is pure there, so only the class 1 can be compared.
    elif (wrong := mismatch(moved, moved_mask[:, 0].long(), border=0) & (moved_mask[:, 0] == 1)).any():
        seen = f"at {first(wrong, moved_mask[:, 0])}"
        raise subject.broken(f"move a mask beside it as it moves the image{gate}", seen, case)
    params = pipeline._params
    for again, which in ((pipeline, "the same instance"), (_pipeline(subject, p), "a fresh instance")):
        torch.manual_seed(case.seed + 1)
        image_again, mask_again = again(image.clone(), mask.clone(), params=params)
        for what, found, wanted in (("image", image_again, moved), ("mask", mask_again, moved_mask)):
            if gap := difference(found, wanted):
                seen = f"{which} gave another {what}: {gap}; draw in forward_parameters, from its streams"
                raise subject.broken(f"repeat itself exactly under params={gate}", seen, case)


def _pipeline(subject: Subject, p: float | None) -> AugmentationSequential:
    built = subject.build() if p is None else subject.build_at(p)
    return AugmentationSequential(built, data_keys=["input", "mask"])


def _same_kind(subject: Subject, case: Case, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        seen = f"{tuple(wanted.shape)} {wanted.dtype} became {tuple(found.shape)} {found.dtype}"
        raise subject.broken("keep shape and dtype as a Kornia module", seen, case)
    if not found.isfinite().all() or (found < 0).any() or (found > 1).any():
        seen = f"from {found.min().item():.3g} to {found.max().item():.3g}"
        raise subject.broken("stay finite and within [0, 1] as a Kornia module", seen, case)
