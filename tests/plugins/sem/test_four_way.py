"""Equation 9 in one pass against the equation as printed: values, gradients, memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lamella.testing.no_sync import no_sync
from lamella_sem.four_way import TERMS, four_way
from literal_equations import equation_9
from torch.nn.functional import normalize


def features(count, seed=0, width=6):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(2, 2 * count, width, generator=generator, dtype=torch.float64)
    return [normalize(part, dim=1).requires_grad_() for part in made]


def mean(loss, terms=TERMS):
    chosen = [TERMS.index(term) for term in terms]
    return (loss.total / loss.count)[chosen].mean()


def gradients(value, *tensors):
    return torch.autograd.grad(value, tensors)


def agree(found, wanted, tensors, tolerance=1e-10):
    assert found.item() == pytest.approx(wanted.item(), abs=tolerance)
    for one, other in zip(gradients(found, *tensors), gradients(wanted, *tensors)):
        assert (one - other).abs().max() < tolerance


@settings(max_examples=15)
@given(st.integers(1, 6), st.sampled_from((0.05, 0.1, 1.0)), st.integers(1, 30), st.integers(0, 999))
def test_equals_the_equation_as_printed(count, temperature, tile, seed):
    high, low = features(count, seed)
    loss = four_way(high, low, temperature=temperature, defect=torch.arange(count), tile=tile)
    assert loss.count.tolist() == [2 * count] * 4
    agree(mean(loss), equation_9(high, low, temperature), (high, low), 1e-9)


@pytest.mark.parametrize(("terms", "printed"), [(("hh", "ll"), ("HH", "LL")), (("hl", "lh"), ("HL", "LH"))])
def test_self_and_cross_terms_stand_alone(terms, printed):
    high, low = features(4)
    loss = four_way(high, low, temperature=0.2, defect=torch.arange(4), tile=5)
    agree(mean(loss, terms), equation_9(high, low, 0.2, terms=printed), (high, low))


def test_defects_of_one_die_are_no_negatives_of_each_other():
    high, low = features(5)
    dies = torch.tensor([7, 8, 7, 9, 8])
    loss = four_way(high, low, temperature=0.2, defect=dies, tile=4)
    printed = equation_9(high, low, 0.2, same=lambda a, b: bool(dies[a] == dies[b]))
    agree(mean(loss), printed, (high, low))
    assert mean(loss) < mean(four_way(high, low, temperature=0.2, defect=torch.arange(5)))


def test_only_defects_on_one_pattern_are_negatives_of_each_other_on_request():
    high, low = features(5)
    patterns, dies = torch.tensor([1, 2, 1, 1, 2]), torch.tensor([7, 8, 7, 9, 9])
    loss = four_way(high, low, temperature=0.2, defect=dies, alike=patterns, tile=4)
    printed = equation_9(
        high, low, 0.2, same=lambda a, b: bool(dies[a] == dies[b]) or bool(patterns[a] != patterns[b])
    )
    agree(mean(loss), printed, (high, low))
    every = four_way(high, low, temperature=0.2, defect=dies, alike=torch.zeros(5, dtype=torch.int64))
    agree(mean(every), mean(four_way(high, low, temperature=0.2, defect=dies)), (high, low))


def test_what_is_not_there_is_neither_anchor_nor_target():
    high, low = features(4)
    present = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]])
    loss = four_way(high, low, temperature=0.2, defect=torch.arange(4), present=present)
    assert dict(zip(TERMS, loss.count.tolist())) == {"hh": 8, "hl": 6, "lh": 6, "ll": 6}
    for_high, for_low = gradients(mean(loss), high, low)
    assert (for_low[[1, 5]] == 0).all() and (for_low[[0, 2]] != 0).all() and (for_high[[1, 5]] != 0).all()
    kept = [0, 2, 3, 4, 6, 7]
    fewer = four_way(high[kept], low[kept], temperature=0.2, defect=torch.arange(3))
    assert loss.total[TERMS.index("ll")].item() == pytest.approx(fewer.total[TERMS.index("ll")].item())


def test_an_unpaired_defect_has_its_self_consistency_alone():
    high, low = features(3)
    present = torch.tensor([[1, 1], [1, 1], [0, 1]])
    changed = low.detach().clone()
    changed[2] = -changed[2]
    before, after = (
        four_way(high, x, temperature=0.2, defect=torch.arange(3), present=present).total for x in (low, changed)
    )
    moved = dict(zip(TERMS, (after - before).abs().tolist()))
    assert moved["hh"] == 0 and moved["ll"] > 1e-3
    assert moved["hl"] > 1e-3 and moved["lh"] == 0  # a target like any other for high images, no anchor


def test_one_pair_is_finite_and_has_nothing_to_learn():
    high, low = features(1)
    loss = four_way(high, low, temperature=0.1, defect=torch.zeros(1, dtype=torch.int64))
    assert loss.total.abs().max() < 1e-12
    assert all((g.abs() < 1e-12).all() for g in gradients(mean(loss), high, low))


def test_nothing_present_gives_zero_and_finite_gradients():
    high, low = features(3)
    loss = four_way(high, low, temperature=0.1, defect=torch.arange(3), present=torch.zeros(3, 2))
    assert (loss.total == 0).all() and (loss.count == 0).all()
    assert all((g == 0).all() for g in gradients(loss.total.sum(), high, low))


def test_extreme_temperatures_stay_finite_and_bfloat16_comes_back_as_such():
    high, low = (f.detach().to(torch.bfloat16).requires_grad_() for f in features(8))
    for temperature in (1e-3, 100.0):
        loss = four_way(high, low, temperature=temperature, defect=torch.arange(8))
        found = gradients(mean(loss), high, low)
        assert loss.total.isfinite().all() and loss.total.dtype == torch.float32
        assert all(g.isfinite().all() and g.dtype == torch.bfloat16 for g in found)


def test_waits_for_nothing_and_passes_gradcheck():
    high, low = features(3)
    defect, present = torch.tensor([1, 2, 1]), torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with no_sync():
        mean(four_way(high, low, temperature=0.2, defect=defect, present=present)).backward()

    def totals(h, l):  # noqa: E741
        return four_way(h, l, temperature=0.3, defect=defect, present=present, tile=5).total

    assert torch.autograd.gradcheck(totals, (high, low))


def test_what_is_kept_for_the_backward_grows_with_the_batch_not_its_square():
    def kept(count):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
            high, low = (f.float() for f in features(count, width=16))
            four_way(high, low, temperature=0.1, defect=torch.arange(count))
        return sum(saved)

    assert kept(256) < 4.4 * kept(64)
