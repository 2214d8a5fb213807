"""Label, trust and instances go where the pixels go, and stay where the pixels stay."""

import torch
from torch import Tensor
from torch.nn import functional

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.flow import invert, sample_bilinear
from lamella.contracts.parameters import About
from lamella.contracts.warp import Warp
from lamella.testing.cases import Case, instance_of, streams_of, trust_of
from lamella.testing.promise import difference, first
from lamella.testing.subject import Subject

_REACH = 6
"""How far, in pixels, the windows of a grey-value perturbation are searched for a movement."""
_WINDOW = 24


def labels_follow(subject: Subject, case: Case) -> None:
    """After a movement the label still lies under its pixels; without one it has not changed."""
    batch, built = subject.batch(case), subject.build()
    result = subject.perturb(built, batch)
    assert batch.label is not None
    if not subject.moves(built):
        if gap := subject.changed(result._replace(image=batch.image), batch):
            raise subject.broken("leave label, weight and instance alone (or be a Warp)", f"it changed {gap}", case)
        _stays(subject, case)
        return
    assert result.label is not None
    seen, known = result.label.unique(), torch.cat([batch.label.unique(), torch.tensor([IGNORE])])
    if new := sorted(set(seen.tolist()) - set(known.tolist())):
        advice = "labels are classes, not values: move them by the nearest pixel"
        raise subject.broken("invent no label", f"class {new[0]} was not there; {advice}", case)
    if gap := difference(result.weight, trust_of(result.label)):
        promise = "move weight with label, 0 exactly where the label is IGNORE"
        raise subject.broken(promise, f"weight: {gap}", case)
    if gap := difference(result.instance, instance_of(result.label)):
        promise = "move instance with label, 0 where the label is IGNORE"
        raise subject.broken(promise, f"instance: {gap}", case)
    _image_shows_label(subject, case)
    if isinstance(built, Warp):
        _constant_stays(subject, case)


def without_masks(subject: Subject, case: Case) -> None:
    """It takes batches without labels, and the image becomes the same; a class for the image stays."""
    batch, built = subject.batch(case), subject.build()
    wanted = subject.perturb(built, batch).image
    bare = batch._replace(label=None, weight=None, instance=None)
    one_class = bare._replace(label=torch.arange(case.count), weight=torch.ones(case.count))
    for kind, other in (("without labels", bare), ("with one class per image", one_class)):
        try:
            result = subject.perturb(built, other)
        except (AttributeError, TypeError, IndexError) as error:
            seen = f"{type(error).__name__}: {error}"
            raise subject.broken(f"take a batch {kind}", seen, case) from error
        if gap := subject.changed(result, other._replace(image=wanted)):
            raise subject.broken(f"treat a batch {kind} as one with masks", f"another {gap}", case)


def does_not_fold(subject: Subject, case: Case) -> None:
    """The flow of a `Warp` has the right shape, keeps neighbours in order and can be inverted."""
    built = subject.build()
    if not isinstance(built, Warp):
        return
    batch = subject.batch(case)
    streams, about = streams_of(batch), About(case.height, case.width, batch.pixel_nm, batch.meta)
    flow = built.flow(built.draw(streams.child("draw"), about), streams.child("render"), about)
    wanted = (case.count, case.height, case.width, 2)
    if flow.shape != wanted or flow.dtype != torch.float32:
        seen = f"{tuple(flow.shape)} {flow.dtype}"
        raise subject.broken(f"give a flow of {wanted} float32", seen, case)
    if not flow.isfinite().all():
        raise subject.broken("give a finite flow", first(~flow.isfinite(), flow), case)
    if built.mirrors:
        return _moves_whole_pixels(subject, built, flow, case)
    area = _least_area(flow)
    if (area <= 0).any():
        advice = "make the displacement smaller or smoother, so that max‖∇u‖ < 1"
        seen = f"det(1 + ∇u) ≤ 0 at {first(area <= 0, area)}; {advice}"
        raise subject.broken("not fold the image over itself", seen, case)
    rest = _inverse_error(flow)
    if rest.max() > 0.1:
        seen = f"the inverse misses by pixels: {first(rest > 0.1, rest)}; keypoints would not follow"
        raise subject.broken("have a flow whose inverse a fixed-point iteration finds", seen, case)


