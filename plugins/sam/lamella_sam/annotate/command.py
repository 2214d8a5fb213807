"""``lamella annotate``: the data engine, step by step."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from lamella.errors import ConfigError

if TYPE_CHECKING:
    from lamella_sam.annotate.folder import AnnotationFolder

Action = Literal["init", "suggest", "review", "accept", "retrain", "export", "import"]


def annotate(
    action: Annotated[Action, typer.Argument(help="init, suggest, review, accept, retrain, export or import")],
    folder: Annotated[Path, typer.Argument(help="the annotation folder")],
    names: Annotated[list[str] | None, typer.Argument(help="init: files or folders; accept, --rest: images")] = None,
    classes: Annotated[str | None, typer.Option(help="init: names with commas between them")] = None,
    run: Annotated[Path | None, typer.Option(help="suggest, review: a run that labels; else the promoted one")] = None,
    clicks: Annotated[Path | None, typer.Option(help="review: JSON list of {name, x, y, class} to apply")] = None,
    rest: Annotated[str | None, typer.Option(help="review: the class of all that is not labelled yet")] = None,
    by: Annotated[str, typer.Option(help="review: what a click fills, superpixel or object; accept: who")] = "",
    every: Annotated[bool, typer.Option("--all", help="accept: every image that has a mask")] = False,
    lock: Annotated[bool, typer.Option("--lock", help="accept: keep apart, to measure on")] = False,
    experiment: Annotated[Path | None, typer.Option(help="retrain: experiment file; its data are replaced")] = None,
    zero_shot: Annotated[Path | None, typer.Option(help="retrain: the run to beat first; else grey level")] = None,
    coco: Annotated[Path | None, typer.Option(help="export, import: a COCO file")] = None,
    label_studio: Annotated[Path | None, typer.Option(help="export, import: Label Studio tasks (JSON)")] = None,
) -> None:
    """Label images in rounds: a model suggests, a person corrects and accepts, the model learns.

    Masks are palette PNGs in FOLDER/masks: change them in any editor between `suggest` and `accept`.
    """
    from lamella_sam.annotate.folder import AnnotationFolder

    if action == "init":
        made = AnnotationFolder.create(folder, [Path(n) for n in names or []], _classes(classes))
        print(f"{folder}: {len(made.entries)} images, classes {', '.join(made.classes)}")
        return
    opened = AnnotationFolder(folder)
    if action == "suggest":
        _suggest(opened, run)
    elif action == "review":
        _review(opened, names or [], run=run, clicks=clicks, rest=rest, by=by)
    elif action == "accept":
        _accept(opened, names or [], every=every, lock=lock, by=by)
    elif action == "retrain":
        _retrain(opened, experiment, zero_shot)
    else:
        _exchange(opened, action, coco, label_studio)


def _classes(text: str | None) -> list[str]:
    if not text:
        raise ConfigError("annotate init needs --classes NAME,NAME,… in the order of their numbers")
    return [name.strip() for name in text.split(",")]


def _run(folder: "AnnotationFolder", run: Path | None) -> Path:
    if run is None and "promoted" not in folder.facts:
        raise ConfigError(
            f"{folder.path}: no run is promoted yet; name one with --run RUN, or begin without: label a few images "
            "in an editor or with `review --clicks` and `--rest`, accept them, and retrain"
        )
    return Path(folder.facts["promoted"]) if run is None else run


def _suggest(folder: "AnnotationFolder", run: Path | None) -> None:
    from lamella_sam.annotate.suggest import suggest_all

    for entry in suggest_all(folder, _run(folder, run), print):
        print(f"{entry.name}: coherence {'–' if entry.score is None else f'{entry.score:.3f}'}")


def _review(
    folder: "AnnotationFolder", names: list[str], *, run: Path | None, clicks: Path | None, rest: str | None, by: str
) -> None:
    """Apply clicks, label the rest, if asked for, and show what waits with a picture of each."""
    from lamella_sam.annotate.review import apply_clicks, draw, label_rest

    if names and rest is None:
        raise ConfigError("annotate review shows all that waits; images are named for --rest CLASS alone")
    if clicks is not None:
        network_run = _run(folder, run) if by == "object" else None
        for name, changed in apply_clicks(folder, clicks, by or "superpixel", network_run).items():
            print(f"{name}: {changed} pixels changed")
    if rest is not None:
        for name, changed in label_rest(folder, names, rest).items():
            print(f"{name}: {changed} pixels became {rest}")
    for entry in folder.queue():
        picture = draw(folder, entry.name)
        print(
            f"{entry.name}: {entry.status}, coherence {'–' if entry.score is None else f'{entry.score:.3f}'}, {picture}"
        )


def _accept(folder: "AnnotationFolder", names: list[str], *, every: bool, lock: bool, by: str) -> None:
    if every == bool(names):
        raise ConfigError("annotate accept: name the images, or give --all")
    chosen = names or [e.name for e in folder.of("suggested", "new") if folder.mask_path(e.name).is_file()]
    for name in chosen:
        entry = folder.accept(name, by=by or "person", locked=lock)
        changed = "" if entry.changed is None else f", {entry.changed} pixels corrected"
        print(f"{name}: {entry.status}{changed}")


def _retrain(folder: "AnnotationFolder", experiment: Path | None, zero_shot: Path | None) -> None:
    from lamella_sam.annotate.retrain import retrain

    if experiment is None:
        raise ConfigError("annotate retrain needs --experiment FILE: which trainer, and how long")
    run, verdict = retrain(folder, experiment, zero_shot=zero_shot)
    print(f"{run.name}: {'promoted' if verdict.promoted else 'not promoted'} ({run})")
    for reason in verdict.reasons:
        print(f"  {reason}")


def _exchange(folder: "AnnotationFolder", action: str, coco: Path | None, label_studio: Path | None) -> None:
    from lamella_sam.annotate import exchange

    if (coco is None) == (label_studio is None):
        raise ConfigError(f"annotate {action} needs --coco FILE or --label-studio FILE")
    if action == "export":
        file = coco or label_studio
        count = exchange.write_coco(folder, coco) if coco else exchange.write_label_studio(folder, label_studio)  # type: ignore[arg-type]
        print(f"{count} images in {file}")
        return
    taken = exchange.read_coco(folder, coco) if coco else exchange.read_label_studio(folder, label_studio)  # type: ignore[arg-type]
    print(f"masks of {len(taken)} images taken in; accept them when you have looked at them")
