"""Weights that a package ships: a file in half precision, and beside it how they were made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, float16

from lamella.engine.checkpoint import Checkpoints
from lamella.engine.run import read_header
from lamella.engine.whole import write_json


def write_shipped(weights: Mapping[str, Tensor], facts: Mapping[str, Any], out: Path) -> str:
    """Write weights as safetensors, floats in half precision, and what is to be known of them as JSON beside them.

    Args:
        facts: with ``stages``, each from `stage`, oldest first; ``parameters`` is added.

    Returns:
        One line about what was written.
    """
    from safetensors.torch import save_file

    half = {name: value.to(float16) if value.is_floating_point() else value for name, value in weights.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in half.items()}, out)
    parameters = sum(value.numel() for value in weights.values())
    write_json(out.with_suffix(".json"), {"parameters": parameters, **facts})
    steps = " + ".join(str(stage["step"]) for stage in facts["stages"])
    return f"{out}: {parameters} parameters, {out.stat().st_size / 1e6:.2f} MB, {steps} steps"


def stage(run: Path, began: str | None = None) -> dict[str, Any]:
    """How a run made its weights: ``step``, ``versions``, ``experiment`` and a thinned ``log``.

    Args:
        began: what its training began with; of a path the name alone is kept, and not whose folder it lay in.

    Raises:
        RunError: no run, or no checkpoint in it.
    """
    header, checkpoints = read_header(run), Checkpoints(run)
    pointer = checkpoints.load_pointer("best" if checkpoints.has("best") else "last")
    text = (run / "experiment.toml").read_text(encoding="utf-8")
    return {
        "step": json.loads((checkpoints.folder / pointer / "state.json").read_text("utf-8"))["step"],
        "versions": header["versions"],
        "experiment": text if began is None else text.replace(began, Path(began).name),
        "log": _thinned((run / "log.jsonl").read_text(encoding="utf-8").splitlines()),
    }


def _thinned(lines: list[str], every: int = 100) -> list[dict[str, float]]:
    """The log's entries at every hundredth step, rounded."""
    entries = [json.loads(line) for line in lines]
    return [
        {name: round(value, 5) for name, value in entry.items() if isinstance(value, int | float)}
        for entry in entries
        if entry["step"] % every == 0 and "lr" in entry
    ]
