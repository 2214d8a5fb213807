"""The contract of a perturbation, as one hypothesis property."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, example, given, settings

from lamella.contracts.parameters import About
from lamella.contracts.perturbation import Perturbation
from lamella.testing import following, randomness, replay
from lamella.testing.accelerator import on_an_accelerator
from lamella.testing.apart import apart
from lamella.testing.cases import Case, cases, first_cases, streams_of
from lamella.testing.no_sync import HostSync, no_sync
from lamella.testing.promise import difference, first
from lamella.testing.subject import Subject, copied


def perturbation_contract(
    component: Any,
    *,
    reduced: bool = False,
    varies: bool = True,
    channels: Sequence[int] = (1,),
    meta: Mapping[str, float] | None = None,
    tolerance: float = 1e-5,
    examples: int = 6,
) -> Callable[[], None]:
    """A pytest test that tries everything a perturbation promises; assign it to a name like ``test_mine``.

    Args:
        component: a class, a factory or a ``lamella.kornia(...)`` component; called without arguments it
            builds something with ``perturb(batch, streams)``.
        reduced: leave out what Kornia's own classes cannot promise: replay through ``params=``, no host
            sync, variety.
        varies: False for a perturbation that draws nothing and treats every image alike.
        channels: the channel counts to try.
        meta: metadata that the batches carry, as a modality would give it.
        tolerance: how far an image perturbed alone may be from the same in a batch (vectorised arithmetic may
            round its last elements differently).
        examples: how many random cases to try beyond the fixed ones.

    Raises:
        BrokenPromise: from the test, a sentence that names the promise, what was seen and the case.

    >>> from lamella import Perturbation
    >>> class Negative(Perturbation):
    ...     family = "contrast"
    ...     def draw(self, streams, about):
    ...         return {}
    ...     def render(self, image, drawn, streams, about):
    ...         return 1 - image
    >>> test_negative = perturbation_contract(Negative, varies=False)
    >>> test_negative()
    """
    subject = Subject(component, meta, tolerance)
    promises = [] if reduced else [following.does_not_fold]
    promises += [keeps_shape_and_range, clips_what_it_renders, randomness.repeats, randomness.independent]
    promises += [following.labels_follow, following.without_masks, at_p_zero, at_zero_strength]
    promises += [randomness.in_a_chain]
    if not reduced:
        promises += [never_syncs, float32_under_autocast, replay.replays]
        promises += [randomness.varies] if varies else []

    fixed = first_cases(channels)

    def property_of(case: Case) -> None:
        with apart():
            if case == fixed[0]:
                is_named(subject, case)
            for promise in promises:
                promise(subject, case)
            if case == fixed[0] and not reduced:  # no case differs from another on a device without values
                on_an_accelerator(subject, case)

    test = given(cases(channels))(property_of)
    for case in reversed(fixed):
        test = example(case)(test)
    # No shrinking: the fixed cases come first, and a message holds the whole case.
    return settings(
        max_examples=examples,
        deadline=None,
        report_multiple_bugs=False,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )(test)


def is_named(subject: Subject, case: Case) -> None:
    """It has a family, by which sets and tables group it."""
    family = getattr(subject.build(), "family", None)
    if not isinstance(family, str) or not family:
        raise subject.broken("name its family, as in family = 'machine'", f"family is {family!r}")


def keeps_shape_and_range(subject: Subject, case: Case) -> None:
    """Shape, dtype and device stay; values are finite and in [0, 1]; the input stays as it is."""
    batch = subject.batch(case)
    before = copied(batch)
    image = subject.perturb(subject.build(), batch).image
    if gap := subject.changed(batch, before):
        raise subject.broken("leave its input as it is (work on a copy, no x += …)", f"it changed {gap}", case)
    for what in ("shape", "dtype", "device"):
        was, now = getattr(batch.image, what), getattr(image, what)
        if was != now:
            raise subject.broken(f"keep the image's {what}", f"{was} became {now}", case)
    if not image.isfinite().all():
        raise subject.broken("give finite values", f"not finite: {first(~image.isfinite(), image)}", case)
    outside = (image < 0) | (image > 1)
    if outside.any():
        raise subject.broken("stay within [0, 1]", f"outside: {first(outside, image)}", case)


def clips_what_it_renders(subject: Subject, case: Case) -> None:
    """One that clips in its own pass gives `render`, clipped."""
    built, batch = subject.build(), subject.batch(case)
    if not isinstance(built, Perturbation) or type(built).clipped is Perturbation.clipped:
        return
    about = About(batch.image.shape[-2], batch.image.shape[-1], batch.pixel_nm, batch.meta)
    image, drawn = batch.image.to(torch.float32), built.draw(streams_of(batch), about)
    own, wanted = (each(image, drawn, streams_of(batch), about) for each in (built.clipped, built.render))
    if gap := difference(own, wanted.clamp(0.0, 1.0), tolerance=subject.tolerance):
        raise subject.broken("have clipped() give what render() gives, clipped to [0, 1]", gap, case)


def at_p_zero(subject: Subject, case: Case) -> None:
    """With p = 0 nothing changes, bit for bit."""
    batch = subject.batch(case)
    if gap := subject.changed(subject.perturb(subject.build_at(0.0), batch), batch):
        raise subject.broken("change nothing at p = 0", f"it changed {gap}", case)


def at_zero_strength(subject: Subject, case: Case) -> None:
    """With the parameters it declares as ``identity`` nothing changes beyond rounding."""
    identity = getattr(subject.build(), "identity", None)
    if identity is None:
        return
    if unknown := [name for name in identity if not subject.takes(name)]:
        if not inspect.isclass(subject.component):
            return  # a factory that fixed the strength
        raise subject.broken("take the parameters that its identity names", f"there is no {unknown[0]!r}")
    batch = subject.batch(case)
    result = subject.perturb(subject.build_with(**identity), batch)
    within_rounding = Subject(subject.component, subject.meta, tolerance=1e-6)
    if gap := within_rounding.changed(result, batch, exact=False):
        promise = f"change nothing at its zero strength, identity = {dict(identity)}"
        raise subject.broken(promise, f"it changed {gap}", case)


def float32_under_autocast(subject: Subject, case: Case) -> None:
    """Inside a training step in bfloat16 it gives what it gives outside."""
    batch, built = subject.batch(case), subject.build()
    streams = streams_of(batch)
    wanted = subject.perturb(built, batch, streams)
    try:
        with torch.autocast(batch.image.device.type, dtype=torch.bfloat16):
            found = subject.perturb(built, batch, streams_of(batch))
    except RuntimeError as error:
        raise subject.broken("work under autocast", str(error), case) from None
    if gap := subject.changed(found, wanted, exact=False):
        raise subject.broken("calculate in float32, under autocast too", f"bfloat16 changed {gap}", case)


def never_syncs(subject: Subject, case: Case) -> None:
    """Nothing in it makes the host wait for a GPU."""
    batch, built = subject.batch(case), subject.build()
    streams = streams_of(batch)
    try:
        with no_sync():
            subject.perturb(built, batch, streams)
    except HostSync as error:
        raise subject.broken("never make the host wait for the device", str(error), case) from None
