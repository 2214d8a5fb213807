"""Signed distances in nm: negative inside, and how they are put together."""

import numpy as np


def union(a: np.ndarray, b: np.ndarray, radius: float = 0.0) -> np.ndarray:
    """Inside either; inner corners are filled in with a fillet of `radius` nm."""
    sharp = np.minimum(a, b)
    if radius <= 0:
        return sharp
    corner = np.hypot(np.maximum(radius - a, 0), np.maximum(radius - b, 0))
    return np.maximum(radius, sharp) - corner


def intersect(a: np.ndarray, b: np.ndarray, radius: float = 0.0) -> np.ndarray:
    """Inside both; outer corners are rounded with `radius` nm.

    >>> float(intersect(np.array([-1.0]), np.array([-3.0]))[0])
    -1.0
    """
    sharp = np.maximum(a, b)
    if radius <= 0:
        return sharp
    corner = np.hypot(np.maximum(radius + a, 0), np.maximum(radius + b, 0))
    return np.minimum(-radius, sharp) + corner


def disc(x: np.ndarray, y: np.ndarray, *, cx: float, cy: float, radius: float) -> np.ndarray:
    """A disc."""
    return np.hypot(x - cx, y - cy) - radius


def box(
    x: np.ndarray, y: np.ndarray, *, cx: float, cy: float, width: float, height: float, radius: float = 0.0
) -> np.ndarray:
    """An upright rectangle with corners of `radius` nm."""
    return intersect(np.abs(x - cx) - width / 2, np.abs(y - cy) - height / 2, radius)


def blob(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    *,
    cx: float,
    cy: float,
    width: float,
    height: float,
    tilt: float = 0.0,
    wobble: float = 0.16,
) -> np.ndarray:
    """An irregular roundish body of about `width` × `height` nm, turned by `tilt` radians.

    Its outline is an ellipse whose radius wanders by `wobble` (relative) in six harmonics, so that no two bodies
    look alike.
    """
    u = ((x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt)) * (2 / width)
    v = ((y - cy) * np.cos(tilt) - (x - cx) * np.sin(tilt)) * (2 / height)
    angle = np.arctan2(v, u)
    radius = np.ones_like(angle)
    for k in range(2, 8):
        radius += rng.normal(0, wobble / k**1.4) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    rho = np.hypot(u, v)
    # rho / radius is the level set; dividing by its slope in nm makes it a distance near the outline.
    slope = np.sqrt(((2 / width) * u) ** 2 + ((2 / height) * v) ** 2) / np.maximum(rho, 1e-3)
    return ((rho - np.maximum(radius, 0.2)) / np.maximum(slope, 1e-3)).astype(np.float32)
