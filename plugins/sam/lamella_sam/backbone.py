"""Segment Anything as a promptable backbone: images of any size and channel count in, masks for prompts out."""

import torch
from lamella.errors import ConfigError, ContractError
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, avg_pool2d, interpolate, max_pool2d, pad

from lamella_sam.decoder import decode
from lamella_sam.encoder import Encoder
from lamella_sam.prompts import Prompts


class SamBackbone(nn.Module):
    """An image encoder, a prompt encoder and a mask decoder under the names of ``segment_anything``.

    Images are scaled so that their longer side is ``size`` pixels, normalised, and padded below and to the right
    to a square, as Segment Anything does; without ``size`` they keep their scale and are padded to a multiple of
    the patch. Grey images are repeated to, and colour images averaged to, the channels the encoder has.

    Raises:
        ConfigError: a size that the patch does not divide.
    """

    def __init__(
        self,
        encoder: Encoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        *,
        patch: int,
        in_channels: int,
        size: int | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        super().__init__()
        self.image_encoder, self.prompt_encoder, self.mask_decoder = encoder, prompt_encoder, mask_decoder
        self.patch, self.in_channels = patch, in_channels
        if size is not None and (size < self.patch or size % self.patch):
            raise ConfigError(f"size = {size} must be a multiple of the patch, {self.patch} pixels")
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1) / 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1) / 255.0, persistent=False)

    @property
    def width(self) -> int:
        """C, the channels of the embedding and the length of a prompt token."""
        return int(self.prompt_encoder.embed_dim)

    def side(self, size: tuple[int, int]) -> int:
        """The side in pixels of the square that an image of ``size`` (H, W) becomes."""
        return self.size or -(-max(size) // self.patch) * self.patch

    def inside(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image within that square."""
        if self.size is None:
            return size
        scale = self.size / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def cell(self, size: tuple[int, int]) -> float:
        """The side of a cell of the mask grid, in pixels of an image of ``size`` (H, W)."""
        return max(size) / max(self.inside(size)) * self.patch / 4

    def prepare(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as normalised squares (B, C', S, S)."""
        height, width = image.shape[-2:]
        if image.shape[1] != self.in_channels:
            grey = image.mean(1, keepdim=True)
            image = grey.expand(-1, self.in_channels, -1, -1)
        inside, side = self.inside((height, width)), self.side((height, width))
        if inside != (height, width):
            image = interpolate(image, inside, mode="bilinear", align_corners=False, antialias=True)
        return pad((image - self.mean) / self.std, (0, side - inside[1], 0, side - inside[0]))

    def embed(self, image: Tensor) -> Tensor:
        """The embedding (B, C, g, g) of images (B, C, H, W) in [0, 1]: once per image, for all its prompts."""
        if image.ndim != 4 or min(image.shape[-2:]) < 2:
            raise ContractError(f"images of shape {tuple(image.shape)} cannot be segmented: they need 2×2 pixels")
        return self.image_encoder(self.prepare(image))

    def masks(self, embedding: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, M, 4g, 4g) on the mask grid and predicted IoU (B, Q, M) of each of M mask tokens.

        Token 0 is meant for prompts that leave no doubt; 1 to 3 are the alternatives for a single click.
        """
        side = self.side(prompts.size)
        inside = self.inside(prompts.size)
        if inside == prompts.size:
            points = prompts.points
        else:  # as segment_anything: the scale of each side, on coordinates of pixel centres
            scales = inside[1] / prompts.size[1], inside[0] / prompts.size[0]
            points = torch.stack([place * scale for place, scale in zip(prompts.points.unbind(-1), scales)], -1)
        return decode(self.prompt_encoder, self.mask_decoder, embedding, prompts, points, side)

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (…, h, h) on the mask grid as logits (…, H, W) of the image."""
        lead, side, inside = logits.shape[:-2], self.side(size), self.inside(size)
        logits = logits.reshape(1, -1, *logits.shape[-2:])
        logits = interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        logits = logits[..., : inside[0], : inside[1]]
        if inside != size:
            logits = interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits.reshape(*lead, *size)

    def numbers(self, identity: Tensor) -> Tensor:
        """Maps of numbers (B, H, W) int64 as the square that the image becomes, (B, S, S); −1 beside the image."""
        size = (identity.shape[-2], identity.shape[-1])
        inside, side = self.inside(size), self.side(size)
        if inside != size:
            rows, columns = (
                (torch.arange(new, device=identity.device) + 0.5).mul(old / new).long().clamp(max=old - 1)
                for new, old in zip(inside, size)
            )
            identity = identity[:, rows[:, None], columns]
        return pad(identity, (0, side - inside[1], 0, side - inside[0]), value=-1)

    def reduce(self, mask: Tensor) -> Tensor:
        """Maps (B, Q, H, W) as means over the cells of the mask grid, (B, Q, h, h); 0 beside the image."""
        height, width = mask.shape[-2:]
        inside, side = self.inside((height, width)), self.side((height, width))
        if inside != (height, width):
            mask = interpolate(mask, inside, mode="bilinear", align_corners=False, antialias=True)
        mask = pad(mask, (0, side - inside[1], 0, side - inside[0]))
        return avg_pool2d(mask, self.patch // 4)

    def touched(self, mask: Tensor) -> Tensor:
        """Maps (B, Q, H, W) bool as the cells of the mask grid that hold any of it, (B, Q, h, h) of 0 and 1."""
        height, width = mask.shape[-2:]
        inside, side = self.inside((height, width)), self.side((height, width))
        found = adaptive_max_pool2d(mask.to(torch.float32), inside)
        return max_pool2d(pad(found, (0, side - inside[1], 0, side - inside[0])), self.patch // 4)
