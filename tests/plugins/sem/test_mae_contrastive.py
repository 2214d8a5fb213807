"""Pre-training: the contract, equation 7 from its parts, one pass of the encoder, missing images, a batch of one."""

import pytest
import torch
from lamella import Step
from lamella.errors import ConfigError, ContractError
from lamella.testing import trainer_contract
from lamella_sem.embedding import EmbeddingMetrics, knn_accuracy, plane, probe_accuracy, recall_at_1
from lamella_sem.masking import patchify
from lamella_sem.vit import pooled
from literal_equations import equation_8, equation_9
from pairs import ENCODER, pairs, share, trainer
from torch.nn.functional import normalize

HALF = [[1, 1], [1, 0], [1, 1], [0, 1]]

test_whole_contract = trainer_contract(lambda: trainer(views="sem-views"), {"unlabelled": pairs()})
test_unlabelled_contract = trainer_contract(
    lambda: trainer(ratio=0.75, normalise=False, exclude_same=True), {"unlabelled": pairs(label=False, present=HALF)}
)
test_reconstruction_alone_contract = trainer_contract(
    lambda: trainer(self_consistency=False, cross_magnification=False), {"unlabelled": pairs()}
)
test_contrast_alone_contract = trainer_contract(
    lambda: trainer(rec=0.0, con=1.0, projection=0), {"unlabelled": pairs(present=HALF)}
)


def losses(made, batch, step=None):
    return made({"unlabelled": batch}, step or Step(1, 10, 5))


@pytest.mark.parametrize("normalise", [True, False])
def test_equation_7_from_literal_equations_8_and_9(normalise):
    made, batch, step = trainer(views="sem-views", normalise=normalise), pairs(3), Step(1, 10, 5)
    found = losses(made, batch, step)
    seen = made._see(batch, step)
    tokens = made._encode(seen)
    predicted = made.decoder(tokens[:, 1:], seen.masked.visible, (4, 4)).view(2, 6, 16, 16)
    truth = patchify((seen.image - 0.5) / 0.5, 4).view(2, 6, 16, 16)
    if normalise:
        truth = (truth - truth.mean(3, keepdim=True)) / (truth.var(3, keepdim=True) + 1e-6).sqrt()
    rec = equation_8(predicted, truth, seen.masked.mask.view(2, 6, 16))
    high, low = normalize(made.head(pooled(made.encoder, tokens)), dim=1).chunk(2)
    con = equation_9(high, low, 0.1)
    assert found["rec"].item() == pytest.approx(rec.item(), rel=1e-5)
    assert 0.5 * (found["self"] + found["cross"]).item() == pytest.approx(con.item(), rel=1e-5)
    whole = 0.97 * rec + 0.03 * con
    assert found["loss"].item() == pytest.approx(whole.item(), rel=1e-5)
    for parameter in (made.encoder.blocks[0].attn.qkv.weight, made.decoder.head.weight):
        ours, theirs = (torch.autograd.grad(v, parameter, retain_graph=True)[0] for v in (found["loss"], whole))
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_one_encoder_pass_over_the_visible_patches_of_four_images(ratio):
    made, passes = trainer(ratio=ratio), []
    made.encoder.blocks[0].register_forward_hook(lambda module, given, out: passes.append(tuple(out.shape)))
    losses(made, pairs(3))
    assert passes == [(12, 1 + 16 - round(16 * ratio), 24)]


def test_the_two_views_of_an_image_differ_and_are_those_of_the_sample():
    made, batch = trainer(views="sem-views"), pairs(4)
    whole, part = (made._see(b, Step(0, 1, 3)) for b in (batch, share(batch, slice(2, 3))))
    first, second = whole.image[:4], whole.image[4:8]
    assert ((first - second).abs().mean((1, 2, 3)) > 0.01).all()
    assert (part.image == whole.image[2::4]).all()
    assert (part.masked.mask == whole.masked.mask[2::4]).all()


