"""GPU parts of targets 5, 6, 7, 8 and 10: python tests/bench/bench_gpu.py

Both sides run in turn on one device, each after a synchronisation, the order swapped every round; the figure is the
median of the rounds' ratios after two warm-ups; what has cost ten seconds ends after three rounds. Before anything is
timed, both sides have to compute the same. A part that fails prints why, and the next goes on. ``--device cpu --small``
runs everything at tiny sizes.

A script alone: it has no tests, so that ``make bench`` passes over it.
"""

import argparse
import copy
import gc
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Run = Callable[[], object]
LONG, ENOUGH = 10.0, 3
"""Seconds after which so many rounds are enough."""
SETS = ("sample", "machine", "post")
SMALL, PAPER = "tu-mobilenetv3_small_100", "resnet50"
TINY: dict[str, Any] = {"width": 128, "heads": 2, "depth": 3, "full": (2,)}
"""What ``--small`` makes of ViT-B."""
GIB = 2**30


def say(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True)
class Setting:
    """Where and how long to measure."""

    device: torch.device
    small: bool
    rounds: int
    warm: int = 2

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, run: Run) -> float:
        """Of one run, with nothing else on the device before or after it."""
        self.wait()
        begun = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - begun

    def ratio(self, theirs: Run, ours: Run) -> tuple[float, float, float]:
        """Median of theirs / ours, and both median times in ms."""
        for _ in range(self.warm):
            theirs(), ours()
        times, started = [], time.perf_counter()
        for place in range(self.rounds):
            if place >= ENOUGH and time.perf_counter() - started > LONG:
                break
            pair = {}
            for run in (theirs, ours) if place % 2 else (ours, theirs):
                pair[run] = self.seconds(run)
            times.append((pair[theirs], pair[ours]))
        slow, fast = (median(side) * 1e3 for side in zip(*times))
        return median(a / b for a, b in times), slow, fast

    def call(self, run: Run) -> tuple[float, float]:
        """(ms until the call returns, ms until the device is done), medians."""
        for _ in range(self.warm):
            run()
        returned, done = [], []
        for _ in range(self.rounds):
            self.wait()
            begun = time.perf_counter()
            run()
            returned.append(time.perf_counter() - begun)
            self.wait()
            done.append(time.perf_counter() - begun)
        return median(returned) * 1e3, median(done) * 1e3

    def peak(self, run: Run) -> float:
        """GiB that a run needs at its highest beyond what lies there before it; nan without a GPU."""
        if not self.gpu:
            return float("nan")
        self.free()
        before = torch.cuda.memory_allocated()
        run()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / GIB

    def free(self) -> None:
        """Give back what nobody holds, and begin to look for a new peak."""
        gc.collect()
        if self.gpu:
            self.wait()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def precision(self, bf16: bool) -> Any:
        """Autocast to bfloat16, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def moved(self, batches: Mapping[str, Any]) -> dict[str, Any]:
        """Batches by role, on the device."""
        return {role: self._moved(batch) for role, batch in batches.items()}

    def _moved(self, batch: Any) -> Any:
        fields = {name: getattr(batch, name) for name in batch._fields if name != "meta"}
        there = {name: None if value is None else value.to(self.device) for name, value in fields.items()}
        return batch._replace(**there, meta={name: value.to(self.device) for name, value in batch.meta.items()})


def gib(value: float) -> str:
    return "not measured" if value != value else f"{value:.2f} GiB"


def peaks(theirs: float, ours: float) -> str:
    """Both peaks, and what share of theirs ours is."""
    share = "" if ours != ours else f", 1/{theirs / max(ours, 1e-9):.1f}"
    return f"peak {gib(theirs)} against {gib(ours)}{share}"


def named(bf16: bool) -> str:
    return "bf16 autocast" if bf16 else "fp32"


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions in float32 without tf32, so that two ways to one result can be told from two results."""
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = True  # torch's default


