"""Do cheap trials of the perturbation sets choose the set that whole ones do?

    python examples/paper/cheap_probes.py runs/table3-doubted-small/seed-*/all/weak-to-strong

Asks trained weak-to-strong runs, on batches of their unlabelled images in training mode: in how many the set of highest
loss is that of a trial of all images at full size. Chance is one over the number of sets.
"""

import argparse
from pathlib import Path

import torch
from lamella import Batch, Mean, Step
from lamella.cli.tables import table
from lamella.data.loaders import evaluation_batches
from lamella.engine.run import open_run
from lamella_tem.consistency import pseudo_label
from lamella_tem.passes import weak_pass
from lamella_tem.weak_to_strong import WeakToStrong

CHEAP = {
    "half the size": {"probe_scale": 0.5},
    "two images of the batch": {"probe_images": 2},
    "one image of the batch": {"probe_images": 1},
}


def chosen(trainer: WeakToStrong, views: list[Batch], **settings: float) -> int:
    """The set of highest loss under a way of trying them."""
    for name, value in {"probe_scale": 1.0, "probe_images": None, **settings}.items():
        setattr(trainer.choice, name, value)
    tried = torch.stack(trainer.choice.probe(views, trainer.student)).sum(2)
    return int(Mean(*tried).value().argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    given = parser.parse_args()
    agreed, seen, total = dict.fromkeys(CHEAP, 0), {}, 0
    for run in given.runs:
        experiment, trainer, modality, _ = open_run(run)
        assert isinstance(trainer, WeakToStrong), f"{run} is no weak-to-strong run"
        trainer.train()
        data = evaluation_batches(experiment.open("unlabelled"), modality, given.batch_size)
        for number, (batch, _names) in zip(range(given.batches), data):
            step = Step(number, given.batches, 0)
            with torch.no_grad():
                weak = trainer._weakened(batch, step)
                p_w, _ = weak_pass(trainer.student.backbone, weak.image, teacher=trainer.teacher)
                target = pseudo_label(weak, p_w, trainer.pseudo_labels.threshold(p_w))
                views = trainer.choice.views(target, step)
                whole = chosen(trainer, views)
                for name, settings in CHEAP.items():
                    agreed[name] += chosen(trainer, views, **settings) == whole
            seen[whole] = seen.get(whole, 0) + 1
            total += 1
    lines = [[name, f"{count}/{total} = {count / total:.2f}"] for name, count in agreed.items()]
    print(table(["sets tried on", "the same choice"], lines))
    print("chosen by whole trials:", ", ".join(f"set {k + 1} in {seen[k]}" for k in sorted(seen)))


if __name__ == "__main__":
    main()
