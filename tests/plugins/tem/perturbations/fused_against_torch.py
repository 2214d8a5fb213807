"""Run by test_fused.py with TRITON_INTERPRET=1, in a process of its own: the GPU's kernels on a CPU, line by line."""

import math
from unittest.mock import patch

import numpy as np
import torch
from lamella import Streams
from lamella.contracts import fused_streams
from lamella.contracts import streams as lamella_streams
from lamella.contracts.streams import _GOLDEN, _signed, _word
from lamella_tem.perturbations import camera, fused_camera
from lamella_tem.perturbations.camera import Camera
from lamella_tem.perturbations.fixed_pattern import column_pattern, packed_patterns, shifted, shifted_columns
from lamella_tem.perturbations.shot_noise import _counted
from tem_trial import about

IDS = torch.tensor([0, -1, 5, 2**62 + 12345, -(2**63)])
STEP, NEXT = _signed(_GOLDEN), _signed(2 * _GOLDEN)


def small_draws():
    """Equal to the bit."""
    assert fused_streams.child(IDS, _signed(_word("shot noise"))).equal(Streams(IDS).child("shot noise").ids)
    visit = torch.arange(5)
    root = fused_streams.root(IDS, visit, _signed(_word("seed 3")), _signed(_word("weak")))
    assert root.equal(Streams.root(3, IDS, visit, "weak").ids)
    for low, high, shape in ((-1.0, 2.0, ()), (0.003, 0.03, (3, 2)), (10, 500, (1100,)), (1.0, 1.0, ())):
        assert fused_streams.uniform(IDS, STEP, low, high, shape).equal(Streams(IDS).uniform(low, high, *shape))
    for low, high, shape in ((-5, 1000, ()), (0, 1 << 31, (2, 3)), (0, 1, (2,)), (3, 2**40, ())):
        assert fused_streams.integers(IDS, STEP, low, high, shape).equal(Streams(IDS).integers(low, high, *shape))


def several_at_once():
    """What as many calls give, to the bit."""
    ranges = ((0.0, 1.0), (-3.0, 500.0), (0.003, 0.03))
    one_by_one = Streams(IDS)
    wanted = [one_by_one.uniform(*one) for one in ranges]
    assert all(a.equal(b) for a, b in zip(fused_streams.several(IDS, 1, ranges), wanted, strict=True))


def pixel_noise():
    """Uniform numbers to the bit, normal ones to rounding."""
    torch_s = Streams(IDS)
    first, second = torch_s._hashed((3, 50, 7)), torch_s._hashed((3, 50, 7))
    assert fused_streams.pixels(IDS, STEP, None, (3, 50, 7)).equal(first)
    normal = torch.sqrt(-2.0 * torch.log1p(-first)) * torch.cos(2.0 * math.pi * second)
    assert (fused_streams.pixels(IDS, STEP, NEXT, (3, 50, 7)) - normal).abs().max() < 1e-5


def mixed(x):
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def unit(x):
    return torch.from_numpy((x >> np.uint32(9)).astype(np.float32) * np.float32(2.0**-23))


def words(streams, count):
    return streams.integers(0, 1 << 31, count).numpy().astype(np.uint32)[:, None, :]


def pixels(rows, width):
    return np.arange(rows * width, dtype=np.uint32)[None]


def shot_noise():
    """Counts as torch's own arithmetic gives them from the same random numbers; a few lie on a border."""
    image = torch.rand(4, 2, 37, 90)
    dose, pedestal = torch.tensor([2.0, 30.0, 400.0, math.inf]), torch.tensor([0.0, 0.3, 0.1, 0.2])
    streams = Streams(IDS[:4])
    found = fused_camera.count_electrons(image, dose, pedestal, streams)
    word = words(Streams(IDS[:4]), 2)
    source = unit(mixed(mixed(pixels(74, 90) ^ word[..., 0]) + word[..., 1])).view(4, 74, 90)
    rows = torch.stack([dose, pedestal], 1).unsqueeze(1).expand(-1, 74, -1)
    wanted = _counted(image.flatten(1, 2), source, rows).view_as(image)
    off = (found - wanted).abs()
    assert found[3].equal(image[3])
    assert (off > 1e-4).float().mean() < 1e-3, (off > 1e-4).float().mean()
    assert (found - image)[:2].abs().mean() > 0.05


