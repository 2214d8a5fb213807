"""``lamella sam-nano``: the weights of a training run, as the plugin ships them."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from lamella.errors import RunError


def ship(
    run: Annotated[Path, typer.Argument(help="a finished or stopped run of examples/sam_nano.toml")],
    out: Annotated[Path, typer.Option("--out", help="safetensors file to write; a .json goes beside it")],
) -> None:
    """Write sam-nano's weights in half precision, with the experiments and logs of all stages that made them."""
    from lamella.engine.shipped import write_shipped

    from lamella_sam.nano.network import sam_nano

    stages = _stages(run)
    print(write_shipped(sam_nano(weights=str(run)).state_dict(), {"stages": stages}, out))


def _stages(run: Path) -> list[dict[str, Any]]:
    """What trained the weights of a run, oldest first: the stages of what it began with, then itself."""
    from lamella.engine.run import read_header
    from lamella.engine.shipped import stage

    read_header(run)  # says so where it is no run
    text = (run / "experiment.toml").read_text(encoding="utf-8")
    backbone = tomllib.loads(text)["trainer"].get("backbone")
    if not isinstance(backbone, dict):
        raise RunError(f"{run}: its trainer has no backbone; name a run of examples/sam_nano.toml")
    began = backbone.get("weights", "scenes")
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
