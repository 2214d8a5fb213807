"""Target 6: the semi-supervised step against UniMatch's published body, and with against without noise."""

import itertools
import traceback
from typing import Any
from unittest.mock import patch

import torch
from gpu.setting import Run, Setting, agree, exact, named, peaks, say
from gpu.syncs import PAPER, SETS, SMALL, chain, place, syncs
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def gradients(net: nn.Module) -> Tensor:
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in net.parameters()])


def published_step(setting: Setting, net: nn.Module, box: Tensor, found: Any, mixed: Tensor, *, bf16: bool) -> Run:
    """Forward and backward of UniMatch's published body."""
    import bench_semi

    def run() -> Tensor:
        net.zero_grad(set_to_none=True)
        with setting.precision(bf16):
            loss = bench_semi.published(net, found, mixed, box)
        loss.backward()
        return loss.detach()

    return run


def our_step(setting: Setting, trainer: Any, found: Any, *, bf16: bool, number: int | None = 0) -> Run:
    """Forward and backward of a trainer, always in the step of one number, or from step to step where that is None."""
    from lamella import Step

    numbers = itertools.count() if number is None else itertools.repeat(number)

    def run() -> Tensor:
        trainer.zero_grad(set_to_none=True)
        with setting.precision(bf16):
            loss = trainer(found, Step(next(numbers), 100, 0))["loss"]
        loss.backward()
        return loss.detach()

    return run


def check_steps(setting: Setting, found: Any, mixed: Tensor, net: nn.Module, twin: nn.Module) -> None:
    """Equal losses and gradients where every pixel is trusted and nothing is mixed, so that all terms take part."""
    import bench_semi
    from lamella import Chain

    none = torch.zeros_like(found["labelled"].image[:, 0])
    with patch.object(bench_semi, "TAU", 0.0):
        trainer = bench_semi.ours([Chain([]), Chain([])], net, tau=0.0, statistics="all").to(setting.device)
        for bf16, for_loss, for_gradient in ((False, 1e-4, 1e-2), (True, 2e-2, 1e-1)):
            with exact():
                losses = [
                    our_step(setting, trainer, found, bf16=bf16)(),
                    published_step(setting, twin, none, found, mixed, bf16=bf16)(),
                ]
            agree(f"loss, {named(bf16)}", losses[0], losses[1], for_loss, must=not bf16)
            agree(f"gradient, {named(bf16)}", gradients(net), gradients(twin), for_gradient, must=not bf16)


def step(setting: Setting) -> None:
    """Target 6, first half; a few images to a step leave a GPU waiting for the host, many do not."""
    for images in (2,) if setting.small else (4, 16):
        compare_steps(setting, images)


