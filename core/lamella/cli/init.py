"""``lamella init``."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Annotated, NamedTuple

import typer

from lamella.cli.drafts import classes_in, drafts, pixels_of, quoted
from lamella.cli.tables import counted
from lamella.contracts.batch import IGNORE
from lamella.data.classes import REST
from lamella.data.formats.files import readable
from lamella.data.holdout import hold_out
from lamella.data.naming import AS_TWO, FILES, Names, find_names, name_classes, parse_names
from lamella.data.reading import Reading
from lamella.data.survey import Survey, class_table, name_groups, survey
from lamella.errors import ConfigError, DataError, LamellaError
from lamella.registry.registry import current

_FEW = 8
"""So many grey values in masks with colours may be classes; a picture below the colours has more."""


class Bar(StrEnum):
    """What becomes of a data bar."""

    METADATA = "metadata"
    FIND = "find"
    KEEP = "keep"


def init(
    images: Annotated[Path, typer.Argument(help="folder of images: PNG, JPEG, TIFF, DM3, DM4, SER, EMD, MRC")],
    labels: Annotated[Path | None, typer.Option("--labels", help="folder of masks, paired with images by stem")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option("--unlabelled", help="folder of images without masks: a second file learns from them")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME,…", help="names in the order of the masks' values, or each as NAME=VALUE"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="experiment file to write")] = Path("experiment.toml"),
    data_bar: Annotated[Bar, typer.Option(help="which burnt-in data bars are cut")] = Bar.METADATA,
    pixel_nm: Annotated[float | None, typer.Option(min=1e-4, help="nm per pixel where the files do not say")] = None,
    modality: Annotated[str, typer.Option(help="imaging technique")] = "tem",
    trainer: Annotated[str, typer.Option(help="way to learn")] = "supervised",
    backbone: Annotated[str, typer.Option(help="network")] = "deeplabv3plus",
) -> None:
    """Look at your images and masks, say what is there, and write an experiment file that runs as it is."""
    from lamella.engine.whole import write_text

    registry = current()
    chosen = {"modality": modality, "trainer": trainer, "backbone": backbone}
    for kind, name in chosen.items():
        registry.get(kind, name)
    if out.exists():
        raise ConfigError(f"{out} exists; choose another with --out, or move it away")
    _check_names([path for path in (images, labels, unlabelled, out) if path is not None])
    if labels is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    reading = Reading(data_bar.value)
    naming = _told_beside(labels) if classes is None and labels is not None else _Told.by_person(classes)
    found = survey(images, labels, reading=reading, rest=naming.has_rest)
    table, named = _named(found, naming)
    extra = None if unlabelled is None else survey(unlabelled, reading=reading)
    print(_said(found, extra, table, named))
    if labels is None:
        print("\nno masks: nothing to train on yet; run again with --labels MASKS for an experiment file")
        return
    if len(found.labelled) < 2:
        few = f"{counted(len(found.labelled), 'usable pair')} {'is' if found.labelled else 'are'} too few"
        raise DataError(f"{labels}: {few}; it takes 2, one to test on")
    keys = [f"data_bar = {quoted(data_bar.value)}"] if data_bar is not Bar.METADATA else []
    keys += [] if pixel_nm is None else [f"pixel_nm = {float(pixel_nm)!r}"]
    shows = classes_in(found, table)
    held = hold_out(found, shows)
    for doubt in _unseen(shows, held.test):
        print(f"beware: {doubt}")
    files = drafts(found, held, extra, table, chosen, out=out, keys=keys, registry=registry)
    for path, text in files.items():
        write_text(path, text)
    print(_next_steps(list(files), unlabelled))


def _check_names(paths: Iterable[Path]) -> None:
    for path in paths:
        told = readable(str(path.absolute()))
        if told != str(path.absolute()):
            raise ConfigError(f"{told}: no experiment file can hold a name that is no UTF-8; rename it")


def _next_steps(files: Sequence[Path], unlabelled: Path | None) -> str:
    """What was written, and the commands that train by it."""
    first = files[0]
    if len(files) == 1:
        return f"\nwrote {first}; look it over, then: lamella train {quote(str(first))}"
    second = files[1]
    return (
        f"\nwrote {first}, which learns from the masks, and {second}, which goes on from there with the images of\n"
        f"{unlabelled}; look them over, then:\n"
        f"    lamella train {quote(str(first))} --out {quote(str(Path('runs') / first.stem))}\n"
        f"    lamella train {quote(str(second))}"
    )


class _Told(NamedTuple):
    """What names the classes: the command line, else a file beside the masks, else nothing."""

    names: Names | None
    where: str = ""
    must_fit: bool = False
    """Whether names that do not fit the masks are a mistake, as those that a person gave; else they are left."""
    problem: str | None = None
    """What is wrong with a file that bears such a name."""

    @classmethod
    def by_person(cls, classes: str | None) -> "_Told":
        """The names of ``--classes``; none where it is not given."""
        return cls(None) if classes is None else cls(parse_names(classes), "--classes", must_fit=True)

    @property
    def has_rest(self) -> bool:
        """Whether there is a class for all other values."""
        return isinstance(self.names, Mapping) and REST in self.names.values()


def _told_beside(masks: Path) -> _Told:
    try:
        told = find_names(masks)
    except LamellaError as error:
        return _Told(None, problem=str(error))
    return _Told(None) if told is None else _Told(told[1], str(told[0]))


def _named(found: Survey, told: _Told) -> tuple[dict[str, int | str], str | None]:
    """The table of classes, and where it is told; a file that merely bears such a name does not stand in the way."""
    if not found.marks or found.masks is None:
        return {}, None
    problem = told.problem
    if told.names is not None:
        try:
            return name_classes(found, told.names, told.where), told.where
        except LamellaError as error:
            if told.must_fit:
                raise
            problem = str(error)
    if problem is not None:
        found.problems.append(f"not used for names: {problem}")
    if found.numbered is not None:
        look = f"values run up to {found.numbered}, in other masks less far: they look like numbers of objects"
        found.problems.insert(0, f"{found.masks}: {look}; {AS_TWO}")
    if found.smoothed is not None:
        look = f"{found.smoothed} grey values with gaps between them: they look smoothed, or compressed as JPEG"
        found.problems.insert(0, f"{found.masks}: {look}; write them anew from where they were drawn")
    return class_table(found), None


def _said(found: Survey, extra: Survey | None, table: dict[str, int | str], named: str | None) -> str:
    """What a person wants to know of the folders; ``named`` is where the names of the classes come from."""
    total, pixels = sum(found.marks.values()) or 1, pixels_of(found, table)
    lines = [f"{counted(len(found.pairs), 'image')}, {len(found.labelled)} of them with a mask"]
    lines.append("sizes: " + _most({f"{h}×{w}": n for (h, w), n in found.sizes.most_common()}, "size"))
    lines.append("pixels: " + ", ".join(f"{kind} ({n})" for kind, n in found.kinds.most_common()))
    lines.append("pixel size: " + _most({_nm(size): n for size, n in found.pixel_nm.most_common()}, "size"))
    if found.makers:
        lines.append("formats: " + _most(dict(found.makers.most_common()), "format"))
    if found.bars:
        lines.append(f"data bars: seen in {found.bars}, and left there; --data-bar find cuts them")
    lines += [f"classes, named by {named}:" if named else "classes:"] if found.marks else []
    for name, mark in table.items():
        lines.append(f"    {name:<14} {mark!s:<8} {pixels[name] / total:8.3%} of the pixels")
    lines += [f"    {said}" for said in _left(found, table)]
    if found.marks and named is None:
        lines.append(f"    name them: --classes NAME,NAME,… in this order, or {FILES[1]} beside the masks")
    grouped = name_groups(list(found.pairs))
    if grouped is not None:
        lines.append(f"groups by file name: {', '.join(f'{name} ({len(stems)})' for name, stems in grouped.items())}")
    if extra is not None:
        lines.append(counted(len(extra.pairs), "unlabelled image"))
    alone = [name for name, count in pixels.items() if count]
    if len(alone) == 1:
        found.problems.insert(0, f"{found.masks}: masks show one class only, {alone[0]}: there is nothing to learn")
    problems = [*found.problems, *([] if extra is None else extra.problems)]
    if problems:
        lines.append(f"{len(problems)} to look at:")
        lines += [f"    {problem}" for problem in problems[:20]]
        lines += [f"    … and {len(problems) - 20} more"] if len(problems) > 20 else []
    return "\n".join(lines)


def _left(found: Survey, table: dict[str, int | str]) -> list[str]:
    """What no class of the table has, or ``rest`` has without saying so."""
    said = []
    if table and found.marks[IGNORE] and IGNORE not in table.values():
        share = found.marks[IGNORE] / sum(found.marks.values())
        said.append(f"{IGNORE} counts as no class: {share:.3%} of the pixels; a class of it: --classes NAME={IGNORE},…")
    levels = sorted(level for level in found.greys if level not in table.values())
    if REST in table.values() and 1 < len(levels) <= _FEW:
        said.append(f"rest has the greys {', '.join(map(str, levels))}; a class of one: --classes NAME={levels[-1]},…")
    return said


def _unseen(shows: Mapping[str, set[str]], test: set[str]) -> list[str]:
    """What cannot be tested, or not learned, since masks of that side do not show it."""
    tested, learnt = (
        set().union(*(names for stem, names in shows.items() if (stem in test) == held)) for held in (True, False)
    )
    said = [f"no test image shows {name}" for name in sorted(learnt - tested)]
    return said + [f"no image that is trained on shows {name}" for name in sorted(tested - learnt)]


def _most(counts: Mapping[str, int], what: str) -> str:
    """The first five with their counts, and how many others there are.

    >>> _most({"8×8": 4, "9×9": 3, "7×7": 2, "6×6": 2, "5×5": 1, "4×4": 1}, "size")
    '8×8 (4), 9×9 (3), 7×7 (2), 6×6 (2), 5×5 (1) and 1 other size'
    """
    more = len(counts) - 5
    listed = ", ".join(f"{one} ({count})" for one, count in list(counts.items())[:5])
    return listed if more < 1 else f"{listed} and {counted(more, f'other {what}')}"


def _nm(size: tuple[float, float] | None) -> str:
    if size is None:
        return "unknown"
    return f"{size[0]:g} nm" if size[0] == size[1] else f"{size[0]:g} × {size[1]:g} nm"
