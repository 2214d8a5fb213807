"""On a CPU, memory that tensors free is kept for the next ones."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""mallopt(3)'s numbers for how much free memory ends the heap before it is given back, and what is mapped alone."""
_NEVER, _LARGE = 2**31 - 1, 1 << 30


def keep_freed_memory() -> bool:
    """Have glibc's allocator keep freed memory in this process; whether it does.

    By default blocks of some megabytes, as images and activations are, go back to the kernel when freed, and come
    again as pages that it fills with zeros first. The peak is a little higher, since blocks lie less densely, and it is
    held until the process ends. Nothing is changed where another C library is in use, or where the environment sets
    the allocator already.
    """
    told = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in told):
        return False
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    return choose is not None and bool(choose(_TRIM_THRESHOLD, _NEVER) and choose(_MMAP_THRESHOLD, _LARGE))