def _moves_whole_pixels(subject: Subject, built: Warp, flow: Tensor, case: Case) -> None:
    """Every pixel comes from a pixel of its own, and the inverse leads back there."""
    count, height, width = flow.shape[:3]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows, columns], -1).to(flow) + flow  # (B, H, W, 2): where each pixel comes from
    index = (place[..., 0] * width + place[..., 1]).flatten(1)
    if gap := difference(index.sort(1).values, torch.arange(float(height * width)).expand(count, -1)):
        raise subject.broken("move whole pixels to places of their own, where it mirrors", gap, case)
    back = built.inverse(flow, place.flip(-1).flatten(1, 2)).view(*flow.shape).flip(-1) - (place - flow)
    if back.abs().max() > 0.1:
        seen = f"the inverse misses by {back.abs().max():.3g} pixels; keypoints would not follow"
        raise subject.broken("have an inverse of its own, where it mirrors", seen, case)


def _image_shows_label(subject: Subject, case: Case) -> None:
    """Wherever a two-level image still shows one pure level, the label is the one of that level."""
    batch, built = case.two_levels(), subject.build()
    if subject.meta:
        batch = batch._replace(meta=subject.batch(case).meta)
    result = subject.perturb(built, batch)
    assert result.label is not None
    wrong = mismatch(result.image, result.label, border=0 if isinstance(built, Warp) else 1)
    if wrong.any():
        seen = f"the label stayed behind, or went elsewhere, at {first(wrong, result.label)}"
        raise subject.broken("move the label as it moves the image", seen, case)


def mismatch(image: Tensor, label: Tensor, *, border: int) -> Tensor:
    """(B, H, W) bool: where ``image`` shows 0.2 or 0.8, and ``label`` neither 0 or 1 accordingly nor IGNORE.

    Pixels within ``border`` of an ignored one are left out: what is outside the image may have bled in.
    """
    level = (image[:, 0].to(torch.float32) - 0.2) / 0.6
    near = (label == IGNORE).to(torch.float32).unsqueeze(1)
    near = functional.max_pool2d(near, 2 * border + 1, stride=1, padding=border).squeeze(1) > 0
    zero, one = level.abs() < 0.08, (level - 1).abs() < 0.08
    return ~near & ((zero & (label != 0)) | (one & (label != 1)))


def _constant_stays(subject: Subject, case: Case) -> None:
    batch = subject.batch(case)
    batch = batch._replace(image=torch.full_like(batch.image, 0.375))
    result = subject.perturb(subject.build(), batch)
    if gap := difference(result.image, batch.image, tolerance=1e-6):
        raise subject.broken("leave a constant image constant, when all it does is move pixels", gap, case)


def _stays(subject: Subject, case: Case) -> None:
    """No part of the image turns up elsewhere, nor the whole turned or mirrored: labels would have had to follow."""
    case = case.resized(2 * _REACH + 2 * _WINDOW, 2 * _REACH + 2 * _WINDOW, count=1, dtype="float32")
    for side in (3, 1):  # squares that survive a blur, and detail that shows a movement by one pixel
        batch = case.two_levels(side=side)
        result = subject.perturb(subject.build(), batch._replace(meta=subject.batch(case).meta))
        found = [_whole_movement(batch, result)]
        if side == 3:
            found += [(f"window {i}", *one) for i, one in enumerate(_movements(batch, result))]
        for what, here, best, shift in found:
            if best > 0.75 and here < 0.4:
                seen = (
                    f"the image ({what}) came out {shift[0]} rows and {shift[1]} columns away (correlation "
                    f"{best:.2f} there, {here:.2f} in place); derive from Warp, and label and weight follow"
                )
                raise subject.broken("leave pixels in place when it does not move the labels", seen, case)


