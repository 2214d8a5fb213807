"""Segment Anything at its three published sizes, from official or Hugging Face weights."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from lamella import AtStart
from pydantic import Field
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

from lamella_sam.backbone import SamBackbone
from lamella_sam.checkpoints import load_weights
from lamella_sam.encoder import Encoder

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PATCH, WINDOW, CHANNELS = 16, 14, 256

Weights = Annotated[
    str | None,
    AtStart,
    Field(description="official .pth, .safetensors of either layout, or Hub id as 'facebook/sam-vit-base'; 'none'"),
]
Size = Annotated[int, Field(ge=16, description="longer side that images are scaled to, pixels; a multiple of 16")]


@dataclass(frozen=True)
class Variant:
    """What tells the published sizes apart."""

    name: str
    width: int
    depth: int
    heads: int
    full: tuple[int, ...]
    """The blocks with attention over the whole image."""


VIT_B = Variant("sam-vit-b", 768, 12, 12, (2, 5, 8, 11))
VIT_L = Variant("sam-vit-l", 1024, 24, 16, (5, 11, 17, 23))
VIT_H = Variant("sam-vit-h", 1280, 32, 16, (7, 15, 23, 31))


def sam_vit_b(*, weights: Weights, size: Size = 1024) -> SamBackbone:
    """Segment Anything with a ViT-B encoder, 94 million parameters.

    Another ``size`` than 1024 interpolates the position tables. Weights are checked against their published hash.

    Raises:
        ConfigError: weights that are missing, damaged, of another layout or of another size.

    Source: Kirillov et al., "Segment Anything", ICCV 2023.
    """
    return build(VIT_B, weights, size)


def sam_vit_l(*, weights: Weights, size: Size = 1024) -> SamBackbone:
    """Segment Anything with a ViT-L encoder, 312 million parameters; as `sam_vit_b`."""
    return build(VIT_L, weights, size)


def sam_vit_h(*, weights: Weights, size: Size = 1024) -> SamBackbone:
    """Segment Anything with a ViT-H encoder, 641 million parameters; as `sam_vit_b`."""
    return build(VIT_H, weights, size)


def build(variant: Variant, weights: str | None, size: int, *, table: int = 1024) -> SamBackbone:
    """A backbone of a variant; ``table`` is the side that its position tables are for."""
    encoder = Encoder(
        img_size=table, patch_size=PATCH, embed_dim=variant.width, depth=variant.depth, num_heads=variant.heads,
        mlp_ratio=4, norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True, use_rel_pos=True,
        global_attn_indexes=variant.full, window_size=WINDOW, out_chans=CHANNELS,
    )  # fmt: skip
    grid = table // PATCH
    prompts = PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=(grid, grid), input_image_size=(table, table), mask_in_chans=16
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3, transformer_dim=CHANNELS, iou_head_depth=3, iou_head_hidden_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8),
    )  # fmt: skip
    backbone = SamBackbone(encoder.fold(), prompts, decoder, patch=PATCH, in_channels=3, size=size, mean=MEAN, std=STD)
    if weights is not None and weights != "none":
        load_weights(backbone, weights, variant.name)
    return backbone
