"""The encoder of a run for use elsewhere: as weights that timm loads, and as ONNX."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lamella.engine.whole import write_json
from lamella.errors import RunError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lamella_sem.vit import MEAN, STD, checked, pooled

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

WEIGHTS, CONFIG, ONNX = "model.safetensors", "config.json", "encoder.onnx"
TOLERANCE = 1e-4
"""How far an exported encoder's output may be from the run's, largest absolute difference."""


class Embedder(nn.Module):
    """Grey images in [0, 1] to the mean of their patch tokens: normalisation, encoder and pooling in one."""

    def __init__(self, encoder: "VisionTransformer"):
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """(B, D) of (B, C, H, W)."""
        return pooled(self.encoder, self.encoder.forward_features((image - MEAN) / STD))


def export(run: Path, out: Path, *, checkpoint: str | None = None, onnx: bool = True) -> dict[str, Any]:
    """Write the encoder of a run and check that what was written gives the same.

    ``model.safetensors`` with ``config.json`` is what ``timm.create_model("vit_base_patch16_224", num_classes=0,
    checkpoint_path=…, **config["model_args"])`` loads; it expects images normalised by mean and standard deviation
    0.5. ``encoder.onnx`` takes grey images in [0, 1], any number of them, and gives the mean of the patch tokens.

    Returns:
        ``{"files": […], "differences": {"timm": …, "onnx": …}}``, the largest over 4 random images.

    Raises:
        RunError: no such run, a trainer without an encoder, a package that is missing, files of these names that are
            not of an export, or an export that differs.
    """
    from lamella.engine.run import open_run

    if onnx:
        _check_packages()
    _check_files(out, [CONFIG, WEIGHTS, ONNX])
    experiment, trainer, _, _ = open_run(run, checkpoint)
    if not isinstance(getattr(trainer, "encoder", None), nn.Module):
        raise RunError(f"{run}: its trainer {experiment.trainer.component.full_name} has no encoder to export")
    encoder = checked(trainer.encoder, "sem-export").eval().requires_grad_(False)
    out.mkdir(parents=True, exist_ok=True)
    arguments = model_args(encoder)
    channels, random = encoder.patch_embed.proj.in_channels, torch.Generator().manual_seed(0)
    image = torch.rand(4, channels, *_size(encoder), generator=random)
    wanted = Embedder(encoder)(image)
    write_json(out / CONFIG, {
        "architecture": "vit_base_patch16_224", "num_classes": 0, "num_features": encoder.embed_dim,
        "model_args": arguments, "mean": MEAN, "std": STD, "pooling": "mean of the patch tokens", "run": run.name,
    })  # fmt: skip
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, out / WEIGHTS)
    files, differences = [WEIGHTS, CONFIG], {"timm": _apart(_through_timm(out)(image), wanted)}
    (out / ONNX).unlink(missing_ok=True)  # an earlier export's is not of these weights
    if onnx:
        _write_onnx(Embedder(encoder).eval(), image, out / ONNX)
        files.append(ONNX)
        differences["onnx"] = _apart(_through_onnx(out / ONNX, image), wanted)
    for name, gap in differences.items():
        if not gap < TOLERANCE:
            raise RunError(f"{out}: what {name} makes of the export differs by {gap:.2g}; it is not to be used")
    return {"files": files, "differences": differences}


def _check_packages() -> None:
    try:
        import onnxruntime  # noqa: F401 - what the export is checked with
        import onnxscript  # noqa: F401 - what torch.onnx writes with
    except ImportError:
        raise RunError(
            "ONNX needs further packages: pip install 'lamella-sem[onnx]', or leave it out with --no-onnx"
        ) from None


def _check_files(out: Path, names: Sequence[str]) -> None:
    """Raise `RunError` where a file would be replaced and the configuration beside it is none of an export."""
    there = next((out / name for name in names if (out / name).exists()), None)
    try:
        ours = {"model_args", "run"} <= json.loads((out / CONFIG).read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        ours = False
    if there is not None and not ours:
        raise RunError(f"{there} is there and not of `lamella sem-export`; choose another --out, or move it away")


def model_args(encoder: "VisionTransformer") -> dict[str, Any]:
    """The arguments from which timm builds a ViT of this shape."""
    block = encoder.blocks[0]
    return {
        "img_size": list(_size(encoder)),
        "patch_size": encoder.patch_embed.patch_size[0],
        "in_chans": encoder.patch_embed.proj.in_channels,
        "embed_dim": encoder.embed_dim,
        "depth": len(encoder.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / encoder.embed_dim,
        "dynamic_img_size": True,
    }


def _size(encoder: "VisionTransformer") -> tuple[int, int]:
    height, width = encoder.patch_embed.img_size
    return int(height), int(width)


def _through_timm(out: Path) -> Embedder:
    """The encoder as somebody without Lamella would load it."""
    import timm

    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    model = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
    model.load_state_dict(load_file(out / WEIGHTS))
    return Embedder(model.eval().requires_grad_(False))


def _write_onnx(embedder: Embedder, image: Tensor, path: Path) -> None:
    torch.onnx.export(
        embedder, (image,), str(path), dynamo=True, external_data=False, verbose=False, optimize=True,
        input_names=["image"], output_names=["embedding"], dynamic_shapes=({0: torch.export.Dim("images")},),
    )  # fmt: skip


def _through_onnx(path: Path, image: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Three images, not the four it was traced with: their number has to be free.
    found = torch.from_numpy(session.run(None, {"image": image[:3].numpy()})[0])
    return torch.cat([found, torch.from_numpy(session.run(None, {"image": image[3:].numpy()})[0])])


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().abs().max())
