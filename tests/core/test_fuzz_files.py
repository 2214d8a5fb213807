"""Damaged files of every format: a clear error or an image, never a crash, a hang, or memory without bound.

A seed per format is written here where a writer is at hand, or is one of the real files beside this checkout.
``LAMELLA_FUZZ=2000 pytest -s tests/core/test_fuzz_files.py`` tries so many damages of every file, in a process of its
own that watches its memory (2 GiB), its time (10 s a file) and what it starts or writes, and prints the counts.
"""

import json
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from lamella.data.formats.files import SUFFIXES
from PIL import Image

REAL = Path(__file__).parents[3] / "shared" / "data" / "microscope_formats"
COUNT = int(os.environ.get("LAMELLA_FUZZ", "25"))

TRY = r'''
import json, os, random, signal, sys, time, warnings
warnings.simplefilter("ignore")
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]) << 30,) * 2)
except ImportError:  # Windows
    resource = None
from pathlib import Path
from lamella.data.formats.files import count_frames, read_micrograph
from lamella.errors import DataError
from lamella.data.formats.rosetta import READERS

# What libraries do once by themselves, and is not watched for: dask pickles functions of its own, platform asks uname.
import platform

platform.processor()
try:
    import dask.array, dask.delayed
except ImportError:
    pass

def damaged(data, chance):
    """Cut short, bytes changed (most of them in the header), runs of 0 or 255, parts moved or doubled."""
    data = bytearray(data)
    kind = chance.randrange(6)
    head = min(len(data), 4096)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.choice([1, 1, 2, 4, 16, 64])):
        at = chance.randrange(head if chance.random() < 0.8 else len(data))
        if kind == 1:
            data[at] = chance.randrange(256)
        elif kind == 2:
            data[at : at + 4] = chance.choice([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff"])
        elif kind == 3:
            data[at : at + 8] = chance.randbytes(8)
        elif kind == 4:
            size = chance.randrange(1, 64)
            data[at:at] = data[at : at + size]
        else:
            data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


class Late(BaseException):
    """The time is over."""


def late(*_):
    raise Late


def watched(seconds):
    """Let so much processor time pass, and thirty times as much on the clock: the machine may do other things too."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 30 * seconds)


if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
counts = {}
opened, executed = set(), []
folder = Path(sys.argv[2])


def dask_asks(frame):
    """Whether dask is naming a function of its own, which it pickles and reads back."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(("dask/tokenize.py", "dask\\tokenize.py")):
            return True
        frame = frame.f_back
    return False


def watch(event, args):
    """What code from a file would do: start a process, unpickle, write a file."""
    if event == "pickle.find_class" and dask_asks(sys._getframe(1)):
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class"):
        executed.append((event, str(args)[:200]))
    if event == "open" and len(args) > 1 and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        executed.append((event, str(args)[:200]))


for name, path in json.loads(sys.argv[1]).items():
    data, chance = Path(path).read_bytes(), random.Random(f"{sys.argv[3]} {name}")
    outcome = counts.setdefault(name, {"image": 0, "error": 0, "late": 0, "memory": 0, "other": []})
    try:  # imports what the format needs before the watch begins
        read_micrograph(Path(path), 0)
    except DataError:
        pass
    for number in range(int(sys.argv[3])):
        target = folder / f"x{Path(path).suffix}"
        target.write_bytes(damaged(data, chance))
        if number == 0 and name == next(iter(json.loads(sys.argv[1]))):
            sys.addaudithook(watch)
            executed.clear()
        before = len(executed)
        watched(10)
        try:
            read_micrograph(target, 0)
            outcome["image"] += 1
        except DataError as error:
            outcome["error"] += 1
            assert "\n" not in str(error) and target.name in str(error)
            if isinstance(error.__cause__, MemoryError):
                outcome["memory"] += 1
                outcome["error"] -= 1
        except MemoryError:
            outcome["memory"] += 1
        except Late:
            outcome["late"] += 1
        except BaseException as error:
            outcome["other"].append(f"{type(error).__name__}: {error}"[:300])
        finally:
            watched(0)
        del executed[before + 5 :]
    executed[:] = [one for one in executed if not (one[0] == "open" and str(target) in one[1])]
status = Path("/proc/self/status")  # ru_maxrss would be that of the process that started this one, where it was larger
peak = 0.0
if status.is_file():
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20
print(json.dumps({"counts": counts, "executed": executed[:20], "peak": peak}))
'''


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A whole file of every format that can be had."""
    folder, found = tmp_path_factory.mktemp("seeds"), {}
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    for name, options in (("a.png", {}), ("a.jpg", {}), ("lzw.tif", {"compression": "tiff_lzw"})):
        Image.fromarray(pixels).save(folder / name, **options)
    tifffile.imwrite(folder / "imagej.tif", np.stack([pixels] * 2).astype(np.uint16), imagej=True,
                     resolution=(2, 2), metadata={"unit": "nm"})  # fmt: skip
    tifffile.imwrite(folder / "a.ome.tif", pixels, metadata={"axes": "YX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0})
    found = {path.name: path for path in sorted(folder.iterdir())}
    if REAL.is_dir():
        real = [path for path in sorted(REAL.rglob("*")) if path.suffix in SUFFIXES]
        found |= {path.name: path for path in real if path.stat().st_size < 1_200_000}
    return {name: str(path) for name, path in found.items()}


def test_damaged_files_of_every_format_end_in_an_error_or_an_image(seeds, tmp_path):
    chosen = seeds
    if COUNT < 100:  # a share of the files in every run, the small ones
        small = {name: path for name, path in seeds.items() if Path(path).stat().st_size < 120_000}
        chosen = dict(random.Random(zlib.crc32(b"files")).sample(sorted(small.items()), min(len(small), 16)))
        chosen |= {name: path for name, path in small.items() if not Path(path).is_relative_to(REAL)}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRY, json.dumps(chosen), str(tmp_path), str(COUNT), "8"],
        env=environment, capture_output=True, text=True, timeout=60 if COUNT < 100 else None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, outcome in found["counts"].items():
        print(f"{name:50} {outcome['image']} images, {outcome['error']} errors, {outcome['late']} late")
        assert outcome["other"] == [], name
        assert (outcome["late"], outcome["memory"]) == (0, 0), name
        assert outcome["image"] + outcome["error"] == COUNT
    print(f"peak memory {found['peak']:.2f} GiB")
    assert found["executed"] == []
    assert found["peak"] < 2
