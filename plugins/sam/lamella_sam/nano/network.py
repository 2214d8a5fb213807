"""``sam-nano``: Segment Anything's parts at a small width, with the weights this project trained."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from lamella import AtStart
from lamella.errors import ConfigError, RunError
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from lamella_sam.backbone import SamBackbone
from lamella_sam.encoder import Encoder
from lamella_sam.nano.drawn import drawn
from lamella_sam.prompts import Prompts

WEIGHTS = Path(__file__).with_name("sam_nano.safetensors")
"""The weights, in half precision; ``sam_nano.json`` beside them says how they were made."""
SIDE, PATCH, WIDTH, CHANNELS = 128, 8, 128, 96


class Stem(nn.Module):
    """Patches by three convolutions of stride 2 in the place of one of stride 8: it learns far sooner.

    Source: Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021.
    """

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width // 4, 3, 2, 1), LayerNorm2d(width // 4), nn.GELU(),
            nn.Conv2d(width // 4, width // 2, 3, 2, 1), LayerNorm2d(width // 2), nn.GELU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, S, S) to (B, S / 8, S / 8, C)."""
        return self.layers(x).permute(0, 2, 3, 1)


class SamNano(SamBackbone):
    """A `SamBackbone` that also draws points and boxes into the mask prompt: see `lamella_sam.nano.drawn`."""

    def masks(self, embedding: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """As `SamBackbone.masks`."""
        return super().masks(embedding, drawn(prompts, 4 * embedding.shape[-1], self.cell(prompts.size)))


def sam_nano(
    *,
    weights: Annotated[
        str, AtStart, Field(description="'scenes': as shipped; 'none': random; or a run folder or safetensors file")
    ] = "scenes",
    size: Annotated[
        int | Literal["native"], Field(description="longer side an image is scaled to, pixels; or its own scale")
    ] = SIDE,
) -> SamBackbone:
    """A promptable network of 2 million parameters, trained on procedural scenes that are no semiconductors.

    A ViT of 8 blocks, 128 wide, on patches of 8 pixels by convolutions (every other block global, the rest in
    windows of 8), and ``segment_anything``'s own prompt encoder and mask decoder, 96 wide. Images are scaled to the
    128 pixels that it was trained at; ``"native"`` takes them as they are, for crops of about that side. It is not
    SAM: its zero-shot quality is in docs/sam.md.

    Raises:
        ConfigError: a file that is no such network, or a size that 8 does not divide.
    """
    encoder = Encoder(
        img_size=SIDE, patch_size=PATCH, in_chans=1, embed_dim=WIDTH, depth=8, num_heads=4, out_chans=CHANNELS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=8, global_attn_indexes=(1, 3, 5, 7),
    )  # fmt: skip
    grid = SIDE // PATCH
    prompt_encoder = PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE), mask_in_chans=16
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3, transformer_dim=CHANNELS, iou_head_depth=3, iou_head_hidden_dim=CHANNELS,
        transformer=TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=256, num_heads=4),
    )  # fmt: skip
    encoder.patch_embed = Stem(WIDTH)  # type: ignore[assignment]
    _start(encoder)
    _look_where_asked(decoder.transformer)
    backbone = SamNano(
        encoder.fold(),
        prompt_encoder,
        decoder,
        patch=PATCH,
        in_channels=1,
        size=None if size == "native" else size,
        mean=(127.5,),
        std=(63.75,),
    )
    if weights != "none":
        _load(backbone, WEIGHTS if weights == "scenes" else Path(weights))
    return backbone


def _start(encoder: Encoder) -> None:
    """Initial weights as in ViTDet: truncated normals for what `nn.Linear` and zeros leave open."""
    assert encoder.pos_embed is not None
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    for module in encoder.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def _look_where_asked(transformer: nn.Module) -> None:
    """Let the attention between prompts and image begin with equal, orthogonal projections of queries and keys.

    A prompt and the image at its place carry like position codes; so they find each other from the first step,
    where random projections need hundreds of steps to learn it (measured: docs/sam.md).
    """
    for name, module in transformer.named_modules():
        if isinstance(module, Attention) and "self_attn" not in name:
            nn.init.orthogonal_(module.q_proj.weight)
            with torch.no_grad():
                module.k_proj.weight.copy_(module.q_proj.weight)


def _load(backbone: SamBackbone, path: Path) -> None:
    """Weights of a safetensors file, or of a run that trained them."""
    from lamella.engine.run import run_weights

    try:
        found = run_weights(path) if path.is_dir() else load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"sam-nano: {path} cannot be read as safetensors weights: {error}") from error
    except RunError as error:
        raise ConfigError(f"sam-nano: {error}") from error
    ours = {name.removeprefix("backbone."): value.to(torch.float32) for name, value in found.items()}
    wanted = backbone.state_dict()
    wrong = [k for k in wanted if k not in ours or ours[k].shape != wanted[k].shape]
    if wrong:
        raise ConfigError(f"sam-nano: {path} holds other weights: {wrong[0]!r} is missing or of another shape")
    backbone.load_state_dict({name: ours[name] for name in wanted})
