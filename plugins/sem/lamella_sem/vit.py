"""A Vision Transformer of timm as patch encoder, of any size, and what flows through it."""

from typing import TYPE_CHECKING, Annotated

from lamella import AtStart, FromData, PatchEncoder
from lamella.errors import ContractError
from pydantic import Field
from torch import Tensor

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

MEAN, STD = 0.5, 0.5
"""What grey values in [0, 1] are normalised by before the encoder, as timm's own ViTs expect."""


def vit(
    *,
    size: Annotated[int, Field(ge=8, description="side of the images its position embedding is made for (px)")] = 224,
    patch: Annotated[int, Field(ge=2, description="side of a patch (px)")] = 16,
    width: Annotated[int, Field(ge=8, description="length of a token")] = 768,
    depth: Annotated[int, Field(ge=1, description="number of blocks")] = 12,
    heads: Annotated[int, Field(ge=1, description="attention heads; divides the width")] = 12,
    mlp_ratio: Annotated[float, Field(gt=0, description="hidden width of a block over its width")] = 4.0,
    drop_path: Annotated[float, Field(ge=0, lt=1, description="stochastic depth of the last block")] = 0.0,
    weights: Annotated[
        str | None,
        AtStart,
        Field(description="to start from: run folder, .safetensors file of timm, or Hub id as 'timm/vit_…'"),
    ] = None,
    channels: Annotated[int, FromData],
) -> PatchEncoder:
    """A Vision Transformer of timm without a head; the defaults are ViT-B/16.

    Images may have any size that is a multiple of the patch: the position embedding is resampled to it. Weights made
    for another image size, patch size or number of channels are resampled too.

    Raises:
        ContractError: a size that is no multiple of the patch, heads that do not divide the width, or weights that
            cannot be had or do not fit.

    Source: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, as in timm.

    >>> import torch
    >>> encoder = vit(size=32, patch=8, width=48, depth=2, heads=3, channels=1)
    >>> encoder.forward_features(torch.zeros(2, 1, 48, 32)).shape  # 6 × 4 patches and the class token
    torch.Size([2, 25, 48])
    """
    if size % patch:
        raise ContractError(f"vit: size = {size} is no multiple of patch = {patch}")
    if width % heads:
        raise ContractError(f"vit: heads = {heads} do not divide width = {width}")
    from timm.models.vision_transformer import VisionTransformer

    encoder = VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=channels,
        num_classes=0,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
    )
    if weights is not None:
        from lamella_sem.weights import load_weights

        load_weights(encoder, weights)
    return encoder


def checked(encoder: object, who: str) -> "VisionTransformer":
    """The encoder, where it is one that tokens can be left out of; raises `ContractError` otherwise."""
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(encoder, VisionTransformer):
        return encoder
    found = type(encoder).__name__
    raise ContractError(f"{who}: the encoder must be a VisionTransformer of timm, as 'vit'; it is {found}")


def patch_side(encoder: "VisionTransformer") -> int:
    """The side of its patches in pixels."""
    return int(encoder.patch_embed.patch_size[0])


def embedded(encoder: "VisionTransformer", image: Tensor) -> Tensor:
    """(B, P + N, D) tokens before the blocks: P prefix tokens, then a row-major grid of N patches.

    Raises:
        ContractError: an image that is no multiple of the patch.
    """
    side = patch_side(encoder)
    height, width = image.shape[-2:]
    if height % side or width % side:
        raise ContractError(
            f"images of {height}×{width} pixels cannot be cut into patches of {side}; bring them to one size, a "
            "multiple of the patch"
        )
    return encoder.norm_pre(encoder._pos_embed(encoder.patch_embed((image - MEAN) / STD)))


def encoded(encoder: "VisionTransformer", tokens: Tensor) -> Tensor:
    """(B, P + n, D) tokens after the blocks and the last norm."""
    return encoder.norm(encoder.blocks(tokens))


def pooled(encoder: "VisionTransformer", tokens: Tensor) -> Tensor:
    """(B, D): the mean of the patch tokens, without the prefix."""
    return tokens[:, encoder.num_prefix_tokens :].mean(1)
