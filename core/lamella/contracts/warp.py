"""Movements of pixels: Kornia augmentations under which labels, boxes and keypoints follow the image."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from kornia.augmentation import RigidAffineAugmentationBase2D
from kornia.geometry.boxes import Boxes
from kornia.geometry.keypoints import Keypoints
from torch import Tensor

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.flow import invert, sample_bilinear, sample_nearest
from lamella.contracts.keyed import check_probability, gated, plain_parameters, recalled
from lamella.contracts.parameters import About, per_image
from lamella.contracts.precision import in_float32
from lamella.contracts.streams import Streams


class Warp(RigidAffineAugmentationBase2D):
    """A movement of pixels. Write ``draw`` and ``flow``; label, trust, instances, boxes and keypoints follow.

    The output at position r is the input at r + u(r), bilinear for images (mirrored at the border), nearest for
    labels; what comes from outside the image becomes ``IGNORE`` with weight 0 and instance 0. The flow must not
    fold (max‖∇u‖ < 1): boxes and keypoints move by its inverse, found by fixed-point iteration.
    """

    family: ClassVar[str] = ""
    identity: ClassVar[Mapping[str, Any] | None] = None
    """Constructor parameters at which the warp does nothing."""
    mirrors: ClassVar[bool] = False
    """Whether it moves whole pixels to places of their own and may fold; then it has an `inverse` of its own."""

    def __init__(self, *, p: float = 1.0):
        check_probability(self, p)
        super().__init__(p=p)

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """The parameters of every image, (B, …) each."""
        raise NotImplementedError(f"{type(self).__name__} must write draw(streams, about)")

    def flow(self, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The displacement u (B, H, W, 2) float32 in pixels, y then x."""
        raise NotImplementedError(f"{type(self).__name__} must write flow(drawn, streams, about)")

    def inverse(self, flow: Tensor, points: Tensor) -> Tensor:
        """Where points (B, N, 2) of the input, x then y, land in the output."""
        return invert(flow, points)

    def perturb(self, batch: Batch, streams: Streams) -> Batch:
        """The batch with image, label, trust and instances moved together."""
        return gated(batch, streams, self.p, self._changed)

    def _changed(self, batch: Batch, streams: Streams, through: Tensor | None) -> Batch:
        about = About.of(batch)
        with in_float32(batch.image):
            flow = self.flow(self.draw(streams.child("draw"), about), streams.child("render"), about)
            return self._moved_by(flow if through is None else flow * per_image(through, flow), batch)

    def _moved_by(self, flow: Tensor, batch: Batch) -> Batch:
        moved = batch._replace(image=_moved(batch.image, flow))
        if batch.label is None or batch.label.ndim != 3:
            return moved if batch.instance is None else moved._replace(instance=sample_nearest(batch.instance, flow, 0))
        return moved._replace(
            label=sample_nearest(batch.label, flow, IGNORE),
            weight=None if batch.weight is None else sample_nearest(batch.weight, flow, 0),
            instance=None if batch.instance is None else sample_nearest(batch.instance, flow, 0),
        )

    # Kornia's side of the contract.

    def forward_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return plain_parameters(self, batch_shape)

    _compute_matrix_lazily = True  # a flow has no matrix; the base asks for one all the same

    def compute_transformation(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]
    ) -> Tensor:
        return self.identity_matrix(input)

    def _recalled_flow(self, params: dict[str, Tensor], like: Tensor) -> Tensor:
        drawn, streams, about = recalled(params, like)
        with in_float32(like):
            return self.flow(drawn, streams, about)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        flow = self._recalled_flow(params, input)
        with in_float32(input):
            return _moved(input, flow)

    def apply_transform_mask(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        flow = self._recalled_flow(params, input)
        return torch.stack([sample_nearest(channel, flow, 0) for channel in input.unbind(1)], dim=1)

    def apply_non_transform_mask(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return input

    def apply_transform_keypoint(
        self, input: Keypoints, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Keypoints:
        flow = self._flow_of(params, input.data)
        moved = input.clone()
        moved._data = self.inverse(flow, input.data.to(torch.float32)).to(input.data.dtype)
        return moved

    def apply_transform_box(
        self, input: Boxes, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Boxes:
        corners = input.data  # (B, N, 4, 2) x, y, inclusive
        flow = self._flow_of(params, corners)
        steps = torch.linspace(0, 1, 9, device=corners.device)[:-1].view(1, 1, 1, -1, 1)
        outline = torch.lerp(corners.float().unsqueeze(3), corners.float().roll(-1, 2).unsqueeze(3), steps)
        points = self.inverse(flow, outline.flatten(1, 3)).view(*corners.shape[:2], -1, 2)
        low, high = points.amin(2), points.amax(2)  # (B, N, 2)
        moved = input.clone()
        moved._data = torch.stack(
            [low, torch.stack([high[..., 0], low[..., 1]], -1), high, torch.stack([low[..., 0], high[..., 1]], -1)], 2
        ).to(corners.dtype)
        return moved

    def _flow_of(self, params: dict[str, Tensor], points: Tensor) -> Tensor:
        height, width = (int(n) for n in params["forward_input_shape"][-2:])
        return self._recalled_flow(params, points.new_empty(points.shape[0], height, width))

    def apply_transform_class(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        return input


def _moved(image: Tensor, flow: Tensor) -> Tensor:
    """Sampled, within [0, 1], in the dtype the image came in."""
    return sample_bilinear(image.to(torch.float32), flow).clamp(0.0, 1.0).to(image.dtype)
