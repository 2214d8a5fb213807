"""Classification of defects from both magnifications."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from lamella import IGNORE, Batch, Chain, ClassificationMetrics, FromData, Mean, PatchEncoder, Step, Trainer
from lamella.contracts.model import Metric
from lamella.contracts.processes import summed
from lamella.errors import ConfigError
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lamella_sem.embedding import plane
from lamella_sem.vit import checked, embedded, encoded, pooled

VIEWS = ("high", "low")


class Classify(Trainer):
    """Learns the class of a defect from labelled pairs: one encoder for both images, fused, and a linear layer.

    The mean of the patch tokens of each magnification is put side by side (``concat``) or averaged (``mean``); a
    magnification that is missing counts as zeros in the one and is left out of the other. With ``balance`` each class
    weighs as much as any other: a sample's loss is multiplied by 1/(K·share of its class), the share counted over all
    steps so far, and the mean is over samples.

    ``layer_decay`` d multiplies the learning rate of block i of n by d^(n−i), that of the embedding by d^(n+1), so
    that what was pre-trained changes slowest where it is most general.

    Raises:
        ConfigError: data without labels, or without pairs.
        ContractError: an encoder that is no VisionTransformer of timm.

    Source: fine-tuning of the paper's section 3.3 (which says no more than ViT and cross-entropy); layer-wise decay
    and label smoothing as MAE fine-tunes (He et al., CVPR 2022).
    """

    roles = ("labelled",)
    takes_views = True

    def __init__(
        self,
        *,
        encoder: PatchEncoder,
        augment: Annotated[Chain | None, Field(description="perturbation set of the training images")] = None,
        fusion: Annotated[Literal["concat", "mean"], Field(description="of the two magnifications")] = "concat",
        smoothing: Annotated[float, Field(ge=0, lt=1, description="label smoothing")] = 0.1,
        layer_decay: Annotated[float, Field(gt=0, le=1, description="learning rate of a block over the next")] = 0.75,
        balance: Annotated[bool, Field(description="weigh classes alike, however many samples they have")] = False,
        dropout: Annotated[float, Field(ge=0, lt=1, description="before the last layer")] = 0.0,
        freeze: Annotated[bool, Field(description="train the last layer alone: a linear probe")] = False,
        class_names: Annotated[list[str], FromData],
    ):
        super().__init__()
        self.encoder = checked(encoder, "classify")
        self.augment, self.fusion, self.smoothing, self.balance = augment, fusion, smoothing, balance
        self.layer_decay, self.class_names = layer_decay, class_names
        width = self.encoder.embed_dim * (2 if fusion == "concat" else 1)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(width, len(class_names))
        self.encoder.requires_grad_(not freeze)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(len(class_names)))
        self._counted = torch.zeros(len(class_names))

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The cross-entropy, and the accuracy on the batch as it was perturbed."""
        pair = _pair(batches["labelled"])
        label, weight = _labels(pair)
        if self.augment is not None:
            pair = {name: self.augment(one, step.streams(one, name)) for name, one in pair.items()}
        logits = self.logits(pair)
        truth = torch.where(label == IGNORE, 0, label)
        each = cross_entropy(logits.float(), truth, reduction="none", label_smoothing=self.smoothing)
        if self.balance:
            each = each * self._class_weight(truth, weight, step)[truth]
        loss = step.mean(Mean((each * weight).sum(), weight.sum()), "ce")
        hit = ((logits.detach().argmax(1) == truth) * weight).sum()
        return {"ce": loss, "hit": step.mean(Mean(hit, weight.sum()), "hit"), "loss": loss}

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """How many samples are labelled, and of each class (K,)."""
        label, weight = _labels(_pair(batches["labelled"]))
        classes = self._of_classes(torch.where(label == IGNORE, 0, label), weight)
        return {"ce": weight.sum(), "hit": weight.sum(), "classes": classes}

    def logits(self, pair: Mapping[str, Batch]) -> Tensor:
        """(B, K)."""
        return self.head(self.dropout(self.fused(pair)))

    def fused(self, pair: Mapping[str, Batch]) -> Tensor:
        """(B, 2D) or (B, D): the embedding of both magnifications, from one pass through the encoder."""
        image = torch.cat([pair[view].image for view in VIEWS])
        high, low = pooled(self.encoder, encoded(self.encoder, embedded(self.encoder, image))).chunk(2)
        there = torch.stack([pair[view].meta["present"] for view in VIEWS], 1).to(high)  # (B, 2)
        parts = torch.stack([high, low], 1) * there.unsqueeze(2)
        if self.fusion == "concat":
            return parts.flatten(1)
        return parts.sum(1) / there.sum(1, keepdim=True).clamp(min=1.0)

    def _of_classes(self, label: Tensor, weight: Tensor) -> Tensor:
        return torch.zeros_like(self.seen).scatter_add_(0, label, weight)

    def _class_weight(self, label: Tensor, weight: Tensor, step: Step) -> Tensor:
        """(K,): 1/(K·share), from the samples of all steps up to this one, and one more of each class.

        The parts of a batch share the weights of the whole.
        """
        if "classes" in step.counts:
            counts = step.counts["classes"]
        else:
            counts = summed(self._of_classes(label, weight))
        self._counted = counts
        share = self.seen + counts + 1.0
        return share.sum() / (share * len(share))

    def after_step(self) -> None:
        """Keep what was counted."""
        self.seen += self._counted.to(self.seen.device)

    def parameter_groups(self) -> Iterable[dict[str, Any]]:
        """A group for the embedding, for every block, and for norm and head, each with its ``lr_scale``."""
        blocks = len(self.encoder.blocks)
        groups: list[list[nn.Parameter]] = [[] for _ in range(blocks + 2)]
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[_layer(name, blocks)].append(parameter)
        scales = [self.layer_decay ** (blocks + 1 - layer) for layer in range(blocks + 2)]
        return [{"params": group, "lr_scale": scale} for group, scale in zip(groups, scales) if group]

    def predict(self, batch: Batch) -> Tensor:
        """Class probabilities (B, K)."""
        return self.head(self.fused(_pair(batch))).float().softmax(1)

    def metrics(self) -> list[Metric]:
        """Accuracy, recall, calibration, and where the samples lie in the embedding."""
        return [ClassificationMetrics(self.class_names), EmbeddingMap(self)]


