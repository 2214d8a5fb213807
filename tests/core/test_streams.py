"""Streams: what belongs to an image depends on nothing but that image's stream, and is as random as it says."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from lamella import Batch, Chain, Perturbation, Streams
from lamella.contracts import streams as module
from lamella.contracts.streams import mix64
from scipy import stats

ids64 = strategies.integers(-(2**63), 2**63 - 1)


def streams(count: int, *, seed: int = 0) -> Streams:
    return Streams.root(seed, torch.arange(count), torch.zeros(count, dtype=torch.int64), "test")


def hashed(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """What `rand` yields where pixels are hashed: on a GPU, and inside ``torch.compile``."""
    return streams(count, seed=seed)._hashed(shape)


DRAWS = {
    "uniform": lambda s: s.uniform(-1.0, 2.0),
    "uniform of a shape": lambda s: s.uniform(0.0, 1.0, 3, 2),
    "integers": lambda s: s.integers(-5, 1000),
    "rand": lambda s: s.rand(2, 5, 3),
    "normal": lambda s: s.normal(1, 7),
    "hashed": lambda s: s._hashed((4, 5)),
    "later draws": lambda s: (s.uniform(0, 1), s.normal(3), s.rand(2))[2],
    "children": lambda s: s.child("a").child("b").normal(3),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@given(ids=strategies.lists(ids64, min_size=1, max_size=5), data=strategies.data())
def test_draws_do_not_depend_on_the_batch(draw, ids, data):
    picked = data.draw(strategies.lists(strategies.integers(0, len(ids) - 1), min_size=1, max_size=7))
    whole = draw(Streams(torch.tensor(ids)))
    assert draw(Streams(torch.tensor(ids)[picked])).equal(whole[picked])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_leave_the_global_generator_alone(draw):
    torch.manual_seed(0)
    before, once = torch.get_rng_state(), draw(streams(3))
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    assert draw(streams(3)).equal(once)


@pytest.mark.parametrize("draw", [DRAWS[name] for name in DRAWS if name != "children"])
def test_draws_differ_between_calls_images_and_seeds(draw):
    s = streams(6)
    first, second = draw(s), draw(s)
    other = draw(streams(6, seed=1))
    assert not first.equal(second) and not first.equal(other)
    assert len({tuple(row.flatten().tolist()) for row in first}) > 4


def test_several_draws_at_once_are_those_of_single_calls():
    one, other = streams(4), streams(4)
    found = [*one.uniforms((0.0, 1.0), (-2.0, 3.0)), one.uniform(0.0, 1.0)]
    wanted = [other.uniform(0.0, 1.0), other.uniform(-2.0, 3.0), other.uniform(0.0, 1.0)]
    assert all(a.equal(b) for a, b in zip(found, wanted, strict=True))


def test_roots_differ_by_seed_key_visit_and_view():
    key, visit = torch.arange(50).repeat(4), torch.arange(4).repeat_interleave(50)
    roots = [Streams.root(seed, key, visit, view).ids for seed in range(3) for view in ("weak", "strong 1")]
    assert torch.cat(roots).unique().numel() == 6 * 200


def test_keys_and_visits_are_not_exchangeable():
    one = Streams.root(0, torch.tensor([3]), torch.tensor([4]), "v").ids
    assert not one.equal(Streams.root(0, torch.tensor([4]), torch.tensor([3]), "v").ids)


def test_children_depend_on_name_alone():
    s = streams(4)
    before = s.child("gain").ids
    s.uniform(0, 1)
    s.child("shot").normal(3)
    assert s.child("gain").ids.equal(before)
    assert torch.cat([s.ids, before, s.child("gain ").ids, s.child("").ids]).unique().numel() == 16
    assert not s.child("a").child("b").ids.equal(s.child("b").child("a").ids)


def test_known_values_stay():
    """A change of the hash changes every run's noise: it must be meant, and these numbers with it."""
    s = Streams.root(1, torch.tensor([0, 5, -7]), torch.tensor([0, 0, 3]), "weak")
    assert s.ids.tolist() == [5384135674889807532, -237703263592252231, -3374226000248918065]
    draw = s.child("draw").ids.tolist()
    assert draw == [-4653604187359808473, 2233540525446473996, 8117416349197474104]
    assert s.uniform(0, 1).tolist() == pytest.approx([0.9119724631, 0.1856976748, 0.3277589083], abs=1e-9)
    assert s.integers(0, 1000).tolist() == [433, 310, 55]
    assert Streams(s.ids)._hashed((2,)).flatten().tolist() == pytest.approx(
        [0.6445511580, 0.3028262258, 0.9076414704, 0.5251240134, 0.1989366978, 0.2849928737], abs=1e-8
    )


