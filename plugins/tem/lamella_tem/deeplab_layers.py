"""Layers of DeepLabV3+ that compute the same in less: what a small feature map leaves of them.

They take the place of segmentation-models-pytorch's, keep the names of its weights, and equal it to rounding, gradients
too (`tests/plugins/tem/test_deeplab_layers.py`).
"""

import torch
from lamella.contracts.precision import in_float32
from torch import Tensor, nn
from torch.nn.functional import conv2d

LARGEST = 32
"""Rows or columns of a map up to which two products of matrices are ahead of a gathering upsampling on a CPU."""


def spare_small_maps(net: nn.Module) -> None:
    """Put the layers of this module in the place of those below ``net`` that they equal."""
    for name, child in list(net.named_children()):
        if _is_separable(child):
            setattr(net, name, AtrousSeparable(*child.children()))
        elif _is_bilinear(child):
            setattr(net, name, Upsample(child.scale_factor))
        else:
            spare_small_maps(child)


class AtrousSeparable(nn.Sequential):
    """A depthwise 3×3 convolution of some rate and a pointwise one, (B, C, H, W) to (B, K, H, W).

    Where the rate is no less than H and W every tap but the middle one meets padding alone, and what the middle ones
    scale the pointwise weights can scale: one convolution of 1×1 is left. At 1/16 of the size that is so for all three
    rates of DeepLabV3+ (12, 24, 36) in images of up to 192².
    """

    def forward(self, image: Tensor) -> Tensor:
        """The pointwise convolution of the depthwise one of ``image``."""
        depthwise, pointwise = self
        if max(image.shape[-2:]) > depthwise.dilation[0]:
            return pointwise(depthwise(image))
        middle = depthwise.weight[:, 0, 1, 1]
        return conv2d(image, pointwise.weight * middle.view(1, -1, 1, 1), pointwise.bias)


class Upsample(nn.Upsample):
    """Bilinear upsampling with the corners aligned, (B, C, H, W) to (B, C, s·H, s·W), for a whole number s.

    On a CPU small maps are multiplied by the interpolation's matrices from both sides, R·X·Cᵀ, in single precision or
    better.
    """

    def __init__(self, scale_factor: float):
        super().__init__(scale_factor=scale_factor, mode="bilinear", align_corners=True)

    def forward(self, image: Tensor) -> Tensor:
        """The image with ``scale_factor`` times the rows and columns."""
        height, width = image.shape[-2:]
        if image.device.type != "cpu" or max(height, width) > LARGEST:
            return super().forward(image)
        scale, exact = int(self.scale_factor), torch.promote_types(image.dtype, torch.float32)
        rows, columns = (between(size, scale * size, exact) for size in (height, width))
        with in_float32(image):
            return (rows @ (image.to(exact) @ columns.T)).to(image.dtype)


def between(count: int, more: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix (``more``, ``count``) that interpolates ``count`` values linearly at ``more`` places, ends to ends.

    >>> between(2, 3)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    places = torch.arange(more, dtype=dtype) * ((count - 1) / (more - 1))
    return (1.0 - (places[:, None] - torch.arange(count)).abs()).clamp(min=0.0)


def _is_bilinear(module: nn.Module) -> bool:
    """Whether this is an upsampling as `Upsample`, by 2 or more."""
    if not isinstance(module, nn.Upsample) or not isinstance(module.scale_factor, int | float):
        return False
    whole = module.scale_factor >= 2 and float(module.scale_factor).is_integer()
    return whole and module.mode == "bilinear" and bool(module.align_corners)


def _is_separable(module: nn.Module) -> bool:
    """Whether this is a depthwise convolution without bias that keeps the size, rate beyond 1, and a pointwise one."""
    if not isinstance(module, nn.Sequential) or len(module) != 2:
        return False
    first, second = module
    if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)):
        return False
    depthwise = first.groups == first.in_channels == first.out_channels and first.bias is None
    rate = first.dilation[0]
    atrous = first.kernel_size == (3, 3) and first.dilation == first.padding == (rate, rate) and rate > 1
    atrous = atrous and first.padding_mode == "zeros"
    pointwise = second.kernel_size == (1, 1) and second.padding == (0, 0) and second.groups == 1
    return depthwise and atrous and pointwise and first.stride == second.stride == (1, 1)
