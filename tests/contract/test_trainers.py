"""The contract of trainers: a correct one keeps it, broken ones are caught and named."""

import pytest
import torch
from lamella import IGNORE, Batch, Mean, Trainer
from lamella.testing import BrokenPromise, trainer_contract
from torch import nn
from torch.nn import functional


class Counter:
    """Counts pixels."""

    def __init__(self):
        self.pixels = 0

    def update(self, prediction, batch):
        self.pixels += prediction[:, 0].numel()

    def compute(self):
        return {"pixels": self.pixels}


class Correct(Trainer):
    """One convolution and a mean teacher of it."""

    roles = ("labelled", "unlabelled")

    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 3, 3, padding=1)
        self.teacher = nn.Conv2d(1, 3, 3, padding=1).requires_grad_(False)

    def forward(self, batches, step):
        labelled, unlabelled = batches["labelled"], batches["unlabelled"]
        streams = step.streams(unlabelled, "strong")
        noise = streams.normal(*unlabelled.image.shape[1:])
        supervised = step.mean(self.supervised(self.net(labelled.image), labelled), "supervised")
        wanted = self.teacher(unlabelled.image).softmax(1)
        agreement = (self.net(unlabelled.image + 0.1 * noise).softmax(1) - wanted).square().mean()
        return {"supervised": supervised, "agreement": agreement, "loss": supervised + agreement}

    def supervised(self, logits, batch):
        each = functional.cross_entropy(logits, batch.label, ignore_index=IGNORE, reduction="none")
        return Mean((each * batch.weight).sum(), batch.weight.sum())

    def counts(self, batches, step):
        return {"supervised": batches["labelled"].weight.sum()}

    def predict(self, batch):
        return self.net(batch.image).softmax(1)

    def metrics(self):
        return [Counter()]

    def after_step(self):
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters()):
                slow.lerp_(fast, 0.1)


class NoLoss(Correct):
    def forward(self, batches, step):
        return {"supervised": super().forward(batches, step)["supervised"]}


class VectorLoss(Correct):
    def forward(self, batches, step):
        losses = super().forward(batches, step)
        return {**losses, "loss": losses["loss"].expand(2)}


class NumberLoss(Correct):
    def forward(self, batches, step):
        losses = super().forward(batches, step)
        return {**losses, "agreement": losses["agreement"].item()}


class IdleParameter(Correct):
    def __init__(self):
        super().__init__()
        self.probe = nn.Linear(3, 3)


class DropsTerm(Correct):
    """Leaves a branch out in every second step, without freezing it."""

    def __init__(self):
        super().__init__()
        self.head, self.steps = nn.Conv2d(1, 1, 1), 0

    def forward(self, batches, step):
        losses = super().forward(batches, step)
        self.steps += 1
        extra = self.head(batches["labelled"].image).square().mean() if self.steps % 2 else 0.0
        return {**losses, "loss": losses["loss"] + extra}


class Unseeded(Correct):
    def forward(self, batches, step):
        losses = super().forward(batches, step)
        generator = torch.Generator()
        generator.seed()
        return {**losses, "loss": losses["loss"] * (1 + 0.1 * torch.rand((), generator=generator))}


class EditsBatch(Correct):
    def forward(self, batches, step):
        batches["unlabelled"].image.mul_(0.5)
        return super().forward(batches, step)


class NanWithoutLabels(Correct):
    def supervised(self, logits, batch):
        return functional.cross_entropy(logits, batch.label, ignore_index=IGNORE)

    def counts(self, batches, step):
        return {}


class WrongCounts(Correct):
    def counts(self, batches, step):
        return {"supervised": torch.tensor(float(batches["labelled"].label.numel()))}


class MisspeltCounts(Correct):
    def counts(self, batches, step):
        return {"supervized": batches["labelled"].weight.sum()}


