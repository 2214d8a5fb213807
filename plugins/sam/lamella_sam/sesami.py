"""SeSAMI: Segment Anything adapted to micrographs by LoRA, from prompts made of labels."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from lamella import IGNORE, Batch, Chain, FromData, Mean, PromptableBackbone, SegmentationMetrics, Step, Trainer
from lamella.contracts.model import Metric
from lamella.errors import ConfigError, DataError
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from lamella_sam.answers import class_map
from lamella_sam.exemplars import Exemplars
from lamella_sam.figures import PromptedFigures, answered, classes_of, test_objects
from lamella_sam.losses import affinity, class_dice, pairs
from lamella_sam.mask_loss import MaskLoss
from lamella_sam.objects import Kind, Objects, drawn_objects, identities
from lamella_sam.prefix_cache import PrefixCache
from lamella_sam.prompting import corrected, given_prompts, mix_of
from lamella_sam.prompts import ABSENT, Prompts

WEIGHTS = {"focal": 20.0, "dice": 1.0, "iou": 1.0, "ce": 1.0, "class_dice": 1.0, "affinity": 0.0}
"""Of the losses: those of the masks as in Segment Anything, those of the classes where there are class tokens, and
that of the embedding itself, which helps a network that starts from nothing."""
Adapt = Literal["lora", "full", "nothing"]
Decoder = Literal["frozen", "train"]


class Sesami(Trainer):
    """Adapts a promptable network: LoRA on queries and values of its image encoder, mask decoder frozen.

    Every image is embedded once; all its prompts go through the decoder in one batch. ``adapt = "full"`` trains
    every weight, ``"nothing"`` none (zero-shot: it only counts exemplars in). With ``decoder = "train"`` the mask
    decoder learns beside the adapters, which class tokens need where training is short. Without prompts, classes are
    told by ``semantic``: learned tokens, one set per class, that ask the decoder for that class; or a linear
    discriminant on the embeddings of labelled images (``exemplars``). ``answer`` says what predict does: name
    classes so, or answer prompts made from the test labels with a fixed seed.

    Losses: focal + Dice of the masks, squared error of the predicted IoU, averaged over the rounds of correction
    clicks; cross-entropy + Dice of the classes where tokens are learned. The class tokens are ours: the paper
    does not say how a mask gets its class.

    Raises:
        ConfigError: settings that exclude each other.

    Source: paper section 2.1, equations 1 and 2, figures 3 and 4; rounds of clicks: Kirillov et al., appendix A;
    a decoder that learns beside LoRA: Zhang and Liu, "Customized Segment Anything Model for Medical Image
    Segmentation", 2023.
    """

    roles = ("labelled",)

    def __init__(
        self,
        *,
        backbone: PromptableBackbone,
        adapt: Annotated[Adapt, Field(description="what learns: adapters, everything, or nothing")] = "lora",
        rank: Annotated[int | None, Field(ge=1, description="of LoRA; else so that 1.5 % of weights train")] = None,
        alpha: Annotated[float | None, Field(gt=0, description="LoRA's scale is alpha / rank; else 1")] = None,
        decoder: Annotated[
            Decoder, Field(description="whether the mask decoder learns too, beside adapters")
        ] = "frozen",
        decoder_rate: Annotated[
            float, Field(gt=0, description="learning rate of mask decoder and class tokens, as a multiple of lr")
        ] = 1.0,
        late_blocks: Annotated[int | None, Field(ge=1, description="adapt the last so many blocks alone")] = None,
        cache: Annotated[
            int, Field(ge=0, description="MiB for what the blocks before late_blocks give of unchanged images")
        ] = 0,
        adapter: Annotated[
            str | None, Field(description="adapters to start from: peft folder or SAM LoRA file")
        ] = None,
        augment: Annotated[Chain | None, Field(description="perturbation set of the training images")] = None,
        prompts: Annotated[int, Field(ge=1, description="prompts per image, all in one pass of the decoder")] = 8,
        mix: Annotated[
            dict[Literal["point", "box", "mask"], float] | None, Field(description="weights of prompt types; equal")
        ] = None,
        negative: Annotated[float, Field(ge=0, le=1, description="probability of a negative point")] = 0.25,
        jitter: Annotated[float, Field(ge=0, le=0.5, description="largest shift of a box's side, of its size")] = 0.1,
        corrections: Annotated[int, Field(ge=0, description="rounds of clicks where the mask is wrong")] = 1,
        objects: Annotated[Kind, Field(description="what an object is")] = "region",
        evenness: Annotated[float, Field(ge=0, le=1, description="1: every object as often; 0: by its area")] = 1.0,
        background: Annotated[
            str | None, Field(description="class that is no object; prompted answers name it where there is none")
        ] = None,
        semantic: Annotated[
            Literal["tokens", "exemplars", "none"], Field(description="how classes are told")
        ] = "tokens",
        answer: Annotated[
            Literal["classes", "point", "box", "mask"], Field(description="predict's: classes, or prompted by labels")
        ] = "classes",
        weights: Annotated[dict[str, float] | None, Field(description="of the losses, where other than usual")] = None,
        gamma: Annotated[float, Field(ge=0, description="focusing of the focal loss; 0 is cross-entropy")] = 2.0,
        balance: Annotated[float, Field(gt=0, lt=1, description="the focal loss's α, the weight of the object")] = 0.25,
        class_names: Annotated[list[str], FromData],
    ):
        super().__init__()
        self.backbone: Any = _whole(backbone)
        scaled = getattr(backbone, "size", None) is not None
        self.sees = "whole" if answer != "classes" else "trained" if scaled else "tiles"
        self.adapt, self.augment, self.prompts, self.corrections = adapt, augment, prompts, corrections
        self.objects, self.answer, self.class_names, self.evenness = objects, answer, class_names, evenness
        self.background, self.decoder_rate = _number_of(background, class_names), decoder_rate
        self.mix = mix_of(mix, negative, jitter, "sesami")
        self.weights = _weights(weights)
        self.mask_loss = MaskLoss(self.weights["focal"], self.weights["dice"], gamma, balance)
        if semantic == "none" and answer == "classes":
            raise ConfigError("sesami: semantic = 'none' knows no classes; set answer to 'point', 'box' or 'mask'")
        if adapt == "nothing" and semantic == "tokens":
            raise ConfigError("sesami: adapt = 'nothing' learns no class tokens; set semantic = 'exemplars'")
        if decoder_rate != 1.0 and semantic != "tokens" and decoder == "frozen" and adapt != "full":
            raise ConfigError(
                f"sesami: decoder_rate = {decoder_rate} is of mask decoder and class tokens, neither of which learns; "
                "set decoder = 'train', or leave it out"
            )
        self._adapt(adapt, rank, alpha, late_blocks, adapter, decoder)
        self._keep_prefix(cache)
        width, count = int(self.backbone.width), len(class_names)
        self.class_tokens = nn.Parameter(0.5 * torch.randn(count, 4, width)) if semantic == "tokens" else None
        decay = 1.0 if adapt == "nothing" else 0.99
        self.exemplars = Exemplars(count, width, decay=decay) if semantic == "exemplars" else None
        self._seen: tuple[Tensor, Tensor] | None = None

    def _adapt(
        self,
        adapt: Adapt,
        rank: int | None,
        alpha: float | None,
        late: int | None,
        adapter: str | None,
        decoder: Decoder,
    ) -> None:
        from lamella_sam.lora import add_lora, load_adapter, rank_for

        if adapt != "lora" and (rank, alpha, late, adapter, decoder) != (None, None, None, None, "frozen"):
            raise ConfigError(
                "sesami: rank, alpha, late_blocks, adapter and decoder = 'train' belong to adapt = 'lora', "
                f"not {adapt!r}"
            )
        if adapter is not None and (rank, alpha, late) != (None, None, None):
            raise ConfigError("sesami: adapter brings its own rank, alpha and late_blocks; leave them out beside it")
        if adapter is not None:
            load_adapter(self.backbone, Path(adapter))
        elif adapt == "lora":
            rank = rank or rank_for(self.backbone, 0.015, late)
            add_lora(self.backbone, rank=rank, alpha=float(rank) if alpha is None else alpha, late=late)
        elif adapt == "nothing":
            self.backbone.requires_grad_(False)
            self.idle = nn.Parameter(torch.zeros(()))  # an optimizer needs something to step
        if decoder == "train":
            self.backbone.mask_decoder.requires_grad_(True)

    def _keep_prefix(self, megabytes: int) -> None:
        """Cache what the frozen first blocks give; raises `ConfigError` where no block is frozen."""
        if megabytes and not self.backbone.image_encoder.frozen:
            raise ConfigError(f"sesami: cache = {megabytes} keeps what frozen first blocks give; set late_blocks")
        if megabytes:
            self.backbone.image_encoder.cache = PrefixCache(megabytes)

    def parameter_groups(self) -> Iterable[dict[str, Any]]:
        """What asks and answers, at its own rate, and all the rest that learns; one group where the rates agree."""
        if self.decoder_rate == 1.0:
            return super().parameter_groups()
        groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[name.startswith(("class_tokens", "backbone.mask_decoder."))].append(parameter)
        scaled: list[dict[str, Any]] = [{"params": groups[0]}, {"params": groups[1], "lr_scale": self.decoder_rate}]
        return [group for group in scaled if group["params"]]

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """The losses of masks and classes, and the IoU before and after corrections."""
        batch = self._perturbed(batches["labelled"], step)
        with torch.set_grad_enabled(self.adapt != "nothing" and torch.is_grad_enabled()):
            embedding = self.backbone.embed(batch.image)
        if self.exemplars is not None and self.training:
            self.exemplars.add(embedding.detach(), self._shares(batch), step.number)
        identity = self.identity(batch)
        losses = self._masks(embedding, batch, identity, step)
        if self.weights["affinity"] > 0:
            same, other = affinity(embedding, self.backbone.numbers(identity))
            losses["affinity"] = (step.mean(same, "affinity same") + step.mean(other, "affinity other")) / 2
        if self.class_tokens is not None:
            losses |= self._classes(embedding, batch, step)
        total = torch.stack([self.weights[name] * value for name, value in losses.items() if name in WEIGHTS]).sum()
        logged = {name: value.detach() for name, value in losses.items()}
        return {**logged, "loss": total + self.idle * 0.0 if self.adapt == "nothing" else total}

    def _perturbed(self, batch: Batch, step: Step) -> Batch:
        if batch.label is None or batch.weight is None:
            raise ConfigError("sesami: the data of the role 'labelled' have no labels")
        return batch if self.augment is None else self.augment(batch, step.streams(batch, "weak"))

    def _masks(self, embedding: Tensor, batch: Batch, identity: Tensor, step: Step) -> dict[str, Tensor]:
        """The rounds: a prompt for every object, then clicks where the mask is wrong."""
        streams = step.streams(batch, "prompts")
        objects, target, weight = self._drawn(batch, identity, step)
        prompts, doubt = given_prompts(objects, self.backbone, streams.child("given"), self.mix)
        cell = self.backbone.cell(prompts.size)
        logits, iou = self.backbone.masks(embedding, prompts)
        losses, first, chosen = self.mask_loss(logits, iou, target, weight, doubt, objects.there)
        rounds, last = [losses], first
        for number in range(self.corrections):
            draw = streams.child(f"round {number}")
            back = draw.child("feed").uniform(0.0, 1.0, self.prompts) < 0.5
            prompts = corrected(prompts, chosen.detach(), target, draw, cell=cell, feed_back=back, known=weight > 0.5)
            logits, iou = self.backbone.masks(embedding, prompts)
            losses, last, chosen = self.mask_loss(logits, iou, target, weight, torch.zeros_like(doubt), objects.there)
            rounds.append(losses)
        out = {name: step.mean(torch.stack([r[name] for r in rounds]).mean()) for name in ("focal", "dice", "iou")}
        return {**out, "miou_first": step.mean(first, "miou_first"), "miou_last": step.mean(last, "miou_last")}

    def _drawn(self, batch: Batch, identity: Tensor, step: Step) -> tuple[Objects, Tensor, Tensor]:
        """Objects to ask for, the share of each cell that they cover, and how far each cell counts, (B, Q, h, w).

        An object that fills no cell by half counts as not there: no mask is right for it but an empty one.
        """
        streams = step.streams(batch, "prompts").child("objects")
        objects = drawn_objects(identity, streams, self.prompts, evenness=self.evenness)
        target = self.backbone.reduce(objects.mask.to(torch.float32))
        trust = self.backbone.reduce(_trust(batch).unsqueeze(1))
        there = objects.there & ((target >= 0.5) & (trust > 0)).flatten(2).any(2)
        return objects._replace(there=there), target, trust * there[..., None, None]

    def _classes(self, embedding: Tensor, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Cross-entropy and Dice of the class map that the class tokens ask for."""
        assert batch.label is not None
        logits = self._class_logits(embedding, (batch.image.shape[-2], batch.image.shape[-1])).float()
        each = cross_entropy(logits, batch.label, ignore_index=IGNORE, reduction="none")
        trust = _trust(batch)
        ce = step.mean(Mean((each * trust).sum(), trust.sum()), "ce")
        return {"ce": ce, "class_dice": step.mean(class_dice(logits, batch.label, trust), "class_dice")}

    def _class_logits(self, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, H, W) the masks of all classes, asked for by their tokens."""
        assert self.class_tokens is not None
        b, (count, _, _) = len(embedding), self.class_tokens.shape
        labels = torch.full((b, count, 1), ABSENT, device=embedding.device)
        points = embedding.new_zeros(b, count, 1, 2)
        prompts = Prompts(points, labels, size, tokens=self.class_tokens.expand(b, -1, -1, -1))
        logits, _ = self.backbone.masks(embedding, prompts)
        return self.backbone.enlarge(logits[:, :, 0], size)

    def _shares(self, batch: Batch) -> Tensor:
        """(B, K, g, g) how much of each cell of the embedding belongs to each class."""
        assert batch.label is not None
        number = torch.arange(len(self.class_names), device=batch.label.device).view(1, -1, 1, 1)
        share = (batch.label.unsqueeze(1) == number) * _trust(batch).unsqueeze(1)
        return avg_pool2d(self.backbone.reduce(share.to(torch.float32)), 4)

    def identity(self, batch: Batch) -> Tensor:
        """(B, H, W) the objects that may be asked for."""
        return identities(batch, self.objects, background=self.background)

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """What the means are divided by, which depends on labels, trust and the objects that are drawn alone."""
        batch = self._perturbed(batches["labelled"], step)
        assert batch.label is not None
        identity, trust = self.identity(batch), _trust(batch)
        nothing = batch.image.new_zeros(()).expand(len(batch.label), len(self.class_names), *batch.label.shape[1:])
        asked = self._drawn(batch, identity, step)[0].there.sum()
        counts = {"ce": trust.sum(), "class_dice": class_dice(nothing, batch.label, trust).count}
        if self.weights["affinity"] > 0:
            same, other = pairs(self.backbone.numbers(identity), self.backbone.patch)
            counts |= {"affinity same": same.sum(), "affinity other": other.sum()}
        return {**counts, "miou_first": asked, "miou_last": asked}

    def embedding(self, batch: Batch) -> Tensor:
        """The embedding of a batch; the last one is kept, for predict and the figures ask for the same."""
        if self._seen is None or self._seen[0] is not batch.image:
            self._seen = batch.image, self.backbone.embed(batch.image)
        return self._seen[1]

    def predict(self, batch: Batch) -> Tensor:
        """Class probabilities (B, K, H, W); raises `DataError` where prompts need labels and there are none."""
        self._seen = None
        embedding = self.embedding(batch)
        size = (batch.image.shape[-2], batch.image.shape[-1])
        if self.answer != "classes":
            return self._prompted(embedding, batch)
        if self.class_tokens is not None:
            return self._class_logits(embedding, size).float().softmax(1)
        assert self.exemplars is not None
        coarse = self.exemplars.logits(embedding).softmax(1)
        fine = nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
        return self.backbone.enlarge(fine, size).clamp(min=0)

    def _prompted(self, embedding: Tensor, batch: Batch) -> Tensor:
        if batch.label is None:
            raise DataError(f"sesami: answer = {self.answer!r} makes its prompts from labels, and there are none")
        count, identity = len(self.class_names), self.identity(batch)
        out = []
        for i, label in enumerate(batch.label):
            key = batch.key[i : i + 1]
            objects: Objects = test_objects(identity[i : i + 1], key)
            logits = embedding.new_zeros(0, *label.shape[-2:])
            if objects.mask.shape[1]:
                logits = answered(self.backbone, embedding[i : i + 1], objects, key, self.answer)
            out.append(class_map(logits, classes_of(objects, label), count, self.background))
        return torch.stack(out)

    def metrics(self) -> list[Metric]:
        """Segmentation figures of what predict gives, and figures by type of prompt."""
        return [SegmentationMetrics(self.class_names), PromptedFigures(self, self.class_names)]


def _whole(backbone: PromptableBackbone) -> Any:
    """The backbone, if it has all that prompts from labels need; raises `ConfigError`."""
    needed = ("masks", "reduce", "touched", "enlarge", "cell", "width")
    missing = [name for name in needed if not hasattr(backbone, name)]
    if missing:
        raise ConfigError(f"sesami needs a backbone like sam-nano or sam-vit-b; this one has no {missing[0]!r}")
    return backbone


def _trust(batch: Batch) -> Tensor:
    """(B, H, W) how far each pixel counts."""
    assert batch.label is not None and batch.weight is not None
    return torch.where(batch.label == IGNORE, 0.0, batch.weight)


def _number_of(name: str | None, class_names: list[str]) -> int | None:
    if name is not None and name not in class_names:
        raise ConfigError(f"sesami: background = {name!r} is none of the classes {', '.join(class_names)}")
    return None if name is None else class_names.index(name)


def _weights(given: Mapping[str, float] | None) -> dict[str, float]:
    unknown = set(given or {}) - set(WEIGHTS)
    if unknown:
        raise ConfigError(f"sesami: weights are of {', '.join(WEIGHTS)}, not of {sorted(unknown)[0]!r}")
    return {**WEIGHTS, **(given or {})}
