"""GPU parts of targets 5, 6, 7, 8 and 10: python tests/bench/bench_gpu.py

Both sides run in turn on one device, each after a synchronisation, the order swapped every round; the figure is the
median of the rounds' ratios after two warm-ups; what has cost ten seconds ends after three rounds. Before anything is
timed, both sides have to compute the same. A part that fails prints why, and the next goes on. ``--device cpu --small``
runs everything at tiny sizes.

A script alone: it has no tests, so that ``make bench`` passes over it.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch
from gpu.fourway import fourway
from gpu.sam import kernels, lora, prompts
from gpu.semi import noise, step
from gpu.setting import GIB, Setting, say
from gpu.syncs import sync

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
