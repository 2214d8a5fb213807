"""The experiment files that ``lamella init`` writes: one for the masks, one more where there are unlabelled images."""

import glob
import json
import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lamella.contracts.batch import IGNORE
from lamella.data.classes import REST
from lamella.data.holdout import HeldOut, shown_in
from lamella.data.survey import Survey
from lamella.errors import ConfigError, DataError
from lamella.registry.component import Component
from lamella.registry.registry import Registry

RARE = 0.01
"""A class with a smaller share of the labelled pixels is rare."""

SECOND, NOISE = "anchored", ("sample", "post")
"""The trainer of the second file, which goes on from the first, and the perturbation sets that it takes."""


def drafts(
    found: Survey,
    held: HeldOut,
    extra: Survey | None,
    table: Mapping[str, int | str],
    chosen: Mapping[str, str],
    *,
    out: Path,
    keys: Sequence[str],
    registry: Registry,
) -> dict[Path, str]:
    """The text of each file by its path, every one checked to run as it is.

    Args:
        found: the images with masks; ``extra``: those without, if there are any.
        held: which of them are held out for the test.
        table: what each class looks like in the masks.
        chosen: names of modality, trainer and backbone.
        keys: further lines of every ``[data.ROLE]``.

    Raises:
        ConfigError: a file of that name is there, or the trainer needs more than can be told from images.
    """
    from lamella.engine.experiment import check_experiment

    _needs_no_more(chosen["trainer"], registry)
    both, home = (found,) if extra is None else (found, extra), Path(os.path.abspath(out.parent))
    data = _data(found, held, table, registry.get("modality", chosen["modality"]), _intensity(*both), keys, home)
    more = [] if extra is None else _more(extra, shown_in(held.test, found, extra), keys, home)
    batch = min(4, max(2, len(found.labelled) - len(held.test)))
    fit, fit_both = (
        ["[fit]", f"batch_size = {batch}", *_crop(*read), "evaluate_every = 200", "warmup = 20"]
        for read in ((found,), both)
    )
    long, short = ("steps = 1000", "optimizer = { lr = 1e-3 }"), ("steps = 400", "optimizer = { lr = 5e-4 }")
    backbone = f"name = {quoted(chosen['backbone'])}"
    first = ["[trainer]", f"name = {quoted(chosen['trainer'])}", f"backbone = {{ {backbone} }}"]
    first += _weak(chosen["trainer"], chosen["modality"], registry)
    if more and _goes_on(chosen, registry):
        rare, run = _rare(found, table), quoted((Path("runs") / out.stem).as_posix())
        paste = [f"paste = {json.dumps(rare, ensure_ascii=False)}"] if rare else []
        second = ["[trainer]", f"name = {quoted(SECOND)}", 'weak = "weak"', f"sets = {json.dumps(NOISE)}", *paste]
        second += [f"backbone = {{ {backbone}, start = {run} }}"]
        files = {
            out: _text(data, [*first, "mix = 0.5", *paste], fit, long),
            out.with_name(f"{out.stem}-unlabelled.toml"): _text([*data, *more], second, fit_both, short),
        }
    else:
        files = {out: _text([*data, *more], first, fit_both, long)}
    for path, text in files.items():
        if path.exists():
            raise ConfigError(f"{path} exists; choose another name with --out, or move it away")
        check_experiment(tomllib.loads(text), name=path.stem, folder=path.parent, registry=registry, where=path.name)
    return files


def _needs_no_more(trainer: str, registry: Registry) -> None:
    """Refuse a trainer with parameters that images do not tell."""
    parameters = registry.get("trainer", trainer).parameters()
    missing = [p.name for p in parameters if p.required and not p.from_data and p.name != "backbone"]
    if missing:
        raise ConfigError(
            f"trainer {trainer!r} has to be given {' and '.join(missing)}, and init cannot choose that; "
            f"leave --trainer out and change the file by hand (lamella show trainer {trainer})"
        )


def _weak(trainer: str, modality: str, registry: Registry) -> list[str]:
    """A gentle perturbation set for whichever parameter of the trainer takes it: ``weak``, or else the modality's."""
    taken = {parameter.name for parameter in registry.get("trainer", trainer).parameters()} & {"augment", "weak"}
    gentle = "weak" if "weak" in registry.sets else registry.plan("modality", modality, "init").build(seed=0).weak
    return [f"{name} = {_inline(gentle)}" for name in sorted(taken) if gentle]


