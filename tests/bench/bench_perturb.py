"""Speed of the camera and of shot noise beside their yardsticks: python tests/bench/bench_perturb.py

Both sides run in turn, ten rounds after a warm-up; the figure is the median of the rounds' ratios, with the
lowest and the highest. On a GPU a round is some calls of a side, waited for at its end: work is queued there while
the host prepares the next call, as in a training. Before anything is timed, both sides of the shot noise have to
agree in distribution.
Compiling takes half a minute the first time.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from lamella import Batch, Streams
from lamella.testing.no_sync import no_sync
from lamella_tem.perturbations.camera import Camera
from lamella_tem.perturbations.shot_noise import ShotNoise
from lamella_tem.sets import SETS

Run = Callable[[int], object]


def ratio(ours: Run, theirs: Run, *, rounds: int, clock: Callable[[], float]) -> tuple[float, float, float, str]:
    """Median, lowest and highest of theirs / ours, and both median times in ms."""
    ours(0), theirs(0)
    times: list[tuple[float, float]] = []
    for i in range(rounds):
        pair = []
        for run in (ours, theirs) if i % 2 else (theirs, ours):
            start = clock()
            run(i + 1)
            pair.append(clock() - start)
        times.append((pair[0], pair[1]) if i % 2 else (pair[1], pair[0]))
    ratios = [b / a for a, b in times]
    a, b = (statistics.median(side) * 1e3 for side in zip(*times))
    return statistics.median(ratios), min(ratios), max(ratios), f"{a:.2f} against {b:.2f} ms"


def agree(kernel: str, device: torch.device) -> None:
    """Means and variances of our counts and torch's agree within five standard errors, λ from 0.5 to 200."""
    for rate in (0.5, 3.0, 8.0, 50.0, 200.0):
        image = torch.full((2, 1, 512, 512), rate / 250.0, device=device)
        shot = ShotNoise(dose=(250.0, 250.0), pedestal=(0.0, 0.0), kernel=kernel)
        batch = Batch.of(image)
        counts = [_render(shot, batch, 1) * 250.0, torch.poisson(image * 250.0)]
        for count in counts:
            off = (count.mean() - rate) / (rate / count.numel()) ** 0.5
            spread = (count.var() / rate - 1) / (2 / count.numel() + 1 / (rate * count.numel())) ** 0.5
            assert max(off.abs(), spread.abs()) < 5, f"λ = {rate}: not Poisson's"


def _render(perturbation: ShotNoise, batch: Batch, seed: int) -> torch.Tensor:
    from lamella import About

    about = About(*batch.image.shape[-2:], batch.pixel_nm, batch.meta)
    streams = Streams(batch.key + seed)
    return perturbation.render(batch.image, perturbation.draw(streams.child("draw"), about), streams, about)


def kornia_chain(image: torch.Tensor) -> Run:
    """Brightness, contrast, gamma and Gaussian noise in kornia's own container."""
    import kornia.augmentation as K

    chain = K.AugmentationSequential(
        K.RandomBrightness((0.8, 1.2), p=1.0),
        K.RandomContrast((0.8, 1.2), p=1.0),
        K.RandomGamma((0.8, 1.2), p=1.0),
        K.RandomGaussianNoise(0.0, 0.05, p=1.0),
    )
    return lambda i: chain(image)


def albumentations_chain(image: torch.Tensor) -> Run | None:
    """GaussNoise and ShotNoise, image by image on the CPU; None where albumentations is not installed."""
    try:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations as A
    except ImportError:
        return None
    chain = A.Compose([A.GaussNoise(p=1.0), A.ShotNoise(p=1.0)])
    arrays = [one.permute(1, 2, 0).numpy() for one in image.cpu()]
    return lambda i: [chain(image=array)["image"] for array in arrays]


def rows(device: torch.device, rounds: int, timer: Callable[[], float]) -> list[tuple[str, str, str]]:
    """Name, target and what was measured."""
    gpu = device.type == "cuda"
    count, side = (64, 1024) if gpu else (8, 512)
    image = torch.rand(count, 1, side, side, device=device)
    batch, out, rate = Batch.of(image), torch.empty_like(image), image * 200.0

    def perturbed(perturbation: Camera | ShotNoise) -> Run:
        return lambda i: perturbation.perturb(batch, Streams(batch.key + 1000 * i))

    def clock() -> float:
        if gpu:
            torch.cuda.synchronize()
        return timer()

    camera, eager = perturbed(Camera(kernel="compiled")), perturbed(Camera(kernel="eager"))
    shot = perturbed(ShotNoise(kernel="compiled"))
    albumentations = albumentations_chain(image)
    pairs: list[tuple[str, str, Run, Run | None]] = [
        ("machine, compiled, over kornia's four intensity steps", "20× GPU, 2× CPU", camera, kornia_chain(image)),
        ("machine, eager, over kornia's four intensity steps", "none", eager, kornia_chain(image)),
        ("shot noise, compiled, over torch.poisson", "10× GPU, 4× CPU", shot, lambda i: torch.poisson(rate)),
        ("machine, compiled, over one bare normal_()", "CPU 0.33× (stretch 0.67×)", camera, lambda i: out.normal_()),
        ("machine, compiled, over albumentations' two noises", "CPU 5×", camera, albumentations),
        ("machine, compiled, over copy_", "GPU 0.45×", camera, lambda i: out.copy_(image)),
    ]
    found = []
    if gpu:
        both = [shot, lambda i: out.copy_(image)]
        pairs += [("shot noise, compiled, over copy_", "GPU 0.70×", *both)]
        pairs += [("machine, over kornia's four steps compiled", "GPU 4×", camera, torch.compile(kornia_chain(image)))]
    for name, target, ours, theirs in pairs:
        if theirs is None:
            found.append((name, target, "not installed"))
            continue
        if gpu:
            calls = 3 if "kornia" in name else 20
            ours, theirs = queued(ours, calls), queued(theirs, calls)
        middle, low, high, times = ratio(ours, theirs, rounds=rounds, clock=clock)
        found.append((name, target, f"{middle:.2f}× ({low:.2f} to {high:.2f}); {times}"))
        print("  ", *found[-1], flush=True)
    return found


def queued(run: Run, calls: int) -> Run:
    """So many calls in place of one."""
    return lambda i: [run(calls * i + k) for k in range(calls)]


def host_syncs() -> str:
    """Every set under a mode that refuses whatever makes the host wait."""
    from lamella.registry.registry import current

    batch = Batch.of(torch.rand(2, 1, 64, 64), label=torch.ones(2, 64, 64, dtype=torch.int64))
    for name in SETS:
        chain = current().plan("chain", name, name).build()
        with no_sync():
            chain(batch, Streams(batch.key))
    return "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, for machines that others use too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore", UserWarning)
    device = torch.device(options.device)
    timer = time.process_time if options.cpu_time else time.perf_counter
    agree("compiled", device)
    agree("eager", device)
    load = f", load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    kind = "CPU time" if options.cpu_time else "wall time"
    print("the counts agree with Poisson's law")
    print(f"{kind}, {device}, {options.threads} threads, torch {torch.__version__}{load}")
    for name, target, measured in rows(device, options.rounds, timer):
        print(f"{name:58} target {target:26} {measured}")
    print(f"{'host syncs in every set':58} target {'0':26} {host_syncs()}")


if __name__ == "__main__":
    main()