def test_known_values_of_the_cpu_generator_stay():
    """torch's own Mersenne twister, per image: a change would come from torch."""
    s = Streams.root(1, torch.tensor([0, 5]), torch.tensor([0, 0]), "weak")
    assert s.rand(2).flatten().tolist() == pytest.approx(
        [0.9601423144, 0.7444726229, 0.1540096998, 0.4528046846], abs=1e-6
    )


@given(ids64, ids64)
def test_mix64_is_splitmix64(value, other):
    def reference(x: int) -> int:
        mask = 2**64 - 1
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    mixed = mix64(torch.tensor([value, other]))
    assert [m % 2**64 for m in mixed.tolist()] == [reference(v % 2**64) for v in (value, other)]
    assert (value == other) == bool(mixed[0] == mixed[1])


SMALL = {
    "root": lambda s: Streams.root(-3, s.ids, s.ids.flip(0), "weak").ids,
    "child": lambda s: s.child("gate").child("draw").ids,
    "uniform": lambda s: torch.stack([s.uniform(-0.3, 1e3), s.uniform(2, 5), s.uniform(-7.1, -7.0)]),
    "uniform of a shape": lambda s: s.uniform(0.2, 1.0, 3, 2),
    "uniform of tensors": lambda s: s.uniform(torch.zeros(len(s)), torch.arange(len(s))),
    "uniform of nothing": lambda s: s.uniform(0.0, 1.0, 0),
    "uniforms": lambda s: torch.stack([*s.uniforms((0.1, 0.3), (-5, 5)), s.uniform(0.0, 1.0)]),
    "integers": lambda s: s.integers(-5, 1000),
    "integers of a shape": lambda s: s.integers(0, 3, 4, 1),
    "pixels": lambda s: s.normal(3, 2),
}


@pytest.mark.parametrize("draw", SMALL.values(), ids=SMALL)
@given(ids=strategies.lists(ids64, min_size=1, max_size=5))
def test_numpy_draws_on_a_cpu_what_torch_draws(draw, ids):
    quick = draw(Streams(torch.tensor(ids)))
    strided = draw(Streams(torch.tensor(ids).repeat_interleave(2)[::2]))
    with pytest.MonkeyPatch.context() as torch_alone:
        torch_alone.setattr(module, "_quick", lambda ids: None)
        expected = draw(Streams(torch.tensor(ids)))
    assert quick.equal(expected) and strided.equal(expected) and quick.dtype == expected.dtype


def test_small_draws_are_the_same_and_warn_of_nothing_where_torch_traces_them():
    def drawn(ids):
        part = Streams(ids).child("gate")
        return part.uniform(0.0, 1.0) + part.integers(0, 9, 2).sum(-1)

    ids = torch.tensor([3, -(2**40)])
    assert torch.compile(drawn, backend="eager")(ids).equal(drawn(ids))


# Distributions. Seeds are fixed, so that these pass or fail for good; p-values are those of a single draw.


def passes(p_value: float) -> bool:
    return 1e-3 < p_value < 1 - 1e-6


@pytest.mark.parametrize(
    "values",
    [
        lambda: streams(20000).uniform(0.0, 1.0),
        lambda: streams(20).uniform(0.0, 1.0, 1000),
        lambda: streams(2).rand(100, 100),
        lambda: hashed(2, 100, 100),
        lambda: hashed(20000, 1),
        lambda: Streams(torch.arange(20000)).uniform(0.0, 1.0),
    ],
    ids=["across images", "within images", "generator", "hashed pixels", "hashed images", "ids that count up"],
)
def test_uniform_is_uniform(values):
    sample = values().flatten().double().numpy()
    assert sample.min() >= 0 and sample.max() < 1
    assert passes(stats.kstest(sample, "uniform").pvalue)
    counts, _ = np.histogram(sample, bins=64, range=(0, 1))
    assert passes(stats.chisquare(counts).pvalue)


