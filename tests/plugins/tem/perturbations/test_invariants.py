"""Every invariant of every TEM perturbation, and for every invariant a fault that it catches."""

import pytest
import tem_gauge_invariants
import tem_generic_invariants
import tem_machine_invariants
import tem_post_invariants
import tem_sample_invariants
from hypothesis import given, settings
from lamella_tem.plugin import lamella_perturbations
from lamella_tem.sets import NAMES
from tem_trial import CASES, FAULTS, INVARIANTS, Case, component

MODULES = (
    tem_gauge_invariants,
    tem_generic_invariants,
    tem_machine_invariants,
    tem_post_invariants,
    tem_sample_invariants,
)
CHECKS = [(name, check) for name, checks in INVARIANTS.items() for check in checks]
TRIALS = [Case(24, 31, 1), Case(40, 57, 2), Case(64, 64, 3), Case(9, 12, 4)]


@pytest.mark.parametrize("name, check", CHECKS, ids=lambda value: getattr(value, "__name__", value))
def test_holds(name, check):
    @settings(max_examples=6)
    @given(CASES)
    def holds(case):
        check(component(name), case)

    holds()


@pytest.mark.parametrize("check, faulty", FAULTS, ids=lambda value: value.__name__)
def test_catches(check, faulty):
    caught = 0
    for case in TRIALS:
        try:
            check(faulty, case)
        except AssertionError:
            caught += 1
    assert caught, f"{check.__name__} did not catch {faulty.__name__} in any of {len(TRIALS)} cases"


@pytest.mark.parametrize("name", sorted({*NAMES, *lamella_perturbations()}))
def test_every_registered_perturbation_has_invariants(name):
    assert INVARIANTS.get(name), f"{name} is registered without an invariant of its own: add one beside this test"


def test_every_invariant_has_a_fault_that_it_catches():
    missing = {check.__name__ for _, check in CHECKS} - {check.__name__ for check, _ in FAULTS}
    assert not missing, f"no fault shows that these can fail: {sorted(missing)}"
