"""What a perturbation draws comes from its streams, and from nothing else."""

import torch
from torch import nn

from lamella.contracts.batch import Batch
from lamella.contracts.chain import Chain, stream_name
from lamella.contracts.streams import Streams
from lamella.testing.cases import Case, streams_of
from lamella.testing.subject import Subject


def repeats(subject: Subject, case: Case) -> None:
    """The same streams give the same result, whatever torch's generator says and whatever came before."""
    batch, built = subject.batch(case), subject.build()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    once = subject.perturb(built, batch)
    if not torch.equal(before, torch.get_rng_state()):
        seen = "torch's global generator moved on; draw from `streams`, not from torch.rand and the like"
        raise subject.broken("draw from its streams alone", seen, case)
    torch.manual_seed(2)
    if gap := subject.changed(subject.perturb(built, batch), once):
        seen = f"a second call gave another {gap}; keep nothing between calls, and draw from `streams` alone"
        raise subject.broken("give the same result for the same streams", seen, case)
    torch.manual_seed(3)
    if gap := subject.changed(subject.perturb(subject.build(), batch), once):
        seen = f"a second instance gave another {gap}; draw in draw() and render(), not in the constructor"
        raise subject.broken("give the same result for the same streams", seen, case)


def independent(subject: Subject, case: Case) -> None:
    """What becomes of an image does not depend on the images beside it, nor on their order."""
    batch = subject.batch(case)
    if case.count == 1:
        return
    for p in (None, 0.5):
        built = subject.build() if p is None else subject.build_at(p)
        gate = "" if p is None else f" at p = {p}"
        whole = subject.perturb(built, batch)
        turned = torch.arange(case.count).flip(0)
        back = subject.perturb(built, batch.select(turned)).select(turned)
        if gap := subject.changed(back, whole, exact=False):
            seen = f"in the opposite order another {gap}"
            raise subject.broken(f"treat each image alone, in any order{gate}", seen, case)
        for i in range(case.count):
            one = slice(i, i + 1)
            alone = subject.perturb(built, batch.select(one))
            if gap := subject.changed(alone, whole.select(one), exact=False):
                seen = f"image {i} alone, against image {i} in the batch, has another {gap}"
                raise subject.broken(f"treat each image alone{gate}", seen, case)


def in_a_chain(subject: Subject, case: Case) -> None:
    """In a chain it draws under its own name, whatever else stands there."""
    batch, built = subject.batch(case), subject.build()
    if not isinstance(built, nn.Module):
        raise subject.broken("be an nn.Module, so that a Chain can hold it", f"it is a {type(built).__name__}")
    name = stream_name(built)
    if not isinstance(name, str) or not name:
        raise subject.broken("draw under a name", f"stream_name is {name!r}")
    wanted = subject.perturb(built, batch, streams_of(batch).child(name))
    for chain in (Chain([built]), Chain([_Nothing(), built])):
        if gap := subject.changed(chain(batch, streams_of(batch)), wanted):
            seen = f"{'after another member' if len(chain) > 1 else 'alone'} it gave another {gap}"
            raise subject.broken(f"do in a Chain what it does under the stream {name!r}", seen, case)


def varies(subject: Subject, case: Case) -> None:
    """Other streams give another result, at least for some of 16 images."""
    case = case.resized(case.height, case.width, count=1, content="random")
    one, built = subject.batch(case), subject.build()
    many = one.select(torch.zeros(16, dtype=torch.int64))._replace(key=torch.arange(16) + case.seed)
    image = subject.perturb(built, many).image
    if (image == image[:1]).all():
        seen = "16 equal images under 16 streams came out equal; draw from `streams`, or say varies=False"
        raise subject.broken("give another result under other streams", seen, case)


class _Nothing(nn.Module):
    """A member of a chain that leaves everything as it is, but draws."""

    def perturb(self, batch: Batch, streams: Streams) -> Batch:
        streams.uniform(0.0, 1.0)
        return batch
