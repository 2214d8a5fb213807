"""DeepLabV3+ of segmentation-models-pytorch as a segmentation backbone."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from lamella import AtStart, FromData
from lamella.errors import ContractError, LamellaError
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from lamella_tem.between import teachers_part, weights_between
from lamella_tem.deeplab_layers import spare_small_maps
from lamella_tem.starts import shipped


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ on any encoder of segmentation-models-pytorch or timm, for any image size.

    Images are padded to a multiple of the output stride by repeating their border, and logits cropped back.
    ``norm = "group"`` replaces every batch norm by a group norm, for batches too small to have statistics and
    for training that must not depend on how a batch is split among processes.

    Raises:
        ContractError: an encoder that does not exist, or a batch of one image in training with batch norm
            (the image-pooling branch has one value per channel then), or a start that is no run of this network.

    Source: Chen et al., "Encoder-decoder with atrous separable convolution", ECCV 2018.

    >>> import torch
    >>> net = DeepLabV3Plus(encoder="tu-mobilenetv3_small_100", channels=1, classes=3).eval()
    >>> net.decode(net.encode(torch.zeros(1, 1, 50, 70)), (50, 70)).shape
    torch.Size([1, 3, 50, 70])
    """

    def __init__(
        self,
        *,
        encoder: Annotated[str, Field(description="encoder name; timm's carry the prefix 'tu-'")] = "resnet18",
        weights: Annotated[str | None, Field(description="pretrained weights of the encoder, as 'imagenet'")] = None,
        output_stride: Annotated[Literal[8, 16], Field(description="of the encoder")] = 16,
        dropout: Annotated[float, Field(ge=0, lt=1, description="after the atrous pyramid")] = 0.1,
        norm: Annotated[Literal["batch", "group"], Field(description="normalisation layers")] = "batch",
        start: Annotated[
            str | None,
            AtStart,
            Field(
                description="run to start from, or 'gaa', shipped for the encoder tu-mobilenetv3_small_100; "
                "classes it does not know stay random"
            ),
        ] = None,
        channels: Annotated[int, FromData],
        classes: Annotated[int, FromData],
        class_names: Annotated[Sequence[str], FromData] = (),
    ):
        super().__init__()
        import segmentation_models_pytorch as smp

        known = smp.encoders.get_encoder_names()
        timm = encoder.startswith("tu-")  # their weights are named in the encoder's name, so it is all or none
        if not timm and encoder not in known:
            close = ", ".join(difflib.get_close_matches(encoder, known, n=3)) or "resnet18, resnet34, resnet50"
            raise ContractError(
                f"deeplabv3plus: there is no encoder {encoder!r} (near it: {close}; timm's carry the prefix 'tu-')"
            )
        try:
            self.net = smp.DeepLabV3Plus(
                encoder_name=encoder,
                encoder_weights=(weights is not None or None) if timm else weights,
                encoder_output_stride=output_stride,
                in_channels=channels,
                classes=classes,
            )
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:  # OSError: weights not to be fetched
            raise ContractError(f"deeplabv3plus: encoder {encoder!r} cannot be built: {error}") from error
        for module in self.net.decoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        spare_small_maps(self.net.decoder)
        spare_small_maps(self.net.segmentation_head)
        if norm == "group":
            _to_group_norm(self.net)
        self.norm, self.stride = norm, 16
        self.unknown_to_start: list[str] = []
        """Classes that the start does not know: their part of the head is random."""
        if start is not None:
            self._begin_with(start, list(class_names))

    def _begin_with(self, start: str, names: list[str]) -> None:
        """Load the network of a run, or a shipped one; of its head, the classes that both know by name."""
        where = f"deeplabv3plus: start = {start!r}"
        try:
            found, theirs = shipped.read_start(start) if start in shipped.names() else _of_run(Path(start))
        except LamellaError as error:
            raise ContractError(f"{where}: {error}") from error
        self.unknown_to_start = [name for name in names if name not in theirs]
        wanted = self.state_dict()
        for name in found.keys() & wanted.keys():
            if name.startswith("net.segmentation_head."):
                found[name] = _by_class(found[name], theirs, wanted[name], names)
        wrong = [k for k, value in wanted.items() if k not in found or found[k].shape != value.shape]
        if wrong:
            raise ContractError(
                f"{where} holds another network: {wrong[0]!r} is missing or of another shape; "
                "set encoder, norm and channels as that run's"
            )
        self.load_state_dict({name: found[name] for name in wanted})

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of (B, C, H, W), from the image itself (first) down to 1/16."""
        if self.training and self.norm == "batch" and len(image) == 1:
            raise ContractError(
                "deeplabv3plus: one image per process and part is too few for batch norm in training; "
                "use a larger batch_size, less accumulation, or norm = 'group'"
            )
        below, right = (-size % self.stride for size in image.shape[-2:])
        return list(self.net.encoder(pad(image, (0, right, 0, below), mode="replicate")))

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) for ``size`` = (H, W)."""
        logits = self.net.segmentation_head(self.net.decoder(features))
        return logits[..., : size[0], : size[1]]


def _of_run(run: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state of the network that a run predicts with, and its classes; raises `RunError`."""
    from lamella.engine.run import read_header, run_weights

    state = run_weights(run)
    found = {name.split("backbone.", 1)[1]: value for name, value in state.items() if "backbone.net." in name}
    teacher = {name.split("teacher.", 1)[1]: value for name, value in state.items() if "teacher.net." in name}
    if teacher:
        trainer = tomllib.loads((run / "experiment.toml").read_text(encoding="utf-8"))["trainer"]
        found = weights_between(found, teacher, teachers_part(trainer.get("ema"), trainer.get("teacher_share")))
    return found, read_header(run)["data"]["class_names"]


def _to_group_norm(module: nn.Module) -> None:
    """Replace every batch norm below ``module`` by a group norm with its weights, keeping what follows it."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            groups = next(g for g in (16, 8, 4, 2, 1) if child.num_features % g == 0)
            norm = nn.GroupNorm(groups, child.num_features, eps=child.eps, affine=child.affine)
            known = norm.state_dict()
            norm.load_state_dict({name: value for name, value in child.state_dict().items() if name in known})
            extras = [getattr(child, extra) for extra in ("drop", "act") if hasattr(child, extra)]
            setattr(module, name, nn.Sequential(norm, *extras) if extras else norm)
        else:
            _to_group_norm(child)


def _by_class(found: Tensor, theirs: list[str], wanted: Tensor, names: list[str]) -> Tensor:
    """``wanted`` (classes, …), with the rows of ``found`` for the classes of the same name.

    >>> import torch
    >>> _by_class(torch.tensor([1.0, 2.0]), ["oxide", "metal"], torch.zeros(3), ["metal", "liner", "oxide"])
    tensor([2., 0., 1.])
    """
    if found.shape[1:] != wanted.shape[1:]:
        return found  # another network, which the caller says
    out = wanted.clone()
    for row, name in enumerate(names):
        if name in theirs:
            out[row] = found[theirs.index(name)]
    return out
