"""Every perturbation at the ends of what its parameters allow, on the smallest and on odd images."""

import math
from typing import Any, Literal, get_origin, get_type_hints

import lamella
import pytest
import torch
from lamella import About, Batch, Streams
from lamella.errors import RegistryError
from lamella_tem.perturbations.scale_bar import ScaleBar, arrange
from lamella_tem.sets import GAUGE, GENERIC, NAMES
from tem_trial import component

HARMLESS = {"p", "detector", "kernel"}


def _bounds(hint: Any) -> list[float]:
    """Both ends of what ``within`` admits; nothing where there is none."""
    checks = [item.func for item in getattr(hint, "__metadata__", ()) if hasattr(item, "func")]
    cells = [check.__closure__ for check in checks if check.__closure__ and check.__name__ == "check"]
    return sorted(cell.cell_contents for cell in cells[-1]) if cells else []


def _ends(cls: type, end: int) -> dict:
    """Every bounded parameter at the lower (0) or upper (1) end of what ``within`` admits."""
    values = {}
    for name, hint in get_type_hints(cls.__init__, include_extras=True).items():
        bounds = _bounds(hint)
        if name in HARMLESS or not bounds:
            continue
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


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("name", (*NAMES, *GAUGE, *GENERIC))
def test_an_empty_batch_stays_one(name, p):
    batch = Batch.of(torch.zeros(0, 1, 16, 16))
    assert component(name)(p=p).perturb(batch, Streams(batch.key)).image.shape == batch.image.shape


@pytest.mark.parametrize("name", (*NAMES, *GAUGE, *GENERIC))
def test_every_number_is_bounded_and_told_of(name):
    hints = get_type_hints(component(name).__init__, include_extras=True)
    for parameter, hint in hints.items():
        if parameter == "return":
            continue
        told = [item.description for item in hint.__metadata__ if getattr(item, "description", None)]
        assert told, f"{name}.{parameter} has no description"
        if get_origin(hint.__origin__) is not Literal:
            assert _bounds(hint), f"{name}.{parameter} has no bounds"


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("shot-noise", "dose"), ("camera", "dose"), ("curtaining", "decay"), ("detector-mtf", "half")],
)
def test_a_range_up_to_infinity_is_refused_by_name(name, parameter):
    with pytest.raises(RegistryError, match=rf"'{name}': {parameter} = .* nothing can be drawn between"):
        lamella.build("perturbation", name, **{parameter: (10.0, math.inf)})
    lamella.build("perturbation", name, **{parameter: math.inf})


@pytest.mark.parametrize("name", ["camera", "dark-current", "gain-noise"])
def test_a_detector_beyond_what_a_stream_takes_is_refused_by_name(name):
    with pytest.raises(RegistryError, match=f"'{name}': detector = .* must lie within 0 and 1e"):
        lamella.build("perturbation", name, detector=2**63)


@pytest.mark.parametrize("known", [False, True], ids=["drawn", "known"])
def test_bars_keep_their_rule_at_both_ends_of_the_pixel_size(known):
    ends = _bounds(get_type_hints(ScaleBar.__init__, include_extras=True)["pixel"])
    for pixel in (*ends, *((1e-4, 1e5) if known else ())):
        for width in (8, 60, 2048, 8192):
            size = pixel if known else math.nan
            about = About(64, width, torch.full((8, 2), size), {})
            drawn = ScaleBar(**({} if known else {"pixel": (pixel, pixel)})).draw(Streams(torch.arange(8)), about)
            share = arrange(drawn, about).length_nm / (width * drawn["pixel"])
            assert share.min() > 0.09 and share.max() < 0.2501, f"{share.tolist()} of {width} px of {pixel} nm"
