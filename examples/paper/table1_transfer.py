"""Figure 8: runs trained on product A, on the next products of the same device: truth, prediction, difference.

    python examples/paper/table1_transfer.py runs/table1-small/seed-0/all/{deeplab,sesami-box} --device gaa

Measures every run on new images of generations A, B and C of a device, in the run's own classes, and draws one image
of each: not chosen by eye, but the one at the middle of the last run's mIoU. Writes transfer.json and transfer.png
into --out. A run that answers prompts gets the prompts of its `answer`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from lamella.cli.tables import table
from lamella.data.loaders import evaluation_batches
from lamella.data.sources import SourceConfig, open_source
from lamella.engine.metrics import confusion, iou_of
from lamella.engine.pictures import difference_picture, label_picture, panel_row, stack
from lamella.engine.run import open_run
from lamella.engine.session import make_accelerator
from lamella.engine.whole import write_json


def images(preset: str, classes: list[str], options: argparse.Namespace, registry: Any) -> Any:
    """New images of a product, their labels in a run's classes."""
    of = {"name": "synth-tem", "count": options.images, "seed": options.seed, "size": options.size}
    source = {"name": "joined", "of": of, "over": "preset", "values": [preset], "classes": classes}
    return open_source(SourceConfig(source=source), registry, preset, folder=Path())


def answers(run: Path, presets: list[str], options: argparse.Namespace) -> dict[str, list[dict]]:
    """By preset, for every image what a run makes of it and how good that is."""
    experiment, trainer, modality, header = open_run(run)
    device = make_accelerator(experiment.fit.precision).device
    trainer.to(device)
    classes, found = header["data"]["class_names"], {}
    for preset in presets:
        found[preset] = []
        samples = images(preset, classes, options, experiment.registry)
        for batch, names in evaluation_batches(samples, modality, 8):
            with torch.inference_mode():
                predicted = trainer.predict(send_to_device(batch, device)).argmax(1).cpu()
            each = iou_of(confusion(predicted, batch.label, len(classes))).nanmean(1)
            for i, name in enumerate(names):
                picture = modality.picture(batch.image[i])
                found[preset].append(
                    {"name": name, "image": picture, "label": batch.label[i].numpy(), "classes": classes}
                    | {"predicted": predicted[i].numpy(), "miou": each[i].item(), "nm": batch.pixel_nm[i, 1].item()}
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--device", default="finfet")
    parser.add_argument("--out", type=Path, default=Path("runs/table1-transfer"))
    for name, value in {"images": 40, "seed": 7, "size": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    presets = [f"{options.device}-{generation}" for generation in "abc"]
    found = {run.name: answers(run, presets, options) for run in options.runs}
    means = {run: {p: float(np.mean([one["miou"] for one in f[p]])) for p in presets} for run, f in found.items()}
    print(table(["mIoU per image", *presets], [[r, *(f"{m[p]:.3f}" for p in presets)] for r, m in means.items()]))
    strips, last = [], list(found.values())[-1]
    classes = last[presets[0]][0]["classes"]
    for preset in presets:
        middle = int(np.argsort([one["miou"] for one in last[preset]])[options.images // 2])
        shown = [f[preset][middle] for f in found.values()]
        panels = [(shown[0]["name"], shown[0]["image"]), ("label", label_picture(shown[0]["label"], classes))]
        for name, one in zip(found, shown):
            panels.append((f"{name}: mIoU {one['miou']:.2f}", label_picture(one["predicted"], one["classes"])))
            panels.append(("difference", difference_picture(one["image"], one["label"], one["predicted"])))
        strips.append(panel_row(panels, pixel_nm=shown[0]["nm"]))
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("device", "images", "seed", "size")}
    write_json(options.out / "transfer.json", {"settings": settings, "miou_per_image": means})
    stack(strips, classes).save(options.out / "transfer.png")
    print(f"pictures: {options.out / 'transfer.png'}")


if __name__ == "__main__":
    main()
