"""``lamella tem-start``: the network of a training run, as the plugin ships it."""

import tomllib
from pathlib import Path
from typing import Annotated

import typer


def ship(
    run: Annotated[Path, typer.Argument(help="a finished run with a deeplabv3plus, as of examples/paper/start.toml")],
    out: Annotated[Path, typer.Option("--out", help="safetensors file to write; a .json goes beside it")],
) -> None:
    """Write a run's DeepLabV3+ in half precision, with its classes and the experiment and log that made it."""
    from lamella.engine.run import open_run
    from lamella.engine.shipped import stage, write_shipped
    from lamella.errors import ContractError

    from lamella_tem.deeplab import DeepLabV3Plus

    _, trainer, _, header = open_run(run)
    network = getattr(trainer, "backbone", None)
    if not isinstance(network, DeepLabV3Plus):
        raise ContractError(f"{run}: no run of `supervised` with a deeplabv3plus")
    made = stage(run)
    if "start" in tomllib.loads(made["experiment"])["trainer"]["backbone"]:
        raise ContractError(f"{run}: it began with another network, and how that one was made would be lost")
    facts = {"class_names": header["data"]["class_names"], "stages": [made]}
    print(write_shipped(network.state_dict(), facts, out))