class EmbeddingMap:
    """Collects the fused embedding of an evaluation: ``embedding_map``, [x, y, class, predicted] of up to 600 samples.

    Those it shows are embedded once more. A large set is thinned as it is read, so that no more than 2,400 are held.
    """

    def __init__(self, trainer: Classify, *, most: int = 600):
        self.trainer, self.most = trainer, most
        self._every, self._count = 1, 0
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, prediction: Tensor, batch: Mapping[str, Batch]) -> None:
        """Keep every so many of a batch's samples."""
        chosen = slice(-self._count % self._every, None, self._every)
        few = {view: one.select(chosen) for view, one in batch.items()}
        self._count += len(prediction)
        label = few["high"].label
        if label is None or not len(label):
            return
        self._kept.append((self.trainer.fused(few), label, prediction[chosen].argmax(1)))
        if sum(len(part[1]) for part in self._kept) > 4 * self.most:
            joined = [torch.cat(parts) for parts in zip(*self._kept)]
            self._kept = [(joined[0][::2], joined[1][::2], joined[2][::2])]
            self._every *= 2

    def compute(self) -> dict[str, Any]:
        """The map."""
        if not self._kept:
            return {}
        embedding, label, predicted = (torch.cat(parts) for parts in zip(*self._kept))
        known = label != IGNORE
        if known.sum() < 3:
            return {}
        return {"embedding_map": plane(embedding[known], label[known], predicted[known], most=self.most)}


def _layer(name: str, blocks: int) -> int:
    """0 for the embedding, i + 1 for block i, blocks + 1 for the rest."""
    parts = name.split(".")
    if parts[0] != "encoder" or parts[1] == "norm":
        return blocks + 1
    return int(parts[2]) + 1 if parts[1] == "blocks" else 0


def _labels(pair: Mapping[str, Batch]) -> tuple[Tensor, Tensor]:
    batch = pair["high"]
    if batch.label is None or batch.label.ndim != 1 or batch.weight is None:
        raise ConfigError("classify: the role 'labelled' has no class for each sample")
    return batch.label, torch.where(batch.label == IGNORE, 0.0, batch.weight)


def _pair(batch: Batch | Mapping[str, Batch]) -> dict[str, Batch]:
    if isinstance(batch, Batch) or set(batch) != set(VIEWS):
        raise ConfigError("classify: it judges pairs of images; set modality = 'sem'")
    return dict(batch)
