"""``lamella evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from lamella.cli.tables import results_table


def evaluate(
    run: Annotated[Path, typer.Argument(help="run folder")],
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default best where there is one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with the figures of every class")] = False,
) -> None:
    """Measure a trained run on the test sets its experiment names."""

    from lamella.engine.evaluate import evaluate as measure
    from lamella.engine.run import open_run
    from lamella.engine.session import make_accelerator, open_to_measure
    from lamella.engine.whole import json_text
    from lamella.errors import RunError

    experiment, trainer, modality, header = open_run(run, checkpoint)
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)
    roles = experiment.tests()
    if not roles:
        raise RunError(f"{run}: its experiment names no test set; add [data.test] to {run / 'experiment.toml'}")
    tile, names = experiment.fit.tile_for(trainer), header["data"]["class_names"]
    tables = {role: open_to_measure(experiment, role, names) for role in roles}
    with accelerator.autocast():
        sets = {
            role: measure(trainer, table, modality, device=accelerator.device, tile=tile)
            for role, table in tables.items()
        }
    print(json_text(sets) if as_json else results_table({"sets": sets}))