def whole_camera(limits, **options):
    """As ``camera._exposed`` from the same random numbers, for images of every kind that it draws."""
    image = torch.rand(5, 1, 50, 75)
    made, streams = Camera(**options), Streams(IDS)
    drawn = made.draw(streams.child("draw"), about(image))
    found = fused_camera.expose(image, drawn, streams, made.detector, limits)
    word = words(streams.child("pixels"), 3)
    first = mixed(mixed(pixels(50, 75) ^ word[..., 0]) + word[..., 1])
    sources = [unit(one).view(5, 50, 75) for one in (first, mixed(first ^ word[..., 2]))]
    upper = (torch.arange(50) < drawn["seam"][:, :1] * 50).unsqueeze(-1)
    quadrants = drawn["quadrants"].unsqueeze(1)
    sides = 1.0 + torch.where(upper, quadrants[..., :2], quadrants[..., 2:])
    electrons = drawn["row"].view(-1, 1, 1) * streams.child("row").normal(50).unsqueeze(-1)
    scalars = camera._per_image(drawn, limits).unsqueeze(1).expand(-1, 50, -1)
    home = torch.device("cpu")
    columns = [
        shifted_columns(column_pattern(0, kind, home), drawn["offset"], 75).unsqueeze(1) for kind in ("gain", "dark")
    ]
    place = shifted(packed_patterns(0, home), drawn["offset"], 50, 75)
    rows = torch.cat([scalars, sides, electrons], 2)
    wanted = camera._exposed(image[:, 0], *sources, rows, *columns, place, None)
    off = (found[:, 0] - wanted).abs()
    assert (off > 2e-3).float().mean() < 2e-3, f"{options}: {(off > 2e-3).float().mean():.4f} of the pixels differ"
    assert limits[0] <= found.min() and found.max() <= limits[1]


def dispatch():
    """Streams go through the kernels where there is a GPU: here the CPU stands in for one."""
    plain = [Streams(IDS).child("a").uniform(0.0, torch.arange(5.0)), Streams.root(1, IDS, IDS, "v").integers(0, 9, 2)]
    on_gpu = patch.object(lamella_streams, "fused", lambda ids: fused_streams)
    with on_gpu, patch.object(lamella_streams, "on_host", lambda ids: False):
        fused = [
            Streams(IDS).child("a").uniform(0.0, torch.arange(5.0)), Streams.root(1, IDS, IDS, "v").integers(0, 9, 2)
        ]  # fmt: skip
        streams = Streams(IDS)
        first, second, third = streams.rand(8), streams.normal(8), streams.uniform(0, 1)
    assert all(a.equal(b) for a, b in zip(plain, fused, strict=True))
    again = Streams(IDS)
    assert first.equal(again._hashed((8,)))
    again._next(), again._next()
    assert third.equal(again.uniform(0, 1)) and second.std() > 0.3


if __name__ == "__main__":
    torch.manual_seed(0)
    small_draws(), several_at_once(), pixel_noise(), shot_noise(), dispatch()
    infinity = (-math.inf, math.inf)
    whole_camera(infinity)
    whole_camera((0.0, 1.0))
    whole_camera(infinity, bits=(24.0, 24.0), dose=(3.0, 8.0), dark=(0.0, 1.0), pedestal=(0.0, 0.1))
    whole_camera((0.0, 1.0), dose=(math.inf, math.inf), hot=(0.0, 0.1), quadrant_gain=(0.5, 0.5))
    whole_camera(infinity, row=(30.0, 60.0), column=(20.0, 50.0), reference=(0.0, 2.0), read=(0.0, 0.0))
    print("as torch")
