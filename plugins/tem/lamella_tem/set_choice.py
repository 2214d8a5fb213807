"""Which perturbation sets a step engages: the hardest, tried without gradient; some by chance; or all of them."""

import random
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from lamella import IGNORE, Batch, Chain, Mean, Step
from lamella.contracts.processes import summed
from lamella.errors import ConfigError
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lamella_tem.consistency import consistency, gather_views, hardest
from lamella_tem.cutmix import cutmix, warn_if_alone
from lamella_tem.passes import statistics_left_alone
from lamella_tem.supervised import Supervised

Select = Literal["max-loss", "random", "mean", "all"]
Per = Literal["batch", "image"]


class SetChoice(nn.Module):
    """Perturbation sets, and the strong views of a batch by those that are engaged.

    Trying the sets costs a forward pass of each; ``probe_every``, ``probe_scale`` and ``probe_images`` make it
    cheaper. The choice stays on an accelerator, without a host sync. Parameters as those of `WeakToStrong`.

    Raises:
        ConfigError: choices that exclude each other.
    """

    def __init__(
        self,
        sets: Sequence[Chain],
        *,
        select: Select,
        per: Per,
        top_k: int,
        probe_every: int,
        probe_scale: float,
        probe_images: int | None,
        mix: float,
    ):
        super().__init__()
        if top_k > len(sets):
            raise ConfigError(f"weak-to-strong: top_k = {top_k} is more than the {len(sets)} sets")
        if probe_images is not None and per == "image":
            raise ConfigError("weak-to-strong: probe_images is for per = 'batch'; a set for each image has to try each")
        if probe_every > 1 and per == "image":
            raise ConfigError("weak-to-strong: probe_every = 1 is needed with per = 'image': images differ every step")
        self.sets, self.titles = nn.ModuleList(sets), titles_of(sets)
        self.select, self.per, self.top_k, self.mix = select, per, top_k, mix
        self.probe_every, self.probe_scale, self.probe_images = probe_every, probe_scale, probe_images
        self.register_buffer("engaged", torch.full((len(sets),), top_k / len(sets)))
        self.engaged: Tensor

    def forward(self, target: Batch, student: Supervised, step: Step) -> list[Batch]:
        """The engaged strong views of ``target``, a weak view with its pseudo-label; hardest first."""
        if self.select == "random" and self.per == "batch":
            number = self.by_chance(step)
            self.engaged.zero_()[number].fill_(1.0)
            return [self.view(number, target, step)]
        if (numbers := self.remembered(step)) is not None:
            return [self.view(number, target, step) for number in numbers]
        views = self.views(target, step)
        if self.select == "random":
            chosen = step.streams(target, "select").integers(0, len(views)).unsqueeze(0)
            self._note(chosen)
        elif self.select == "max-loss":
            chosen = self.engage(views, student, step)
        else:
            return views
        return [gather_views(views, each) for each in chosen]

    def view(self, number: int, target: Batch, step: Step) -> Batch:
        """𝒜^{s_i}(𝒜^w(x^u)), with the pseudo-label and its trust moved along."""
        streams = step.streams(target, f"strong {number}")
        strong = self.sets[number](target, streams.child("set"))
        if self.mix == 0:
            return strong
        warn_if_alone(target, step)
        return cutmix(strong, streams.child("cutmix"), p=self.mix)

    def views(self, target: Batch, step: Step) -> list[Batch]:
        """The strong view of every set."""
        return [self.view(number, target, step) for number in range(len(self.sets))]

    def by_chance(self, step: Step) -> int:
        """The set of this step, the same in every process; drawn on the host, so the others are never made."""
        return random.Random(f"{step.seed} {step.number}").randrange(len(self.sets))

    def remembered(self, step: Step) -> list[int] | None:
        """Sets that a step between trials engages, hardest first, where the host knows them: the others are not made.

        On an accelerator it does not, without a sync, and all views are made.
        """
        if self.select != "max-loss" or self.tries(step) or self.engaged.device.type != "cpu":
            return None
        return hardest(self.engaged, self.top_k).tolist()

    @property
    def period(self) -> int:
        """Steps from one trial of the sets to the next; 1 where none is ever made."""
        return self.probe_every if self.select == "max-loss" and self.top_k < len(self.sets) else 1

    def tries(self, step: Step) -> bool:
        """Whether max-loss asks this step which sets are the hardest: one between trials remembers it."""
        return step.number % self.probe_every == 0 and self.top_k < len(self.sets)

    def engage(self, views: list[Batch], student: Supervised, step: Step) -> Tensor:
        """(top_k, B) the sets of highest loss, hardest first."""
        if not self.tries(step):
            chosen = hardest(self.engaged, self.top_k).unsqueeze(1)
        else:
            tried = torch.stack(self.probe(views, student))  # (2, K, B)
            if self.per == "batch":
                tried = summed(tried.sum(2, keepdim=True))
            chosen = hardest(Mean(*tried).value(), self.top_k)
            self._note(chosen)
        return chosen.expand(-1, len(views[0].key))

    @torch.no_grad()
    def probe(self, views: list[Batch], student: Supervised) -> Mean:
        """(K, B) sums and counts of equation 4 for every set on every image, or the first few.

        Without gradient, and without a trace in batch norms.
        """
        with statistics_left_alone(student):
            if self.probe_images is None:
                return Mean(*map(torch.stack, zip(*(self._tried(view, student) for view in views))))
            image, label, weight = (
                torch.cat([part[: self.probe_images] for part in parts])
                for parts in zip(*((view.image, view.label, view.weight) for view in views))
            )
            together = views[0]._replace(image=image, label=label, weight=weight)
            return Mean(*(part.unflatten(0, (len(views), -1)) for part in self._tried(together, student)))

    def _tried(self, view: Batch, student: Supervised) -> Mean:
        """(B,) sums and counts of the loss of a view, at ``probe_scale`` of its size."""
        if self.probe_scale < 1.0:
            size = [max(16, round(side * self.probe_scale)) for side in view.image.shape[-2:]]
            assert view.label is not None and view.weight is not None
            small = interpolate(torch.stack([view.label.float(), view.weight], 1), size, mode="nearest")
            image = interpolate(view.image, size, mode="bilinear", antialias=True)
            view = view._replace(image=image, label=small[:, 0].to(torch.int64), weight=small[:, 1])
        assert view.label is not None
        known = (view.label != IGNORE).to(torch.float32)
        return Mean(consistency(student.logits(view.image), view).sum((1, 2)), known.sum((1, 2)))

    def _note(self, chosen: Tensor) -> None:
        """Remember for what share of the images each set is engaged; ``chosen`` (top_k, B or 1)."""
        numbers = torch.arange(len(self.sets), device=chosen.device).view(-1, 1, 1)
        self.engaged.copy_((chosen == numbers).float().mean(2).sum(1))

    def shares(self) -> dict[str, Tensor]:
        """What a log says of the sets engaged last; nothing where all are."""
        if self.select in ("all", "mean"):
            return {}
        return {f"engaged/{title}": share.clone() for title, share in zip(self.titles, self.engaged)}


def titles_of(sets: Iterable[Iterable[Any]]) -> list[str]:
    """What a log calls each set: by the families of its perturbations where these tell them apart, else by its place.

    >>> from types import SimpleNamespace as Noise
    >>> titles_of([[Noise(family="machine")], [Noise(family="sample"), Noise(family="post")]])
    ['machine', 'post+sample']
    >>> titles_of([[Noise(family="machine")], [Noise(family="machine")]])
    ['set 1', 'set 2']
    """
    named = ["+".join(sorted({str(getattr(each, "family", "")) for each in one})) for one in sets]
    return named if all(named) and len({*named}) == len(named) else [f"set {k + 1}" for k in range(len(named))]
