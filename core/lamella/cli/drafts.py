"""The experiment files that ``lamella init`` writes: one for the masks, one more where there are unlabelled images."""

import glob
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from lamella.data.holdout import HeldOut, hold_out, shown_in
from lamella.data.survey import Survey
from lamella.errors import ConfigError, DataError, RegistryError
from lamella.registry.component import Component
from lamella.registry.registry import Registry

RARE = 0.01
"""A class with a smaller share of the labelled pixels is rare."""

UNLABELLED = "weak-to-strong"
"""The trainer of the second file, with `RECIPE`: what did best in docs/results.md, "Anchored"."""
RECIPE = """\
name = "weak-to-strong"
weak = "weak"
sets = ["sample", "post"]
probe_scale = 0.5
lam = 1.0
ema = 1.0
anchor = 0.5
class_tau = true
dice = true"""
"""Noise of the specimen and of display on half of the images, and a teacher that stays the network it began with."""


def drafts(
    found: Survey,
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
        table: what each class looks like in the masks.
        chosen: names of modality, trainer and backbone.
        keys: further lines of every ``[data.ROLE]``.

    Raises:
        ConfigError: a file of that name is there, or the trainer needs more than can be told from images.
    """
    held = hold_out(found)
    head = _data(found, held, table, registry.get("modality", chosen["modality"]), keys)
    batch = min(4, max(2, len(found.labelled) - len(held.test)))
    fit = [f"batch_size = {batch}", *[f"crop = {crop}" for crop in _crop(found)]]
    fit += ["evaluate_every = 200", "warmup = 20"]
    more = [] if extra is None else _more(extra, shown_in(held.test, found, extra), keys)
    learns = [f"name = {quoted(chosen['trainer'])}", f"backbone = {{ name = {quoted(chosen['backbone'])} }}"]
    learns += _weak(chosen["trainer"], registry)
    if more and _has_recipe(chosen["trainer"], registry):
        rare, run = _rare(found, table), (Path("runs") / out.stem).as_posix()
        paste = [f"paste = {json.dumps(rare, ensure_ascii=False)}"] if rare else []
        goes_on = f"backbone = {{ name = {quoted(chosen['backbone'])}, start = {quoted(run)} }}"
        second = [RECIPE, *paste, *(["doubt = 16", "cap = 0"] if rare else []), goes_on]
        files = {
            out: _text(head, [*learns, "mix = 0.5", *paste], ["steps = 1000", *fit, "optimizer = { lr = 1e-3 }"]),
            out.with_name(f"{out.stem}-unlabelled.toml"): _text(
                [*head, *more], second, ["steps = 400", *fit, "optimizer = { lr = 5e-4 }"]
            ),
        }
    else:
        files = {out: _text([*head, *more], learns, ["steps = 1000", *fit, "optimizer = { lr = 1e-3 }"])}
    for path, text in files.items():
        if path.exists():
            raise ConfigError(f"{path} exists; choose another name with --out, or move it away")
        _check(path, text, chosen["trainer"], registry)
    return files


def _weak(trainer: str, registry: Registry) -> list[str]:
    """The gentle perturbation set for whichever parameter of the trainer takes it, where there is such a set."""
    taken = {parameter.name for parameter in registry.get("trainer", trainer).parameters()} & {"augment", "weak"}
    return [f'{name} = "weak"' for name in sorted(taken)] if "weak" in registry.sets else []


def _has_recipe(trainer: str, registry: Registry) -> bool:
    """Whether a second file can go on from the first."""
    there = UNLABELLED in registry.names("trainer") and {"weak", "sample", "post"} <= set(registry.sets)
    return there and registry.get("trainer", trainer).name == "supervised"


def _rare(found: Survey, table: Mapping[str, int | str]) -> list[str]:
    """The classes that have little of the labelled pixels, and some."""
    pixels = sum(found.marks.values())
    return [name for name, mark in table.items() if 0 < found.marks[mark] < RARE * pixels]


def _more(extra: Survey, seen: set[str], keys: Sequence[str]) -> list[str]:
    """The table of unlabelled images, less those that were ``seen`` in the test."""
    lines = ["# For trainers that learn from unlabelled images too."]
    lines += [f"# Left out, since test images show the same: {', '.join(sorted(seen))}."] if seen else []
    root = Path(os.path.abspath(extra.images))
    lines += ["[data.unlabelled]", f"source = {quoted(str(root))}"]
    left = [path for stem, (path, _) in extra.pairs.items() if stem not in seen]
    if not left:
        raise DataError(f"{extra.images}: every image there shows what an image held out for the test shows")
    lines += [f"images = {_files(root, left)}"] if seen else []
    return [*lines, *keys, ""]


def _text(data: list[str], trainer: list[str], fit: list[str]) -> str:
    return "\n".join([*data, "[trainer]", *trainer, "", "[fit]", *fit, ""])


def _check(path: Path, text: str, trainer: str, registry: Registry) -> None:
    from lamella.engine.experiment import check_experiment

    try:
        check_experiment(tomllib.loads(text), name=path.stem, folder=path.parent, registry=registry, where=path.name)
    except RegistryError as error:
        raise ConfigError(
            f"{error}; init cannot choose that, so leave --trainer out and change the file by hand "
            f"(lamella show trainer {trainer})"
        ) from None


def _data(
    found: Survey, held: HeldOut, table: Mapping[str, int | str], modality: Component, keys: Sequence[str]
) -> list[str]:
    """The lines of modality, labelled and test images."""
    assert found.masks is not None
    seen_by = [f"name = {quoted(modality.name)}"]
    if "intensity" in {parameter.name for parameter in modality.parameters()}:
        seen_by.append(f"intensity = {quoted(_intensity(found))}")
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
            f"source = {quoted(str(root))}",
            f"images = {_files(root, [image for image, _ in pairs])}",
            f"labels = {_files(root, [mask for _, mask in pairs if mask is not None])}",
            f"classes = {_table(table)}",
            *keys,
            "",
        ]
    return lines


def _intensity(found: Survey) -> str:
    """What maps grey values: one range for all where they are of one kind, each its own where they cannot compare."""
    kinds = {kind.partition(" ")[0] for kind in found.kinds}
    if kinds == {"uint8"}:
        return "dtype"
    return "data" if len(kinds) == 1 else "image"


def _crop(found: Survey) -> list[int]:
    """The side of training crops, or nothing where whole images of one small size will do."""
    side = min(min(size) for size in found.sizes)
    return [] if len(found.sizes) == 1 and side <= 256 else [min(256, max(side - side % 32, 32))]


def quoted(value: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def _files(root: Path, paths: Sequence[Path]) -> str:
    """File names as patterns that match themselves alone; a link stays the name that it has in its folder."""
    names = sorted(glob.escape(Path(os.path.abspath(path)).relative_to(root).as_posix()) for path in paths)
    return "[\n" + "".join(f"    {quoted(name)},\n" for name in names) + "]"


def _table(classes: Mapping[str, int | str]) -> str:
    body = (f"{quoted(name)} = {quoted(mark) if isinstance(mark, str) else mark}" for name, mark in classes.items())
    return f"{{ {', '.join(body)} }}"
