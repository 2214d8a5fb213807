"""LoRA on queries and values alone: split, adapt, save, load, merge; in the formats of peft and of SAM's forks."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lamella.errors import ConfigError
from torch import Tensor, nn

from lamella_sam.backbone import SamBackbone
from lamella_sam.encoder import Encoder

_LAYER = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.qkv\.([qv])$")
_PREFIX = "base_model.model."
_STRANGE = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""Settings of peft by which an adapter is something else than W₀ + (α/r)·B·A with one α and r."""
_MOVED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways of peft to begin an adapter that change W₀ too, which is not in its files."""


class SplitProjection(nn.Module):
    """Three projections in the place of a fused one, so that each can be adapted by itself; exact."""

    def __init__(self, fused: nn.Linear):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(fused.in_features, fused.out_features // 3) for _ in range(3))
        with torch.no_grad():
            for part, weight, bias in zip((self.q, self.k, self.v), fused.weight.chunk(3), fused.bias.chunk(3)):
                part.weight.copy_(weight)
                part.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, 3·C): queries, keys, values."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], -1)


def split(encoder: Encoder) -> None:
    """Split every fused projection of an encoder, in place; those that are split already stay."""
    for block in encoder.blocks:
        if isinstance(block.attn.qkv, nn.Linear):
            block.attn.qkv = SplitProjection(block.attn.qkv)


def chosen_blocks(backbone: SamBackbone, late: int | None) -> range:
    """The numbers of the blocks to adapt: all, or the last ``late``; raises `ConfigError`."""
    depth = len(backbone.image_encoder.blocks)
    if late is not None and late > depth:
        raise ConfigError(f"late_blocks = {late}: the encoder has {depth} blocks")
    return range(depth) if late is None else range(depth - late, depth)


def rank_for(backbone: SamBackbone, share: float, late: int | None = None) -> int:
    """The rank at which about ``share`` of all parameters train.

    >>> from lamella_sam.nano.network import sam_nano
    >>> rank_for(sam_nano(weights="none"), 0.015)
    8
    """
    width = backbone.image_encoder.neck[0].in_channels
    per_rank = len(chosen_blocks(backbone, late)) * 2 * 2 * width  # q and v, A and B
    return max(1, round(share * sum(p.numel() for p in backbone.parameters()) / per_rank))


def add_lora(backbone: SamBackbone, *, rank: int, alpha: float, late: int | None = None) -> None:
    """Freeze a backbone and give its queries and values low-rank adapters W₀ + (α/r)·B·A, in place.

    A is Gaussian with standard deviation 1/r, B zero, so nothing changes at first.

    Args:
        late: adapt the last so many blocks alone; those before run without gradient.

    Source: paper equations 1 and 2; Hu et al., "LoRA", ICLR 2022.
    """
    from peft import LoraConfig, inject_adapter_in_model

    blocks = chosen_blocks(backbone, late)
    split(backbone.image_encoder)
    backbone.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        target_modules=_targets(blocks),
        init_lora_weights="gaussian",
        bias="none",
    )
    inject_adapter_in_model(config, backbone)
    backbone.image_encoder.frozen = blocks.start


def _targets(blocks: range) -> str:
    numbers = "|".join(str(number) for number in blocks)
    return rf"image_encoder\.blocks\.({numbers})\.attn\.qkv\.(q|v)"


def lora_layers(backbone: nn.Module) -> Iterator[tuple[int, str, Any]]:
    """(block, "q" or "v", peft's layer) of every adapted projection."""
    for name, module in backbone.named_modules():
        match = _LAYER.search(name)
        if match and hasattr(module, "lora_A"):
            yield int(match[1]), match[2], module


def adapter_weights(backbone: SamBackbone) -> dict[str, Tensor]:
    """The adapters as peft names them in ``adapter_model.safetensors``."""
    return {
        f"{_PREFIX}{name.replace('.default.', '.')}": value.detach().clone()
        for name, value in backbone.state_dict().items()
        if ".lora_" in name
    }


def save_adapter(backbone: SamBackbone, folder: Path) -> None:
    """Write the adapters in peft's format: ``adapter_config.json`` and ``adapter_model.safetensors``."""
    from safetensors.torch import save_file

    layers = list(lora_layers(backbone))
    if not layers:
        raise ConfigError("this network has no LoRA adapters to save; train it with adapt = 'lora'")
    blocks = sorted({block for block, _, _ in layers})
    layer = layers[0][2]
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "bias": "none",
        "r": layer.r["default"], "lora_alpha": layer.lora_alpha["default"], "lora_dropout": 0.0,
        "target_modules": _targets(range(blocks[0], blocks[-1] + 1)), "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(adapter_weights(backbone), folder / "adapter_model.safetensors")


def load_adapter(backbone: SamBackbone, source: Path) -> None:
    """Give a backbone the adapters of a file, in place: peft's format (a folder), or a fork's ``w_a_000`` layout.

    Raises:
        ConfigError: not readable, an unknown layout, adapters of another network, of another scale than α/r or to other
            weights than the given, or a network that has adapters.
    """
    if any(lora_layers(backbone)):
        raise ConfigError(f"{source}: the network has LoRA adapters already; load these into one without")
    if source.is_dir():
        _load_peft(backbone, source)
        return
    found = _tensors(source)
    if not any(name.startswith("w_a_") for name in found):
        raise ConfigError(
            f"{source}: an unknown layout of LoRA weights (it begins with {next(iter(found), 'nothing')!r}); known are "
            "peft's folders (adapter_config.json) and files with w_a_000, w_b_000 …"
        )
    pairs = _foreign_pairs(found, source)
    rank = next(iter(pairs.values()))[0].shape[0]
    add_lora(backbone, rank=rank, alpha=rank, late=_late(backbone, pairs, source))  # these forks scale by 1
    _fill(backbone, pairs, source)


def _load_peft(backbone: SamBackbone, folder: Path) -> None:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: adapter_config.json cannot be read as peft's LoRA settings: {error}") from error
    strange = [f"{name} = {config[name]}" for name in _STRANGE if config.get(name)]
    if strange:
        raise ConfigError(f"{folder}: {strange[0]}: only adapters of one rank, scaled by alpha / rank, are read")
    begun = config.get("init_lora_weights")
    if str(begun).lower().startswith(_MOVED):
        raise ConfigError(
            f"{folder}: init_lora_weights = {begun}: peft changed the weights below such an adapter, and it fits those "
            "alone; save it with peft's path_initial_model_for_weight_conversion"
        )
    found = _tensors(folder / "adapter_model.safetensors")
    pairs: dict[tuple[int, str], list[Tensor]] = {}
    for name in sorted(found):  # lora_A stands before lora_B
        match = re.search(r"blocks\.(\d+)\.attn\.qkv\.([qv])\.lora_[AB]\.weight$", name)
        if match is None:
            raise ConfigError(f"{folder}: {name!r} is no adapter of a query or value projection of Segment Anything")
        pairs.setdefault((int(match[1]), match[2]), []).append(found[name])
    add_lora(backbone, rank=rank, alpha=alpha, late=_late(backbone, pairs, folder))
    _fill(backbone, {key: (value[0], value[-1]) for key, value in pairs.items()}, folder)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: it cannot be read as LoRA weights; it may be damaged ({error})") from error


def _foreign_pairs(found: Mapping[str, Tensor], source: Path) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """(A, B) by (block, q or v): forks number their layers q of block 0, v of block 0, q of block 1, …"""
    count = sum(name.startswith("w_a_") for name in found)
    try:
        return {
            (number // 2, "qv"[number % 2]): (found[f"w_a_{number:03d}"], found[f"w_b_{number:03d}"])
            for number in range(count)
        }
    except KeyError as error:
        raise ConfigError(f"{source}: {error} is missing; the layers must be numbered without a gap") from None


def _late(backbone: SamBackbone, pairs: Mapping[tuple[int, str], Any], source: Path) -> int:
    """How many blocks at the end hold all the adapters of a file; raises `ConfigError`."""
    depth, numbers = len(backbone.image_encoder.blocks), [block for block, _ in pairs]
    if not numbers:
        raise ConfigError(f"{source}: there is no adapter in it")
    if max(numbers) >= depth:
        raise ConfigError(f"{source}: adapters of block {max(numbers)} do not fit an encoder of {depth} blocks")
    return depth - min(numbers)


def _fill(backbone: SamBackbone, pairs: Mapping[tuple[int, str], tuple[Tensor, Tensor]], source: Path) -> None:
    layers = {(block, which): layer for block, which, layer in lora_layers(backbone)}
    for key, (a, b) in pairs.items():
        if key not in layers:
            raise ConfigError(f"{source}: there is no {key[1]} projection in block {key[0]} to adapt")
        ours = layers[key].lora_A["default"].weight, layers[key].lora_B["default"].weight
        for place, given in zip(ours, (a, b)):
            if place.shape != given.shape:
                raise ConfigError(
                    f"{source}: an adapter of shape {tuple(given.shape)} does not fit {tuple(place.shape)} "
                    f"in block {key[0]}; it was trained on another network"
                )
            with torch.no_grad():
                place.copy_(given)


def merged_weights(backbone: SamBackbone) -> dict[str, Tensor]:
    """All weights in the layout of ``segment_anything``, with adapters added in and projections fused again.

    The same network without adapters: W = W₀ + (α/r)·B·A on queries and values, k rows bit for bit as they were.
    """
    added = {(block, which): _delta(layer) for block, which, layer in lora_layers(backbone)}
    out: dict[str, Tensor] = {}
    for name, value in backbone.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" in name:
            continue
        match = re.fullmatch(r"(image_encoder\.blocks\.(\d+)\.attn\.qkv)\.([qkv])\.(weight|bias)", plain)
        if match is None:
            out[plain] = value.detach().clone()
            continue
        delta = added.get((int(match[2]), match[3])) if match[4] == "weight" else None
        part = value.detach() if delta is None else value.detach() + delta
        fused = f"{match[1]}.{match[4]}"
        out[fused] = torch.cat([out[fused], part]) if fused in out else part.clone()
    return out


def _delta(layer: Any) -> Tensor:
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return ((b @ a) * layer.scaling["default"]).detach()


def share_trained(backbone: nn.Module) -> float:
    """The share of parameters that train."""
    total = sum(p.numel() for p in backbone.parameters())
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad) / max(total, math.ulp(1.0))