def agree(what: str, ours: Tensor, theirs: Tensor, tolerance: float, *, must: bool = True) -> None:
    """Both are finite and differ by at most ``tolerance`` of the largest value; without ``must`` it is only said."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    off = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))
    fine = off <= tolerance
    told = "" if fine else ": THEY DO NOT AGREE"
    say(f"  check, {what}: they differ by {off:.1e} of the largest value (allowed {tolerance:.0e}){told}")
    assert fine or not must, f"{what}: both sides do not compute the same"


# Host syncs


def place(frames: list[traceback.FrameSummary]) -> str:
    """The innermost line of lamella; without one, the innermost of all."""
    foreign = ("-packages/", "/no_sync.py", "/bench_gpu.py", "/warnings.py")
    ours = [f for f in frames if "/lamella" in _path(f) and not any(part in _path(f) for part in foreign)]
    frame = (ours or [f for f in frames if not _path(f).endswith(foreign[-1])])[-1]
    return f"{'/'.join(_path(frame).split('/')[-2:])}:{frame.lineno} ({frame.line})"


def _path(frame: traceback.FrameSummary) -> str:
    return frame.filename.replace("\\", "/")


def syncs(setting: Setting, run: Run) -> str:
    """0, or every place at which a run makes the host wait for the device (on a CPU the first)."""
    try:
        with _guard(setting, "error"):
            run()
    except (RuntimeError, AssertionError) as error:
        first = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        where = place(traceback.extract_tb(error.__traceback__))
        if setting.gpu and "synchroniz" not in str(error):
            return f"FAILED otherwise, at {where}: {first}"
        return f"NOT 0, first at {where}: {first}{_all_syncs(setting, run)}"
    hidden = _all_syncs(setting, run)  # what catches every exception, and does without
    return f"NOT 0, the error was caught:{hidden}" if hidden else "0"


@contextmanager
def _guard(setting: Setting, mode: str) -> Iterator[None]:
    """On a GPU torch's own look-out; on a CPU the stand-in of the tests."""
    if not setting.gpu:
        from lamella.testing.no_sync import no_sync

        with no_sync():
            yield
        return
    setting.wait()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _all_syncs(setting: Setting, run: Run) -> str:
    """Every place at which a run makes the host wait, with how often; on a GPU alone."""
    if not setting.gpu:
        return ""
    found: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            found[place(traceback.extract_stack()[:-1])] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        with _guard(setting, "warn"):
            run()
    return "".join(f"\n    {number} × {where}" for where, number in found.most_common())


def optimizing(setting: Setting, trainer: Any, found: Mapping[str, Any], *, bf16: bool) -> Run:
    """A whole step as the engine does it: forward, backward, clipping, fused AdamW, ``after_step``."""
    from lamella import Step
    from lamella.engine.update import _apply

    session = SimpleNamespace(
        optimizer=torch.optim.AdamW([p for p in trainer.parameters() if p.requires_grad], lr=1e-4, fused=True),
        accelerator=SimpleNamespace(num_processes=1),
        experiment=SimpleNamespace(fit=SimpleNamespace(clip=1.0)),
    )
    number = 0

    def run() -> None:
        nonlocal number
        torch.manual_seed(number)
        with setting.precision(bf16):
            losses = trainer(found, Step(number, 100, 0))
        losses["loss"].backward()
        _apply(session, losses["loss"].detach())  # type: ignore[arg-type]
        trainer.after_step()
        number += 1

    return run


