"""Why does UniMatch lose a device without labels when labelled images and weak views pass through batch norm together?

    python examples/paper/unimatch_passes.py runs/table3-anchored-60-small/seed-*/labels-60/unimatch

Begins the training of each run again, four times: labelled images and weak views pass together, as in its authors'
code, or each kind by itself; pseudo-labels are those of that pass, or of one of the other kind without gradient.
Strong views pass together in all four. Every 50 steps the network, with batch norm's running statistics, is asked about
forty unlabelled images of each device, whose truth no training sees: which share of the pixels is right, and of those
at or over τ. Writes the figures of every 50 steps into --out.
"""

import argparse
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lamella import IGNORE, Batch, Step
from lamella.cli.tables import table
from lamella.data.loaders import evaluation_batches
from lamella.data.sources import open_source
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import training_batches
from lamella.engine.session import Session, prepare
from lamella.engine.update import update
from lamella.engine.whole import write_json
from lamella_tem.passes import drop_channels, statistics_left_alone
from lamella_tem.weak_to_strong import WeakToStrong
from torch import Tensor

PASSES = ("together", "apart")
EVERY = 50


def passed(trainer: WeakToStrong, image: Tensor, weak: Tensor, how: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits of labelled images and of weak views, and the features of the latter."""
    network, size = trainer.student.backbone, (weak.shape[-2], weak.shape[-1])
    if how == "together":
        both = network.encode(torch.cat([image, weak]))
        logits = network.decode(both, size)
        return logits[: len(image)], logits[len(image) :], [feature[len(image) :] for feature in both]
    features = network.encode(weak)
    return trainer.student.logits(image), network.decode(features, size), list(features)


def first_pass(
    trainer: WeakToStrong, passes: str, labels: str, labelled: Batch, weak: Batch, step: Step
) -> tuple[Tensor, Tensor, Tensor]:
    """In place of the trainer's own: L_s, p^w and the logits of the weak view under dropped features."""
    batch, label, weight = trainer.student.mixed(labelled, step)
    logits, of_weak, features = passed(trainer, batch.image, weak.image, passes)
    if labels != passes:
        with torch.no_grad(), statistics_left_alone(trainer._network()):
            of_weak = passed(trainer, batch.image, weak.image, labels)[1]
    supervised = trainer.student.judged(logits, label, weight, step)["loss"]
    size = (weak.image.shape[-2], weak.image.shape[-1])
    perturbed = trainer.student.backbone.decode(drop_channels(features, trainer.drop, weak.image.shape[1]), size)
    return supervised, of_weak.detach().float().softmax(1), perturbed


def asked(trainer: WeakToStrong, images: list[Batch], tau: float) -> dict[str, float]:
    """Shares of the pixels of some images that are right, that are sure, and of the sure ones that are right."""
    right = sure = both = known = 0
    trainer.eval()
    with torch.inference_mode():
        for batch in images:
            confidence, label = trainer.predict(batch).max(1)
            assert batch.label is not None
            inside = batch.label != IGNORE
            hit, over = (label == batch.label) & inside, (confidence >= tau) & inside
            known, right = known + int(inside.sum()), right + int(hit.sum())
            sure, both = sure + int(over.sum()), both + int((hit & over).sum())
    trainer.train()
    return {"right": right / known, "sure": sure / known, "right of the sure": both / max(sure, 1)}


def devices(session: Session) -> dict[str, list[Batch]]:
    """Forty unlabelled images with their truth, of the device that is labelled and of the other one."""
    experiment = session.experiment
    source = experiment.file.data["unlabelled"]
    found = {}
    for name, one in {"A": source.model_copy(update={"more": []}), "B": source.more[0]}.items():
        samples = open_source(one, experiment.registry, "[data.unlabelled]", folder=experiment.folder)
        found[name] = [batch for batch, _names in islice(evaluation_batches(samples, session.modality, 8), 5)]
    return found


def trained(run: Path, passes: str, labels: str, steps: int) -> list[dict[str, Any]]:
    """What the network knows of both devices, every `EVERY` steps."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        session = prepare(read_experiment(run / "experiment.toml"), Path(folder) / "run")
        trainer = session.trainer
        assert isinstance(trainer, WeakToStrong) and isinstance(trainer.pseudo_labels.tau, float)
        trainer._first_pass = partial(first_pass, trainer, passes, labels)  # type: ignore[method-assign]
        images = devices(session)
        trainer.train()
        for number, batches in training_batches(session):
            update(session, batches, number)
            if (number + 1) % EVERY == 0:
                of = {name: asked(trainer, some, trainer.pseudo_labels.tau) for name, some in images.items()}
                found.append({"passes": passes, "labels": labels, "step": number + 1, **of})
                print(run, found[-1], flush=True)
            if number + 1 == steps:
                break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=200, help=f"of each training, {EVERY} at least")
    parser.add_argument("--out", type=Path, default=Path("unimatch_passes.json"))
    given = parser.parse_args()
    if given.steps < EVERY:
        parser.error(f"--steps must be {EVERY} or more: the networks are asked every {EVERY} steps")
    lines: list[list[str]] = []
    each: dict[Path, list[dict[str, Any]]] = {}
    for run in given.runs:
        each[run] = [row for p in PASSES for q in PASSES for row in trained(run, p, q, given.steps)]
        seeds = [read_experiment(one / "experiment.toml").seed for one in each]
        write_json(given.out, {"seeds": seeds, "each": list(each.values())})
    for run, rows in each.items():
        for row in (row for row in rows if row["step"] == given.steps // EVERY * EVERY):
            of = [f"{row[name][what]:.3f}" for name in ("B", "A") for what in ("right", "right of the sure")]
            lines.append([str(run), row["passes"], row["labels"], *of])
    print(table(["run", "passes", "labels of", "B right", "of the sure", "A right", "of the sure"], lines))


if __name__ == "__main__":
    main()
