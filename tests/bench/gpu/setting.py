"""Where, how long and behind which checks both sides of a comparison are measured."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], object]
LONG, ENOUGH = 10.0, 3
"""Seconds after which so many rounds are enough."""
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