def trainers(setting: Setting) -> dict[str, Callable[[], Any]]:
    """What target 5 is asked of."""
    import bench_semi
    from lamella_tem.deeplab import DeepLabV3Plus
    from lamella_tem.supervised import Supervised
    from lamella_tem.weak_to_strong import WeakToStrong

    torch.manual_seed(0)
    made = DeepLabV3Plus(encoder=SMALL if setting.small else PAPER, channels=1, classes=len(bench_semi.CLASSES))

    def network() -> Any:
        return copy.deepcopy(made)

    def both(**options: Any) -> Any:
        settings = {"select": "max-loss", "probe_scale": 0.5, "weak": chain("weak"), **options}
        sets, names = [chain(name) for name in SETS], bench_semi.CLASSES
        return WeakToStrong(backbone=network(), sets=sets, class_names=names, **settings)

    rare = {"paste": ["defect"], "doubt": 0.5, "cap": 2.0, "anchor": 0.2, "dice": True, "class_tau": True}
    return {
        "weak-to-strong": both,
        "weak-to-strong, teacher, CutMix, a set per image": lambda: both(ema=0.99, mix=0.5, per="image"),
        "weak-to-strong, rare classes, anchor, Dice": lambda: both(**rare, mix_labelled=0.5, statistics="weak"),
        "supervised": lambda: Supervised(
            backbone=network(), augment=chain("weak"), mix=0.5, paste=["defect"], class_names=bench_semi.CLASSES
        ),
    }


def chain(name: str) -> Any:
    from lamella.registry.registry import current

    return current().plan("chain", name, name).build()


def sync(setting: Setting) -> None:
    """Target 5."""
    import bench_semi

    bench_semi.SIZE, bench_semi.IMAGES = (32, 2) if setting.small else (320, 4)
    found = setting.moved(bench_semi.batches())
    for name, build in trainers(setting).items():
        for bf16 in (False, True):
            try:
                waits = waiting(setting, build().to(setting.device).train(), found, bf16=bf16)
            except Exception as error:  # one that fails costs no other its figure
                where = place(traceback.extract_tb(error.__traceback__))
                waits = f"FAILED before it was measured, at {where}: {type(error).__name__}: {error}"
            say(f"target 5, host syncs in a step, {name}, {named(bf16)}: {waits} (target 0)")
            setting.free()


def waiting(setting: Setting, trainer: Any, found: Mapping[str, Any], *, bf16: bool) -> str:
    """The host syncs of a step that others have gone before."""
    run = optimizing(setting, trainer, found, bf16=bf16)
    for _ in range(2):  # kernels are compiled, state is made
        run()
    return syncs(setting, run)


# The semi-supervised step


class Uncached(nn.Module):
    """A network that leaves no weight which autocast made without gradient to a later pass with gradient."""

    def __init__(self, net: Any):
        super().__init__()
        self.net = net

    def encode(self, image: Tensor) -> list[Tensor]:
        return self.net.encode(image)

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        logits = self.net.decode(features, size)
        if not torch.is_grad_enabled():
            torch.clear_autocast_cache()
        return logits


def gradients(net: nn.Module) -> Tensor:
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in net.parameters()])


def published_step(setting: Setting, net: nn.Module, box: Tensor, found: Any, mixed: Tensor, *, bf16: bool) -> Run:
    """Forward and backward of UniMatch's published body."""
    import bench_semi

    safe = Uncached(net)

    def run() -> Tensor:
        net.zero_grad(set_to_none=True)
        with setting.precision(bf16):
            loss = bench_semi.published(safe, found, mixed, box)
        loss.backward()
        return loss.detach()

    return run


def our_step(setting: Setting, trainer: Any, found: Any, *, bf16: bool, number: int = 0) -> Run:
    """Forward and backward of a trainer."""
    from lamella import Step

    def run() -> Tensor:
        trainer.zero_grad(set_to_none=True)
        with setting.precision(bf16):
            loss = trainer(found, Step(number, 100, 0))["loss"]
        loss.backward()
        return loss.detach()

    return run


