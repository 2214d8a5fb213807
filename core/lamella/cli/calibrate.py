"""``lamella calibrate``."""

import math
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lamella.engine.trust.calibration import Pixels


def calibrate(
    run: Annotated[Path, typer.Argument(help="run folder")],
    on: Annotated[
        str | None, typer.Option("--on", help="labelled set of its experiment; default validation, else test")
    ] = None,
    check: Annotated[list[str] | None, typer.Option(help="another labelled set to try the threshold on")] = None,
    risk: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="largest share of all pixels that may have a wrong class")
    ] = 0.05,
    checkpoint: Annotated[str | None, typer.Option(help="best or last; default best where there is one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """How far a run's confidence can be believed, and from which on its classes keep a promise.

    On labelled images that training did not see: the temperature of the greatest likelihood, and a threshold below
    which a pixel gets no class, so that in one more image like these no more than --risk of the pixels get a wrong one
    on average (conformal risk control). `lamella predict RUN IMAGES --abstain` then leaves such pixels out.
    """
    from lamella.engine.evaluate import evaluate
    from lamella.engine.labelmap import save_image
    from lamella.engine.predict_classes import classifies
    from lamella.engine.run import checkpoint_folder, open_run
    from lamella.engine.session import make_accelerator, open_to_measure
    from lamella.engine.trust.calibration import FILE, Collected, checked
    from lamella.engine.trust.calibration import calibrate as judge
    from lamella.engine.trust.calibration_chart import calibration_chart
    from lamella.engine.whole import json_text, write_json
    from lamella.errors import ConfigError, RunError

    experiment, trainer, modality, header = open_run(run, checkpoint)
    if trainer.embeds or classifies(trainer):
        raise RunError(f"{run}: confidence is calibrated for label maps; this run makes none")
    sets = [role for role in ("validation", *experiment.tests()) if role in experiment.file.data]
    role = on or (sets[0] if sets else "")
    if stray := [name for name in (role, *(check or ())) if name not in sets]:
        named = ", ".join(sets) or "none"
        raise ConfigError(f"{run}: {stray[0]!r} is no labelled set that training did not see; there are: {named}")
    names = header["data"]["class_names"]
    tables = {name: open_to_measure(experiment, name, names) for name in (role, *(check or ()))}
    accelerator = make_accelerator(experiment.fit.precision)
    trainer.to(accelerator.device)

    def pixels(name: str) -> "list[Pixels]":
        seen, tile = Collected(), experiment.fit.tile_for(trainer)
        with accelerator.autocast():
            evaluate(trainer, tables[name], modality, device=accelerator.device, tile=tile, watch=seen)
        return seen.images

    found = {
        "set": role, "checkpoint": checkpoint_folder(run, checkpoint),
        **judge(pixels(role), names, risk),
    }  # fmt: skip
    found["checked"] = {name: checked(pixels(name), found["threshold"]) for name in check or ()}
    save_image(calibration_chart(found), run / "calibration.png")
    write_json(run / FILE, found)
    print(json_text(found) if as_json else _text(found, run))


def _text(found: dict[str, Any], run: Path) -> str:
    from lamella.cli.tables import table

    before, after, held_out = found["before"], found["after"], found["held_out"]
    error, scale = found["calibration_error"], found["temperature"]
    rows = [
        [name, *(_percent(one[key]) for key in ("wrong", "given", "wrong_of_given"))]
        for name, one in found["classes"].items()
    ]
    tried = "too few images to try it on each by the others"
    if held_out is not None:
        tried = (
            f"each image by the threshold of the others: {_percent(held_out['wrong'])} of all pixels wrong, "
            f"{_percent(held_out['given'])} with a class"
        )
    return "\n".join([
        f"{found['images']} images of {found['set']!r}, which is no test of these figures any more",
        f"calibration error {_percent(error['before'])}, "
        + ("no temperature makes it less" if scale == 1 else f"with T = {scale:.2f} {_percent(error['after'])}"),
        f"wrong of all pixels {_percent(before['wrong'])}; with a class from confidence {found['threshold']:.4f} on: "
        f"{_percent(after['wrong'])} (at most {100 * found['risk']:g} % was asked)",
        f"{_percent(after['given'])} have a class, {_percent(after['wrong_of_given'])} of these are wrong",
        tried,
        "",
        table(["predicted as", "wrong", "keep it", "of these wrong"], rows),
        "",
        *_checked(found),
        f"wrote {run / 'calibration.json'} and .png; now: lamella predict {quote(str(run))} IMAGES --out DIR --abstain",
    ])  # fmt: skip


def _checked(found: dict[str, Any]) -> list[str]:
    from lamella.cli.tables import table

    if not found["checked"]:
        return []
    rows = [
        [name, _percent(one["before"]["wrong"]), *(_percent(one["after"][key]) for key in ("wrong", "given"))]
        for name, one in found["checked"].items()
    ]
    return [table(["with this threshold on", "wrong before", "wrong", "have a class"], rows), ""]


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"
