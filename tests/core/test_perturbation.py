"""Perturbations as Kornia modules, beside masks, boxes and keypoints, and in chains."""

import math

import pytest
import torch
from kornia.augmentation import AugmentationSequential
from lamella import Batch, Chain, Perturbation, Range, Streams, Warp, within
from lamella.contracts.chain import stream_name
from lamella.contracts.parameters import About, per_image
from lamella.errors import ContractError
from pydantic import TypeAdapter, ValidationError


def grid(about: About) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = torch.meshgrid(torch.arange(about.height), torch.arange(about.width), indexing="ij")
    return rows.float(), columns.float()


class Swirl(Warp):
    """A smooth flow of a few pixels, another for each image."""

    family = "movement"

    def draw(self, streams, about):
        return {"phase": streams.uniform(0.0, 6.28)}

    def flow(self, drawn, streams, about):
        rows, columns = grid(about)
        phase = drawn["phase"].view(-1, 1, 1)
        y, x = 3 * torch.sin(columns / 9 + phase), 4 * torch.cos(rows / 11 - phase)
        return torch.stack(torch.broadcast_tensors(y, x), dim=-1)


class Bulge(Swirl):
    """Pushes the middle of the image 6 pixels down, and leaves its sides where they are."""

    def flow(self, drawn, streams, about):
        rows, columns = grid(about)
        y = -6 * torch.exp(-(((columns - 40) / 12) ** 2)) + 0 * drawn["phase"].view(-1, 1, 1) * rows
        return torch.stack([y, torch.zeros_like(y)], dim=-1)


def streams(count: int = 2) -> Streams:
    return Streams.root(0, torch.arange(count), torch.zeros(count, dtype=torch.int64), "test")


# Kornia's side


