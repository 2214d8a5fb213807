"""Weights to start an encoder from: a run of ours, a file of timm, or the Hub."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from lamella.engine.run import run_weights
from lamella.errors import ContractError, LamellaError
from lamella.registry.tomlfile import read_toml
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from lamella_sem.export import CONFIG, WEIGHTS

_HUB = re.compile(r"(hf-hub:)?[\w.-]+/[\w.-]+(@[\w.-]+)?")
_PREFIX = "encoder."
_HEADS = ("head", "fc_norm", "pre_logits", "decoder")

State = Mapping[str, Tensor]


def load_weights(encoder: VisionTransformer, source: str) -> None:
    """Load an encoder's weights in place.

    Args:
        source: the run folder of a trainer whose encoder is called ``encoder`` (its best or last checkpoint, averaged
            where it kept averages), a ``.safetensors`` file of timm, or a Hub id.

    Raises:
        ContractError: nothing there, or weights of another architecture, in one sentence. Another number of heads shows
            in no tensor: it is noticed of runs and exports, which say theirs.
    """
    state = adapted(encoder, _read(source), source)
    wanted = encoder.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    foreign = sorted(name for name in state.keys() - wanted.keys() if not name.startswith(_HEADS))
    other = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    if missing or foreign:
        lacking = f"lacks {missing[0]!r}" if missing else f"has {foreign[0]!r}, which the encoder has not"
        raise ContractError(
            f"vit: weights = {source!r} are of another network: it {lacking} "
            f"({len(missing)} tensors missing, {len(foreign)} unknown); set depth, width and heads as theirs"
        )
    if other:
        name = sorted(other)[0]
        raise ContractError(
            f"vit: weights = {source!r} do not fit: {name!r} is {_size(state[name])} there and {_size(wanted[name])} "
            "here; set width, depth and patch as theirs"
        )
    heads, theirs = encoder.blocks[0].attn.num_heads, _heads(Path(source))
    if theirs not in (None, heads):
        raise ContractError(f"vit: weights = {source!r} are of an encoder with heads = {theirs}, not {heads}; set that")
    encoder.load_state_dict({name: state[name] for name in wanted})


def _heads(path: Path) -> int | None:
    """How many heads a run's experiment, or the configuration beside an export, says; None for other weights."""
    try:
        if path.is_dir():
            told: int = read_toml(path / "experiment.toml", "experiment file")["trainer"]["encoder"]["heads"]
        elif path.name == WEIGHTS:
            told = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))["model_args"]["num_heads"]
        else:
            return None
    except (LamellaError, OSError, ValueError, KeyError, TypeError):
        return None
    return told


def _read(source: str) -> dict[str, Tensor]:
    path = Path(source)
    if path.is_dir():
        return _of_run(path)
    if path.is_file():
        return _of_file(path)
    if path.parent != Path() and path.parent.is_dir():
        raise ContractError(f"vit: weights = {source!r}: {path.parent} has no run folder and no file of that name")
    if _HUB.fullmatch(source) and not source.startswith("."):
        return _of_hub(source)
    raise ContractError(
        f"vit: weights = {source!r} is no run folder, no .safetensors file, and no Hub id like 'timm/vit_…'"
    )


def _of_run(run: Path) -> dict[str, Tensor]:
    try:
        state = run_weights(run)
    except LamellaError as error:
        raise ContractError(f"vit: weights = {str(run)!r}: {error}") from error
    found = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    if not found:
        raise ContractError(f"vit: weights = {str(run)!r}: the trainer of this run has no encoder")
    return found


def _of_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ContractError(
            f"vit: weights = {str(path)!r} cannot be read as safetensors ({str(error).splitlines()[0]})"
        ) from error


def _of_hub(source: str) -> dict[str, Tensor]:
    from timm.models import load_state_dict_from_hf

    try:
        return dict(load_state_dict_from_hf(source.removeprefix("hf-hub:"), weights_only=True))
    except Exception as error:  # network, authentication, missing repository: one sentence each
        reason = str(error).splitlines()[0] if str(error) else "no details"
        raise ContractError(
            f"vit: weights = {source!r} cannot be had from the Hub, and there is no folder of that name: "
            f"{type(error).__name__}: {reason}"
        ) from error


def adapted(encoder: VisionTransformer, state: State, source: str) -> dict[str, Tensor]:
    """Weights with patch embedding and position embedding resampled to the encoder's patch, image size and channels."""
    weight, channels = state.get("patch_embed.proj.weight"), encoder.patch_embed.proj.in_channels
    state = dict(state)
    if weight is not None and weight.ndim == 4 and weight.shape[1] != channels:
        # Channels that showed the same image act as their sum.
        mixed = weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
        state["patch_embed.proj.weight"] = mixed.contiguous()
    try:
        with torch.no_grad():
            return dict(checkpoint_filter_fn(state, encoder))
    except (RuntimeError, AssertionError, KeyError, ValueError, TypeError) as error:
        raise ContractError(f"vit: weights = {source!r} are of no Vision Transformer of timm ({error})") from error


def _size(value: Tensor) -> str:
    return "×".join(map(str, value.shape))
