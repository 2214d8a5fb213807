"""``lamella tem-start``: the network of a training run, as the plugin ships it."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer


def ship(
    run: Annotated[Path, typer.Argument(help="a finished run with a deeplabv3plus, as of examples/paper/start.toml")],
    out: Annotated[Path, typer.Option("--out", help="safetensors file to write; a .json goes beside it")],
) -> None:
    """Write a run's DeepLabV3+ in half precision, with its classes and the experiment and log that made it."""
    from lamella.engine.checkpoint import write_json

    facts = write_start(run, out)
    write_json(out.with_suffix(".json"), facts)
    step = facts["stages"][-1]["step"]
    print(f"{out}: {facts['parameters']} parameters, {out.stat().st_size / 1e6:.2f} MB, {step} steps")


def write_start(run: Path, out: Path) -> dict[str, Any]:
    """Write the file; returns what is to be known of it.

    Raises:
        ContractError: the run's network is no DeepLabV3+, or began with another run, whose stage would be missing.
        RunError: no run, or no checkpoint in it.
    """
    from lamella.engine.run import open_run
    from lamella.engine.shipped import stage, write_half
    from lamella.errors import ContractError

    from lamella_tem.deeplab import DeepLabV3Plus

    _, trainer, _, header = open_run(run)
    network = getattr(trainer, "backbone", None)
    if not isinstance(network, DeepLabV3Plus):
        raise ContractError(f"{run}: no run of `supervised` with a deeplabv3plus")
    made = stage(run)
    if "start" in tomllib.loads(made["experiment"])["trainer"]["backbone"]:
        raise ContractError(f"{run}: it began with another network, and how that one was made would be lost")
    parameters = write_half(network.state_dict(), out)
    return {"parameters": parameters, "class_names": header["data"]["class_names"], "stages": [made]}
