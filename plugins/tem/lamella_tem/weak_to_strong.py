"""Weak-to-strong consistency with several perturbation sets, of which the hardest is engaged (paper 2.2)."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from lamella import IGNORE, Batch, Chain, FromData, Loss, SegmentationBackbone, Step, Trainer, logits_of
from lamella.contracts.model import Metric
from lamella.errors import ConfigError
from pydantic import Field
from torch import Tensor, nn

from lamella_tem.between import logits_between, teachers_part
from lamella_tem.consistency import counted, gather_views, mean_consistency, mean_overlap
from lamella_tem.passes import Statistics, first_pass, recording
from lamella_tem.paste import paste_objects
from lamella_tem.pseudo_labels import PseudoLabels
from lamella_tem.rare import share_of
from lamella_tem.set_choice import Per, Select, SetChoice
from lamella_tem.supervised import Supervised

MOVED = {"engaged": "choice.engaged", "confidence": "pseudo_labels.confidence", "prior": "pseudo_labels.prior"}
"""Names in checkpoints written before these parts had modules of their own, and the present ones."""


class WeakToStrong(Trainer):
    """Learns from labelled images, and from unlabelled ones by agreeing with itself under strong noise.

    L = ½(L_s + L_u) (equation 5). A weak view of each unlabelled image gives a pseudo-label where max p^w ≥ τ
    (equation 3); strong views, each a perturbation set applied after the weak one, and the weak view with
    perturbed features have to agree with it (equation 6):

        L_u = 1/𝓑_u Σ 𝟙(max p^w ≥ τ)·(λ·Σ_i H(p^w, p^{s_i}) + (1 − λ)·H(p^w, p^{fp}))

    Equation 6 sums over the sets, while the text says that the set with the highest loss is engaged. The
    default follows the text (``select = "max-loss"``): every set is tried without gradient and the sum runs over
    the ``top_k`` hardest. ``"all"`` is the sum as it stands, ``"mean"`` its mean, ``"random"`` one set by chance.

    With noise alone nothing keeps a network on unlabelled images as they are: on another device its teacher, an average
    of itself, may drift away. ``anchor`` leaves some of them without noise, and ``ema = 1`` never moves the teacher;
    ``teacher_share`` then predicts with weights between those that the training began with and those that it reached.
    For rare classes ``paste`` puts labelled objects under the strong views, ``doubt`` withdraws trust where one of
    them may have been overlooked, and ``cap`` takes no more pixels for them than their share. All these are ours.

    Source: the paper, equations 3–6; where it is silent, UniMatch (Yang et al., CVPR 2023): pseudo-labels from
    the student in train mode, mean over the pixels that are not ignored. Unlike its code, ``statistics = "weak"``
    keeps strong views and dropped features out of batch norm's running statistics, since neither is met later, and
    normalises every view by itself; with ``"all"`` labelled images and weak views pass together, then the strong ones.
    A student with a teacher does not see weak views as they are, so its statistics are of labelled images alone (with
    λ < 1 those of the encoder also of weak views).
    """

    roles = ("labelled", "unlabelled")

    def __init__(
        self,
        *,
        backbone: SegmentationBackbone,
        sets: Annotated[list[Chain], Field(min_length=1, description="strong perturbation sets, each by name or list")],
        weak: Annotated[Chain | None, Field(description="perturbation set of the weak view, and of labels")] = None,
        select: Annotated[Select, Field(description="which sets are engaged")] = "max-loss",
        per: Annotated[Per, Field(description="what a set is selected for")] = "batch",
        top_k: Annotated[int, Field(ge=1, description="how many sets max-loss engages")] = 1,
        probe_every: Annotated[int, Field(ge=1, description="steps between trials of the sets")] = 1,
        probe_scale: Annotated[float, Field(gt=0, le=1, description="size of the images the sets are tried on")] = 1.0,
        probe_images: Annotated[
            int | None, Field(ge=1, description="images of a batch the sets are tried on, all sets at once; else all")
        ] = None,
        tau: Annotated[float, Field(ge=0, le=1, description="threshold τ of the pseudo-label")] = 0.95,
        class_tau: Annotated[bool, Field(description="lower τ for classes that are seldom confident")] = False,
        lam: Annotated[float, Field(ge=0, le=1, description="λ of equation 6")] = 0.5,
        drop: Annotated[float, Field(ge=0, lt=1, description="share of channels the feature perturbation drops")] = 0.5,
        ramp: Annotated[int, Field(ge=0, description="steps over which L_u sets in")] = 0,
        mix: Annotated[float, Field(ge=0, le=1, description="probability of CutMix on top of a strong view")] = 0.0,
        mix_labelled: Annotated[float, Field(ge=0, le=1, description="probability of CutMix of labelled images")] = 0.0,
        paste: Annotated[
            list[str] | None, Field(description="rare classes: labelled objects are pasted into half of the images")
        ] = None,
        doubt: Annotated[
            float, Field(ge=0, description="pixels in doubt, in multiples of the share of the classes of `paste`")
        ] = 0.0,
        cap: Annotated[
            float | None, Field(ge=0, description="most pixels taken for classes of `paste`, in multiples of it")
        ] = None,
        anchor: Annotated[
            float, Field(ge=0, le=1, description="probability that an unlabelled image stays as its weak view")
        ] = 0.0,
        dice: Annotated[bool, Field(description="strong views have Dice beside cross-entropy")] = False,
        statistics: Annotated[
            Statistics, Field(description="views that batch norm follows; with all they pass together")
        ] = "weak",
        ema: Annotated[
            float | None, Field(gt=0, le=1, description="decay of a teacher, 1 keeps it as it began; else the student")
        ] = None,
        teacher_share: Annotated[
            float | None,
            Field(ge=0, le=1, description="share of the teacher in the weights that predict; else 1 of one that moves"),
        ] = None,
        losses: Annotated[dict[str, Loss] | None, Field(description="of the labelled images, as `supervised`")] = None,
        class_names: Annotated[list[str], FromData],
    ):
        super().__init__()
        self.student = Supervised(
            backbone=backbone, augment=weak, losses=losses, mix=mix_labelled, paste=paste, class_names=class_names
        )
        self.choice = SetChoice(
            sets, select=select, per=per, top_k=top_k, probe_every=probe_every, probe_scale=probe_scale,
            probe_images=probe_images, mix=mix,
        )  # fmt: skip
        self.period = self.choice.period
        rare = self.student.pasted
        self.pseudo_labels = PseudoLabels(len(class_names), rare, tau=tau, class_tau=class_tau, doubt=doubt, cap=cap)
        self.weak, self.lam, self.drop, self.ramp = weak, lam, drop, ramp
        self.anchor, self.dice, self.statistics, self.decay = anchor, dice, statistics, ema
        self.teacher: Any = None
        if ema is not None:
            self.teacher = copy.deepcopy(self._network()).requires_grad_(False).eval()
        elif teacher_share is not None:
            raise ConfigError("weak-to-strong: teacher_share needs a teacher; give ema, 1 for one that never moves")
        self.teacher_share = teachers_part(ema, teacher_share)
        self.register_load_state_dict_pre_hook(_present_names)

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """``supervised``, ``strong``, ``feature``, the share of ``confident`` pixels, and ``loss``.

        Where sets are chosen, also ``engaged/SET``: the share of the images that each was engaged for, called by its
        family where no other has that, else ``set K``. With ``paste`` also ``rare/labelled`` and ``rare/predicted``:
        the shares of pixels that labels, and that the network on weak views, take for those classes.
        """
        labelled = self.student.augmented(batches, step)
        weak = self._weakened(batches["unlabelled"], step)
        supervised, p_w, perturbed = self._first_pass(labelled, weak, step)
        target = self.pseudo_labels(weak, p_w, batches["labelled"], step.parts)
        with recording(self._network(), self.statistics):
            strong = self._strong(self._pasted(target, labelled, step), step)
        feature = supervised.new_zeros(())
        if perturbed is not None:  # (1 − λ)'s factor in equation 6
            feature = step.mean(mean_consistency(perturbed, target), "feature")
        unsupervised = self.lam * strong + (1.0 - self.lam) * feature
        assert target.weight is not None
        logged = {**self.choice.shares(), **self._rare(batches["labelled"], weak, p_w)}
        return {
            "supervised": supervised.detach(),
            "strong": strong.detach(),
            "feature": feature.detach(),
            "confident": target.weight.sum() / counted(target).clamp(min=1) / step.parts,
            **{name: share / step.parts for name, share in logged.items()},
            "loss": 0.5 * (supervised + self._ramped(step) * unsupervised),
        }

    def _rare(self, labelled: Batch, weak: Batch, p_w: Tensor) -> dict[str, Tensor]:
        """What a log says of the classes of ``paste``: where they grow far beyond their labels they are invented."""
        rare = self.student.pasted
        if len(rare) == 0:
            return {}
        assert labelled.label is not None and weak.label is not None
        shares = {"labelled": labelled.label, "predicted": torch.where(weak.label == IGNORE, IGNORE, p_w.argmax(1))}
        return {f"rare/{name}": share_of(label, rare) for name, label in shares.items()}

    def _first_pass(self, labelled: Batch, weak: Batch, step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
        """L_s, p^w without gradient, and the logits under the feature perturbation where λ < 1."""
        batch, label, weight = self.student.mixed(labelled, step)
        passed = first_pass(
            self.student.backbone, batch.image, weak.image,
            drop=self.drop if self.lam < 1.0 else None, statistics=self.statistics, teacher=self.teacher,
        )  # fmt: skip
        return self.student.judged(passed.logits, label, weight, step)["loss"], passed.p_w, passed.perturbed

    def _weakened(self, unlabelled: Batch, step: Step) -> Batch:
        """The weak view; its label is 0 inside the image and ``IGNORE`` where view or crop reach outside."""
        label = torch.zeros_like(unlabelled.image[:, 0], dtype=torch.int64)
        if (inside := unlabelled.meta.get("inside")) is not None:
            rows, columns = (torch.arange(size, device=label.device) for size in label.shape[1:])
            height, width = inside.view(-1, 2, 1, 1).unbind(1)
            label = torch.where((rows.view(1, -1, 1) < height) & (columns < width), label, IGNORE)
        blank = unlabelled._replace(label=label, weight=torch.ones_like(unlabelled.image[:, 0]))
        return blank if self.weak is None else self.weak(blank, step.streams(blank, "weak"))

    def _pasted(self, target: Batch, labelled: Batch, step: Step) -> Batch:
        """The weak view with objects of rare classes from the labelled images, and their labels, in it."""
        if len(self.student.pasted) == 0:
            return target
        return paste_objects(target, labelled, step.streams(target, "paste"), classes=self.student.pasted)

    def _strong(self, target: Batch, step: Step) -> Tensor:
        """λ's factor in equation 6: the loss of the engaged sets."""
        views = self.choice(target, self.student, step)
        if self.anchor > 0:
            noised = (step.streams(target, "anchor").uniform(0.0, 1.0) >= self.anchor).long()
            views = [gather_views([target, view], noised) for view in views]
        logits: Iterable[Tensor] = (self.student.logits(view.image) for view in views)
        if self.statistics == "all":
            logits = self.student.logits(torch.cat([view.image for view in views])).chunk(len(views))
        total = torch.stack([self._loss_of(view, each, step) for each, view in zip(logits, views)]).sum()
        return total / len(views) if self.choice.select == "mean" else total

    def _loss_of(self, view: Batch, logits: Tensor, step: Step) -> Tensor:
        loss = step.mean(mean_consistency(logits, view), "unlabelled")
        return 0.5 * (loss + step.mean(mean_overlap(logits, view), "images")) if self.dice else loss

    def _ramped(self, step: Step) -> float:
        """exp(−5(1 − t)²) over the first ``ramp`` steps. Source: Laine and Aila, ICLR 2017."""
        if step.number >= self.ramp:
            return 1.0
        return math.exp(-5.0 * (1.0 - step.number / self.ramp) ** 2)

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The counts of the supervised losses, and the pixels of the weak view with and without what is pasted into it.

        Sets that move pixels, and CutMix, have others in a strong view: parts then differ a little from the whole.
        """
        labelled = self.student.augmented(batches, step)
        weak = self._weakened(batches["unlabelled"], step)
        found = {"unlabelled": counted(self._pasted(weak, labelled, step)), "feature": counted(weak)}
        if self.dice:
            found["images"] = weak.image.new_full((), len(weak.image))
        return {**self.student.counts(batches, step), **found}

    def after_step(self) -> None:
        """Move the teacher."""
        if self.teacher is None or self.decay is None or self.decay == 1.0:
            return
        with torch.no_grad():
            ours, theirs = self._network().state_dict(), self.teacher.state_dict()
            moving = [name for name, value in theirs.items() if value.is_floating_point()]
            torch._foreach_lerp_([theirs[n] for n in moving], [ours[n] for n in moving], 1.0 - self.decay)

    def _network(self) -> nn.Module:
        """The student's backbone as the module it is."""
        network = self.student.backbone
        assert isinstance(network, nn.Module)
        return network

    def train(self, mode: bool = True) -> "WeakToStrong":
        """Train or evaluate; the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def predict(self, batch: Batch) -> Tensor:
        """Class probabilities (B, K, H, W): by weights of which ``teacher_share`` is the teacher's."""
        if self.teacher_share in (0.0, 1.0):
            network = self.teacher if self.teacher_share else self.student.backbone
            return logits_of(network, batch.image).float().softmax(1)
        return logits_between(self._network(), self.teacher, self.teacher_share, batch.image).float().softmax(1)

    def metrics(self) -> list[Metric]:
        """The student's figures."""
        return self.student.metrics()


def _present_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take a checkpoint of an earlier version: other names, and a ``prior`` that was not yet told from its weights."""
    for old, new in MOVED.items():
        if prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)
    if prefix + "pseudo_labels.prior" in state:
        state.setdefault(prefix + "pseudo_labels.seen", torch.ones(()))
    for name in [name for name in state if name.startswith(f"{prefix}sets.")]:
        state[f"{prefix}choice.{name.removeprefix(prefix)}"] = state.pop(name)
