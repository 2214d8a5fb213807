"""Pseudo-labels of weak views: equation 3, with what a training knows of its classes."""

import torch
from lamella import IGNORE, Batch
from lamella.contracts.processes import summed
from lamella.errors import ConfigError
from torch import Tensor, nn

from lamella_tem.consistency import pseudo_label
from lamella_tem.rare import capped, doubted, pixels_of, ranked, suspected, without


class PseudoLabels(nn.Module):
    """Labels where max p^w ≥ τ; a threshold of each class, doubt and a cap for rare classes if asked for.

    It remembers, over some hundred steps, how sure each class is, and over some fifty what share rare classes have of
    the labels. Padding of crops counts nowhere.
    Parameters as those of `WeakToStrong`; ``rare`` (R,) are the numbers of the classes of ``paste``.

    Raises:
        ConfigError: doubt or a cap without a rare class.
    """

    def __init__(
        self, classes: int, rare: Tensor, *, tau: float, class_tau: bool, doubt: float = 0.0, cap: float | None = None
    ):
        super().__init__()
        self.tau, self.class_tau, self.doubt, self.cap = tau, class_tau, doubt, cap
        if self.follows_rare and len(rare) == 0:
            raise ConfigError("weak-to-strong: doubt and cap are about the classes of paste, and paste names none")
        self.register_buffer("rare", rare, persistent=False)
        self.rare: Tensor
        self.register_buffer("confidence", torch.ones(classes))
        self.confidence: Tensor
        if self.follows_rare:
            self.register_buffer("prior", torch.zeros(()))
            self.register_buffer("seen", torch.zeros(()))
        self.prior: Tensor
        """Shares of rare classes, the latest weighing most; the weights add up to `seen`, in the end to 1."""
        self.seen: Tensor

    @property
    def follows_rare(self) -> bool:
        """Whether the share of rare classes matters."""
        return self.doubt > 0 or self.cap is not None

    def forward(self, weak: Batch, p_w: Tensor, labelled: Batch, parts: int = 1) -> Batch:
        """The weak view with its pseudo-label and trust.

        Args:
            weak: the weak view of unlabelled images.
            p_w: (B, K, H, W) its probabilities, without gradient.
            labelled: the labelled images of the step, for the share of rare classes.
            parts: how many calls make a step; each moves what is remembered by its part.
        """
        known = torch.ones_like(p_w[:, 0], dtype=torch.bool) if weak.label is None else weak.label != IGNORE
        if not self.follows_rare:
            return pseudo_label(weak, p_w, self.threshold(p_w, known, parts))
        expected = self._share(labelled, parts) * known.sum()
        if self.cap or self.doubt:
            place = ranked(p_w, self.rare, known)
        trusted = without(p_w, self.rare) if self.cap == 0 else p_w
        if self.cap:
            trusted = capped(p_w, self.rare, suspected(place, self.cap * expected))
        target = pseudo_label(weak, trusted, self.threshold(trusted, known, parts))
        return doubted(target, self.rare, suspected(place, self.doubt * expected)) if self.doubt else target

    def _share(self, labelled: Batch, parts: int) -> Tensor:
        """() the share of rare classes in the labels of late, of all processes; of the first steps the plain mean."""
        assert labelled.label is not None
        rate = 0.02 / parts
        rare_pixels, pixels = summed(pixels_of(labelled.label, self.rare))
        self.prior.lerp_(rare_pixels / pixels.clamp(min=1), rate)
        self.seen.lerp_(torch.ones_like(self.seen), rate)
        return self.prior / self.seen

    def threshold(self, p_w: Tensor, known: Tensor, parts: int = 1) -> Tensor | float:
        """τ, or with ``class_tau`` (K,) thresholds τ·c_k, c_k the mean confidence in class k of late, at first 1.

        It is that of the pixels that are ``known``, (B, H, W) bool, of all processes.

        Source: after FreeMatch (Wang et al., ICLR 2023), against the collapse of rare classes; without its division by
        the largest c, by which a class that is never met, whose c stays 1, would raise the thresholds of none or all.
        """
        if not self.class_tau:
            return self.tau
        confidence, label = p_w.max(1)
        # Rows first: into one float32, millions of numbers add up to a wrong mean.
        rows = confidence.new_zeros(*label.shape[:2], len(self.confidence))
        sums = rows.scatter_add(2, label, torch.where(known, confidence, 0.0)).sum((0, 1))
        counts = rows.scatter_add(2, label, known.to(confidence.dtype)).sum((0, 1))
        sums, counts = summed(torch.stack([sums, counts]))
        met = (counts > 0) & sums.isfinite()  # of a step that is left out nothing stays
        self.confidence.lerp_(torch.where(met, sums / counts.clamp(min=1), self.confidence), 0.01 / parts)
        return self.tau * self.confidence
