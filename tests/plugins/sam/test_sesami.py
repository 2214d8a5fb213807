"""The trainer `sesami`: the contract, its losses against literal references, what learns, and what it answers."""

import pytest
import torch
from lamella import Batch, Step
from lamella.errors import ConfigError, DataError
from lamella.registry.registry import current
from lamella.testing import trainer_contract
from lamella_sam import figures, losses, sesami
from lamella_sam.answers import choose, class_map, of_token
from lamella_sam.exemplars import Exemplars
from lamella_sam.figures import PromptedFigures
from lamella_sam.lora import share_trained
from lamella_sam.nano.network import sam_nano
from lamella_sam.sesami import Sesami

NAMES = ["a", "b", "c"]
STEP = Step(0, 10, 3)


def build(**settings):
    settings = {"prompts": 3, "class_names": NAMES, **settings}
    return Sesami(backbone=sam_nano(weights="none"), **settings)


def labelled():
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[:, 4:20, 4:12] = 1
    label[:, 18:28, 14:30] = 2
    image = label.float().div(2).unsqueeze(1) * 0.8 + 0.1
    return {"labelled": Batch.of(image, label=label, key=torch.tensor([5, 6]))}


WAYS = {
    "lora": {},
    "late": {"late_blocks": 2, "rank": 2, "corrections": 0},
    "decoder": {"decoder": "train", "decoder_rate": 3.0},
    "full": {"adapt": "full", "semantic": "none", "answer": "box", "objects": "class"},
    "nothing": {"adapt": "nothing", "semantic": "exemplars"},
    "exemplars": {"semantic": "exemplars", "mix": {"box": 1.0}, "negative": 0.0},
}


def contract(name):
    """The contract of one way to train; exemplars need to have seen an image before predict."""

    def trainer():
        made = build(**WAYS[name])
        if made.exemplars is not None:
            made(labelled(), STEP)
        return made

    # a discriminant of 96 dimensions from 32 cells is ill-conditioned: rounding shows in the fourth digit
    return trainer_contract(trainer, labelled, tolerance=1e-3 if "semantic" in WAYS[name] else 1e-4)


test_contract_lora = contract("lora")
test_contract_late = contract("late")
test_contract_decoder = contract("decoder")
test_contract_full = contract("full")
test_contract_nothing = contract("nothing")
test_contract_exemplars = contract("exemplars")


def test_focal_dice_and_iou_are_their_equations():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, 1, 5, 6, generator=generator, dtype=torch.float64)
    p = 1 / (1 + torch.exp(-logits))
    entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    right = p * target + (1 - p) * (1 - target)
    each = (0.25 * target + 0.75 * (1 - target)) * (1 - right) ** 2 * entropy
    expected = (each * weight).sum((2, 3)) / weight.sum((2, 3))
    found = losses.focal(logits, target, weight)
    assert torch.allclose(found, expected)
    one, other = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, expected))
    assert torch.allclose(one, other)
    dice = 1 - (2 * (weight * p * target).sum((2, 3)) + 1) / ((weight * (p + target)).sum((2, 3)) + 1)
    assert torch.allclose(losses.mask_dice(logits, target, weight), dice)
    hard, real = p > 0.5, target >= 0.5
    iou = (weight * (hard & real)).sum((2, 3)) / (weight * (hard | real)).sum((2, 3))
    assert torch.allclose(losses.mask_iou(logits, target, weight), iou)
    plain = losses.focal(logits, target, torch.ones_like(weight), gamma=0.0, alpha=0.5)
    assert torch.allclose(plain, 0.5 * entropy.mean((2, 3)))


def test_masks_without_weight_cost_nothing_and_have_finite_gradients():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    none = torch.zeros(1, 1, 4, 4)
    value = losses.focal(logits, none, none) + losses.mask_dice(logits, none, none)
    value.sum().backward()
    assert value.item() == 0 and logits.grad.abs().max() == 0
    assert losses.mask_iou(-logits.detach().abs(), none, none + 1).item() == 1  # both empty


