"""Pre-training of section 2.3: a masked autoencoder with consistency within and across magnifications."""

import warnings
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from lamella import Batch, Chain, Mean, PatchEncoder, Step, Trainer
from lamella.contracts.model import Metric
from lamella.contracts.processes import world_size
from lamella.errors import ConfigError
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from lamella_sem.decoder import MaskedDecoder
from lamella_sem.embedding import EmbeddingMetrics
from lamella_sem.four_way import TERMS, four_way
from lamella_sem.masking import Masked, random_mask, reconstruction, take
from lamella_sem.projection import ProjectionHead
from lamella_sem.vit import MEAN, STD, checked, embedded, encoded, patch_side, pooled

VIEWS = ("high", "low")
_SELF, _CROSS = ("hh", "ll"), ("hl", "lh")


class Seen(NamedTuple):
    """The four images of every defect, in the order high 1, high 2, low 1, low 2 (each (B, …))."""

    image: Tensor
    """(4B, C, H, W) in [0, 1]."""
    masked: Masked
    present: Tensor
    """(B, 2): whether there is a high and a low image."""


class MaeContrastive(Trainer):
    """Learns from unlabelled pairs: reconstructs masked patches, and tells every defect from all others.

        ℒ = λ_rec·ℒ_rec + λ_con·ℒ_con

    Each magnification of a defect is seen in two augmented views, so there are four images of it. All go through the
    encoder once, masked; a light decoder reconstructs what was masked (equation 8), and the mean of the visible
    patches goes through a projection head into equation 9, whose terms are ``self_consistency`` (HH and LL) and
    ``cross_magnification`` (HL and LH). With one kind alone ℒ_con is the mean over its two terms, with neither it is
    left out and the head frozen. ``projection`` 0 leaves out the hidden layer of the head. With ``standardise`` its
    layers are followed by `Standardise`: without it a short training may put all images at one place, where the
    gradient of equation 9 is nearly 0, and stay there.

    A defect of which one magnification is missing takes part in what the other allows. With gradient accumulation the
    negatives are those of one part: ℒ_con is then that of a smaller batch, averaged over the parts.

    ``predict`` gives the mean of the patch tokens of both magnifications, (B, 2, D); its metrics are retrieval of the
    other magnification, nearest neighbours and a linear probe.

    Raises:
        ConfigError: neither a reconstruction nor a consistency is switched on, heads of the decoder that do not divide
            its width, or, at the first step, ``exclude_same`` or ``hard_negatives`` without a group to go by.
        ContractError: an encoder that is no VisionTransformer of timm.

    Source: the paper's section 2.3, equations 7 to 9, λ .97 and .03; one encoder pass and the two-layer head to 128
    of CAN (Mishra et al., arXiv 2210.16870), temperature .1 as theirs; the decoder of MAE (He et al., CVPR 2022).
    The paper's ℒ_rec is the sum over both magnifications, ours too.
    """

    roles = ("unlabelled",)
    embeds = True
    takes_views = True

    def __init__(
        self,
        *,
        encoder: PatchEncoder,
        views: Annotated[Chain | None, Field(description="perturbation set of the views; else they are alike")] = None,
        ratio: Annotated[float, Field(gt=0, lt=1, description="share of patches masked; paper .25, MAE .75")] = 0.25,
        normalise: Annotated[bool, Field(description="reconstruct patches of mean 0 and variance 1")] = True,
        self_consistency: Annotated[bool, Field(description="terms HH and LL of equation 9")] = True,
        cross_magnification: Annotated[bool, Field(description="terms HL and LH of equation 9")] = True,
        rec: Annotated[float, Field(ge=0, description="λ_rec of equation 7")] = 0.97,
        con: Annotated[float, Field(ge=0, description="λ_con of equation 7")] = 0.03,
        temperature: Annotated[float, Field(gt=0, description="τ of equation 9")] = 0.1,
        exclude_same: Annotated[bool, Field(description="defects of one die are no negatives of each other")] = False,
        hard_negatives: Annotated[
            bool, Field(description="only defects on one pattern are negatives of each other (modality's `alike`)")
        ] = False,
        projection: Annotated[int, Field(ge=0, description="hidden width of the projection head; 0 for none")] = 512,
        features: Annotated[int, Field(ge=2, description="length of f, what the head gives")] = 128,
        standardise: Annotated[
            bool, Field(description="features of the head to mean 0 and variance 1 over the batch")
        ] = False,
        decoder_width: Annotated[int, Field(ge=8, description="length of the decoder's tokens")] = 128,
        decoder_depth: Annotated[int, Field(ge=1, description="blocks of the decoder")] = 2,
        decoder_heads: Annotated[int, Field(ge=1, description="attention heads of the decoder")] = 4,
    ):
        super().__init__()
        self.encoder = checked(encoder, "mae-contrastive")
        self.views, self.ratio, self.normalise = views, ratio, normalise
        self.rec, self.con, self.temperature, self.exclude_same = rec, con, temperature, exclude_same
        self.hard_negatives = hard_negatives
        self.terms = (_SELF if self_consistency else ()) + (_CROSS if cross_magnification else ())
        self.contrasts, self.reconstructs = bool(self.terms) and con > 0, rec > 0
        if not (self.contrasts or self.reconstructs):
            raise ConfigError("mae-contrastive: nothing to learn from: rec is 0, and con is 0 or both terms are off")
        if decoder_width % decoder_heads:
            raise ConfigError(
                f"mae-contrastive: decoder_heads = {decoder_heads} do not divide decoder_width = {decoder_width}"
            )
        width, side = self.encoder.embed_dim, patch_side(self.encoder)
        self.decoder = MaskedDecoder(
            encoder_width=width, width=decoder_width, depth=decoder_depth, heads=decoder_heads,
            pixels=side * side * self.encoder.patch_embed.proj.in_channels,
        )  # fmt: skip
        self.head = ProjectionHead(width, hidden=projection, features=features, standardise=standardise)
        self.decoder.requires_grad_(self.reconstructs)
        self.head.requires_grad_(self.contrasts)

    def forward(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """Equation 7 with its parts: ``rec``, ``self``, ``cross``, and ``paired``, the share of whole pairs."""
        pair = _pair(batches["unlabelled"])
        if len(pair["high"].key) * world_size() == 1 and self.contrasts and step.number == 0:
            warnings.warn(
                "mae-contrastive: a batch of one pair has no negatives, so equation 9 is 0 and teaches nothing; use a "
                "larger batch_size, or less accumulation",
                stacklevel=2,
            )
        if self.contrasts and step.number == 0:
            self._check_groups(pair["high"])
        seen = self._see(pair, step)
        tokens = self._encode(seen)
        losses = {}
        weighted = []
        if self.reconstructs:
            losses["rec"] = self._reconstruct(tokens, seen, step)
            weighted.append(self.rec * losses["rec"])
        if self.contrasts:
            terms = self._contrast(tokens, pair, seen, step)
            for name, members in (("self", _SELF), ("cross", _CROSS)):
                if found := [terms[member] for member in members if member in terms]:
                    losses[name] = torch.stack(found).mean()
            weighted.append(self.con * torch.stack(list(terms.values())).mean())
        paired = step.mean(Mean(seen.present.prod(1).sum(), seen.present.new_full((), len(seen.present))), "paired")
        return {**losses, "paired": paired, "loss": torch.stack(weighted).sum()}

    def counts(self, batches: Mapping[str, Batch], step: Step) -> dict[str, Tensor]:
        """How many images and anchors there are: it depends on what is present alone."""
        present = _present(_pair(batches["unlabelled"]))
        images = 2 * present.sum(0)  # two views each
        both = 2 * present.prod(1).sum()
        anchors = {"hh": images[0], "ll": images[1], "hl": both, "lh": both}
        reconstructed = {f"rec {view}": images[place] for place, view in enumerate(VIEWS)}
        return {**reconstructed, **anchors, "paired": present.new_full((), len(present))}

    def _check_groups(self, batch: Batch) -> None:
        """Raise `ConfigError` where an option goes by a group that no sample has; the host waits, once."""
        asked = {"exclude_same": self.exclude_same, "hard_negatives": self.hard_negatives}
        groups = {"exclude_same": ("same", "die", batch.key), "hard_negatives": ("alike", "alike", -1)}
        for option, (column, name, unknown) in groups.items():
            if asked[option] and bool((batch.meta[name] == unknown).all()):
                raise ConfigError(
                    f"mae-contrastive: {option} goes by the group column that {column!r} of the modality names, and no "
                    f"sample has that column; name another, as modality = {{ name = 'sem', {column} = 'COLUMN' }}"
                )

    def _see(self, pair: dict[str, Batch], step: Step) -> Seen:
        """Two views of each magnification, and what of them is masked."""
        images, hidden, side = [], [], patch_side(self.encoder)
        for name in VIEWS:
            batch = pair[name]
            for number in (1, 2):
                streams = step.streams(batch, f"{name} {number}")
                view = batch if self.views is None else self.views(batch, streams.child("set"))
                images.append(view.image)
                height, width = view.image.shape[-2:]
                hidden.append(random_mask(streams.child("mask"), (height // side) * (width // side), self.ratio))
        masked = Masked(torch.cat([m.visible for m in hidden]), torch.cat([m.mask for m in hidden]))
        return Seen(torch.cat(images), masked, _present(pair))

    def _encode(self, seen: Seen) -> Tensor:
        """(4B, P + n, D): the one pass, over the visible patches of all four images."""
        tokens, prefix = embedded(self.encoder, seen.image), self.encoder.num_prefix_tokens
        visible = take(tokens[:, prefix:], seen.masked.visible)
        return encoded(self.encoder, torch.cat([tokens[:, :prefix], visible], 1))

    def _reconstruct(self, tokens: Tensor, seen: Seen, step: Step) -> Tensor:
        """Equation 8: the sum of both magnifications' means."""
        side = patch_side(self.encoder)
        grid = (seen.image.shape[-2] // side, seen.image.shape[-1] // side)
        predicted = self.decoder(tokens[:, self.encoder.num_prefix_tokens :], seen.masked.visible, grid)
        halves = zip(
            predicted.chunk(2), ((seen.image - MEAN) / STD).chunk(2), seen.masked.mask.chunk(2), seen.present.unbind(1)
        )
        return torch.stack(
            [
                step.mean(reconstruction(p, image, mask, here.repeat(2), normalise=self.normalise), f"rec {view}")
                for view, (p, image, mask, here) in zip(VIEWS, halves)
            ]
        ).sum()

    def _contrast(self, tokens: Tensor, pair: dict[str, Batch], seen: Seen, step: Step) -> dict[str, Tensor]:
        """The terms of equation 9 that are switched on, each a mean over its anchors."""
        there = seen.present.t().repeat_interleave(2, 0).flatten()  # (4B,), in the order of the images
        f = normalize(self.head(pooled(self.encoder, tokens), there).float(), dim=1)
        high, low = f.chunk(2)
        same = pair["high"].meta["die"] if self.exclude_same else pair["high"].key
        alike = pair["high"].meta["alike"] if self.hard_negatives else None
        found = four_way(high, low, temperature=self.temperature, defect=same, present=seen.present, alike=alike)
        sums = dict(zip(TERMS, zip(found.total.unbind(), found.count.unbind())))
        return {term: step.mean(Mean(*sums[term]), term) for term in self.terms}

    def predict(self, batch: Batch) -> Tensor:
        """(B, 2, D): the mean of the patch tokens at high and low magnification, nothing masked."""
        pair = _pair(batch)
        image = torch.cat([pair[view].image for view in VIEWS])
        tokens = pooled(self.encoder, encoded(self.encoder, embedded(self.encoder, image)))
        return torch.stack(tokens.chunk(2), 1)

    def metrics(self) -> list[Metric]:
        """Retrieval of the other magnification, and with labels nearest neighbours and a linear probe."""
        return [EmbeddingMetrics(self.head.alone if self.contrasts else None)]


def _pair(batch: Batch | Mapping[str, Batch]) -> dict[str, Batch]:
    if isinstance(batch, Batch) or set(batch) != set(VIEWS):
        raise ConfigError("mae-contrastive: it learns from pairs; set modality = 'sem'")
    return dict(batch)


def _present(pair: Mapping[str, Batch]) -> Tensor:
    """(B, 2): whether there is a high and a low image."""
    return torch.stack([pair[view].meta["present"] for view in VIEWS], 1)
