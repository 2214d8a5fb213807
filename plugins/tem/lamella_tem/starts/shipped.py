"""The shipped starts by name: weights in half precision, and the classes that their network tells."""

import json
from pathlib import Path

from torch import Tensor, float32

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The starts that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def read_start(name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The state of a `DeepLabV3Plus`, of one of `names`, and the names of its classes, in order."""
    from safetensors.torch import load_file

    half = load_file(FOLDER / f"{name}.safetensors")
    facts = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    state = {key: value.to(float32) if value.is_floating_point() else value for key, value in half.items()}
    return state, facts["class_names"]
