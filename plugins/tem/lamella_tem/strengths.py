"""Low, middle and high strength of any perturbation, from its own ranges and its identity."""

from collections.abc import Mapping
from typing import Any

LEVELS = {"low": 0.0, "middle": 0.5, "high": 1.0}


def at_strength(parameters: Mapping[str, Any], identity: Mapping[str, Any], level: float) -> dict[str, Any]:
    """Constructor parameters that fix a perturbation's strength.

    Args:
        parameters: its parameters with their values; pairs of numbers are ranges.
        identity: the parameters at which it does nothing.
        level: 0 = the end of every range nearest to doing nothing, 1 = the farthest.

    >>> at_strength({"dose": (10.0, 500.0)}, {"dose": (float("inf"), float("inf"))}, 1.0)
    {'dose': (10.0, 10.0)}
    """
    fixed: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "p":
            fixed[name] = 1.0
        elif name in identity and _is_range(value):
            fixed[name] = (_between(value, identity[name][0], level),) * 2
    return fixed


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)


def _between(ends: tuple[float, float], nothing: float, level: float) -> float:
    """The point of a range that lies ``level`` of the way from its weak end to its strong one."""
    low, high = (float(end) for end in ends)
    if low == high:
        return low
    if low <= nothing <= high:
        strong = high if high - nothing >= nothing - low else low
        return nothing + level * (strong - nothing)
    weak, strong = (low, high) if nothing < low else (high, low)
    if low > 0.0 and high > 3.0 * low:  # wide ranges are walked in equal ratios
        return weak * (strong / weak) ** level
    return weak + level * (strong - weak)
