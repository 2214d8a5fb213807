"""The contract kit and the own invariants of every SEM perturbation, and the sets that are shipped."""

import lamella
import pytest
import torch
from lamella.testing import perturbation_contract
from lamella_sem.plugin import lamella_perturbations, lamella_sets
from sem_invariants import FAULTS, INVARIANTS, component

NAMES = sorted(lamella_perturbations())
CHECKS = [(name, check) for name, checks in INVARIANTS.items() for check in checks]


@pytest.mark.parametrize("name", NAMES)
def test_keeps_its_contract(name):
    perturbation_contract(component(name), channels=(1, 3), examples=3)()


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_holds(name, check, seed):
    check(component(name), seed)


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=lambda value: value.__name__)
def test_catches(check, faulty):
    with pytest.raises(AssertionError):
        for seed in (1, 2, 3, 4):
            check(faulty, seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_perturbation_has_invariants(name):
    assert INVARIANTS.get(name), f"{name} is registered without an invariant of its own: add one in sem_invariants.py"


def test_every_invariant_has_a_fault_that_it_catches():
    missing = {check.__name__ for _, check in CHECKS} - {check.__name__ for check, _ in FAULTS}
    assert not missing, f"no fault shows that these can fail: {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(lamella_sets()))
def test_a_set_gives_two_images_that_differ_and_the_same_again(name):
    from lamella.registry.registry import current

    chain = current().plan("chain", name, "test").build()
    batch = lamella.Batch.of(torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    one, two, again = (
        chain(batch, lamella.Streams.root(0, batch.key, batch.visit, view)).image for view in ("1", "2", "1")
    )
    assert (one == again).all()
    assert ((one - two).abs().mean((1, 2, 3)) > 0.01).all()
    assert one.min() >= 0 and one.max() <= 1
