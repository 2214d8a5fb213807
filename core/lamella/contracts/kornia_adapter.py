"""The perturbation behind `lamella.kornia`."""

from typing import Any, ClassVar

import torch
from kornia.augmentation import GeometricAugmentationBase2D, IntensityAugmentationBase2D
from kornia.constants import Resample, SamplePadding
from torch import Tensor, nn

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.precision import in_float32
from lamella.contracts.streams import Streams
from lamella.errors import ContractError

_CHANGES_SIZE = {
    "CenterCrop", "LongestMaxSize", "PadTo", "RandomCrop", "RandomResizedCrop", "Resize", "SmallestMaxSize",
}  # fmt: skip
_NEEDS_MORE = {"RandomDissolving"}  # a diffusion model from the hub


class KorniaPerturbation(nn.Module):
    """One Kornia 2D intensity or geometry augmentation under per-image seeds.

    Kornia samples from torch's global generator, one batch at a time. Here every image is drawn alone under a
    fork of that generator seeded by its stream, so neither batch nor order matters; the price is a loop over
    images. Its ``params`` replay a batch only, not a sample.
    """

    family: ClassVar[str] = "kornia"
    identity: ClassVar[None] = None
    replay: ClassVar[str] = "batch"

    def __init__(self, cls: type, parameters: dict[str, Any]):
        super().__init__()
        admitted = IntensityAugmentationBase2D | GeometricAugmentationBase2D
        if not isinstance(cls, type) or not issubclass(cls, admitted):
            raise ContractError(
                f"lamella.kornia: {getattr(cls, '__name__', cls)} is neither a 2D intensity nor a 2D geometry "
                "augmentation of Kornia"
            )
        self.stream_name = f"kornia {cls.__name__}"
        if cls.__name__ in _CHANGES_SIZE or cls.__name__ in _NEEDS_MORE:
            reason = "changes the image's size" if cls.__name__ in _CHANGES_SIZE else "needs more than an image"
            raise ContractError(f"lamella.kornia: {cls.__name__} {reason}; a perturbation keeps it")
        try:
            self.augmentation = cls(**parameters)
        except Exception as error:  # Kornia has exceptions of its own beside TypeError and ValueError
            raise ContractError(f"lamella.kornia: {cls.__name__} does not take these parameters: {error}") from error
        self.moves = issubclass(cls, GeometricAugmentationBase2D)

    @property
    def p(self) -> float:
        """The probability with which Kornia applies the augmentation."""
        return float(self.augmentation.p) * float(self.augmentation.p_batch)

    def perturb(self, batch: Batch, streams: Streams) -> Batch:
        """The batch perturbed image by image; label, trust and instances follow geometry."""
        if self.p == 0.0 or len(streams) == 0:
            return batch
        parts = []
        devices = [batch.image.device] if batch.image.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), in_float32(batch.image):
            for i, seed in enumerate(streams.ids.tolist()):
                torch.manual_seed(seed)
                parts.append(self._one(batch.select(slice(i, i + 1))))
        joined: dict[str, Any] = {
            name: None if getattr(batch, name) is None else torch.cat([getattr(part, name) for part in parts])
            for name in ("image", "label", "weight", "instance")
        }
        return batch._replace(**joined)

    def _one(self, batch: Batch) -> Batch:
        image = self.augmentation(batch.image.to(torch.float32))
        if image.shape != batch.image.shape:
            raise ContractError(
                f"{self.stream_name}: the image went from {tuple(batch.image.shape)} to {tuple(image.shape)}; "
                "a perturbation keeps the shape"
            )
        batch = batch._replace(image=image.clamp(0.0, 1.0).to(batch.image.dtype))
        return self._follow(batch) if self.moves else batch

    def _follow(self, batch: Batch) -> Batch:
        """Label, weight and instance moved as the last image was, all in one pass so that they agree."""
        outside = {"label": IGNORE, "weight": 0, "instance": 0}
        masks = {name: getattr(batch, name) for name in outside}
        masks = {name: values for name, values in masks.items() if values is not None and values.ndim == 3}
        if not masks:
            return batch
        layers = [values.to(torch.float64) for values in masks.values()]
        *moved, inside = self._mask(torch.stack([*layers, torch.ones_like(layers[0])], dim=1)).unbind(1)
        return batch._replace(**{
            name: torch.where(inside > 0.5, there.to(values.dtype), torch.full_like(values, outside[name]))
            for (name, values), there in zip(masks.items(), moved)
        })

    def _mask(self, layers: Tensor) -> Tensor:
        """(1, N, H, W) float64 masks moved as the last image was, nearest neighbour; 0 from outside the image.

        That holds where the class fills the image's outside with its border or its mirror image too.
        """
        nearest: dict[str, Any] = {"resample": Resample.NEAREST, "align_corners": None}
        if "padding_mode" in self.augmentation.flags:
            nearest["padding_mode"] = SamplePadding.ZEROS
        params = self.augmentation._params
        matrix = self.augmentation.transform_matrix
        return self.augmentation.transform_masks(
            layers, params, self.augmentation.flags, transform=matrix, **nearest
        )