def test_a_prompt_in_doubt_pays_for_its_best_token_alone():
    trainer = build()
    target = torch.zeros(1, 2, 8, 8)
    target[..., :4] = 1
    logits = torch.full((1, 2, 4, 8, 8), -6.0)
    logits[:, :, 2] = torch.where(target > 0, 6.0, -6.0)
    doubt, there = torch.tensor([[True, False]]), torch.ones(1, 2)
    iou = torch.zeros(1, 2, 4)
    found, hit, chosen = trainer.mask_loss(logits, iou, target, torch.ones_like(target), doubt, there)
    assert torch.equal(chosen[0, 0], logits[0, 0, 2]) and torch.equal(chosen[0, 1], logits[0, 1, 0])
    assert hit.value().item() == pytest.approx(0.5)  # the first is right, the second finds nothing
    real = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert found["iou"].item() == pytest.approx(((real[1:] ** 2).mean() + 0.0) / 2)


def test_the_loss_is_the_weighted_sum_of_what_is_named():
    out = build(weights={"focal": 3.0, "ce": 0.5})(labelled(), STEP)
    weights = {"focal": 3.0, "dice": 1.0, "iou": 1.0, "ce": 0.5, "class_dice": 1.0}
    assert out["loss"].item() == pytest.approx(sum(weights[name] * out[name].item() for name in weights))


def unequal():
    """Two images with other classes, objects and unlabelled pixels in each; `background` is the first class."""
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[1, 4:20, 4:12], label[1, 18:28, 14:30], label[1, :3] = 1, 2, 255
    noise = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch.of(label.clamp(max=2).float().div(2).unsqueeze(1) * 0.8 + 0.1 * noise, label=label,
                    key=torch.tensor([5, 6]))  # fmt: skip


def step_of(trainer, parts):
    """The losses of a batch in parts, summed, and their gradient."""
    named, step = {}, STEP._replace(parts=len(parts))
    counts = [trainer.counts({"labelled": part}, step) for part in parts]
    step = step._replace(counts={name: sum(each[name] for each in counts) for name in counts[0]})
    for part in parts:
        found = trainer({"labelled": part}, step)
        found["loss"].backward()
        named = {name: named.get(name, 0.0) + value.item() for name, value in found.items()}
    return named, torch.cat([p.grad.flatten() for p in trainer.parameters() if p.grad is not None])


@pytest.mark.parametrize("settings", [{}, {"weights": {"affinity": 1.0}, "background": "a"}])
def test_no_loss_depends_on_how_a_batch_is_split(settings):
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        found.append(step_of(build(**settings), [unequal().select(slice(i, None, parts)) for i in range(parts)]))
    (whole, gradient), (parted, other) = found
    assert parted == pytest.approx(whole, rel=1e-4) and ("affinity" in whole) == bool(settings)
    assert (gradient - other).norm() < 1e-3 * gradient.norm()


def test_the_iou_of_objects_does_not_count_images_without_any():
    torch.manual_seed(0)
    trainer = build(background="a")
    both, alone = (trainer({"labelled": batch}, STEP) for batch in (unequal(), unequal().select(slice(1, 2))))
    for name in ("miou_first", "miou_last"):
        assert both[name].item() == pytest.approx(alone[name].item(), rel=1e-4) and alone[name] > 0


def test_an_object_that_fills_no_cell_by_half_counts_as_not_there():
    """A line of one pixel, where a cell of the mask grid is four wide; beside it an image with a broad object."""
    label = torch.zeros(2, 256, 256, dtype=torch.int64)
    label[0, 101, 20:200], label[1, 80:140, 20:200] = 1, 1
    both = Batch.of(label.float().unsqueeze(1), label=label, key=torch.tensor([5, 6]))
    trainer = build(background="a", semantic="none", answer="box")
    thin, broad, found = (
        (trainer.counts({"labelled": batch}, STEP)["miou_first"], trainer({"labelled": batch}, STEP))
        for batch in (both.select(slice(0, 1)), both.select(slice(1, 2)), both)
    )
    assert [count.item() for count, _ in (thin, broad, found)] == [0, 3, 3]
    for name in ("focal", "dice", "iou"):
        assert thin[1][name].item() == 0 < broad[1][name].item()
        assert found[1][name].item() == pytest.approx(broad[1][name].item() / 2, rel=1e-4)  # the mean of two images
    for name in ("miou_first", "miou_last"):
        assert found[1][name].item() == pytest.approx(broad[1][name].item(), rel=1e-4)


