"""Weights of Segment Anything from files: official or Hugging Face layout; nothing in them is executed."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from lamella.errors import ConfigError
from torch import Tensor, nn

SHA256 = {
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}
"""Of the published checkpoints, by file name."""

_FROM_HUGGING_FACE = (
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.blocks.\1.norm\2."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^shared_image_embedding\.positional_embedding$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.layer_norm(\d)\.", r"mask_decoder.transformer.layers.\1.norm\2."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_out\.", r"\1.layers.2."),
)
"""What Hugging Face's ``SamModel`` calls the parts, and what ``segment_anything`` calls them; first match counts."""
_TIED = "prompt_encoder.shared_embedding.positional_embedding"


def load_weights(backbone: nn.Module, source: str, variant: str) -> None:
    """Load a checkpoint into a backbone with the names of ``segment_anything``.

    Args:
        source: a .pth or .safetensors file, a folder with ``model.safetensors``, or a Hub id.

    Raises:
        ConfigError: nothing there, a truncated file, a hash that is not the published one, another layout, or
            another size of network.
    """
    path = locate(source, variant)
    found = official(read(path, variant), str(path), variant)
    wanted = backbone.state_dict()
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ConfigError(
            f"{variant}: {path} holds no weights of Segment Anything of this size: {missing[0]!r} is missing"
        )
    extra = sorted(set(found) - set(wanted))
    wrong = next((name for name in wanted if found[name].shape != wanted[name].shape), None)
    if wrong is not None or extra:
        what = (
            f"{wrong!r} has shape {tuple(found[wrong].shape)}, {variant} needs {tuple(wanted[wrong].shape)}"
            if wrong is not None
            else f"{extra[0]!r} is not part of {variant}"
        )
        raise ConfigError(f"{variant}: {path} holds another network: {what}")
    backbone.load_state_dict(found)


def locate(source: str, variant: str) -> Path:
    """The file that a path or a Hub id names; raises `ConfigError`."""
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if path.is_file():
        return path
    hub = re.fullmatch(r"[\w-]+/[\w.-]+", source) and path.suffix not in (".pth", ".safetensors", ".pt", ".bin")
    if not hub:
        raise ConfigError(
            f"{variant}: weights = {source!r}: there is no such file; give an official checkpoint "
            "(.pth), a .safetensors file, or a Hub id like 'facebook/sam-vit-base'"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, "model.safetensors"))
    except Exception as error:  # network, authentication, missing repository or file
        reason = str(error).splitlines()[0] if str(error) else "no details"
        raise ConfigError(
            f"{variant}: Hub weights {source!r} cannot be had: {type(error).__name__}: {reason}"
        ) from error


def read(path: Path, variant: str) -> dict[str, Tensor]:
    """The tensors of a file by name; raises `ConfigError` where it is damaged or not what it says."""
    expected = SHA256.get(path.name)
    if expected is not None and (digest := sha256(path)) != expected:
        raise ConfigError(
            f"{variant}: {path} is not the published checkpoint of that name: its SHA-256 is {digest[:16]}…, "
            f"not {expected[:16]}…; it may be cut short: download it again"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # zip, pickle and safetensors raise a dozen kinds on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]  # torch's is a page long
        raise ConfigError(
            f"{variant}: {path} cannot be read as weights; it may be damaged or cut short ({reason})"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ConfigError(f"{variant}: {path} is no table of tensors; it is not a checkpoint of Segment Anything")
    return dict(found)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def official(found: Mapping[str, Tensor], where: str, variant: str) -> dict[str, Tensor]:
    """Weights under the names of ``segment_anything``, from either layout; raises `ConfigError` for any other."""
    if any(name.startswith("image_encoder.") for name in found):
        return {name: value.to(torch.float32) for name, value in found.items()}
    if not any(name.startswith("vision_encoder.") for name in found):
        some = next(iter(found), "nothing")
        raise ConfigError(
            f"{variant}: {where} has an unknown layout (it begins with {some!r}); known are those of "
            "segment_anything (image_encoder.…) and of Hugging Face (vision_encoder.…)"
        )
    out = {}
    for name, value in found.items():
        if name != _TIED:  # the same numbers as shared_image_embedding
            out[_renamed(name)] = value.to(torch.float32)
    return out


def _renamed(name: str) -> str:
    for pattern, replacement in _FROM_HUGGING_FACE:
        new, count = re.subn(pattern, replacement, name)
        if count:
            return new
    return name
