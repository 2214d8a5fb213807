"""Changes of grey values: Kornia augmentations that draw from keyed streams.

To write one, derive from `Perturbation` (changes grey values) or `Warp` (moves pixels) and write two methods.
Everything else (the gate p, float32 arithmetic, clamping, labels, masks, boxes, keypoints, replay through
``params=``) is done here, there and in ``keyed``.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from torch import Tensor

from lamella.contracts.batch import Batch
from lamella.contracts.keyed import check_probability, gated, plain_parameters, recalled
from lamella.contracts.parameters import About, per_image
from lamella.contracts.precision import in_float32
from lamella.contracts.streams import Streams


class Perturbation(IntensityAugmentationBase2D):
    """A change of grey values. Write ``draw`` and ``render``; build without arguments; name a ``family``.

    As a Kornia module it takes (B, C, H, W) images of any float dtype in [0, 1]; inside
    ``AugmentationSequential`` masks, boxes and keypoints stay where they are. In a `Chain` it takes a `Batch`.

    >>> from lamella import Range
    >>> class Darken(Perturbation):
    ...     family = "machine"
    ...     identity = {"strength": (0.0, 0.0)}
    ...     def __init__(self, *, strength: Range = (0.1, 0.5), p: float = 1.0):
    ...         super().__init__(p=p)
    ...         self.strength = strength
    ...     def draw(self, streams, about):
    ...         return {"strength": streams.uniform(*self.strength)}
    ...     def render(self, image, drawn, streams, about):
    ...         return image * (1 - per_image(drawn["strength"], image))
    >>> Darken()(torch.ones(2, 1, 8, 8)).amax() < 0.91
    tensor(True)
    """

    family: ClassVar[str] = ""
    identity: ClassVar[Mapping[str, Any] | None] = None
    """Constructor parameters at which the perturbation does nothing."""

    def __init__(self, *, p: float = 1.0):
        check_probability(self, p)
        super().__init__(p=p)

    def draw(self, streams: Streams, about: About) -> dict[str, Tensor]:
        """The parameters of every image, (B, …) each."""
        raise NotImplementedError(f"{type(self).__name__} must write draw(streams, about)")

    def render(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """The perturbed image (B, C, H, W) float32, unclipped; ``image`` must stay as it is."""
        raise NotImplementedError(f"{type(self).__name__} must write render(image, drawn, streams, about)")

    def clipped(self, image: Tensor, drawn: dict[str, Tensor], streams: Streams, about: About) -> Tensor:
        """`render` clipped to [0, 1]; write it where both are had in one pass over memory."""
        return self.render(image, drawn, streams, about).clamp(0.0, 1.0)

    def perturb(self, batch: Batch, streams: Streams) -> Batch:
        """The batch with its image perturbed; label, trust and all else unchanged."""
        return gated(batch, streams, self.p, self._changed)

    def _changed(self, batch: Batch, streams: Streams, through: Tensor | None) -> Batch:
        about = About.of(batch)
        with in_float32(batch.image):
            drawn = self.draw(streams.child("draw"), about)
            rendered = self.clipped(batch.image.to(torch.float32), drawn, streams.child("render"), about)
        rendered = rendered.to(batch.image.dtype)
        if through is not None:
            rendered = torch.where(per_image(through, rendered), rendered, batch.image)
        return batch._replace(image=rendered)

    # Kornia's side of the contract.

    def forward_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return plain_parameters(self, batch_shape)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        drawn, streams, about = recalled(params, input)
        with in_float32(input):
            return self.clipped(input.to(torch.float32), drawn, streams, about).to(input.dtype)
