"""Resampling by a flow against scipy, and the inverse of a flow."""

import numpy as np
import torch
from hypothesis import given, strategies
from lamella import IGNORE, Batch, Streams, Warp
from lamella.contracts.flow import invert, sample_bilinear
from scipy.ndimage import map_coordinates


class Moves(Warp):
    """Moves every image by one given flow (1, H, W, 2)."""

    family = "movement"

    def __init__(self, field: torch.Tensor):
        super().__init__()
        self.field = field

    def draw(self, streams, about):
        return {"any": streams.uniform(0.0, 1.0)}

    def flow(self, drawn, streams, about):
        return self.field.expand(len(drawn["any"]), -1, -1, -1)


def streams(count: int = 2) -> Streams:
    return Streams(torch.arange(count))


def random_flow(height: int, width: int, seed: int, size: float) -> torch.Tensor:
    return size * torch.randn(2, height, width, 2, generator=torch.Generator().manual_seed(seed))


def coordinates(flow: torch.Tensor) -> np.ndarray:
    """(2, H, W) positions r + u(r) for scipy."""
    height, width = flow.shape[:2]
    return np.mgrid[:height, :width] + flow.double().movedim(-1, 0).numpy()


@given(strategies.integers(2, 23), strategies.integers(2, 23), strategies.integers(0, 99), strategies.floats(0, 30))
def test_bilinear_agrees_with_scipy(height, width, seed, size):
    flow = random_flow(height, width, seed, size)
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    found = sample_bilinear(image, flow)
    for b in range(2):
        for c in range(3):
            wanted = map_coordinates(image[b, c].double().numpy(), coordinates(flow[b]), order=1, mode="mirror")
            np.testing.assert_allclose(found[b, c].numpy(), wanted, atol=2e-5)


@given(strategies.integers(1, 20), strategies.integers(1, 20))
def test_bilinear_is_exact_where_nothing_moves(height, width):
    image = torch.rand(1, 1, height, width)
    assert sample_bilinear(image, torch.zeros(1, height, width, 2)).equal(image)
    constant = torch.full((1, 1, height, width), 0.3)
    assert sample_bilinear(constant, random_flow(height, width, 0, 9.0)[:1]).equal(constant)


def test_bilinear_gradient():
    image = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    flow = (0.3 + 0.2 * torch.rand(1, 5, 6, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(sample_bilinear, (image, flow), atol=1e-4)


def test_labels_move_to_the_nearest_pixel_as_scipy_says():
    flow = random_flow(17, 13, 3, 4.0)
    label = torch.randint(0, 5, (2, 17, 13))
    moved = Moves(flow[:1])
    batch = Batch.of(torch.rand(2, 1, 17, 13), label=label, instance=label + 1)
    found = moved.perturb(batch, streams())
    where = np.rint(coordinates(flow[0]))  # half to even, like torch
    for b in range(2):
        args = {"order": 0, "mode": "constant"}
        wanted = map_coordinates(label[b].numpy(), where, cval=IGNORE, **args)
        np.testing.assert_array_equal(found.label[b].numpy(), wanted)
        trusted = map_coordinates(batch.weight[b].numpy(), where, cval=0, **args)
        np.testing.assert_array_equal(found.weight[b].numpy(), trusted)
        objects = map_coordinates(batch.instance[b].numpy(), where, cval=0, **args)
        np.testing.assert_array_equal(found.instance[b].numpy(), objects)


def test_shift_by_whole_pixels():
    label = torch.arange(20 * 30).view(1, 20, 30) % 7
    batch = Batch.of(torch.rand(1, 1, 20, 30), label=label, instance=label)
    found = Moves(torch.tensor([3.0, 5.0]).expand(1, 20, 30, 2)).perturb(batch, streams(1))
    assert found.image[..., :-3, :-5].equal(batch.image[..., 3:, 5:])
    assert found.label[:, :-3, :-5].equal(label[:, 3:, 5:])
    assert (found.label[:, -3:] == IGNORE).all() and (found.label[:, :, -5:] == IGNORE).all()
    assert (found.weight == 0).equal(found.label == IGNORE)
    assert found.image[..., -1, 0].equal(batch.image[..., 16, 5])  # row 22 mirrored at row 19


def test_instances_move_without_a_label():
    batch = Batch.of(torch.rand(1, 1, 20, 30), instance=torch.ones(1, 20, 30, dtype=torch.int64))
    found = Moves(torch.tensor([3.0, 5.0]).expand(1, 20, 30, 2)).perturb(batch, streams(1))
    assert found.label is None and (found.instance[:, -3:] == 0).all() and (found.instance[:, :-3, :-5] == 1).all()


@given(strategies.floats(-3, 3), strategies.floats(-3, 3), strategies.integers(0, 50))
def test_inverse_of_a_smooth_flow(y, x, seed):
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    flow = torch.stack([3 * torch.sin(columns / 9 + y), 4 * torch.cos(rows / 11 - x)], dim=-1).unsqueeze(0)
    generator = torch.Generator().manual_seed(seed)
    points = 8 + torch.rand(1, 20, 2, generator=generator) * torch.tensor([33.0, 23.0])  # x, y
    found = invert(flow, points)
    at = found[0].flip(-1).T.double().numpy()
    back = [map_coordinates(flow[0, ..., axis].double().numpy(), at, order=1, mode="nearest") for axis in (0, 1)]
    np.testing.assert_allclose(found[0].flip(-1).numpy() + np.stack(back, -1), points[0].flip(-1), atol=2e-3)
