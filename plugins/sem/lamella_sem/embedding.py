"""How good an embedding is without any fine-tuning: retrieval, nearest neighbours, a linear probe."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lamella import IGNORE, Batch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


class EmbeddingMetrics:
    """Figures of the embeddings (B, 2, D) of both magnifications over a whole evaluation.

    ``compute`` gives ``recall_at_1``: how often the nearest (by cosine) of all other-magnification images is that of
    the same defect, from high to low and back, averaged, each also alone; only defects with both images take part.
    With a projection ``head`` also ``recall_at_1_head``, the same of what it gives. On a labelled set also
    ``knn_accuracy`` (leave one out, the 20 nearest weighted by exp(cosine/0.07)) and ``probe_accuracy`` (ridge
    regression, two halves of the set in turn) of both magnifications side by side, and ``embedding_map``: up to 600
    samples on the two first principal components, as [x, y, class, −1].

    Both judge with labels of the evaluated set alone: they compare pre-trainings, they are no test accuracy.

    Source: the weights of neighbours as in Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination", CVPR 2018.
    """

    def __init__(self, head: Callable[[Tensor], Tensor] | None = None) -> None:
        self.head = head
        self._embeddings: list[Tensor] = []
        self._present: list[Tensor] = []
        self._labels: list[Tensor | None] = []

    def update(self, prediction: Tensor, batch: Mapping[str, Batch]) -> None:
        """Keep one batch's embeddings."""
        self._embeddings.append(prediction.float())
        self._present.append(torch.stack([batch[view].meta["present"] for view in ("high", "low")], 1) > 0)
        self._labels.append(batch["high"].label)

    def compute(self) -> dict[str, Any]:
        """The figures."""
        embedding, present = torch.cat(self._embeddings), torch.cat(self._present)
        both = embedding[present.all(1)]
        there, back = (recall_at_1(both[:, i], both[:, 1 - i]) for i in (0, 1))
        figures: dict[str, Any] = {
            "recall_at_1": 0.5 * (there + back),
            "recall_high_to_low": there,
            "recall_low_to_high": back,
            "pairs": len(both),
        }
        if self.head is not None and len(both) > 1:
            with torch.no_grad():
                high, low = self.head(both.transpose(0, 1).flatten(0, 1)).chunk(2)
            figures["recall_at_1_head"] = 0.5 * (recall_at_1(high, low) + recall_at_1(low, high))
        labels = [label for label in self._labels if label is not None]
        if len(labels) < len(self._labels) or labels[0].ndim != 1:
            return figures
        label = torch.cat(labels)
        fused = (embedding * present.unsqueeze(2)).flatten(1)[label != IGNORE]
        label = label[label != IGNORE]
        if len(label) < 4:
            return figures
        probe = probe_accuracy(fused, label)
        return {
            **figures,
            "knn_accuracy": knn_accuracy(fused, label),
            "probe_accuracy": probe,
            "embedding_map": plane(fused, label, torch.full_like(label, -1)),
        }


def recall_at_1(query: Tensor, gallery: Tensor) -> float:
    """How often the most similar of ``gallery`` (N, D) is the one with the same number as the query (N, D).

    >>> recall_at_1(torch.eye(3), torch.eye(3)[[0, 2, 1]])
    0.3333333432674408
    """
    if not len(query):
        return float("nan")
    query, gallery = normalize(query, dim=1), normalize(gallery, dim=1)
    hits = [
        (part @ gallery.t()).argmax(1) == torch.arange(start, start + len(part), device=query.device)
        for start, part in zip(range(0, len(query), 1024), query.split(1024))
    ]
    return torch.cat(hits).float().mean().item()


def knn_accuracy(embedding: Tensor, label: Tensor, *, neighbours: int = 20) -> float:
    """Leave-one-out accuracy of the nearest neighbours of embeddings (N, D) with classes (N,)."""
    unit, classes = normalize(embedding, dim=1), one_hot(label).float()
    hits = []
    for start, part in zip(range(0, len(unit), 1024), unit.split(1024)):
        similar = part @ unit.t()
        similar[torch.arange(len(part)), torch.arange(start, start + len(part))] = -torch.inf
        near, which = similar.topk(min(neighbours, len(unit) - 1), 1)
        votes = (torch.exp((near - 1.0) / 0.07).unsqueeze(2) * classes[which]).sum(1)
        hits.append(votes.argmax(1) == label[start : start + len(part)])
    return torch.cat(hits).float().mean().item()


def probe_accuracy(embedding: Tensor, label: Tensor, *, penalty: float = 1e-2) -> float:
    """Accuracy of a ridge regression on one half of the samples (every other one) judged on the other, averaged."""
    half = torch.arange(len(label), device=label.device) % 2 == 0
    truth = one_hot(label).double()
    hits = []
    for mine, other in ((half, ~half), (~half, half)):
        mean, spread = embedding[mine].mean(0), embedding[mine].std(0).clamp(min=1e-6)
        x, y = (((embedding[part] - mean) / spread).double() for part in (mine, other))
        offset = truth[mine].mean(0)
        gram = x.t() @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(gram, x.t() @ (truth[mine] - offset))
        hits.append((y @ weight + offset).argmax(1) == label[other])
    return torch.cat(hits).float().mean().item()


def plane(embedding: Tensor, label: Tensor, predicted: Tensor, *, most: int = 600) -> list[list[float]]:
    """[x, y, class, predicted] of up to ``most`` samples, evenly taken, on the first two principal components."""
    chosen = torch.linspace(0, len(label) - 1, min(most, len(label)), device=label.device).round().long()
    centred = embedding[chosen].float() - embedding[chosen].float().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    at = centred @ axes[:2].t()
    rows = torch.cat([at, label[chosen].unsqueeze(1), predicted[chosen].unsqueeze(1)], 1)
    return [[round(value, 4) for value in row] for row in rows.tolist()]
