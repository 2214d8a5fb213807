"""The projection head: standardised over what is there, as torch's batch normalisation, and what that is for."""

import pytest
import torch
from lamella import Step
from lamella.testing import trainer_contract
from lamella_sem.embedding import EmbeddingMetrics, recall_at_1
from lamella_sem.projection import ProjectionHead, Standardise
from pairs import pairs, trainer

HALF = [[1, 1], [1, 0], [1, 1], [0, 1]]

test_contract = trainer_contract(lambda: trainer(standardise=True), {"unlabelled": pairs(present=HALF)})
test_contract_without_hidden_layer = trainer_contract(
    lambda: trainer(standardise=True, projection=0), {"unlabelled": pairs()}
)


def test_standardise_is_batch_normalisation_in_training_values_and_gradients():
    ours = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.randn(10, 6, dtype=torch.float64)
    norm = torch.nn.BatchNorm1d(6, affine=False, dtype=torch.float64)
    found, wanted = Standardise()(ours, torch.ones(10)), norm(theirs)
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    assert (found - wanted).abs().max() < 1e-12
    assert (ours.grad - theirs.grad).abs().max() < 1e-12


def test_what_is_missing_does_not_count():
    head = ProjectionHead(6, hidden=8, features=4, standardise=True)
    images, there = torch.randn(7, 6), torch.tensor([1.0, 1, 0, 1, 1, 0, 1])
    before = head(images, there)[there > 0]
    assert (head(images[there > 0]) - before).abs().max() < 1e-5
    images[2] += 100.0
    assert (head(images, there)[there > 0] - before).abs().max() == 0


def test_without_standardise_it_is_the_plain_head():
    torch.manual_seed(0)
    head = ProjectionHead(6, hidden=8, features=4, standardise=False)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    plain.load_state_dict(head.state_dict())
    images = torch.randn(5, 6)
    assert (head(images, torch.ones(5)) - plain(images)).abs().max() == 0


def test_missing_images_change_no_loss_of_the_trainer():
    made, batch = trainer(standardise=True), pairs(4, present=HALF)
    before = made({"unlabelled": batch}, Step(1, 10, 5))
    low = batch["low"]
    there = low.meta["present"].view(-1, 1, 1, 1) > 0
    changed = {**batch, "low": low._replace(image=torch.where(there, low.image, 0.7))}
    after = made({"unlabelled": changed}, Step(1, 10, 5))
    for name, value in before.items():
        assert after[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("standardise", [True, False])
def test_features_with_much_in_common_are_told_apart_only_when_standardised(standardise):
    """As an encoder begins: every embedding is nearly the same, and so is every f."""
    torch.manual_seed(0)
    head = ProjectionHead(32, hidden=64, features=16, standardise=standardise)
    alike = torch.randn(1, 32) + 0.01 * torch.randn(40, 32)
    unit = torch.nn.functional.normalize(head(alike), dim=1)
    assert ((unit @ unit.t()).mean() < 0.2) == standardise


def test_retrieval_is_also_judged_behind_the_head():
    torch.manual_seed(0)
    head = ProjectionHead(6, hidden=8, features=6, standardise=True)
    embedding, batch = torch.randn(4, 2, 6), pairs(4, present=[[1, 1], [1, 1], [1, 0], [1, 1]])
    metric = EmbeddingMetrics(head.alone)
    metric.update(embedding, batch)
    high, low = head(embedding[[0, 1, 3]].transpose(0, 1).flatten(0, 1)).chunk(2)
    wanted = 0.5 * (recall_at_1(high, low) + recall_at_1(low, high))
    assert metric.compute()["recall_at_1_head"] == pytest.approx(wanted)
    made = trainer(con=0.0)
    (plain,) = made.metrics()
    assert plain.head is None
