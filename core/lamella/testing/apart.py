"""Running a contract apart from whatever else the process does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def apart() -> Iterator[None]:
    """Within it torch has one thread and a generator of its own; both are as before afterwards.

    The cases are small: with several threads they wait for each other, many times longer on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
