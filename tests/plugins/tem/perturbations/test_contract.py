"""The contract kit on every perturbation of the plugin, in bright field, in colour, with its gate."""

import pytest
import torch
from lamella import Batch, Streams
from lamella.contracts.keyed import gate
from lamella.testing import perturbation_contract
from lamella.testing.no_sync import no_sync
from lamella_tem.sets import GAUGE, GENERIC, NAMES
from tem_trial import component


@pytest.mark.parametrize("polarity", [-1.0, 1.0], ids=["bright field", "HAADF"])
@pytest.mark.parametrize("name", (*NAMES, *GAUGE, *GENERIC))
def test_keeps_its_contract(name, polarity):
    perturbation_contract(component(name), channels=(1, 3), meta={"polarity": polarity}, examples=3)()


@pytest.mark.parametrize("name", (*NAMES, *GAUGE, *GENERIC))
def test_images_that_the_gate_leaves_out_need_not_be_rendered(name):
    """On a CPU some are perturbed alone; elsewhere all are, and without waiting for the gate. Both give the same."""
    label = torch.randint(0, 5, (5, 48, 64), generator=torch.Generator().manual_seed(0))
    batch = Batch.of(torch.rand(5, 1, 48, 64), label=label, meta={"polarity": torch.ones(5)})
    built = component(name)(p=0.5)
    streams = Streams.root(0, batch.key, batch.visit, "gated")
    through = gate(streams, 0.5)
    assert 0 < through.sum() < 5
    alone = built.perturb(batch, streams)
    with no_sync():
        together = built._changed(batch, streams, through)
    assert (alone.image - together.image).abs().max() < 1e-5
    assert alone.image[~through].equal(batch.image[~through])
    assert alone.label.equal(together.label) and alone.weight.equal(together.weight)