def check_steps(setting: Setting, found: Any, mixed: Tensor, net: nn.Module, twin: nn.Module) -> None:
    """Equal losses and gradients where every pixel is trusted and nothing is mixed, so that all terms take part."""
    import bench_semi
    from lamella import Chain

    none = torch.zeros_like(found["labelled"].image[:, 0])
    with patch.object(bench_semi, "TAU", 0.0):
        trainer = bench_semi.ours([Chain([]), Chain([])], net, tau=0.0).to(setting.device)
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
    net, twin = (bench_semi.network(encoder=encoder).to(setting.device) for _ in range(2))
    check_steps(setting, found, mixed, net, twin)
    box = torch.zeros_like(mixed[:, 0])
    box[:, size // 6 : size // 2, size // 4 : 3 * size // 4] = 1.0
    trainer = bench_semi.ours([Chain([]), Chain([])], net, mix=0.5).to(setting.device)
    what = f"{encoder}, {bench_semi.IMAGES} + {bench_semi.IMAGES} at {size}²"
    for name, theirs_bf16, ours_bf16, target in (
        ("like for like, fp32", False, False, "1.3"),
        ("like for like, bf16 autocast", True, True, "1.3"),
        ("each at its best, theirs fp32 as published, ours bf16 autocast", False, True, "2"),
    ):
        theirs = published_step(setting, twin, box, found, mixed, bf16=theirs_bf16)
        ours = our_step(setting, trainer, found, bf16=ours_bf16)
        gain, slow, fast = setting.ratio(theirs, ours)
        say(f"target 6, published step / ours, {name}: {gain:.2f}× (target ≥ {target}; {what}; {slow:.1f} against "
            f"{fast:.1f} ms, {peaks(setting.peak(theirs), setting.peak(ours))})")  # fmt: skip


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


# Segment Anything


def networks(setting: Setting, size: int, rank: int) -> tuple[Any, Any]:
    """(theirs, ours): the same weights with segment_anything's attention and peft, and with ours."""
    import bench_sam
    from lamella_sam.lora import add_lora
    from lamella_sam.vit import VIT_B, build
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    variant = replace(VIT_B, **TINY) if setting.small else VIT_B
    ours, theirs = (build(variant, "none", size, table=size) for _ in range(2))
    for name, parameter in ours.image_encoder.named_parameters():
        if "pos" in name:  # they begin as zeros, and would not be checked
            nn.init.normal_(parameter, std=0.1)
    theirs.load_state_dict(ours.state_dict())
    add_lora(ours, rank=rank, alpha=float(rank))
    bench_sam.unfolded(theirs).requires_grad_(False)
    adapters = LoraConfig(r=rank, lora_alpha=rank, target_modules=r"image_encoder\.blocks\.\d+\.attn\.qkv")
    inject_adapter_in_model(adapters, theirs)
    return theirs.to(setting.device).train(), ours.to(setting.device).train()


def lora_step(setting: Setting, net: Any, image: Tensor, wanted: Tensor, *, bf16: bool) -> Run:
    def run() -> None:
        net.zero_grad(set_to_none=True)
        with setting.precision(bf16):
            loss = (net.embed(image) * wanted).sum()
        loss.backward()

    return run


def check_embeddings(setting: Setting, theirs: Any, ours: Any, image: Tensor) -> Tensor:
    """Equal embeddings in float32; returns one of them."""
    with torch.no_grad(), exact():
        one, other = ours.embed(image), theirs.embed(image)
    agree("embedding, fp32", one, other, 1e-4)
    with torch.no_grad(), setting.precision(True):
        apart = [float((net.embed(image).float() - other).norm() / other.norm()) for net in (theirs, ours)]
    say(f"  in bf16 autocast, ‖off‖/‖embedding‖ from fp32: theirs {apart[0]:.1e}, ours {apart[1]:.1e}")
    return other


def compare_lora(setting: Setting, batch: int) -> None:
    size, rank = (320 if setting.small else 1024), 32
    theirs, ours = networks(setting, size, rank)
    image = torch.rand(batch, 3, size, size).to(setting.device)
    wanted = torch.randn_like(check_embeddings(setting, theirs, ours, image))
    what = f"rank {rank}, {size}², batch {batch}"
    for name, theirs_bf16, ours_bf16 in (
        ("(a) fp32 both", False, False),
        ("(b) bf16 autocast both", True, True),
        ("(c) theirs fp32 eager, ours bf16 autocast", False, True),
    ):
        one = lora_step(setting, theirs, image, wanted, bf16=theirs_bf16)
        two = lora_step(setting, ours, image, wanted, bf16=ours_bf16)
        gain, slow, fast = setting.ratio(one, two)
        say(f"target 7, LoRA step, {name}, {what}: {gain:.2f}× (target ≥ 4; {batch * 1e3 / slow:.2f} against "
            f"{batch * 1e3 / fast:.2f} images/s, {slow:.1f} against {fast:.1f} ms), "
            f"{peaks(setting.peak(one), setting.peak(two))} (target ≤ 1/4)")  # fmt: skip


def lora(setting: Setting) -> None:
    """Target 7."""
    for batch in (1,) if setting.small else (2, 8):
        lora_of(setting, batch)


def lora_of(setting: Setting, batch: int) -> None:
    while True:
        try:
            compare_lora(setting, batch)
            return
        except torch.cuda.OutOfMemoryError as error:
            say(f"target 7: a batch of {batch} does not fit ({str(error).partition(chr(10))[0]})")
        if batch == 1:
            return
        batch //= 2
        say(f"target 7: again for both with a batch of {batch}")
        setting.free()


def kernels(setting: Setting) -> None:
    """What each of torch's attention kernels takes for the shapes of target 7, forward and backward.

    The last part: a kernel that breaks takes the device with it.
    """
    from torch.nn.attention import SDPBackend

    for name, (q, k, v) in attention_shapes(setting).items():
        for width, what in ((v[-1], "values as the encoder has them, padded"), (64, "values not padded")):
            tensors = [
                torch.randn(shape, dtype=torch.bfloat16, device=setting.device).mul_(scale).requires_grad_()
                for shape, scale in ((q, 0.1), (k, 1.0), ((*v[:-1], width), 1.0))
            ]
            say(f"attention, {name}, bf16, q {q}, v {tuple(tensors[2].shape)}, {what}; torch takes {choice(tensors)}")
            for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
                if (kernel := getattr(SDPBackend, backend, None)) is not None:
                    say(f"  {backend:20} {kernel_time(setting, kernel, tensors)}")
            del tensors
            setting.free()


def attention_shapes(setting: Setting) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Shapes of q, k and v that the encoder hands to torch's attention in bf16, by kind of block."""
    import lamella_sam.encoder as encoder
    from lamella_sam.vit import VIT_B, build

    batch, size = (1, 320) if setting.small else (2, 1024)
    net = build(replace(VIT_B, **TINY) if setting.small else VIT_B, "none", size, table=size).to(setting.device)
    seen: dict[tuple[tuple[int, ...], ...], None] = {}
    plain = encoder.scaled_dot_product_attention

    def note(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        assert q.dtype == torch.bfloat16 and options == {"scale": 1.0}, (q.dtype, options)
        seen[tuple(q.shape), tuple(k.shape), tuple(v.shape)] = None
        return plain(q, k, v, **options)

    with patch.object(encoder, "scaled_dot_product_attention", note), torch.no_grad(), setting.precision(True):
        net.embed(torch.rand(batch, 3, size, size).to(setting.device))
    found = sorted(seen, key=lambda shapes: -shapes[0][2])  # most tokens first: the global blocks
    return dict(zip(("global blocks", "windows", "a third kind"), found))


def choice(tensors: list[Tensor]) -> str:
    """The kernel that torch takes by itself."""
    from torch.nn.attention import SDPBackend

    try:
        number = int(torch._fused_sdp_choice(*tensors, scale=1.0))  # type: ignore[attr-defined]
    except Exception as error:
        return f"unknown ({type(error).__name__})"
    names = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
    return names.get(number, str(number))


def kernel_time(setting: Setting, kernel: Any, tensors: list[Tensor]) -> str:
    """ms of forward and of both passes of a kernel and how far it is off float32, or why it does not run."""
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    wanted = torch.randn_like(tensors[2])

    def forward() -> Tensor:
        with sdpa_kernel([kernel]):
            return scaled_dot_product_attention(*tensors, scale=1.0)

    def both() -> None:
        torch.autograd.grad(forward(), tensors, wanted)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            both()
        except RuntimeError as error:
            reasons = [str(w.message).partition(" (Triggered")[0] for w in told]
            return "refused: " + " | ".join([str(error).partition(chr(10))[0], *dict.fromkeys(reasons)])[:600]
    one, whole = (setting.call(run)[1] for run in (forward, both))
    head = [t[:1, :1].detach().float() for t in tensors]
    right = (head[0] @ head[1].transpose(-2, -1)).softmax(-1) @ head[2]
    off = float((forward()[:1, :1].float() - right).norm() / right.norm())
    return f"{one:.3f} ms forward, {whole:.3f} ms with backward; off float32 by {off:.1e}; {gib(setting.peak(both))}"


def compare_prompts(setting: Setting, name: str, net: Any, image: Tensor, *, plain: bool, bf16: bool) -> None:
    """Target 8 for one network: many prompts in one pass, against a call each, and one embedding and a loop.

    ``plain``: a call is ``segment_anything``'s own; sam-nano, which also draws its prompts, is asked one by one.
    """
    from lamella_sam.prompts import point_prompts

    number, size = (4 if setting.small else 32), (image.shape[-2], image.shape[-1])
    points = (torch.rand(1, number, 1, 2) * size[0]).to(setting.device)
    prompts = point_prompts(points, torch.ones(1, number, 1, dtype=torch.int64, device=setting.device), size)
    one = [prompts.select(slice(i, i + 1)) for i in range(number)]

    def theirs(embedding: Tensor, prompt: Any) -> Tensor:
        if not plain:
            return net.masks(embedding, prompt)[0][0]
        encoder = net.prompt_encoder
        sparse, dense = encoder((prompt.points[0, :, :1], prompt.labels[0, :, :1]), None, None)
        return net.mask_decoder.predict_masks(embedding, encoder.get_dense_pe(), sparse, dense)[0]

    def looped() -> list[Tensor]:
        embedding = net.embed(image)
        return [theirs(embedding, prompt) for prompt in one]

    def inside(run: Callable[[], Any]) -> Callable[[], Any]:
        def wrapped() -> Any:
            with setting.precision(bf16):
                return run()

        return wrapped

    ours = inside(lambda: net.masks(net.embed(image), prompts)[0][0])
    with exact():
        agree(f"masks, {named(bf16)}", ours(), torch.cat(inside(looped)()), 1e-1 if bf16 else 1e-4, must=not bf16)
    called = inside(lambda: [theirs(net.embed(image), prompt) for prompt in one])
    for what, target, run in ((f"{number} calls", 20, called), (f"one encode + {number} decodes", 3, inside(looped))):
        gain, slow, fast = setting.ratio(run, ours)
        say(f"target 8, {name}, {named(bf16)}: {what} / one pass {gain:.1f}× (target ≥ {target}; {slow:.1f} against "
            f"{fast:.1f} ms)")  # fmt: skip
    parts = [setting.call(inside(run))[1] for run in (lambda: net.embed(image), decoding(net, image, prompts))]
    say(f"  of one pass: embedding {parts[0]:.2f} ms, {number} masks at once {parts[1]:.2f} ms")


def decoding(net: Any, image: Tensor, prompts: Any) -> Run:
    embedding = net.embed(image)
    return lambda: net.masks(embedding, prompts)


@torch.no_grad()
def prompts(setting: Setting) -> None:
    """Target 8."""
    from lamella_sam.nano.network import sam_nano
    from lamella_sam.vit import VIT_B, build

    torch.manual_seed(0)
    size = 256 if setting.small else 1024
    variant = replace(VIT_B, **TINY) if setting.small else VIT_B
    nano = sam_nano(weights="none", size=128).eval().to(setting.device)
    vit = build(variant, "none", size, table=size).eval().to(setting.device)
    for bf16 in (False, True):
        grey, colour = torch.rand(1, 1, 128, 128).to(setting.device), torch.rand(1, 3, size, size).to(setting.device)
        compare_prompts(setting, f"ViT-B {size}²", vit, colour, plain=True, bf16=bf16)
        compare_prompts(setting, "sam-nano 128²", nano, grey, plain=False, bf16=bf16)


# Equation 9


def fourway(setting: Setting) -> None:
    """Target 10."""
    import bench_sem

    def features(images: int) -> list[Tensor]:
        return [each.detach().to(setting.device).requires_grad_() for each in bench_sem.features(images)]

    def loss(body: Any, pair: list[Tensor]) -> Tensor:
        with torch.device(setting.device):  # four_blocks says of no tensor where it lies
            return body(*pair, 0.1)

    few = features(256)
    ours, theirs = (torch.autograd.grad(loss(f, few), few) for f in (bench_sem.one_pass, bench_sem.four_blocks))
    for name, one, other in zip(("high", "low"), ours, theirs):
        agree(f"gradient at 256, {name}", one, other, 1e-4)
    images = 512 if setting.small else 16384
    pair = features(images)

    def both(body: Any) -> Run:
        def run() -> None:
            pair[0].grad = pair[1].grad = None
            loss(body, pair).backward()

        return run

    with torch.no_grad():
        agree(f"loss at {images}", loss(bench_sem.one_pass, pair), loss(bench_sem.four_blocks, pair), 1e-4)
    one, blocks = both(bench_sem.one_pass), both(bench_sem.four_blocks)
    gain, slow, fast = setting.ratio(blocks, one)
    say(f"target 10, four-way loss, {images} of each magnification, width 128, fp32: {1 / gain:.2f} of the time "
        f"(target ≤ 1; {fast:.1f} against {slow:.1f} ms), {peaks(setting.peak(blocks), setting.peak(one))} "
        "(target ≤ 1/20)")  # fmt: skip
    for rows in (128, 256, 512, 1024):
        run = both(tiled(rows))
        for _ in range(setting.warm):
            run()
        spent, high = median(setting.seconds(run) for _ in range(setting.rounds)), setting.peak(run)
        say(f"  in tiles of {rows:4} rows: {spent * 1e3:.1f} ms, peak {gib(high)}")


def tiled(rows: int) -> Any:
    """The loss in one pass, so many rows of the Gram matrix at a time."""
    from lamella_sem.four_way import four_way

    def body(high: Tensor, low: Tensor, temperature: float) -> Tensor:
        defect = torch.arange(len(high) // 2, device=high.device)
        loss = four_way(high, low, temperature=temperature, defect=defect, tile=rows)
        return (loss.total / loss.count).mean()

    return body


PARTS: dict[str, Callable[[Setting], None]] = {
    "sync": sync, "step": step, "noise": noise, "lora": lora, "prompts": prompts, "fourway": fourway,
    "kernels": kernels,
}  # fmt: skip


def header(setting: Setting) -> str:
    versions = f"torch {torch.__version__}, python {sys.version.split()[0]}"
    if not setting.gpu:
        return f"{versions}, CPU, {torch.get_num_threads()} threads"
    kind, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / GIB
    return f"{versions}, {kind}, {memory:.0f} GiB; where timed, fp32 is torch's default: convolutions in tf32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--rounds", type=int, help="7, or 1 with --small")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    warnings.simplefilter("ignore", UserWarning)
    rounds = options.rounds or (1 if options.small else 7)
    setting = Setting(torch.device(options.device), options.small, rounds, 1 if options.small else 2)
    say(header(setting))
    for name in chosen:
        say(f"== {name}")
        begun = time.perf_counter()
        try:
            PARTS[name](setting)
        except Exception:
            say(f"{name} FAILED\n{traceback.format_exc()}")
        setting.free()
        say(f"== {name} took {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
