"""The contract kit on every perturbation of the plugin, in bright field, in colour, with its gate."""

import pytest
from lamella.testing import perturbation_contract
from lamella_tem.sets import GAUGE, GENERIC, NAMES
from tem_trial import component


@pytest.mark.parametrize("polarity", [-1.0, 1.0], ids=["bright field", "HAADF"])
@pytest.mark.parametrize("name", (*NAMES, *GAUGE, *GENERIC))
def test_keeps_its_contract(name, polarity):
    perturbation_contract(component(name), channels=(1, 3), meta={"polarity": polarity}, examples=3)()
