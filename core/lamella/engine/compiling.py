"""``[fit] compile``: what of a trainer ``torch.compile`` takes."""

import shutil

import torch
from torch import nn

from lamella.contracts.model import SegmentationBackbone

NOTHING = "nothing: it has no segmentation backbone and no transformer"


def compile_networks(trainer: nn.Module) -> str:
    """Compile the networks of a trainer in place, and say in a few words what was found to compile.

    The two halves of every segmentation backbone, and every block of a transformer: they cost the most, are alike in
    every step, and hold no randomness of ours. Perturbations, prompts and losses stay as they are, weights keep names.
    Each size of image is compiled by itself: with sizes left open Inductor fails at their padding (torch 2.14).

    >>> from torch import nn
    >>> compile_networks(nn.Linear(2, 2))
    'nothing: it has no segmentation backbone and no transformer'
    """
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return "nothing: no C++ compiler was found"
    halves = [module for module in trainer.modules() if isinstance(module, SegmentationBackbone)]
    taken = {part for half in halves for part in half.modules()}  # type: ignore[attr-defined]
    stacks = [module.blocks for module in trainer.modules() if hasattr(module, "blocks") and module not in taken]
    blocks = [block for stack in stacks if isinstance(stack, nn.Sequential | nn.ModuleList) for block in stack]
    for half in halves:
        half.encode = torch.compile(half.encode, dynamic=False)  # type: ignore[method-assign]
        half.decode = torch.compile(half.decode, dynamic=False)  # type: ignore[method-assign]
    for block in blocks:
        block.compile(dynamic=False)
    kinds = {"network": ("of two halves", halves), "block": ("of transformers", blocks)}
    told = [f"{len(found)} {kind}{'s' * (len(found) > 1)} {what}" for kind, (what, found) in kinds.items() if found]
    return ", ".join(told) or NOTHING
