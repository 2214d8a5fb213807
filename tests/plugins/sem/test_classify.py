"""Classification of pairs: the contract, fusion, weights of classes and layers."""

import pytest
import torch
from lamella import IGNORE, Step
from lamella.errors import ConfigError
from lamella.testing import trainer_contract
from pairs import pairs, share, trainer

test_contract = trainer_contract(
    lambda: trainer("classify", augment="sem-fine-tuning", balance=True), {"labelled": pairs(6)}
)
test_contract_with_the_mean_and_missing_images = trainer_contract(
    lambda: trainer("classify", fusion="mean", layer_decay=1.0),
    {"labelled": pairs(4, present=[[1, 1], [1, 0], [0, 1], [1, 1]])},
)
test_contract_of_a_probe = trainer_contract(lambda: trainer("classify", freeze=True), {"labelled": pairs(4)})


def losses(made, batch, step=None):
    return made({"labelled": batch}, step or Step(0, 10, 3))


def test_the_loss_is_cross_entropy_with_smoothing():
    made, batch = trainer("classify", smoothing=0.2), pairs(5)
    logits = made.logits(batch)
    label = batch["high"].label
    smooth = 0.8 * torch.nn.functional.one_hot(label, 3) + 0.2 / 3
    wanted = -(smooth * logits.log_softmax(1)).sum(1).mean()
    assert losses(made, batch)["ce"].item() == pytest.approx(wanted.item(), rel=1e-5)
    hit = (logits.argmax(1) == label).float().mean()
    assert losses(made, batch)["hit"].item() == pytest.approx(hit.item())


def test_fusion_by_concatenation_and_by_mean():
    batch = pairs(3)
    side_by_side, mean = trainer("classify"), trainer("classify", fusion="mean")
    both, average = side_by_side.fused(batch), mean.fused(batch)
    assert both.shape == (3, 48) and (average - 0.5 * (both[:, :24] + both[:, 24:])).abs().max() < 1e-5
    turned = {"high": batch["low"], "low": batch["high"]}
    assert (mean.fused(turned) - average).abs().max() < 1e-5
    assert (side_by_side.fused(turned) - both).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["concat", "mean"])
def test_a_missing_magnification_changes_nothing(fusion):
    made, batch = trainer("classify", fusion=fusion), pairs(2, present=[[1, 0], [1, 1]])
    before = made.fused(batch)[0]
    batch["low"] = batch["low"]._replace(image=torch.rand(2, 1, 16, 16))
    assert (made.fused(batch)[0] - before).abs().max() == 0
    if fusion == "mean":
        alone = made.fused({"high": batch["high"], "low": batch["high"]})
        assert (alone[0] - before).abs().max() < 1e-5


def test_balanced_classes_weigh_alike():
    made, batch = trainer("classify", balance=True, smoothing=0.0), pairs(6)
    rare = torch.tensor([0, 0, 0, 0, 0, 2])
    batch = {view: one._replace(label=rare) for view, one in batch.items()}
    for number in range(40):
        losses(made, batch, Step(number, 100, 0))
        made.after_step()
    assert made.seen.tolist() == [200, 0, 40]
    weight = made._class_weight(rare, torch.ones(6), Step(40, 100, 0))
    share_of = (made.seen + torch.tensor([5.0, 0, 1.0]) + 1) / 249
    assert weight.tolist() == pytest.approx((1 / (3 * share_of)).tolist(), rel=1e-4)
    assert (weight[0] * 205).item() == pytest.approx((weight[2] * 41).item(), rel=0.02)


def test_the_parts_of_a_batch_share_the_weights_of_its_classes():
    batch, found = pairs(6), []
    batch = {view: one._replace(label=torch.tensor([0, 0, 0, 0, 1, 2])) for view, one in batch.items()}
    for count in (1, 3):
        made, step = trainer("classify", balance=True, smoothing=0.0), Step(0, 10, 3, count)
        parts = [share(batch, slice(i * 6 // count, (i + 1) * 6 // count)) for i in range(count)]
        if count > 1:
            named = [made.counts({"labelled": part}, step) for part in parts]
            step = step._replace(counts={name: sum(one[name] for one in named) for name in named[0]})
        total = sum(losses(made, part, step)["loss"] for part in parts)
        total.backward()
        made.after_step()
        assert made.seen.tolist() == [4, 1, 1]
        found.append((total.item(), made.head.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (found[1][1] - found[0][1]).abs().max() < 1e-5


def test_ignored_samples_count_for_nothing():
    made, batch = trainer("classify"), pairs(4)
    label = torch.tensor([0, IGNORE, 2, IGNORE])
    some = {view: one._replace(label=label, weight=(label != IGNORE).float()) for view, one in batch.items()}
    kept = {view: one.select(torch.tensor([0, 2])) for view, one in some.items()}
    assert losses(made, some)["ce"].item() == pytest.approx(losses(made, kept)["ce"].item(), rel=1e-5)


def test_the_learning_rate_falls_layer_by_layer():
    made = trainer("classify", layer_decay=0.5)
    scales = {id(p): group["lr_scale"] for group in made.parameter_groups() for p in group["params"]}
    named = {name: scales[id(p)] for name, p in made.named_parameters()}
    assert named["encoder.pos_embed"] == named["encoder.patch_embed.proj.weight"] == named["encoder.cls_token"] == 0.125
    assert named["encoder.blocks.0.attn.qkv.weight"] == 0.25 and named["encoder.blocks.1.mlp.fc2.bias"] == 0.5
    assert named["encoder.norm.weight"] == named["head.weight"] == 1.0


def test_a_probe_trains_the_last_layer_alone():
    made = trainer("classify", freeze=True)
    assert {name for name, p in made.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_figures_with_a_map_that_stays_small():
    made = trainer("classify").eval()
    metrics = made.metrics()
    batch = pairs(60)
    with torch.no_grad():
        for _ in range(50):
            probabilities = made.predict(batch)
            for metric in metrics:
                metric.update(probabilities, batch)
    figures = {name: value for metric in metrics for name, value in metric.compute().items()}
    assert figures["samples"] == 3000 and len(figures["embedding_map"]) == 600
    assert sum(len(part[1]) for part in metrics[1]._kept) <= 2400
    assert {int(point[2]) for point in figures["embedding_map"]} == {0, 1, 2}
    assert figures["accuracy"] == pytest.approx((probabilities.argmax(1) == batch["high"].label).float().mean().item())


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="no class for each sample"):
        losses(trainer("classify"), pairs(label=False))
    with pytest.raises(ConfigError, match="judges pairs"):
        trainer("classify").predict(pairs()["high"])


def test_it_learns():
    torch.manual_seed(0)
    made, batch = trainer("classify", smoothing=0.0, layer_decay=1.0), pairs(12)
    shade = batch["high"].label.view(-1, 1, 1, 1) * 0.3
    batch["high"] = batch["high"]._replace(image=batch["high"].image * 0.3 + shade)
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=3e-3)
    for number in range(40):
        optimizer.zero_grad()
        losses(made, batch, Step(number, 40, 0))["loss"].backward()
        optimizer.step()
    assert (made.predict(batch).argmax(1) == batch["high"].label).all()
    assert share(batch, slice(0, 2))["high"].label.tolist() == [0, 1]
