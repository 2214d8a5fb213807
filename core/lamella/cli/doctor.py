"""``lamella doctor``."""

import json
import os
import shutil
from typing import Annotated, Any

import typer

from lamella.registry.registry import current


def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Check this installation: the device and why it is not a GPU, versions, plugins, a compiler."""
    from lamella.engine.run import versions

    registry = current()
    facts = {
        "device": _device(),
        "threads": os.cpu_count(),
        "compiler": shutil.which("c++") or shutil.which("cl") or "none: torch.compile falls back to eager",
        "registry": str(registry.file.path or "none: every installed plugin is enabled"),
        "plugins": {p.name: p.status if p.error is None else f"failed: {p.error}" for p in registry.plugins},
        "versions": versions(),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(_lines(facts)))


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} ({torch.cuda.device_count()} visible)"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    if torch.version.cuda is None:
        reason = "this torch is a build for the CPU only"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        reason = "CUDA_VISIBLE_DEVICES is empty"
    else:
        reason = f"torch is built for CUDA {torch.version.cuda}, but no driver or no NVIDIA GPU was found"
    return f"CPU ({reason})"


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"    {key:<30} {item}" for key, item in value.items()]
        else:
            lines.append(f"{name + ':':<12} {value}")
    return lines
