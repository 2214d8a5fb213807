"""Every perturbation at the ends of what its parameters allow, on the smallest and on odd images."""

import math
from typing import get_type_hints

import pytest
import torch
from lamella import Batch, Streams
from lamella_tem.sets import NAMES
from tem_trial import component

HARMLESS = {"p", "detector", "kernel"}


def _ends(cls: type, end: int) -> dict:
    """Every bounded parameter at the lower (0) or upper (1) end of what ``within`` admits."""
    values = {}
    for name, hint in get_type_hints(cls.__init__, include_extras=True).items():
        checks = [item.func for item in getattr(hint, "__metadata__", ()) if hasattr(item, "func")]
        cells = [check.__closure__ for check in checks if check.__closure__ and check.__name__ == "check"]
        if name in HARMLESS or not cells:
            continue
        bounds = sorted(cell.cell_contents for cell in cells[-1])
        is_range = isinstance(cls().__dict__.get(name, ()), tuple)
        values[name] = (bounds[end],) * 2 if is_range else bounds[end]
    return values


@pytest.mark.parametrize("end", [0, 1], ids=["lower", "upper"])
@pytest.mark.parametrize("name", NAMES)
def test_survives_the_ends_of_its_parameters(name, end):
    cls = component(name)
    values = _ends(cls, end)
    assert values, f"{name} has no bounded parameter"
    perturbation = cls(**values)
    for shape in ((1, 1, 8, 8), (3, 1, 8, 130), (2, 3, 61, 9)):
        for fill in (0.0, 1.0, 0.4):
            for size in (math.nan, 1e-6, 1e6):
                batch = Batch.of(
                    torch.full(shape, fill),
                    pixel_nm=torch.tensor([[size, 1.0]] * shape[0]),
                    meta={"polarity": torch.linspace(-1, 1, shape[0])},
                )
                image = perturbation.perturb(batch, Streams(torch.arange(shape[0]))).image
                assert image.isfinite().all(), f"{values} on {shape} of {fill}"
                assert image.amin() >= 0 and image.amax() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_bounded_and_has_its_unit_told(name):
    hints = get_type_hints(component(name).__init__, include_extras=True)
    for parameter, hint in hints.items():
        if parameter == "return":
            continue
        told = [item.description for item in hint.__metadata__ if getattr(item, "description", None)]
        assert told, f"{name}.{parameter} has no description"