def dots() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2, 1, 60, 80) with three bright dots each, and where they are: (2, 3, 2) x, y."""
    points = torch.tensor([[[20.0, 15.0], [55.0, 30.0], [40.0, 45.0]], [[30.0, 20.0], [60.0, 44.0], [22.0, 40.0]]])
    rows, columns = grid(About(60, 80, torch.zeros(2, 2), {}))
    image = torch.zeros(2, 1, 60, 80)
    for b in range(2):
        for x, y in points[b].tolist():
            image[b, 0] += torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 4)
    return image.clamp(max=1.0), points


def centre(image: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """The centre of the grey values within 6 pixels of a point, x and y."""
    rows, columns = grid(About(*image.shape, torch.zeros(1, 2), {}))
    near = image * (((rows - point[1]).abs() < 6) & ((columns - point[0]).abs() < 6))
    return torch.stack([(columns * near).sum(), (rows * near).sum()]) / near.sum()


def test_keypoints_lie_on_what_they_mark():
    image, points = dots()
    torch.manual_seed(0)
    moved, found = AugmentationSequential(Swirl(), data_keys=["input", "keypoints"])(image, points)
    assert (found - points).norm(dim=-1).min() > 0.5
    for b in range(2):
        for i in range(3):
            assert (centre(moved[b, 0], found[b, i]) - found[b, i]).norm() < 0.6


def test_boxes_hold_what_they_held():
    image, points = dots()
    reach = torch.tensor([5.0, 5.0])
    boxes = torch.cat([points - reach, points + reach], dim=-1)  # (2, 3, 4) x, y, x, y
    torch.manual_seed(0)
    pipeline = AugmentationSequential(Swirl(), data_keys=["input", "bbox_xyxy", "keypoints"])
    moved, found, at = pipeline(image, boxes, points)
    assert (found - boxes).abs().amax() > 1.0
    assert (found[..., :2] < at).all() and (at < found[..., 2:]).all()
    for b in range(2):
        inside = torch.zeros(60, 80)
        for x0, y0, x1, y1 in found[b].round().int().tolist():
            inside[y0 : y1 + 1, x0 : x1 + 1] = 1
        assert (moved[b, 0] * (1 - inside)).max() < 0.1
    size = (found[..., 2:] - found[..., :2]).mean()
    assert 9 < size < 20  # round what they hold, and no more


def test_box_holds_an_edge_that_bulges():
    boxes = torch.tensor([[[10.0, 20.0, 70.0, 35.0]]])
    mask = torch.zeros(1, 1, 60, 80)
    mask[..., 20:36, 10:71] = 1
    pipeline = AugmentationSequential(Bulge(), data_keys=["input", "mask", "bbox_xyxy"])
    _, found_mask, found = pipeline(mask, mask, boxes)
    rows = found_mask[0, 0].sum(1).nonzero()
    assert rows.max() == 41  # the middle of the lower edge, not its corners
    assert found[0, 0].tolist() == pytest.approx([10, 20, 70, 41], abs=0.6)


def test_mask_beside_the_image_moves_with_it():
    image, _ = dots()
    mask = (image > 0.5).float()
    torch.manual_seed(0)
    moved, found = AugmentationSequential(Swirl(), data_keys=["input", "mask"])(image, mask)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert moved[found == 1].min() > 0.3 and moved[found == 0].max() < 0.7


def test_gate_agrees_between_image_mask_and_keypoints():
    image, points = dots()
    image, points = image[:1].expand(64, -1, -1, -1), points[:1].expand(64, -1, -1)
    mask = (image > 0.5).float()
    pipeline = AugmentationSequential(Swirl(p=0.5), data_keys=["input", "mask", "keypoints", "bbox_xyxy"])
    torch.manual_seed(0)
    boxes = torch.cat([points - 3, points + 3], dim=-1)
    moved, moved_mask, moved_points, moved_boxes = pipeline(image, mask, points, boxes)
    changed = [
        (new != old).flatten(1).any(1)
        for new, old in ((moved, image), (moved_mask, mask), (moved_points, points), (moved_boxes, boxes))
    ]
    assert all(part.equal(changed[0]) for part in changed)
    assert 20 < changed[0].sum() < 44
    replayed = pipeline(image, mask, points, boxes, params=pipeline._params)
    assert replayed[0].equal(moved) and replayed[1].equal(moved_mask)
    assert replayed[2].equal(moved_points) and replayed[3].equal(moved_boxes)


def test_gate_in_a_chain_opens_p_of_the_time_for_image_and_label_together():
    label = (torch.arange(400).view(1, 20, 20) % 5).expand(400, -1, -1)
    batch = Batch.of(torch.rand(1, 1, 20, 20).expand(400, -1, -1, -1), label=label)
    result = Swirl(p=0.3).perturb(batch, streams(400))
    changed = (result.image != batch.image).flatten(1).any(1)
    assert changed.equal((result.label != batch.label).flatten(1).any(1))
    assert 90 < changed.sum() < 150


@pytest.mark.parametrize("p, expected", [(0.0, 0), (0.3, None), (1.0, 40)])
def test_a_cpu_renders_only_images_that_the_gate_lets_through(p, expected):
    asked = []

    class Counted(Fade):
        def render(self, image, drawn, streams, about):
            asked.append(len(image))
            return super().render(image, drawn, streams, about)

    batch = Batch.of(torch.rand(40, 1, 8, 8) + 0.1)
    result = Counted(p=p).perturb(batch, streams(40))
    changed = (result.image != batch.image).flatten(1).any(1)
    assert sum(asked) == changed.sum()
    assert changed.sum() == expected if expected is not None else 4 < changed.sum() < 25


def test_a_gate_that_lets_nothing_through_leaves_the_batch():
    batch = Batch.of(torch.rand(2, 1, 8, 8))
    assert Fade(p=1e-9).perturb(batch, streams()) is batch


# Perturbation and its parts


class Fade(Perturbation):
    family = "contrast"

    def __init__(self, *, by: Range = (0.2, 0.8), p: float = 1.0):
        super().__init__(p=p)
        self.by = by

    def draw(self, streams, about):
        return {"by": streams.uniform(*self.by)}

    def render(self, image, drawn, streams, about):
        assert image.dtype == torch.float32
        return image * per_image(drawn["by"], image) * about.value("gain", 1.0).view(-1, 1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_arithmetic_is_float32_and_the_type_comes_back(dtype):
    image = torch.rand(2, 1, 8, 8).to(dtype)
    assert Fade().perturb(Batch.of(image), streams()).image.dtype == dtype
    assert Fade()(image).dtype == dtype


def test_metadata_reaches_render():
    image = torch.rand(2, 1, 8, 8)
    plain = Fade().perturb(Batch.of(image), streams()).image
    half = Fade().perturb(Batch.of(image, meta={"gain": torch.tensor([0.5, 1.0])}), streams()).image
    torch.testing.assert_close(half, plain * torch.tensor([0.5, 1.0]).view(-1, 1, 1, 1))


def test_values_are_clamped():
    class Brighten(Fade):
        def render(self, image, drawn, streams, about):
            return image + 2.0 * (image > 0.5) - 2.0 * (image <= 0.5)

    image = torch.rand(2, 1, 8, 8)
    assert Brighten().perturb(Batch.of(image), streams()).image.equal((image > 0.5).float())


@pytest.mark.parametrize("kind", [Fade, Swirl])
@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_p_must_be_a_probability(kind, p):
    with pytest.raises(ContractError, match=f"{kind.__name__}: p = .* is no probability"):
        kind(p=p)


@pytest.mark.parametrize(("base", "method"), [(Perturbation, "draw"), (Warp, "draw")])
def test_what_is_not_written_is_named(base, method):
    with pytest.raises(NotImplementedError, match=rf"Unfinished must write {method}\("):
        type("Unfinished", (base,), {})().perturb(Batch.of(torch.rand(1, 1, 8, 8)), streams(1))


@pytest.mark.parametrize("name", ["stream", "batch_prob", "forward_input_shape"])
def test_reserved_parameter_names_are_refused(name):
    reserved = type("Reserved", (Fade,), {"draw": lambda self, streams, about: {name: streams.uniform(0, 1)}})
    with pytest.raises(ContractError, match=f"Reserved.draw must not name a parameter '{name}'"):
        reserved()(torch.rand(1, 1, 8, 8))


def test_module_use_draws_from_torch_and_follows_its_seed():
    image = torch.rand(2, 1, 8, 8)
    torch.manual_seed(3)
    once, other = Fade()(image), Fade()(image)
    torch.manual_seed(3)
    assert Fade()(image).equal(once) and not other.equal(once)


@pytest.mark.parametrize("kind", [Fade, Swirl])
def test_module_and_chain_agree_under_the_same_streams(kind):
    image = torch.rand(16, 1, 20, 24)
    module = kind(p=0.5)
    found = module(image)
    ids = module._params["stream"]
    assert kind(p=0.5).perturb(Batch.of(image), Streams(ids)).image.equal(found)


def test_range_takes_a_number_and_refuses_what_is_upside_down():
    adapter = TypeAdapter(Range)
    assert adapter.validate_python(3) == (3.0, 3.0) and adapter.validate_python([1, 2]) == (1.0, 2.0)
    with pytest.raises(ValidationError, match="the lower end 2 is above the upper end 1"):
        adapter.validate_python((2, 1))


@pytest.mark.parametrize("ends", [(10, math.inf), (-math.inf, 10), (-math.inf, math.inf)])
def test_range_refuses_to_draw_up_to_infinity_but_takes_it_at_both_ends(ends):
    adapter = TypeAdapter(Range)
    assert adapter.validate_python(math.inf) == (math.inf, math.inf)
    with pytest.raises(ValidationError, match="nothing can be drawn between an end and infinity"):
        adapter.validate_python(ends)


def test_within_bounds_ranges_and_numbers():
    from typing import Annotated

    pair, number = TypeAdapter(Annotated[Range, within(0, 1)]), TypeAdapter(Annotated[float, within(0, 1)])
    assert pair.validate_python((0, 1)) == (0.0, 1.0) and number.validate_python(0.5) == 0.5
    for adapter, value in ((pair, (0.5, 1.5)), (pair, -1), (number, 2.0)):
        with pytest.raises(ValidationError, match="must lie within 0 and 1"):
            adapter.validate_python(value)


# Chain


def test_chain_holds_its_members():
    chain = Chain([Fade(), Swirl()])
    assert len(chain) == 2 and [type(member) for member in chain] == [Fade, Swirl]
    assert [stream_name(member) for member in chain] == ["fade", "swirl"]


def test_chain_applies_in_order():
    batch = Batch.of(torch.rand(2, 1, 20, 30), label=torch.zeros(2, 20, 30, dtype=torch.int64))
    s = streams()
    first = Fade().perturb(batch, s.child("fade"))
    second = Swirl().perturb(first, s.child("swirl"))
    third = Fade().perturb(second, s.child("fade 2"))
    assert Chain([Fade(), Swirl(), Fade()])(batch, s).image.equal(third.image)
    assert Chain([])(batch, s) is batch


def test_stream_names_are_kebab_case_unless_given():
    names = {"ShotNoise": "shot-noise", "CTF": "ctf", "Noise2D": "noise2-d", "Swirl": "swirl"}
    for name, wanted in names.items():
        assert stream_name(type(name, (Fade,), {})()) == wanted
    named = type("Renamed", (Fade,), {"stream_name": "fade"})()
    assert stream_name(named) == "fade"
