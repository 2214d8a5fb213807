"""``lamella sam-nano``: the weights of a training run, as the plugin ships them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def ship(
    run: Annotated[Path, typer.Argument(help="a finished or stopped run of examples/sam_nano.toml")],
    out: Annotated[Path, typer.Option("--out", help="safetensors file to write; a .json goes beside it")],
) -> None:
    """Write sam-nano's weights in half precision, with the experiment and the log that made them."""
    from lamella.engine.checkpoint import write_json

    facts = write_weights(run, out)
    write_json(out.with_suffix(".json"), facts)
    print(f"{out}: {facts['parameters']} parameters, {out.stat().st_size / 1e6:.2f} MB, step {facts['step']}")


def write_weights(run: Path, out: Path) -> dict[str, Any]:
    """Write the file; returns what is to be known of it.

    Raises:
        ConfigError: the run holds no such network.
        RunError: no run, or no checkpoint in it.
    """
    import torch
    from lamella.engine.checkpoint import Checkpoints
    from lamella.engine.run import read_header
    from safetensors.torch import save_file

    from lamella_sam.nano.network import sam_nano

    header = read_header(run)
    weights = sam_nano(weights=str(run)).state_dict()
    half = {name: value.to(torch.float16).contiguous() for name, value in weights.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, out)
    state = json.loads((run / "checkpoints" / Checkpoints(run).load_pointer("last") / "state.json").read_text("utf-8"))
    return {
        "parameters": sum(value.numel() for value in weights.values()),
        "step": state["step"],
        "versions": header["versions"],
        "experiment": (run / "experiment.toml").read_text(encoding="utf-8"),
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
