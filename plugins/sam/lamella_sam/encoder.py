"""The image encoder of Segment Anything, for any side, with its relative positions folded into queries and keys."""

import torch
from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention

from lamella_sam.prefix_cache import PrefixCache

_PLAIN_TOKENS = 256
"""Up to so many tokens plain matrix products beat the fused kernel on a CPU."""


class FoldedAttention(nn.Module):
    """Attention with decomposed relative positions as one plain scaled-dot-product attention; exact.

    With R_h, R_w the position vectors of a query's row and column, the bias q·R_h + q·R_w is a product of rank
    h + w: q' = [q·s, q·R_h, q·R_w] and k' = [k, onehot(row), onehot(column)] give q'·k' = s·q·k + bias. No
    attention matrix is kept. Parameters carry the names of ``segment_anything``.

    Source: FlashBias (arXiv 2505.12044), its exact case for SAM; positions: MViTv2.
    """

    def __init__(self, plain: Attention):
        super().__init__()
        self.num_heads, self.scale = plain.num_heads, plain.scale
        self.qkv, self.proj = plain.qkv, plain.proj
        self.rel_pos_h, self.rel_pos_w = plain.rel_pos_h, plain.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        b, height, width, channels = x.shape
        qkv = self.qkv(x).view(b, height, width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # (B, heads, H, W, c)
        rows = torch.einsum("bnhwc,hkc->bnhwk", q, relative(self.rel_pos_h, height))
        columns = torch.einsum("bnhwc,wkc->bnhwk", q, relative(self.rel_pos_w, width))
        q = torch.cat([q * self.scale, rows, columns], -1).flatten(2, 3)
        k = torch.cat([k, one_hot_places(k)], -1).flatten(2, 3)
        out = attend(q, k, v.flatten(2, 3))  # (B, heads, H·W, c)
        return self.proj(out.transpose(1, 2).reshape(b, height, width, channels))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·k)·v for (B, heads, N, ·), without a scale; values may be narrower than keys."""
    if q.device.type == "cpu" and k.shape[-2] <= _PLAIN_TOKENS:
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v
    narrow = q.device.type == "cuda" and q.dtype == torch.float32  # the one kernel for these takes them as they are
    wider = 0 if narrow else k.shape[-1] - v.shape[-1]  # the others take one width for all three
    extra = -k.shape[-1] % 8
    q, k, v = pad(q, (0, extra)), pad(k, (0, extra)), pad(v, (0, wider + extra))
    return scaled_dot_product_attention(q, k, v, scale=1.0)[..., : v.shape[-1] - wider - extra]


def relative(table: Tensor, size: int) -> Tensor:
    """(size, size, C) position vectors between every two places of a row, from a table (2·L − 1, C).

    A table for another size is interpolated linearly, as ``segment_anything`` does.
    """
    if len(table) != 2 * size - 1:
        stretched = interpolate(table.T.unsqueeze(0), size=2 * size - 1, mode="linear")
        table = stretched.squeeze(0).T
    place = torch.arange(size, device=table.device)
    return table[place.view(-1, 1) - place.view(1, -1) + size - 1]


def one_hot_places(k: Tensor) -> Tensor:
    """(B, heads, H, W, H + W): which row and which column each key stands in."""
    height, width = k.shape[2:4]
    rows = torch.eye(height, dtype=k.dtype, device=k.device).view(height, 1, height).expand(-1, width, -1)
    columns = torch.eye(width, dtype=k.dtype, device=k.device).view(1, width, width).expand(height, -1, -1)
    return torch.cat([rows, columns], -1).expand(*k.shape[:2], -1, -1, -1)


class Encoder(ImageEncoderViT):
    """``segment_anything``'s image encoder with its parameters, for square images of any multiple of its patch."""

    frozen = 0
    """So many blocks at the start have nothing to learn and run without gradient."""
    cache: PrefixCache | None = None
    """Keeps, in training, what those blocks give; None computes it anew."""

    def fold(self) -> "Encoder":
        """Put the folded attention in the place of the plain one; the weights stay."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attn = FoldedAttention(block.attn)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S), normalised, to (B, C', S / patch, S / patch)."""
        return self.rest(self.prefix(x))

    def prefix(self, x: Tensor) -> Tensor:
        """Tokens after the frozen blocks; the same for an image whatever the adapters learn."""
        if not self.frozen:
            return self.start(x)
        with torch.no_grad():
            if self.cache is None or not self.training:
                return self._through_frozen(x)
            return self.cache(x, self._through_frozen, self._frozen_state())

    def _through_frozen(self, x: Tensor) -> Tensor:
        return self.through(self.start(x), 0, self.frozen)

    def _frozen_state(self) -> tuple[int, ...]:
        """Changes when a weight that the frozen blocks use is written to."""
        parts = [self.patch_embed, *list(self.blocks)[: self.frozen]]
        versions = [p._version for part in parts for p in part.parameters()]
        return (self.frozen, *versions, 0 if self.pos_embed is None else self.pos_embed._version)

    def rest(self, tokens: Tensor) -> Tensor:
        """The embedding from what `prefix` gave."""
        return self.finish(self.through(tokens, self.frozen))

    def start(self, x: Tensor) -> Tensor:
        """Tokens (B, h, w, C) before the first block."""
        tokens = self.patch_embed(x)
        assert self.pos_embed is not None
        return tokens + positions(self.pos_embed, tokens.shape[1])

    def through(self, tokens: Tensor, first: int, last: int | None = None) -> Tensor:
        """Tokens after the blocks ``first`` to ``last`` (excluded)."""
        for block in list(self.blocks)[first:last]:
            tokens = block(tokens)
        return tokens

    def finish(self, tokens: Tensor) -> Tensor:
        """The embedding from the last block's tokens."""
        return self.neck(tokens.permute(0, 3, 1, 2))


def positions(table: Tensor, size: int) -> Tensor:
    """Absolute positions (1, size, size, C), interpolated where the table (1, L, L, C) is for another size."""
    if table.shape[1] == size:
        return table
    there = interpolate(table.permute(0, 3, 1, 2), size=(size, size), mode="bicubic", align_corners=False)
    return there.permute(0, 2, 3, 1)
