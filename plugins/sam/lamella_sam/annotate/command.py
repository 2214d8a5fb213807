"""``lamella annotate``: the data engine, a subcommand for each of its steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from lamella.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lamella_sam.annotate.folder import AnnotationFolder

annotate = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True,
    help="Label images in rounds: a model suggests, a person corrects and accepts, the model learns.\n\n"
    "Masks are palette PNGs in FOLDER/masks: change them in any editor between `suggest` and `accept`.",
)  # fmt: skip

Folder = Annotated[Path, typer.Argument(help="the annotation folder")]
Run = Annotated[Path | None, typer.Option(help="a run that labels; else the promoted one")]
Coco = Annotated[Path | None, typer.Option(help="a COCO file")]
LabelStudio = Annotated[Path | None, typer.Option(help="a file of Label Studio tasks (JSON)")]


@annotate.command(name="init")
def init(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(help="files or folders to take in; the originals stay as they are")],
    classes: Annotated[str, typer.Option(help="names with commas between them, in the order of their numbers")],
) -> None:
    """Make an annotation folder of images."""
    from lamella_sam.annotate.folder import AnnotationFolder

    made = AnnotationFolder.create(folder, images, [name.strip() for name in classes.split(",")])
    print(f"{folder}: {len(made.entries)} images, classes {', '.join(made.classes)}")


@annotate.command(name="suggest")
def suggest(folder: Folder, run: Run = None) -> None:
    """Label what nobody has accepted, and list it.

    The least coherent come first: coherence is the agreement of the model with itself on mirrored and lighter views.
    Masks changed by hand stay.
    """
    from lamella_sam.annotate.suggest import suggest_all

    opened = _opened(folder)
    for entry in suggest_all(opened, _labelling_run(opened, run), print):
        print(f"{entry.name}: coherence {_score(entry.score)}")


@annotate.command(name="review")
def review(
    folder: Folder,
    images: Annotated[list[str] | None, typer.Argument(help="with --rest: only these; else all that wait")] = None,
    clicks: Annotated[Path | None, typer.Option(help="JSON list of {name, x, y, class} to apply")] = None,
    by: Annotated[
        Literal["superpixel", "object"] | None,
        typer.Option(help="what a click fills; an object is what a network sees there; else superpixel"),
    ] = None,
    rest: Annotated[str | None, typer.Option(help="the class of all that is not labelled yet")] = None,
    run: Annotated[Path | None, typer.Option(help="with --by object: whose network; else the promoted run's")] = None,
) -> None:
    """Apply corrections, and draw what waits.

    The least coherent come first, each with its superpixels in FOLDER/review.
    """
    from lamella_sam.annotate.review import apply_clicks, draw, label_rest

    opened = _opened(folder)
    if images and rest is None:
        raise ConfigError("annotate review shows all that waits; images are named for --rest CLASS alone")
    if by is not None and clicks is None:
        raise ConfigError("annotate review --by says what a click fills; give --clicks FILE too")
    if run is not None and by != "object":
        raise ConfigError("annotate review --run is whose network sees an object; give --by object too")
    if clicks is not None:
        network_run = _labelling_run(opened, run) if by == "object" else None
        for name, changed in apply_clicks(opened, clicks, by or "superpixel", network_run).items():
            print(f"{name}: {changed} pixels changed")
    if rest is not None:
        for name, changed in label_rest(opened, images or [], rest).items():
            print(f"{name}: {changed} pixels became {rest}")

    def show(name: str) -> None:
        entry, picture = opened.entry(name), draw(opened, name)
        print(f"{name}: {entry.status}, coherence {_score(entry.score)}, {picture}")

    _each([entry.name for entry in opened.queue()], show, "drawn")


@annotate.command(name="accept")
def accept(
    folder: Folder,
    images: Annotated[list[str] | None, typer.Argument(help="names as `review` lists them")] = None,
    every: Annotated[bool, typer.Option("--all", help="every image that has a mask")] = False,
    lock: Annotated[
        bool | None, typer.Option("--lock/--unlock", help="measure on them / learn from them, though they were locked")
    ] = None,
    by: Annotated[str, typer.Option(help="who looked at them")] = "person",
) -> None:
    """Take masks as true.

    Says how many pixels of the suggestion were corrected. At least one image has to be locked before `retrain`.
    What a promoted run has learned from cannot be locked any more.
    """
    opened = _opened(folder)
    if every == bool(images):
        raise ConfigError("annotate accept: name the images, or give --all")
    chosen = images or [e.name for e in opened.of("suggested", "new") if opened.mask_path(e.name).is_file()]
    if not chosen:
        print(f"nothing to accept: no image that waits has a mask in {folder / 'masks'}, a PNG of its name")

    def take(name: str) -> None:
        entry = opened.accept(name, by=by, lock=lock)
        changed = "" if entry.changed is None else f", {entry.changed} pixels corrected"
        print(f"{name}: {entry.status}{changed}")

    _each(chosen, take, "accepted")


@annotate.command(name="retrain")
def retrain(
    folder: Folder,
    experiment: Annotated[
        Path | None, typer.Option(help="trainer, and how long; its labelled and test data are replaced")
    ] = None,
    zero_shot: Annotated[Path | None, typer.Option(help="the run to beat first; else grey level")] = None,
    judge: Annotated[
        Path | None, typer.Option(help="in place of --experiment: a round that was interrupted, and resumed to its end")
    ] = None,
) -> None:
    """Train on what was accepted; promote or refuse.

    A run is promoted if it is better on the locked images than zero-shot and the run before, and loses no class.
    """
    from lamella_sam.annotate.retrain import judge_run
    from lamella_sam.annotate.retrain import retrain as train_again

    opened = _opened(folder)
    if experiment is not None and judge is None:
        run, verdict = train_again(opened, experiment, zero_shot=zero_shot)
    elif judge is not None and experiment is None:
        run, verdict = judge, judge_run(opened, judge, zero_shot=zero_shot)
    else:
        raise ConfigError("annotate retrain needs --experiment FILE, or --judge RUN for one that is trained already")
    print(f"{run.name}: {'promoted' if verdict.promoted else 'not promoted'} ({run})")
    for reason in verdict.reasons:
        print(f"  {reason}")


@annotate.command(name="export")
def export(folder: Folder, coco: Coco = None, label_studio: LabelStudio = None) -> None:
    """Write the masks for another tool.

    COCO run lengths of what is accepted or locked, or Label Studio brush masks of suggestions too.
    """
    from lamella_sam.annotate.coco import write_coco
    from lamella_sam.annotate.label_studio import write_label_studio

    write = {"COCO": write_coco, "Label Studio": write_label_studio}
    kind, file = _one_of(coco, label_studio)
    opened = _opened(folder)
    count = write[kind](opened, file)
    suggested = len(opened.of("suggested")) if kind == "COCO" else 0
    left = f"; {suggested} that are only suggested are left out" if suggested else ""
    print(f"{count} images in {file}{left}")


@annotate.command(name="import")
def import_(folder: Folder, coco: Coco = None, label_studio: LabelStudio = None) -> None:
    """Take masks in from another tool.

    COCO run lengths or polygons; brush masks, polygons, rectangles or ellipses of Label Studio. Accepted masks stay as
    they are, and are told.
    """
    from lamella_sam.annotate.coco import read_coco
    from lamella_sam.annotate.label_studio import read_label_studio

    read = {"COCO": read_coco, "Label Studio": read_label_studio}
    kind, file = _one_of(coco, label_studio)
    taken = read[kind](_opened(folder), file, print)
    after = "; accept them when you have looked at them" if taken else ""
    print(f"masks of {len(taken)} images taken in{after}")


def _opened(folder: Path) -> "AnnotationFolder":
    from lamella_sam.annotate.folder import AnnotationFolder

    return AnnotationFolder(folder)


def _each(names: Sequence[str], act: Callable[[str], None], done: str) -> None:
    """Do something with every image; what is wrong with one is told, and the others are done.

    Raises `DataError` in the end where anything was wrong.
    """
    failed = 0
    for name in names:
        try:
            act(name)
        except DataError as error:
            if len(names) == 1:
                raise
            print(f"{error}; it is not {done}")
            failed += 1
    if failed:
        raise DataError(f"{failed} of {len(names)} images are not {done}; what is wrong with them stands above")


def _one_of(coco: Path | None, label_studio: Path | None) -> tuple[str, Path]:
    """Which format was asked for, and its file."""
    given = [(kind, file) for kind, file in (("COCO", coco), ("Label Studio", label_studio)) if file is not None]
    if len(given) != 1:
        raise ConfigError("annotate needs --coco FILE or --label-studio FILE, one of the two")
    return given[0]


def _labelling_run(folder: "AnnotationFolder", run: Path | None) -> Path:
    chosen = run or folder.promoted
    if chosen is None:
        raise ConfigError(
            f"{folder.path}: no run is promoted yet; name one with --run RUN, or begin without: label a few images "
            "in an editor or with `review --clicks` and `--rest`, accept them, and retrain"
        )
    return chosen


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"
