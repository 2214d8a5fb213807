"""Trainer `anchored`: weak-to-strong with the settings that its figures in docs/results.md come from."""

import tomllib
from pathlib import Path

import pytest
import torch
from lamella import Batch, Chain, Step
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.errors import ConfigError, RegistryError
from lamella.registry.registry import current
from lamella_tem.anchored import anchored
from tem_small_trainer import NAMES, Net, batches

PAPER = Path(__file__).parents[3] / "examples" / "paper"
CLASSES = ["silicon", "oxide", "defect"]


NET = {"name": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100"}


def built(start, **spec):
    """A trainer whose network begins with that of the run ``start``."""
    plan = current().plan("trainer", {**spec, "backbone": {**NET, "start": str(start)}}, "test")
    return plan.build(data={"channels": 1, "classes": len(CLASSES), "class_names": CLASSES})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("start")
    source = {"name": "synth-tem", "preset": "demo-finfet", "count": 2, "size": 64}
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": source}},
        "trainer": {"name": "supervised", "backbone": NET},
        "fit": {"steps": 1, "batch_size": 2},
    }
    fit(check_experiment(tables, name="start", folder=folder, registry=current()), folder / "run")
    return folder / "run"


def test_a_start_that_does_not_know_every_class_cannot_stay_the_teacher(start):
    """Their part of its head is random, and would be so to the end."""
    spec = {"name": "anchored", "sets": ["sample"], "backbone": {**NET, "start": str(start)}}
    data = {"channels": 1, "classes": 3, "class_names": ["Silicon", "oxide", "defect"]}
    with pytest.raises(ConfigError, match="does not know Silicon, and stays the teacher"):
        current().plan("trainer", spec, "test").build(data=data)


def given():
    torch.manual_seed(1)
    label = torch.randint(0, len(CLASSES), (4, 48, 48))
    return {
        "labelled": Batch.of(torch.rand(4, 1, 48, 48), label=label),
        "unlabelled": Batch.of(torch.rand(4, 1, 48, 48), key=torch.arange(4) + 100),
    }


def settings(trainer):
    """Every number, word and switch of it, by module."""
    return {
        f"{name}.{key}": value
        for name, module in trainer.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, int | float | str | None) and not key.startswith("_")
    }


def stepped(trainer, number):
    """Losses and gradients of one step, with the same dropout for all."""
    trainer.zero_grad()
    torch.manual_seed(number)
    losses = trainer(given(), Step(number, 9, 0))
    losses["loss"].backward()
    return losses, {name: p.grad for name, p in trainer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("file", ["table3-anchored.toml", "table3-anchored-pairs.toml", "table3-halfway.toml"])
def test_it_is_the_row_that_the_tables_show(file, share, start):
    """Those files spell every setting out, as they were run."""
    tau = {"tau": 0.35, "teacher_share": share}  # random networks are not surer of anything
    row = tomllib.loads((PAPER / file).read_text(encoding="utf-8"))["rows"]["pasted-then-anchored"]["set"]["trainer"]
    assert row["name"] == "weak-to-strong"
    row.pop("backbone")
    spelt = built(start, **row, **tau)
    named = built(start, name="anchored", **{key: row[key] for key in ("weak", "sets", "paste")}, **tau)
    assert settings(spelt) == settings(named)
    assert settings(named)["pseudo_labels.doubt"] == 16.0
    named.load_state_dict(spelt.state_dict())
    for number in range(3):
        (theirs, wanted), (ours, found) = stepped(spelt, number), stepped(named, number)
        assert set(theirs) == set(ours)
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
        assert set(wanted) == set(found)
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (NET, "trainer.backbone: 'anchored' goes on .* 'deeplabv3plus' would begin at random; give start"),
        ("sam-nano", "'sam-nano' would begin at random; give weights"),
    ],
)
def test_a_network_that_would_begin_at_random_is_refused(backbone, words):
    """Else a random network would be the teacher to the end."""
    with pytest.raises(RegistryError, match=words):
        current().plan("trainer", {"name": "anchored", "sets": ["sample"], "backbone": backbone}, "trainer")


@pytest.mark.parametrize("paste", [None, []])
def test_without_a_rare_class_nothing_is_doubted_or_capped(paste):
    torch.manual_seed(1)
    one = anchored(backbone=Net(), sets=[Chain([])], paste=paste, class_names=NAMES)
    losses = one(batches(), Step(0, 9, 0))
    assert torch.isfinite(losses["loss"])
    assert not [name for name in losses if name.startswith("rare/")]


def test_its_teacher_never_moves():
    torch.manual_seed(1)
    one = anchored(backbone=Net(), sets=[Chain([])], tau=0.34, class_names=NAMES)
    before = {name: value.clone() for name, value in one.teacher.state_dict().items()}
    one.train()(batches(), Step(0, 9, 0))["loss"].backward()
    torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.5).step()
    one.after_step()
    assert all(torch.equal(value, before[name]) for name, value in one.teacher.state_dict().items())
    assert not torch.equal(one.teacher.first[0].weight, one.student.backbone.first[0].weight)
