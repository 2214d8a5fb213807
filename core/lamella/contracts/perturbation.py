"""Perturbations: Kornia augmentations that draw from keyed streams, and chains of them.

To write one, derive from `Perturbation` (changes grey values) or `Warp` (moves pixels) and write two methods.
Everything else (the gate p, float32 arithmetic, clamping, labels, masks, boxes, keypoints, replay through
``params=``) is done here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from kornia.augmentation import IntensityAugmentationBase2D, RigidAffineAugmentationBase2D
from kornia.geometry.boxes import Boxes
from kornia.geometry.keypoints import Keypoints
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor, nn

from lamella.contracts.batch import IGNORE, Batch
from lamella.contracts.flow import invert, sample_bilinear, sample_nearest
from lamella.contracts.streams import Streams
from lamella.errors import ContractError

STREAM = "stream"


class About(NamedTuple):
    """What a perturbation may know of the images: size in pixels, pixel size in nm, metadata."""

    height: int
    width: int
    pixel_nm: Tensor
    """(B, 2) float32, nm per pixel in y and x; nan where unknown."""
    meta: dict[str, Tensor]
    """(B, …) each, as in `Batch.meta`."""

    def value(self, name: str, default: float) -> Tensor:
        """(B,) float32: the metadata ``name``, or ``default`` for every image where there is none."""
        known = self.meta.get(name)
        if known is None:
            return torch.full((len(self.pixel_nm),), default, device=self.pixel_nm.device)
        return known.to(torch.float32)


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the lower end {value[0]:g} is above the upper end {value[1]:g}")
    return value


Range = Annotated[tuple[float, float], BeforeValidator(_pair), AfterValidator(_ordered)]
"""An interval (low, high) to draw from; a single number stands for both ends."""


def within(low: float, high: float) -> AfterValidator:
    """A bound for a `Range` or a number: every end must lie in [low, high]."""

    def check(value: Any) -> Any:
        ends = value if isinstance(value, tuple) else (value,)
        if any(not low <= end <= high for end in ends):
            raise ValueError(f"must lie within {low:g} and {high:g}")
        return value

    return AfterValidator(check)


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """``value`` (B,) shaped so that it broadcasts over ``like`` (B, …)."""
    return value.view(-1, *(1 for _ in range(like.ndim - 1)))


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def _gate(streams: Streams, p: float) -> Tensor:
    """(B,) bool: which images are perturbed; keyed, like everything else."""
    return streams.child("gate").uniform(0.0, 1.0) < p


def _plain_parameters(module: "Perturbation | Warp", shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Kornia's parameters for a bare image batch: stream ids from torch's generator, and all that follows."""
    streams = Streams.drawn(shape[0])
    about = About(shape[-2], shape[-1], torch.full((shape[0], 2), torch.nan), {})
    drawn = module.draw(streams.child("draw"), about)
    if taken := {STREAM, "batch_prob", "forward_input_shape"} & drawn.keys():
        raise ContractError(f"{type(module).__name__}.draw must not name a parameter {sorted(taken)[0]!r}")
    return {
        **drawn,
        STREAM: streams.ids,
        "batch_prob": _gate(streams, module.p).to(torch.float32),
        "forward_input_shape": torch.tensor(shape, dtype=torch.long),
    }


def _recalled(params: Mapping[str, Tensor], like: Tensor) -> tuple[dict[str, Tensor], Streams, About]:
    """What `_plain_parameters` recorded, on the device of ``like`` (B, …, H, W)."""
    kept = {name: value.to(like.device) for name, value in params.items() if isinstance(value, Tensor)}
    streams = Streams(kept.pop(STREAM)).child("render")
    for name in ("batch_prob", "forward_input_shape"):
        kept.pop(name, None)
    pixel_nm = torch.full((like.shape[0], 2), torch.nan, device=like.device)
    return kept, streams, About(like.shape[-2], like.shape[-1], pixel_nm, {})


def _about(batch: Batch) -> About:
    return About(batch.image.shape[-2], batch.image.shape[-1], batch.pixel_nm, batch.meta)


class Perturbation(IntensityAugmentationBase2D):
    """A change of grey values. Write ``draw`` and ``render``; build without arguments; name a ``family``.

    As a Kornia module it takes (B, C, H, W) images of any float dtype in [0, 1]; inside
    ``AugmentationSequential`` masks, boxes and keypoints stay where they are. In a `Chain` it takes a `Batch`.

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
        _check_probability(self, p)
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
        if self.p == 0.0:
            return batch
        about = _about(batch)
        drawn = self.draw(streams.child("draw"), about)
        rendered = self.clipped(batch.image.to(torch.float32), drawn, streams.child("render"), about)
        rendered = rendered.to(batch.image.dtype)
        if self.p < 1.0:
            rendered = torch.where(per_image(_gate(streams, self.p), rendered), rendered, batch.image)
        return batch._replace(image=rendered)

    # Kornia's side of the contract.

    def forward_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return _plain_parameters(self, batch_shape)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        drawn, streams, about = _recalled(params, input)
        return self.clipped(input.to(torch.float32), drawn, streams, about).to(input.dtype)


def _moved(image: Tensor, flow: Tensor) -> Tensor:
    """Sampled, within [0, 1], in the dtype the image came in."""
    return sample_bilinear(image.to(torch.float32), flow).clamp(0.0, 1.0).to(image.dtype)


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
        _check_probability(self, p)
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
        if self.p == 0.0:
            return batch
        about = _about(batch)
        flow = self.flow(self.draw(streams.child("draw"), about), streams.child("render"), about)
        if self.p < 1.0:
            flow = flow * per_image(_gate(streams, self.p), flow)
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
        return _plain_parameters(self, batch_shape)

    _compute_matrix_lazily = True  # a flow has no matrix; the base asks for one all the same

    def compute_transformation(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]
    ) -> Tensor:
        return self.identity_matrix(input)

    def _recalled_flow(self, params: dict[str, Tensor], like: Tensor) -> Tensor:
        drawn, streams, about = _recalled(params, like)
        return self.flow(drawn, streams, about)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        flow = self._recalled_flow(params, input)
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


def _check_probability(module: nn.Module, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ContractError(f"{type(module).__name__}: p = {p:g} is no probability; it must lie within 0 and 1")


class Chain(nn.Module):
    """Perturbations one after the other; the streams of each depend on its name and occurrence alone.

    Args:
        perturbations: `Perturbation`, `Warp` or whatever else has ``perturb(batch, streams)``.
    """

    def __init__(self, perturbations: Iterable[Any]):
        super().__init__()
        self.perturbations = nn.ModuleList(perturbations)

    def __len__(self) -> int:
        return len(self.perturbations)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.perturbations)

    def forward(self, batch: Batch, streams: Streams) -> Batch:
        """The batch after every perturbation, in order."""
        seen: dict[str, int] = {}
        for perturbation in self.perturbations:
            name = stream_name(perturbation)
            seen[name] = seen.get(name, 0) + 1
            part = streams.child(name if seen[name] == 1 else f"{name} {seen[name]}")
            batch = perturbation.perturb(batch, part)
        return batch


def stream_name(perturbation: nn.Module) -> str:
    """The name under which a perturbation draws: its class's, in kebab case."""
    return getattr(perturbation, "stream_name", None) or _kebab(type(perturbation).__name__)