def test_lora_trains_adapters_and_class_tokens_and_nothing_else():
    trainer = build()
    learning = {name for name, p in trainer.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name == "class_tokens" for name in learning)
    assert 0.01 < share_trained(trainer) < 0.02


def test_a_decoder_that_learns_is_all_that_learns_besides():
    trainer = build(decoder="train")
    learning = {name for name, p in trainer.named_parameters() if p.requires_grad and ".lora_" not in name}
    decoder = {f"backbone.mask_decoder.{name}" for name, _ in trainer.backbone.mask_decoder.named_parameters()}
    assert learning == {"class_tokens"} | decoder


def test_the_decoder_and_class_tokens_learn_at_their_own_rate():
    trainer = build(decoder="train", decoder_rate=3.0)
    adapters, asking = trainer.parameter_groups()
    assert "lr_scale" not in adapters and asking["lr_scale"] == 3.0
    names = {id(p): name for name, p in trainer.named_parameters()}
    assert all(".lora_" in names[id(p)] for p in adapters["params"])
    assert not any(".lora_" in names[id(p)] for p in asking["params"])


def test_the_decoder_and_the_k_rows_stay_bit_for_bit():
    trainer = build()
    before = {name: p.clone() for name, p in trainer.state_dict().items() if ".lora_" not in name}
    optimizer = torch.optim.AdamW([p for p in trainer.parameters() if p.requires_grad], 1e-2)
    for number in range(2):
        trainer(labelled(), STEP._replace(number=number))["loss"].backward()
        optimizer.step()
    changed = [name for name, value in before.items() if not torch.equal(trainer.state_dict()[name], value)]
    assert changed == ["class_tokens"]


def test_zero_shot_learns_nothing():
    trainer = build(**WAYS["nothing"])
    before = {name: p.clone() for name, p in trainer.named_parameters()}
    trainer(labelled(), STEP)["loss"].backward()
    torch.optim.AdamW(trainer.parameters(), 1.0).step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.named_parameters())


def test_one_embedding_serves_every_prompt_and_round(monkeypatch):
    trainer = build(prompts=16, corrections=3)
    calls = []
    embed = trainer.backbone.embed
    monkeypatch.setattr(trainer.backbone, "embed", lambda image: calls.append(1) or embed(image))
    trainer(labelled(), STEP)
    assert len(calls) == 1


def test_a_few_steps_overfit_one_image():
    torch.manual_seed(0)
    batch = {"labelled": labelled()["labelled"].select(slice(0, 1))}
    trainer = build(adapt="full")
    optimizer = torch.optim.AdamW(trainer.parameters(), 2e-3)
    costs = []
    for number in range(40):
        loss = trainer(batch, STEP._replace(number=number))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        costs.append(loss.item())
    trainer.eval()
    with torch.no_grad():
        right = (trainer.predict(batch["labelled"]).argmax(1) == batch["labelled"].label).float().mean()
    assert costs[-1] < 0.5 * costs[0] and right > 0.85


@torch.no_grad()
def test_answers_to_prompts_make_the_class_map_and_their_figures():
    trainer = build(answer="box").eval()
    batch = labelled()["labelled"]
    prediction = trainer.predict(batch)
    assert prediction.shape == (2, 3, 32, 32)
    with pytest.raises(DataError, match="there are none"):
        trainer.predict(batch._replace(label=None, weight=None))
    metric = PromptedFigures(trainer, NAMES)
    metric.update(prediction, batch)
    figures = metric.compute()
    assert figures["prompted"]["box"]["objects"] == 6
    assert figures["miou_box"] == figures["prompted"]["box"]["miou"]
    expected = [metric.update(prediction, batch.select(slice(1, 2))) or metric.ious["box"][-1]]
    assert torch.allclose(expected[0], metric.ious["box"][1])  # the same prompts, whatever the batch