class CountsItsSteps(Correct):
    """A ramp by a number that no checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, batches, step):
        losses = super().forward(batches, step)
        return {**losses, "loss": losses["supervised"] + min(1.0, self.steps / 5) * losses["agreement"]}

    def after_step(self):
        super().after_step()
        self.steps += 1


class KeepsTeacherInList(Correct):
    def __init__(self):
        super().__init__()
        self.slow = [self.net.weight.detach().clone()]

    def forward(self, batches, step):
        losses = super().forward(batches, step)
        pull = (self.net.weight - self.slow[0]).abs().sum()
        return {**losses, "pull": pull, "loss": losses["loss"] + pull}

    def after_step(self):
        self.slow = [self.net.weight.detach().clone()]


class GrowsBuffer(Correct):
    def __init__(self):
        super().__init__()
        self.register_buffer("bank", torch.zeros(0))

    def after_step(self):
        self.bank = torch.cat([self.bank, torch.zeros(1)])


class CountsInBuffer(CountsItsSteps):
    """A correct one: the number is in the checkpoint."""

    def __init__(self):
        super().__init__()
        del self.steps
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, batches, step):
        losses = Correct.forward(self, batches, step)
        return {**losses, "loss": losses["supervised"] + (self.steps / 5).clamp(max=1.0) * losses["agreement"]}


class CountsWhatIsOff(Correct):
    """A correct one: it counts for a term that sets in later, and not for another."""

    def counts(self, batches, step):
        return {**super().counts(batches, step), "later": torch.tensor(3.0)}


class ForgetsGroup(Correct):
    def parameter_groups(self):
        return [{"params": [self.net.weight]}]


class FrozenInGroup(Correct):
    def parameter_groups(self):
        return [{"params": list(self.parameters())}]


class PredictsLogits(Correct):
    def predict(self, batch):
        return self.net(batch.image)


class PredictsClasses(Correct):
    def predict(self, batch):
        return self.net(batch.image).argmax(1)


class SumsOverPixels(Correct):
    def predict(self, batch):
        return self.net(batch.image).softmax(0)


class PredictsBatch(Correct):
    def predict(self, batch):
        return self.net(batch.image - batch.image.mean()).softmax(1)


class KeepsMetrics(Correct):
    def __init__(self):
        super().__init__()
        self.kept = [Counter()]

    def metrics(self):
        return self.kept


class ReadsLoss(Correct):
    def forward(self, batches, step):
        losses = super().forward(batches, step)
        if losses["agreement"] > 100:
            losses["loss"] = losses["loss"] * 0.5
        return losses


class OtherRole(Correct):
    roles = ("labelled", "unlabelled", "pairs")


def batches() -> dict[str, Batch]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 1, 16, 20, generator=generator)
    label = torch.randint(0, 3, (2, 16, 20), generator=generator)
    label[:, :4] = IGNORE
    return {"labelled": Batch.of(image[:2], label=label), "unlabelled": Batch.of(image[2:])}


BROKEN = {
    NoLoss: 'return named losses with "loss" among them: it gave supervised',
    VectorLoss: "return finite scalar tensors: 'loss'",
    NumberLoss: "return finite scalar tensors: 'agreement'",
    IdleParameter: "gradient in every step: probe.weight",
    DropsTerm: "gradient in every step: head.weight",
    Unseeded: "same losses twice under one seed: 'loss'",
    EditsBatch: "leave batches as they are: unlabelled.image",
    NanWithoutLabels: "finite loss with every pixel ignored: it is nan",
    WrongCounts: "know its counts beforehand: 'supervised'",
    MisspeltCounts: "name its counts .* in step.mean.*: counts names supervized, step.mean asks for supervised",
    CountsItsSteps: "go on from a checkpoint .* 'loss': .* a buffer, or derived from step",
    KeepsTeacherInList: "go on from a checkpoint .* 'loss'",
    GrowsBuffer: "take over the state of another: .*bank",
    ForgetsGroup: r"once in parameter_groups\(\): net.bias, which is trainable, .* 0 times",
    FrozenInGroup: "teacher.weight, which is frozen, .* 1 times",
    PredictsLogits: "predict probabilities",
    PredictsClasses: "predict .B, K, H, W.",
    SumsOverPixels: "sum to 1 over the classes",
    PredictsBatch: "predict each image alone",
    KeepsMetrics: "fresh metrics",
    ReadsLoss: "never make the host wait .*test_trainers.py",
    OtherRole: "read the roles it declares: the test has no batch 'pairs'",
    Counter: "build a lamella.Trainer",
}

test_correct_trainer = trainer_contract(Correct, batches)
test_correct_buffer = trainer_contract(CountsInBuffer, batches)
test_correct_spare_count = trainer_contract(CountsWhatIsOff, batches)
test_correct_trainer_on_ready_batches = trainer_contract(Correct, batches())


@pytest.mark.parametrize("trainer", BROKEN, ids=lambda c: c.__name__)
def test_broken_promise_is_caught_and_named(trainer):
    build = trainer
    if trainer is Counter:
        build = type("Counter", (nn.Identity,), {})
    with pytest.raises(BrokenPromise, match=f"{trainer.__name__} must .*{BROKEN[trainer]}"):
        trainer_contract(build, batches)()


def test_a_sync_can_be_allowed():
    trainer_contract(ReadsLoss, batches, syncs=True)()
