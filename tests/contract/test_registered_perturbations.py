"""Every perturbation that a plugin of this checkout registers, against its contract."""

from functools import partial

import lamella
import pytest
from lamella.contracts.kornia import KorniaComponent
from lamella.registry.registry import current
from lamella.testing import perturbation_contract


@pytest.mark.parametrize("component", current().components("perturbation"), ids=lambda c: c.full_name)
def test_keeps_its_contract(component):
    reduced = isinstance(component.resolve(), KorniaComponent)
    perturbation_contract(partial(lamella.build, "perturbation", component.full_name), reduced=reduced)()


def test_names_are_those_of_the_components():
    registry = current()
    names = {component.name for component in registry.components("perturbation")}
    assert names <= set(lamella.names("perturbation"))
