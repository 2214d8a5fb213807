"""Target 5: host syncs in a training step, and where they are."""

import copy
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from gpu.setting import Run, Setting, named, say

SETS = ("sample", "machine", "post")
SMALL, PAPER = "tu-mobilenetv3_small_100", "resnet50"


def place(frames: list[traceback.FrameSummary]) -> str:
    """The innermost line of lamella; without one, the innermost of all."""
    foreign = ("-packages/", "/no_sync.py", "/bench/", "/warnings.py")
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