def test_terms_that_are_switched_off_are_neither_counted_nor_learnt():
    only_self, only_cross = trainer(cross_magnification=False), trainer(self_consistency=False)
    assert set(losses(only_self, pairs())) == {"rec", "self", "paired", "loss"}
    found = losses(only_cross, pairs())
    assert found["loss"].item() == pytest.approx(0.97 * found["rec"].item() + 0.03 * found["cross"].item())
    plain = trainer(con=0.0)
    assert not any(p.requires_grad for p in plain.head.parameters())
    assert set(losses(plain, pairs())) == {"rec", "paired", "loss"}


def test_an_unpaired_image_is_contrasted_with_itself_alone_and_the_log_says_so():
    made, batch = trainer(), pairs(4, present=HALF)
    found = losses(made, batch)
    assert found["paired"] == 0.5
    counts = made.counts({"unlabelled": batch}, Step(1, 10, 5))
    assert {k: float(counts[k]) for k in ("hh", "ll", "hl", "lh", "rec high")} == {
        "hh": 6, "ll": 6, "hl": 4, "lh": 4, "rec high": 6,
    }  # fmt: skip
    changed = pairs(4, present=HALF)
    there = changed["low"].meta["present"].view(-1, 1, 1, 1) > 0
    changed["low"] = changed["low"]._replace(image=torch.where(there, changed["low"].image, 0.7))
    assert losses(made, changed)["loss"].item() == pytest.approx(found["loss"].item(), rel=1e-6)


def test_a_batch_of_one_pair_is_finite_and_warns():
    made = trainer()
    with pytest.warns(UserWarning, match="one pair has no negatives"):
        found = losses(made, pairs(1), Step(0, 10, 5))
    found["loss"].backward()
    assert found["self"].abs() < 1e-5 and found["cross"].abs() < 1e-5
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.requires_grad)


def test_dies_are_no_negatives_of_each_other_where_that_is_asked_for():
    dies = [1, 1, 2, 2]
    every, fewer = (losses(trainer(exclude_same=e), pairs(dies=dies))["self"] for e in (False, True))
    assert fewer < every


def test_only_defects_on_one_pattern_are_negatives_where_that_is_asked_for():
    every, fewer, alone = (
        losses(trainer(hard_negatives=hard), pairs(alike=alike))["cross"]
        for hard, alike in ((False, [1, 1, 2, 2]), (True, [1, 1, 2, 2]), (True, [1, 2, 3, 4]))
    )
    assert fewer < every and alone.abs() < 1e-5
    assert losses(trainer(hard_negatives=True), pairs())["cross"] == every  # no pattern known: one for all


@pytest.mark.parametrize(("option", "column"), [("exclude_same", "same"), ("hard_negatives", "alike")])
def test_an_option_without_a_group_to_go_by_is_refused_at_the_first_step(option, column):
    made, unknown = trainer(**{option: True}), pairs(dies=[100, 101, 102, 103])  # as the modality: the samples' own
    with pytest.raises(ConfigError, match=f"{option} goes by the group column that '{column}'"):
        losses(made, unknown, Step(0, 10, 5))
    known = pairs(dies=[100, 9, 102, 103], alike=[-1, 4, -1, -1])
    assert losses(made, known, Step(0, 10, 5))["loss"].isfinite()
    assert losses(trainer(), unknown, Step(0, 10, 5))["loss"].isfinite()