def compare_steps(setting: Setting, images: int) -> None:
    import bench_semi
    from lamella import Chain

    size = bench_semi.SIZE = 32 if setting.small else 320
    bench_semi.IMAGES = images
    found, mixed = setting.moved(bench_semi.batches()), setting.moved(bench_semi.batches(1))["unlabelled"].image
    encoder = SMALL if setting.small else PAPER
    net, twin = (make(encoder=encoder).to(setting.device) for make in (bench_semi.network, bench_semi.package_network))
    check_steps(setting, found, mixed, net, twin)
    box = torch.zeros_like(mixed[:, 0])
    box[:, size // 6 : size // 2, size // 4 : 3 * size // 4] = 1.0
    trainers = {
        views: bench_semi.ours([Chain([]), Chain([])], net, mix=0.5, statistics="all", **options).to(setting.device)
        for views, options in (("both strong views", {}), ("the engaged set alone", bench_semi.ENGAGED))
    }
    what = f"{encoder}, {bench_semi.IMAGES} + {bench_semi.IMAGES} at {size}²"
    for name, theirs_bf16, ours_bf16, target in (
        ("like for like, fp32", False, False, "1.3"),
        ("like for like, bf16 autocast", True, True, "1.3"),
        ("each at its best, theirs fp32 as published, ours bf16 autocast", False, True, "2"),
    ):
        theirs = published_step(setting, twin, box, found, mixed, bf16=theirs_bf16)
        for views, trainer in trainers.items():
            ours = our_step(setting, trainer, found, bf16=ours_bf16, number=None)
            gain, slow, fast = setting.ratio(theirs, ours)
            say(f"target 6, published step / ours, {views}, {name}: {gain:.2f}× (target ≥ {target}; {what}; "
                f"{slow:.1f} against {fast:.1f} ms, {peaks(setting.peak(theirs), setting.peak(ours))})")  # fmt: skip


# What perturbations cost


class Counted(TorchDispatchMode):
    """Counts torch's operations, launches of Triton left out."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def operations(run: Run) -> int:
    with Counted() as counter:
        run()
    return counter.number


def alone(setting: Setting, run: Run) -> tuple[float, float, int]:
    """(ms until done, ms until returned, operations) of a perturbation or chain."""
    with torch.no_grad():
        returned, done = setting.call(run)
        return done, returned, operations(run)


def calls_alone(setting: Setting, batch: Any) -> None:
    """What every chain and every perturbation costs by itself."""
    import lamella
    from lamella import Step, Streams
    from lamella.registry.registry import current

    what = f"{tuple(batch.image.shape)}"
    for name in (*SETS, "weak", "tem-strong"):
        made = chain(name).to(setting.device)
        whole = alone(setting, lambda made=made: made(batch, Step(0, 100, 0).streams(batch, "strong 0")))
        say("noise, chain {}: {:.2f} ms a call, returned after {:.2f}, {} operations, {}".format(name, *whole, what))
    found = []
    for component in current().components("perturbation"):
        name, ids = component.full_name, batch.key + 1000
        try:
            made = lamella.build("perturbation", name).to(setting.device)
            run = lambda made=made, ids=ids: made.perturb(batch, Streams(ids))  # noqa: E731
            found.append((*alone(setting, run), name, syncs(setting, run)))
        except Exception as error:  # one that fails costs no other its figure
            say(f"noise, {name}: FAILED, {type(error).__name__}: {error}")
    for done, returned, number, name, waits in sorted(found, reverse=True):
        say(f"noise, {name:22} {done:8.3f} ms a call, returned after {returned:8.3f}, {number:4} operations, "
            f"host syncs {waits}")  # fmt: skip


def by_set(trainer: Any) -> list[int]:
    """A step number for each set, at which it is the one engaged by chance."""
    from lamella import Step

    chosen = [trainer.choice.by_chance(Step(number, 100, 0)) for number in range(100)]
    return [chosen.index(each) for each in range(len(SETS))]


def noise(setting: Setting) -> None:
    """Target 6, second half."""
    import bench_semi
    from lamella import Chain

    bench_semi.SIZE, bench_semi.IMAGES = (32, 2) if setting.small else (320, 8)
    found = setting.moved(bench_semi.batches())
    calls_alone(setting, found["labelled"])
    net = bench_semi.network(encoder=SMALL if setting.small else PAPER).to(setting.device)
    sets = [chain(name) for name in SETS]
    for select, more in (("random", {}), ("max-loss", {"probe_scale": 0.5})):
        plain, noisy = (
            bench_semi.ours(these, net, select=select, **more).to(setting.device) for these in ([Chain([])] * 3, sets)
        )
        numbers = by_set(noisy)
        each = dict(zip(SETS, ([number] for number in numbers)))
        cases = {f"each of {', '.join(SETS)} once": numbers, **each} if select == "random" else {"all tried": [0]}
        for label, chosen in cases.items():
            compare_noise(setting, f"{select}, {label}", (plain, noisy), found, chosen)


def compare_noise(setting: Setting, what: str, pair: tuple[Any, Any], found: Any, numbers: list[int]) -> None:
    """What the second trainer's steps of these numbers cost over the first's: in bf16, or if that fails in fp32."""
    shape = tuple(found["labelled"].image.shape)
    for bf16 in (True, False):
        without, within = (cycle(setting, trainer, found, numbers, bf16=bf16) for trainer in pair)
        try:
            cost, slow, fast = setting.ratio(within, without)
        except Exception as error:
            where = place(traceback.extract_tb(error.__traceback__))
            say(f"target 6, with perturbations, {what}, {named(bf16)}: FAILED at {where}: {error}")
            continue
        say(f"target 6, step with perturbations / without, {what}: {cost:.3f} (target ≤ 1.03; twice {shape}, "
            f"{named(bf16)}; {slow / len(numbers):.1f} against {fast / len(numbers):.1f} ms a step)")  # fmt: skip
        return


def cycle(setting: Setting, trainer: Any, found: Any, numbers: list[int], *, bf16: bool) -> Run:
    """One step after the other, as a training does them; the host waits for none."""
    runs = [our_step(setting, trainer, found, bf16=bf16, number=number) for number in numbers]
    return lambda: [run() for run in runs]
