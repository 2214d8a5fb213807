"""The light decoder of a masked autoencoder: visible tokens and placeholders in, patches out."""

import math

import torch
from torch import Tensor, nn


class MaskedDecoder(nn.Module):
    """Puts placeholders where patches were masked, adds where each one is, and reconstructs every patch.

    Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022; their decoder is 512 wide and
    8 blocks deep beside ViT-L.
    """

    def __init__(self, *, encoder_width: int, width: int, depth: int, heads: int, pixels: int):
        super().__init__()
        from timm.models.vision_transformer import Block

        self.embed = nn.Linear(encoder_width, width)
        self.placeholder = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, pixels)
        nn.init.normal_(self.placeholder, std=0.02)

    def forward(self, visible: Tensor, where: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches (B, N, pixels).

        Args:
            visible: (B, n, D) encoded tokens of the visible patches.
            where: (B, n) which patches they are.
            grid: rows and columns of patches, N = rows × columns.
        """
        seen = self.embed(visible)
        tokens = self.placeholder.to(seen.dtype).expand(len(seen), grid[0] * grid[1], -1)
        tokens = tokens.scatter(1, where.unsqueeze(2).expand_as(seen), seen)
        tokens = tokens + positions(grid, tokens.shape[2]).to(tokens)
        return self.head(self.norm(self.blocks(tokens)))


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """(N, D): sines and cosines of a quarter of the width for each of row and column, of frequencies 1 to 1/10000.

    >>> positions((4, 6), 32).shape
    torch.Size([24, 32])
    """
    quarter = width // 4
    frequency = torch.exp(-math.log(10000.0) * torch.arange(quarter) / quarter)
    parts = []
    for axis in torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij"):
        angle = axis.reshape(-1, 1) * frequency
        parts += [angle.sin(), angle.cos()]
    return nn.functional.pad(torch.cat(parts, 1), (0, width - 4 * quarter))