def test_integers_are_uniform():
    counts = streams(30000).integers(-3, 7).add(3).bincount()
    assert len(counts) == 10
    assert passes(stats.chisquare(counts.numpy()).pvalue)


@pytest.mark.parametrize("path", ["generator", "hashed"])
def test_normal_is_normal(path, monkeypatch):
    monkeypatch.setattr(module, "on_host", lambda ids: path == "generator")
    sample = streams(4).normal(100, 100).double()
    assert sample.isfinite().all()
    assert passes(stats.kstest(sample.flatten().numpy(), "norm").pvalue)
    assert abs(stats.kurtosis(sample.flatten().numpy())) < 0.1


@pytest.mark.parametrize("draw", ["rand", "normal"])
def test_hashed_and_generator_paths_agree_in_distribution(draw, monkeypatch):
    found = []
    for per_image in (True, False):
        monkeypatch.setattr(module, "on_host", lambda ids, value=per_image: value)
        found.append(getattr(streams(4), draw)(80, 80))
    assert not found[0].equal(found[1])
    assert passes(stats.ks_2samp(*(sample.flatten().numpy() for sample in found)).pvalue)


@pytest.mark.parametrize("noise", [lambda: streams(4).normal(128, 128), lambda: hashed(4, 128, 128) - 0.5])
def test_pixels_are_independent_of_their_neighbours_and_images(noise):
    field = noise().double()
    field = (field - field.mean()) / field.std()
    bound = 4 / np.sqrt(field[0].numel())
    for shift in ((0, 1), (1, 0), (1, 1), (0, 2), (0, 64), (64, 0)):
        rolled = field.roll(shift, dims=(1, 2))
        assert ((field * rolled).mean((1, 2)).abs() < bound).all(), shift
    between = field.flatten(1) @ field.flatten(1).T / field[0].numel()
    assert (between - torch.eye(4)).abs().max() < 5 / np.sqrt(field[0].numel())
    power = torch.fft.rfft2(field).abs().square()[:, 1:, 1:] / field[0].numel()
    assert power.max() < 25  # white noise: exponential with mean 1, 33,000 values


def test_successive_draws_are_independent():
    s = streams(20000)
    a, b = s.uniform(-1, 1), s.uniform(-1, 1)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert abs(np.corrcoef(a, s.child("x").uniform(-1, 1))[0, 1]) < 0.03


class Speckle(Perturbation):
    family = "noise"

    def draw(self, streams, about):
        return {"strength": streams.uniform(0.1, 0.3)}

    def render(self, image, drawn, streams, about):
        return image + drawn["strength"].view(-1, 1, 1, 1) * streams.normal(*image.shape[1:])


class Tilt(Speckle):
    """Draws more often, and other things."""

    def render(self, image, drawn, streams, about):
        streams.rand(3)
        return image * 1.0


def test_a_chain_draws_the_same_whatever_else_stands_in_it():
    batch = Batch.of(torch.full((2, 1, 8, 8), 0.5))
    alone = Chain([Speckle()])(batch, streams(2)).image
    assert Chain([Tilt(), Speckle()])(batch, streams(2)).image.equal(alone)
    assert Chain([Speckle(), Tilt()])(batch, streams(2)).image.equal(alone)


def test_two_of_a_kind_draw_apart():
    batch = Batch.of(torch.full((2, 1, 8, 8), 0.5))
    once, off = Chain([Speckle()]), Speckle(p=0.0)
    second = Chain([off, Speckle()])(batch, streams(2)).image
    assert not second.equal(once(batch, streams(2)).image)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_draws_equal_in_distribution_and_parameters():
    def both(ids):
        s = Streams(ids)
        return s.uniform(0.0, 1.0), s.integers(0, 50), s.normal(64, 64)

    ids = streams(4).ids
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")(ids)
    eager = both(ids)
    assert compiled[0].equal(eager[0]) and compiled[1].equal(eager[1])
    assert passes(stats.kstest(compiled[2].flatten().numpy(), "norm").pvalue)
