"""Classes from exemplars: a linear discriminant on image embeddings, gathered while labelled images pass by."""

import torch
from lamella.contracts.precision import in_float32
from lamella.contracts.processes import summed
from lamella.errors import RunError
from torch import Tensor, nn


class Exemplars(nn.Module):
    """Class means and their common covariance in an embedding, as buffers; classifies by Bayes' rule.

    Nothing is learned by gradient: labelled images are counted in, in any order, and the classifier is exact for
    what was counted, on all processes together. With ``decay`` below 1 older images fade, once in a step, for
    embeddings that change in training.

    Covariances are differences of products, of which bfloat16 leaves little: all of it is float32 arithmetic.

    Source: linear discriminant analysis (Fisher 1936) with shrinkage of the covariance towards its mean variance.
    """

    counts: Tensor
    sums: Tensor
    products: Tensor

    def __init__(self, classes: int, channels: int, *, decay: float = 1.0, shrinkage: float = 0.02):
        super().__init__()
        self.decay, self.shrinkage = decay, shrinkage
        self.register_buffer("counts", torch.zeros(classes))
        self.register_buffer("sums", torch.zeros(classes, channels))
        self.register_buffer("products", torch.zeros(channels, channels))
        self._step: int | None = None

    @torch.no_grad()
    def add(self, embedding: Tensor, share: Tensor, step: int) -> None:
        """Count labelled cells in. No host sync.

        Args:
            embedding: (B, C, g, g).
            share: (B, K, g, g), how much of each cell belongs to each class (0 everywhere where nothing is known).
            step: the optimizer step; what is counted in several parts of one does not fade in between.
        """
        cells = embedding.float().movedim(1, -1).flatten(0, 2)  # (N, C)
        weight = share.float().movedim(1, -1).flatten(0, 2)  # (N, K)
        decay, self._step = 1.0 if step == self._step else self.decay, step
        with in_float32(cells):
            self.counts.mul_(decay).add_(summed(weight.sum(0)))
            self.sums.mul_(decay).add_(summed(weight.T @ cells))
            self.products.mul_(decay).add_(summed((cells * weight.sum(1, keepdim=True)).T @ cells))

    def logits(self, embedding: Tensor) -> Tensor:
        """Log posterior odds (B, K, g, g) up to a constant; −∞ for classes that had no exemplar.

        Raises:
            RunError: before any exemplar was counted.
        """
        total = self.counts.sum()
        if not bool(total > 0):
            raise RunError("no exemplar was given: classes are not known until labelled images have been shown")
        with in_float32(embedding):
            weight, bias = self._discriminant(total)
            return torch.einsum("kc,bchw->bkhw", weight, embedding.float()) + bias.view(1, -1, 1, 1)

    def _discriminant(self, total: Tensor) -> tuple[Tensor, Tensor]:
        means = self.sums / self.counts.clamp(min=1e-6).unsqueeze(1)
        within = self.products / total - (means * (self.counts / total).unsqueeze(1)).T @ means
        spread = within.diagonal().mean()
        eye = torch.eye(len(within), device=within.device)
        within = (1 - self.shrinkage) * within + self.shrinkage * spread.clamp(min=1e-6) * eye
        weight = torch.linalg.solve(within, means.T).T  # (K, C)
        prior = (self.counts / total).clamp(min=1e-6).log()
        bias = prior - 0.5 * (weight * means).sum(1)
        return weight, torch.where(self.counts > 0, bias, -torch.inf)