def _inline(value: object) -> str:
    """A value as TOML writes it in one line.

    >>> _inline([{"name": "gain-noise", "pixel": (0.0, 0.01)}])
    '[{ name = "gain-noise", pixel = [0.0, 0.01] }]'
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _goes_on(chosen: Mapping[str, str], registry: Registry) -> bool:
    """Whether a second file can go on from the first."""
    there = SECOND in registry.names("trainer") and {"weak", *NOISE} <= set(registry.sets)
    begins = {parameter.name for parameter in registry.get("backbone", chosen["backbone"]).parameters()}
    return there and "start" in begins and registry.get("trainer", chosen["trainer"]).name == "supervised"


def pixels_of(found: Survey, table: Mapping[str, int | str]) -> dict[str, int]:
    """The labelled pixels of every class; whichever no other class claims are those of ``rest``."""
    claimed = {*table.values(), IGNORE} - {REST}
    rest = sum(pixels for mark, pixels in found.marks.items() if mark not in claimed)
    greys = {mark: found.greys[mark] for mark in table.values() if isinstance(mark, int) and mark not in found.marks}
    counts = found.marks + Counter(greys)
    counts[REST] = rest - sum(greys.values())
    return {name: counts[mark] for name, mark in table.items()}


def classes_in(found: Survey, table: Mapping[str, int | str]) -> dict[str, set[str]]:
    """The classes that each mask shows, by stem."""
    claimed = {*table.values(), IGNORE}
    return {
        stem: {name for name, mark in table.items() if (marks - claimed if mark == REST else mark in marks)}
        for stem, marks in found.shown.items()
    }


def _rare(found: Survey, table: Mapping[str, int | str]) -> list[str]:
    """The classes that have little of the labelled pixels, and some."""
    total = sum(found.marks.values())
    return [name for name, pixels in pixels_of(found, table).items() if 0 < pixels < RARE * total]


def _source(root: Path, home: Path) -> str:
    """A folder as a source of a file in ``home``: relative to that where it lies there, so that both can be moved.

    >>> _source(Path("/lab/wafer/scans"), Path("/lab/wafer")), _source(Path("/lab/wafer"), Path("/lab/wafer"))
    ('./scans', '.')
    """
    if not root.is_relative_to(home):
        return str(root)
    return "." if root == home else f"./{root.relative_to(home).as_posix()}"  # a lone name may be a dataset's


def _more(extra: Survey, seen: set[str], keys: Sequence[str], home: Path) -> list[str]:
    """The table of unlabelled images, less those that were ``seen`` in the test, in a file in ``home``."""
    lines = ["# For trainers that learn from unlabelled images too."]
    lines += [f"# Left out, since test images show the same: {', '.join(sorted(seen))}."] if seen else []
    root = Path(os.path.abspath(extra.images))
    lines += ["[data.unlabelled]", f"source = {quoted(_source(root, home))}"]
    left = [path for stem, (path, _) in extra.pairs.items() if stem not in seen]
    if not left:
        why = "shows what an image held out for the test shows" if extra.pairs else "is one that cannot be read"
        raise DataError(f"{extra.images}: every image there {why}")
    lines += [f"images = {_files(root, left)}"] if seen or extra.problems else []
    return [*lines, *keys, ""]


def _text(data: list[str], trainer: list[str], fit: list[str], length: tuple[str, ...]) -> str:
    return "\n".join([*data, *trainer, "", *fit, *length, ""])


def _data(
    found: Survey,
    held: HeldOut,
    table: Mapping[str, int | str],
    modality: Component,
    intensity: str,
    keys: Sequence[str],
    home: Path,
) -> list[str]:
    """The lines of modality, labelled and test images in a file in ``home``."""
    assert found.masks is not None
    seen_by = [f"name = {quoted(modality.name)}"]
    if "intensity" in {parameter.name for parameter in modality.parameters()}:
        seen_by.append(f"intensity = {quoted(intensity)}")
    root = Path(os.path.commonpath([os.path.abspath(found.images), os.path.abspath(found.masks)]))
    lines = [
        "# Written by `lamella init`; every key is explained in docs/experiments.md.",
        f"modality = {{ {', '.join(seen_by)} }}",
        "",
        f"# Held out for the test: {held.rule}.",
    ]
    learnt = [stem for stem in found.labelled if stem not in held.test]
    for role, stems in (("labelled", learnt), ("test", sorted(held.test))):
        pairs = [found.pairs[stem] for stem in stems]
        lines += [
            f"[data.{role}]",
            f"source = {quoted(_source(root, home))}",
            f"images = {_files(root, [image for image, _ in pairs])}",
            f"labels = {_files(root, [mask for _, mask in pairs if mask is not None])}",
            f"classes = {_table(table)}",
            *keys,
            "",
        ]
    return lines


def _intensity(*read: Survey) -> str:
    """What maps grey values: one range for all where they are of one kind, each its own where they cannot compare."""
    kinds = {kind.partition(" ")[0] for found in read for kind in found.kinds}
    if kinds == {"uint8"}:
        return "dtype"
    return "data" if len(kinds) == 1 else "image"


def _crop(*read: Survey) -> list[str]:
    """The line that sets the side of crops, or nothing where whole images of one small size will do."""
    sizes = {size for found in read for size in found.sizes}
    side = min(min(size) for size in sizes)
    return [] if len(sizes) == 1 and side <= 256 else [f"crop = {min(256, max(side - side % 32, 32))}"]


def quoted(value: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _files(root: Path, paths: Sequence[Path]) -> str:
    """File names as patterns that match themselves alone; a link stays the name that it has in its folder."""
    names = sorted(glob.escape(Path(os.path.abspath(path)).relative_to(root).as_posix()) for path in paths)
    return "[\n" + "".join(f"    {quoted(name)},\n" for name in names) + "]"


def _table(classes: Mapping[str, int | str]) -> str:
    body = (f"{quoted(name)} = {quoted(mark) if isinstance(mark, str) else mark}" for name, mark in classes.items())
    return f"{{ {', '.join(body)} }}"
