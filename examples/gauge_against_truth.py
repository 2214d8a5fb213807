"""What `lamella gauge` says of repeats, beside repeats that were really taken: synthetic devices exposed again.

    python examples/gauge_against_truth.py runs/my-run --preset device-a

For every figure of every class: σ of the repeats by the gauge study, from one exposure of each device, and σ over
exposures of the same devices, of which nothing but the noise is new. Prints a table and the median of their ratios.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from lamella import Batch, Chain, Sample, build
from lamella.cli.tables import table
from lamella.engine.run import open_run
from lamella.engine.trust.gauge import FIGURES, Measurer, Study, summary, trials
from lamella.measure.columns import with_structures
from lamella_synth.presets import preset
from lamella_synth.tem.render import render


class Exposures:
    """In place of a `Study`: repeats that are other exposures of the same device, not noise that is added to one."""

    setups = 2

    def __init__(self, measurer: Measurer, samples: Sequence[Sequence[Sample]]):
        self.measurer, self.repeats = measurer, len(samples) // self.setups
        self.taken = {one.key: [exposure[i] for exposure in samples] for i, one in enumerate(samples[0])}

    def views(self, batch: Batch) -> Iterator[tuple[int, int, Batch]]:
        for number, sample in enumerate(self.taken[int(batch.key)]):
            yield number // self.repeats, number % self.repeats, self.measurer.batch(sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", default="device-a")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--exposures", type=int, default=10, help="of each image; an even number")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=500)
    told = parser.parse_args()
    experiment, trainer, modality, header = open_run(told.run)
    tile = experiment.fit.tile_for(trainer)
    classes = header["data"]["class_names"]
    measurer = Measurer(trainer, modality, torch.device("cpu"), classes, with_structures(classes), tile)

    def sample(index: int, exposure: int) -> Sample:
        shot = render(preset(told.preset), seed=told.seed, index=index, size=told.size, exposure=exposure)
        polarity = {"polarity": 1.0 if shot.mode == "haadf" else -1.0}
        return Sample(shot.image, None, None, index, 0, (shot.pixel_nm,) * 2, polarity, f"device {index}")

    taken = [[sample(index, exposure) for index in range(told.images)] for exposure in range(told.exposures)]
    first = {one.name: one for one in taken[0]}
    simulated = Study(Chain([]), Chain([build("perturbation", "own-noise")]), setups=2, repeats=told.exposures // 2)
    found = []
    with torch.inference_mode():
        for study in (simulated, Exposures(measurer, taken)):
            rows = trials(study, measurer, first, lambda done: None)
            found.append({(row["class"], row["figure"]): row["repeatability"] for row in summary(rows, study)})
    both = [key for key in found[0] if found[1].get(key, 0) > 0 and key[1] in FIGURES]
    if not both:
        raise SystemExit(f"{told.run} measures nothing on {told.preset} that both studies see vary; train it longer")
    ratios = {key: found[0][key] / found[1][key] for key in both}
    lines = [[" ".join(key), *(f"{one[key]:.3f}" for one in found), f"{ratios[key]:.2f}"] for key in both]
    print(table(["class, figure", "σ by gauge", "σ of exposures", "ratio"], lines))
    print(f"median ratio {median(ratios.values()):.2f}, from {min(ratios.values()):.2f} to {max(ratios.values()):.2f}")


if __name__ == "__main__":
    main()
