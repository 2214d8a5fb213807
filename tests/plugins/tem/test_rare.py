"""Pseudo-labels of rare classes: what is suspected, left untrusted and ruled out."""

import pytest
import torch
from lamella import Batch
from lamella_tem.rare import capped, doubted, ranked, share_of, suspected, without

RARE = torch.tensor([2])


def probabilities(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).softmax(1)


def suspects(p, share, rare=RARE, known=None):
    known = torch.ones_like(p[:, 0], dtype=torch.bool) if known is None else known
    return suspected(ranked(p, rare, known), share * known.sum())


def test_suspected_are_the_pixels_where_a_rare_class_is_likeliest():
    p = probabilities(4, 3, 12, 12)
    expected = torch.zeros(4 * 144, dtype=torch.bool)
    expected[p[:, 2].flatten().argsort(descending=True)[:96]] = True
    assert torch.equal(suspects(p, torch.tensor(96 / 576)).flatten(), expected)
    several = suspects(p, torch.tensor(96 / 576), torch.tensor([0, 2]))
    assert torch.equal(several, p[:, [0, 2]].amax(1) >= p[:, [0, 2]].amax(1).flatten().sort().values[-96])


@pytest.mark.parametrize(("share", "all_of_them"), [(0.0, False), (1.0, True), (3.0, True)])
def test_nothing_and_everything_can_be_suspected(share, all_of_them):
    found = suspects(probabilities(2, 3, 8, 8), torch.tensor(share))
    assert (found == all_of_them).all()


def test_a_pixel_where_no_rare_class_is_possible_is_never_suspected():
    p = probabilities(1, 3, 8, 8)
    p[:, 2, :, 3:] = 0.0
    assert torch.equal(suspects(p, torch.tensor(0.9)), p[:, 2] > 0)


def test_unknown_pixels_are_never_suspected_and_take_no_place():
    p, known = probabilities(2, 3, 8, 12), torch.zeros(2, 8, 12, dtype=torch.bool)
    known[..., :8] = True
    found = suspects(p, torch.tensor(0.25), known=known)
    assert not found[..., 8:].any()
    assert torch.equal(found[..., :8], suspects(p[..., :8], torch.tensor(0.25)))


def test_where_a_rare_class_is_suspected_no_other_label_is_trusted():
    p, share = probabilities(4, 3, 12, 12), torch.tensor(96 / 576)
    target = Batch.of(torch.zeros(4, 1, 12, 12), label=torch.ones(4, 12, 12, dtype=torch.int64))
    target.label[0, 0, :6] = 2
    weight = doubted(target, RARE, suspects(p, share)).weight
    assert torch.equal(weight == 0, suspects(p, share) & (target.label != 2))


def test_outside_the_suspected_pixels_a_rare_class_is_impossible():
    p, share = probabilities(4, 3, 12, 12), torch.tensor(96 / 576)
    inside = suspects(p, share)
    found = capped(p, RARE, inside)
    assert torch.equal(found.movedim(1, -1)[inside], p.movedim(1, -1)[inside])
    outside = found.movedim(1, -1)[~inside]
    assert (outside[:, 2] == 0).all() and torch.allclose(outside.sum(1), torch.ones(len(outside)))
    before = p.movedim(1, -1)[~inside]
    assert torch.allclose(outside[:, 0] / outside[:, 1], before[:, 0] / before[:, 1])  # Bayes: not the rare class


def test_a_pixel_that_can_be_nothing_but_rare_stays_finite():
    p = torch.zeros(1, 3, 4, 4)
    p[:, 2] = 1.0
    assert without(p, RARE).isfinite().all()


def test_where_many_are_equally_sure_no_more_than_the_share_is_suspected():
    p = torch.zeros(1, 3, 16, 16)
    p[:, 2] = 1.0
    few = suspects(p, torch.tensor(0.125))
    assert few.sum() == 32
    assert (capped(p, RARE, few)[:, 2] > 0).sum() == 32


def test_the_share_is_that_of_the_pixels_that_have_a_label():
    label = torch.full((2, 4, 4), 255)
    assert share_of(label, RARE) == 0
    label[0, 0] = torch.tensor([2, 0, 1, 2])
    assert share_of(label, RARE) == 0.5