def _whole_movement(batch: Batch, result: Batch) -> tuple[str, float, float, tuple[int, int]]:
    """How the whole image moved, its correlation with the original in place, the best elsewhere, and where that is.

    Every shift is tried, around the edges, of the image as it was, turned by quarters, mirrored, and both.
    """
    before, after = (_standard(one.image[0].float().mean(0)) for one in (batch, result))
    ways = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)]
    moved = torch.stack([torch.rot90(before.flip(-1) if mirrored else before, q) for mirrored, q in ways])
    size = before.shape[-1]
    spectrum = torch.fft.rfft2(after) * torch.fft.rfft2(moved).conj()
    scores = torch.fft.irfft2(spectrum, s=(size, size)).abs()  # (8, H, W): inverted contrast moves nothing
    way, y, x = torch.unravel_index(scores.argmax(), scores.shape)
    shift = (int(y + size // 2) % size - size // 2, int(x + size // 2) % size - size // 2)
    mirrored, quarters = ways[int(way)]
    how = ["all"] + ["mirrored"] * mirrored + [f"turned by {90 * quarters}°"] * (quarters > 0)
    return ", ".join(how), scores[0, 0, 0].item(), scores.max().item(), shift


def _standard(image: Tensor) -> Tensor:
    """``image`` with mean 0 and norm 1."""
    image = image - image.mean()
    return image / image.norm().clamp_min(1e-6)


def _movements(batch: Batch, result: Batch) -> list[tuple[float, float, tuple[int, int]]]:
    """For each window: its correlation with the original in place, the best elsewhere, and where that is."""
    before, after = batch.image[:, 0].float(), result.image[:, 0].float()
    size = before.shape[-1]
    shifts = [(y, x) for y in range(-_REACH, _REACH + 1) for x in range(-_REACH, _REACH + 1)]
    inner = slice(_REACH, size - _REACH)
    shown = _windows(after[:, inner, inner])
    scores = torch.stack(
        [
            (shown * _windows(before[:, _REACH - y : size - _REACH - y, _REACH - x : size - _REACH - x])).sum(-1)
            for y, x in shifts
        ]
    ).flatten(1)
    best, at = scores.max(0)
    here = scores[shifts.index((0, 0))]
    return [(here[i].item(), best[i].item(), shifts[int(at[i])]) for i in range(len(best))]


def _windows(image: Tensor) -> Tensor:
    """(…, n) windows of ``image`` (B, H, W), each with mean 0 and norm 1."""
    cut = image.unfold(1, _WINDOW, _WINDOW).unfold(2, _WINDOW, _WINDOW).flatten(-2)
    cut = cut - cut.mean(-1, keepdim=True)
    return cut / cut.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _least_area(flow: Tensor) -> Tensor:
    """(B, H−1, W−1): the least determinant of 1 + ∇u over the corners of each square of pixels."""
    down = flow[:, 1:] - flow[:, :-1]  # (B, H-1, W, 2)
    across = flow[:, :, 1:] - flow[:, :, :-1]  # (B, H, W-1, 2)
    areas = [
        (1 + d[..., 0]) * (1 + a[..., 1]) - d[..., 1] * a[..., 0]
        for d in (down[:, :, :-1], down[:, :, 1:])
        for a in (across[:, :-1], across[:, 1:])
    ]
    return torch.stack(areas).amin(0)


def _inverse_error(flow: Tensor) -> Tensor:
    """(B, H, W): how far q + u(q) is from the pixel r that `invert` found q for, where q is in the image."""
    height, width = flow.shape[1:3]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([columns, rows], -1).to(torch.float32)  # x, y
    found = invert(flow, points.view(1, -1, 2).expand(len(flow), -1, -1)).view(-1, height, width, 2)
    away = (found - points).flip(-1)  # (B, H, W, 2) y, x: a flow again
    there = sample_bilinear(flow.movedim(-1, 1), away).movedim(1, -1)
    inside = (found >= 0).all(-1) & (found[..., 0] <= width - 1) & (found[..., 1] <= height - 1)
    return torch.where(inside, (away + there).norm(dim=-1), 0.0)