class Truth:
    """Something to ask that answers every prompt with the object at its first corner."""

    def __init__(self, batch):
        self.batch, self.backbone, self.background = batch, self, None

    def embedding(self, batch):
        return torch.zeros(len(batch.key), 1, 1, 1)

    def identity(self, batch):
        return batch.label + 1


def test_figures_of_right_answers_are_one(monkeypatch):
    batch = labelled()["labelled"]
    monkeypatch.setattr(
        "lamella_sam.figures.answered",
        lambda backbone, embedding, objects, key, kind: torch.where(objects.mask[0], 9.0, -9.0),
    )
    metric = PromptedFigures(Truth(batch), NAMES)
    metric.update(torch.zeros(1), batch)
    figures = metric.compute()
    assert figures["miou_point"] == figures["miou_mask"] == 1.0
    assert figures["prompted"]["box"]["classes"]["miou_pooled"] == 1.0 and figures["prompted"]["box"]["recall"] == 1.0


def test_choosing_a_token():
    logits = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 2, 4, 2, 2)
    iou = torch.tensor([[[0.9, 0.1, 0.8, 0.2], [0.9, 0.1, 0.8, 0.2]]])
    chosen, known = choose(logits, iou, torch.tensor([[True, False]]))
    assert chosen[0, :, 0, 0].tolist() == [2.0, 0.0] and known[0].tolist() == pytest.approx([0.8, 0.9])
    assert of_token(logits, torch.tensor([[3, 1]]))[0, :, 0, 0].tolist() == [3.0, 1.0]


def test_the_likeliest_object_gives_a_pixel_its_class():
    logits = torch.full((3, 2, 2), -4.0)
    logits[0, 0, 0], logits[1, 0, 0], logits[2, 1, 1] = 1.0, 3.0, 2.0
    found = class_map(logits, torch.tensor([0, 2, 0]), 4)
    assert torch.allclose(found.sum(0), torch.ones(2, 2))
    assert found[:, 0, 0].argmax() == 2 and found[:, 1, 1].argmax() == 0
    assert (found[[1, 3]] < 1e-3).all()


def test_where_no_object_is_likely_the_background_is():
    logits = torch.full((2, 2, 2), -4.0)
    logits[0, 0, 0], logits[1, 1, 1] = 1.0, 2.0
    found = class_map(logits, torch.tensor([1, 2]), 3, background=0)
    assert torch.allclose(found.sum(0), torch.ones(2, 2))
    assert found.argmax(0).tolist() == [[1, 0], [0, 2]]
    nothing = logits[:0], torch.tensor([], dtype=torch.int64), 3
    assert class_map(*nothing, background=0).argmax(0).tolist() == [[0, 0], [0, 0]]
    assert torch.allclose(class_map(*nothing), torch.tensor(1 / 3))


@pytest.mark.parametrize("background", [None, NAMES[0]])
def test_perfect_answers_make_the_label_with_and_without_a_background(monkeypatch, background):
    perfect = lambda network, embedding, objects, *_: 18.0 * objects.mask[0].float() - 9.0  # noqa: E731
    for module in (sesami, figures):
        monkeypatch.setattr(module, "answered", perfect)
    one, batch = build(answer="box", background=background).eval(), labelled()["labelled"]
    found = one.predict(batch)
    assert torch.equal(found.argmax(1), batch.label)
    metric = one.metrics()[1]
    metric.update(found, batch)
    assert metric.compute()["prompted"]["box"]["classes"]["miou_pooled"] == 1.0


