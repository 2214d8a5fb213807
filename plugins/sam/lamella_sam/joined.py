"""The dataset ``joined``: one registered dataset at several settings, as one set with the classes of all of them."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from lamella.errors import ConfigError
from pydantic import Field


def joined(
    *,
    of: Annotated[dict[str, Any], Field(description="spec of a registered dataset with a label map")],
    over: Annotated[str, Field(description="the parameter of it that differs, as 'preset'")],
    values: Annotated[list[str | int | float], Field(min_length=1, description="what that parameter is in each part")],
    classes: Annotated[list[str] | None, Field(description="class names in order; else those of the parts")] = None,
) -> Any:
    """A registered dataset at several settings, one part after the other, in classes that all share by name.

    A foundation model meets many products, each with materials of its own: one network for all of them needs one
    list of classes. A class that a part does not have does not occur in its labels. 255 stays ignored.

    Raises:
        ConfigError: no dataset of that name, no class names in it, or a class that ``classes`` leaves out.
    """
    from datasets import concatenate_datasets
    from lamella import build

    if "name" not in of or over in of:
        raise ConfigError(f"joined: of = {of!r} must have a name, and no {over!r}, which values gives")
    settings = {key: value for key, value in of.items() if key != "name"}
    parts = [build("dataset", of["name"], **settings, **{over: value}) for value in values]
    own = [_names(part, of["name"]) for part in parts]
    names = list(dict.fromkeys(name for each in own for name in each)) if classes is None else classes
    missing = [name for each in own for name in each if name not in names]
    if missing:
        raise ConfigError(f"joined: {of['name']} has the class {missing[0]!r}, which classes leaves out")
    return concatenate_datasets([_recoded(part, each, names) for part, each in zip(parts, own)])


def _names(part: Any, origin: str) -> list[str]:
    from datasets import Image

    names = getattr(getattr(part.features.get("classes"), "feature", None), "names", None)
    if names is None or not isinstance(part.features.get("label"), Image):
        raise ConfigError(f"joined: {origin} has no label map with named classes")
    return list(names)


def _recoded(part: Any, own: Sequence[str], names: Sequence[str]) -> Any:
    """A part with its labels and the classes present in terms of ``names``."""
    from datasets import ClassLabel, List

    features = part.features.copy()
    features["classes"] = List(ClassLabel(names=list(names)))
    table = np.arange(256, dtype=np.uint8)
    table[: len(own)] = [names.index(name) for name in own]
    return part.map(
        _relabelled, input_columns=["label", "classes"], features=features, fn_kwargs={"table": table.tolist()}
    )


def _relabelled(label: Any, classes: list[int], table: list[int]) -> dict[str, Any]:
    from PIL import Image

    ids = np.array(table, np.uint8)[np.asarray(label)]
    return {"label": Image.fromarray(ids), "classes": [table[number] for number in classes]}