def test_parts_of_a_step_are_batches_of_their_own():
    """Gradient accumulation: reconstruction is the whole batch's, the contrast the mean of its parts'."""
    made, batch = trainer(), pairs(4)
    halves = [share(batch, slice(0, 2)), share(batch, slice(2, 4))]
    step = Step(1, 10, 5)
    totals = [made.counts({"unlabelled": half}, step) for half in halves]
    counts = {name: totals[0][name] + totals[1][name] for name in totals[0]}
    parts = [losses(made, half, step._replace(parts=2, counts=counts)) for half in halves]
    alone = [losses(made, half, step) for half in halves]
    whole = losses(made, batch, step)
    for name in whole:
        assert sum(part[name] for part in parts).item() == pytest.approx(
            0.5 * sum(one[name] for one in alone).item(), rel=1e-5
        )
    assert sum(part["rec"] for part in parts).item() == pytest.approx(whole["rec"].item(), rel=1e-5)
    assert sum(part["self"] for part in parts) < whole["self"]  # fewer negatives in each part


def test_images_of_another_size_than_the_encoder_was_made_for():
    made = trainer()
    assert losses(made, pairs(2, size=24))["loss"].isfinite()
    assert made.predict(pairs(2, size=24)).shape == (2, 2, 24)
    with pytest.raises(ContractError, match=r"18×18 pixels cannot be cut into patches of 4; bring them to one size"):
        losses(made, pairs(2, size=18))


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="nothing to learn from"):
        trainer(rec=0.0, self_consistency=False, cross_magnification=False)
    with pytest.raises(ConfigError, match="decoder_heads = 3 do not divide decoder_width = 16"):
        trainer(decoder_heads=3)
    with pytest.raises(ConfigError, match="set modality = 'sem'"):
        losses(trainer(), pairs()["high"])
    with pytest.raises(ContractError, match="must be a VisionTransformer of timm"):
        from lamella_sem.mae_contrastive import MaeContrastive

        MaeContrastive(encoder=torch.nn.Identity())


def test_it_learns_which_images_show_one_defect():
    """Noise of its own in every defect, the same at both magnifications: retrieval goes from chance to all."""
    torch.manual_seed(0)
    made = trainer(rec=0.0, con=1.0, encoder={**ENCODER, "depth": 1})
    batch = pairs(16)
    noise = 0.15 * torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(9))
    batch["low"] = batch["low"]._replace(image=(0.85 * batch["high"].image + noise))

    def recall():
        metric = EmbeddingMetrics()
        with torch.no_grad():
            metric.update(made.predict(batch), batch)
        return metric.compute()["recall_at_1"]

    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=3e-3)
    for number in range(60):
        optimizer.zero_grad()
        loss = losses(made, batch, Step(number, 60, 0))["loss"]
        loss.backward()
        optimizer.step()
    assert loss < 0.8
    assert recall() == 1.0


def blobs(count=60, *, spread=0.1):
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(count) % 3
    return torch.eye(3).repeat(1, 4)[label] + spread * torch.randn(count, 12, generator=generator), label


def test_probes_find_what_is_separable_and_only_that():
    embedding, label = blobs()
    assert knn_accuracy(embedding, label) == probe_accuracy(embedding, label) == 1.0
    mixed = label[torch.randperm(60, generator=torch.Generator().manual_seed(2))]
    assert knn_accuracy(embedding, mixed) < 0.6 and probe_accuracy(embedding, mixed) < 0.6
    points = plane(embedding, label, label, most=20)
    assert len(points) == 20 and all(len(point) == 4 for point in points)


def test_a_neighbour_is_never_the_sample_itself():
    embedding, label = torch.eye(4), torch.tensor([0, 1, 2, 3])
    assert knn_accuracy(embedding, label, neighbours=1) == 0.0


def test_retrieval_counts_whole_pairs_in_both_directions():
    high = torch.eye(4)
    low = torch.eye(4)[[0, 1, 3, 2]]
    assert recall_at_1(high, low) == 0.5
    metric = EmbeddingMetrics()
    batch = pairs(4, present=[[1, 1], [1, 1], [1, 0], [1, 1]], label=False)
    metric.update(torch.stack([high, low], 1), batch)
    figures = metric.compute()
    assert (figures["pairs"], figures["recall_at_1"]) == (3, pytest.approx(2 / 3))
    assert "knn_accuracy" not in figures