def test_exemplars_are_counted_and_solved_in_full_precision_under_autocast():
    """Of embeddings whose classes lie close together beside what they have in common, bfloat16 leaves nothing."""
    generator = torch.Generator().manual_seed(0)
    cells = 8.0 + torch.randn(400, 6, generator=generator)
    label = torch.randint(0, 3, (400,), generator=generator)
    cells += 0.8 * torch.eye(3, 6)[label]
    given = cells.T.view(1, 6, 20, 20), torch.eye(3)[label].T.reshape(1, 3, 20, 20)
    plain, cast = Exemplars(3, 6), Exemplars(3, 6)
    plain.add(*given, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.add(*given, 0)
        found = cast.logits(given[0])
    assert torch.equal(found, plain.logits(given[0]))


def test_exemplars_are_the_linear_discriminant_of_a_reference():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(300, 4, generator=generator, dtype=torch.float32)
    label = torch.randint(0, 3, (300,), generator=generator)
    cells += 2.0 * torch.eye(3, 4)[label]
    exemplars = Exemplars(3, 4, shrinkage=0.0)
    share = torch.eye(3)[label].T
    for step, half in enumerate((slice(0, 100), slice(100, 300))):
        exemplars.add(cells[half].T.view(1, 4, 1, -1), share[:, half].reshape(1, 3, 1, -1), step)
    found = exemplars.logits(cells.T.view(1, 4, 1, -1)).softmax(1)[0, :, 0].T
    means = torch.stack([cells[label == k].mean(0) for k in range(3)])
    within = sum(((cells[label == k] - means[k]).T @ (cells[label == k] - means[k])) for k in range(3)) / 300
    prior = torch.stack([(label == k).float().mean() for k in range(3)])
    gap = cells.unsqueeze(1) - means
    expected = (prior.log() - 0.5 * torch.einsum("nkc,cd,nkd->nk", gap, within.inverse(), gap)).softmax(1)
    assert torch.allclose(found, expected, atol=1e-4)


def counted(parts, steps=20):
    """Exemplars that fade, of eight images a step that come in parts."""
    generator = torch.Generator().manual_seed(0)
    embedding, share = torch.randn(8, 4, 2, 2, generator=generator), torch.rand(8, 2, 2, 2, generator=generator)
    exemplars = Exemplars(2, 4, decay=0.9)
    for step in range(steps):
        for cells, known in zip(embedding.chunk(parts), share.chunk(parts)):
            exemplars.add(cells, known, step)
    return dict(exemplars.named_buffers())


def test_exemplars_fade_by_steps_not_by_parts():
    whole, parts = counted(1), counted(4)
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-4, atol=1e-4), name


def test_exemplars_are_those_of_all_processes(monkeypatch):
    one = counted(1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda part: part.mul_(2))  # another with the same images
    for name, value in counted(1).items():
        assert torch.allclose(value, 2 * one[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"semantic": "none"}, "knows no classes"),
        ({"adapt": "nothing"}, "learns no class tokens"),
        ({"adapt": "full", "rank": 3}, "belong to adapt = 'lora'"),
        ({"adapt": "full", "decoder": "train"}, "belong to adapt = 'lora'"),
        ({"background": "sky"}, "'sky' is none of the classes a, b, c"),
        ({"mix": {"box": 0.0}}, "needs weights of 0 or more"),
        ({"weights": {"cosine": 1.0}}, "not of 'cosine'"),
        ({"adapter": "/no/such/folder"}, "cannot be read as LoRA"),
        ({"adapter": "/no/such/folder", "rank": 4}, "adapter brings its own rank"),
        ({"adapter": "/no/such/folder", "late_blocks": 2}, "adapter brings its own rank"),
        ({"semantic": "exemplars", "decoder_rate": 3.0}, "decoder_rate = 3.0 is of mask decoder and class tokens"),
        ({"adapt": "nothing", "semantic": "exemplars", "decoder_rate": 3.0}, "neither of which learns"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_it_is_planned_and_built_by_name():
    plan = current().plan("trainer", {"name": "sesami", "backbone": {"name": "sam-nano", "weights": "none"}}, "here")
    built = plan.build(seed=1, data={"channels": 1, "classes": 3, "class_names": NAMES})
    assert isinstance(built, Sesami) and built.class_tokens.shape == (3, 4, 96)
