"""Several processes at one study: which of them trains what."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def first_process() -> bool:
    """Whether this process is the one that writes, of those that train together or alone."""
    return int(os.environ.get("RANK", "0")) == 0


def together() -> bool:
    """Whether several processes train one run together, as under ``accelerate launch``."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def taken(run: Path, *, wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Within it the run folder ``run`` is this process's to train in, where the value is True.

    Where another process has it the value is False; with ``wait``, that is called and its end waited for. The lock
    is the operating system's, so a process that dies gives its run back; it lies beside the run and may be taken
    twice by one process. Processes that train one run together, as under ``accelerate launch``, need none: they
    all go the same way.
    """
    if together():
        yield True
        return
    run.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.parent / f".{run.name}.lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait is None:
            yield False
            return
        wait()
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
