"""Random streams that depend on a key alone: never on order, count or process."""

import hashlib

import numpy as np

Key = int | str


def stream(*key: Key) -> np.random.Generator:
    """A Philox generator for a key; equal keys give equal numbers on every machine.

    Words and integers may be mixed; integers must not be negative.

    >>> bool(stream("device-a", 0, 7).random() == stream("device-a", 0, 7).random())
    True
    >>> bool(stream("device-a", 0, 7).random() == stream("device-a", 0, 8).random())
    False
    """
    entropy = [word(part) if isinstance(part, str) else part for part in key]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def word(text: str) -> int:
    """A text as an integer of 64 bits; Python's own ``hash`` changes from process to process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
