"""``lamella sam-nano``: the weights of a training run, as the plugin ships them."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer


def ship(
    run: Annotated[Path, typer.Argument(help="a finished or stopped run of examples/sam_nano.toml")],
    out: Annotated[Path, typer.Option("--out", help="safetensors file to write; a .json goes beside it")],
) -> None:
    """Write sam-nano's weights in half precision, with the experiments and logs of all stages that made them."""
    from lamella.engine.checkpoint import write_json

    facts = write_weights(run, out)
    write_json(out.with_suffix(".json"), facts)
    steps = " + ".join(str(stage["step"]) for stage in facts["stages"])
    print(f"{out}: {facts['parameters']} parameters, {out.stat().st_size / 1e6:.2f} MB, {steps} steps")


def write_weights(run: Path, out: Path) -> dict[str, Any]:
    """Write the file; returns what is to be known of it.

    Raises:
        ConfigError: the run holds no such network.
        RunError: no run, or no checkpoint in it.
    """
    from lamella.engine.shipped import write_half

    from lamella_sam.nano.network import sam_nano

    stages = _stages(run)
    return {"parameters": write_half(sam_nano(weights=str(run)).state_dict(), out), "stages": stages}


def _stages(run: Path) -> list[dict[str, Any]]:
    """What trained the weights of a run, oldest first: the stages of what it began with, then itself."""
    from lamella.engine.run import read_header
    from lamella.engine.shipped import stage

    read_header(run)  # says so where it is no run
    text = (run / "experiment.toml").read_text(encoding="utf-8")
    began = tomllib.loads(text)["trainer"]["backbone"].get("weights", "scenes")
    return [*_stages_before(began), stage(run, began)]


def _stages_before(weights: str) -> list[dict[str, Any]]:
    """The stages that made the weights a run began with; none where they were random or come with no history."""
    from lamella_sam.nano.network import WEIGHTS

    if weights == "none":
        return []
    path = WEIGHTS if weights == "scenes" else Path(weights)
    if path.is_dir():
        return _stages(path)
    history = path.with_suffix(".json")
    stages: list[dict[str, Any]] = json.loads(history.read_text("utf-8"))["stages"] if history.is_file() else []
    return stages
