"""The camera against its formulas: counts, photon-transfer curve, noise power spectrum, kernels."""

import pytest
import torch
from lamella import Batch, Chain, Streams
from lamella_tem.perturbations import camera, shot_noise
from lamella_tem.perturbations.camera import Camera
from lamella_tem.perturbations.compiled import Compiled, noise_source, uniform
from lamella_tem.perturbations.detector_mtf import DetectorMtf, mtf
from lamella_tem.perturbations.fixed_pattern import packed_patterns, packed_windows, shifted
from lamella_tem.perturbations.poisson import normal_quantile, poisson
from lamella_tem.perturbations.shot_noise import ShotNoise
from scipy import stats
from tem_trial import about

RATES = (0.5, 1.0, 3.0, 4.9, 5.1, 7.0, 10.0, 30.0, 80.0, 200.0)


def _units(rows: int, width: int, *, hashed: bool) -> torch.Tensor:
    source = noise_source(Streams(torch.tensor([7])), rows, width, hashed=hashed)
    return uniform(source, width)[0]


def _chi_square(counts: torch.Tensor, rate: float) -> float:
    """The p-value of counts under Poisson's law, cells of at least 10 expected."""
    found = torch.bincount(counts.flatten().to(torch.int64)).tolist()
    total = counts.numel()
    cells, expected, left = [], [], [0, 0.0]
    for k in range(len(found)):
        left = [left[0] + found[k], left[1] + total * stats.poisson.pmf(k, rate)]
        if left[1] >= 10 and total * stats.poisson.sf(k, rate) >= 10:
            cells.append(left[0])
            expected.append(left[1])
            left = [0, 0.0]
    cells.append(total - sum(cells))
    expected.append(total - sum(expected))
    return stats.chisquare(cells, expected).pvalue


@pytest.mark.parametrize("hashed", [False, True], ids=["twister", "hashed"])
def test_counts_follow_poissons_law(hashed):
    units = _units(500, 400, hashed=hashed)
    worst = min(_chi_square(poisson(torch.full_like(units, rate), units), rate) for rate in RATES)
    assert worst > 1e-4, f"p = {worst:.2g}"


def test_the_law_is_within_one_in_ten_thousand_of_poissons():
    """Total variation from a million equally spaced numbers instead of drawn ones."""
    units = (torch.arange(2**20, dtype=torch.float32) + 0.5) / 2**20
    for rate in RATES:
        counts = poisson(torch.full_like(units, rate), units)
        found = torch.bincount(counts.to(torch.int64)).double() / len(units)
        wanted = torch.from_numpy(stats.poisson.pmf(range(len(found)), rate))
        assert (found - wanted).abs().sum() / 2 < 1e-4, f"λ = {rate}"


@pytest.mark.parametrize("hashed", [False, True], ids=["twister", "hashed"])
def test_noise_is_white_and_uniform(hashed):
    units = _units(512, 512, hashed=hashed)
    assert stats.kstest(units.flatten().numpy(), "uniform").pvalue > 1e-4
    normal = normal_quantile(units)
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-4
    for shift in ((0, 1), (1, 0), (1, 1), (2, 0), (0, 2)):
        correlation = (normal * normal.roll(shift, (0, 1))).mean().item()
        assert abs(correlation) < 5 / 512, f"neighbours at {shift} correlate by {correlation:.4f}"


QUIET = {
    "gain": (0.0, 0.0), "column_gain": (0.0, 0.0), "quadrant_gain": (0.0, 0.0), "hot": (0.0, 0.0),
    "column": (0.0, 0.0), "row": (0.0, 0.0), "spread": (0.0, 0.0), "reference": (1.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("pedestal", [0.0, 0.3])
@pytest.mark.parametrize("dark, read, bits", [(0.0, 0.0, 24.0), (2.0, 1.5, 8.0), (8.0, 6.0, 6.0)])
def test_photon_transfer_curve(pedestal, dark, read, bits):
    """Var(y) = K²·(λ + d + σ_r²) + q²/12 within 6 %, on flat images below the clip."""
    dose = 200.0
    camera = Camera(
        dose=(dose, dose), pedestal=(pedestal,) * 2, dark=(dark,) * 2, read=(read,) * 2, bits=(bits,) * 2, **QUIET
    )
    for grey in (0.15, 0.3, 0.5, 0.65):
        image = torch.full((1, 1, 160, 160), grey)
        seen = camera.perturb(Batch.of(image), Streams(torch.tensor([int(1000 * grey)]))).image
        scale = 1.0 / (dose * (1.0 - pedestal))
        rate = dose * (pedestal + (1.0 - pedestal) * grey)
        step = 0.0 if bits >= 24 else 1.0 / (2**bits - 1)
        wanted = scale**2 * (rate + dark + read**2) + step**2 / 12
        if grey - 4 * wanted**0.5 < 0 or grey + 4 * wanted**0.5 > 1:
            continue
        assert seen.var().item() == pytest.approx(wanted, rel=0.06), f"x = {grey}"
        assert seen.mean().item() == pytest.approx(grey, abs=5 * (wanted / seen.numel()) ** 0.5 + 1e-4)


def test_two_frames_cancel_the_fixed_pattern():
    """Var(A − B)/2 does not see gain and dark patterns, the variance of one frame does."""
    camera = Camera(
        dose=(2000.0, 2000.0), pedestal=(0.0, 0.0), dark=(0.0, 0.0), read=(1.0, 1.0), bits=(24.0, 24.0),
        **QUIET | {"gain": (0.05, 0.05)},
    )  # fmt: skip
    image = torch.full((1, 1, 160, 160), 0.5)
    drawn = camera.draw(Streams(torch.tensor([1])), about(image))
    a, b = (camera.render(image, drawn, Streams(torch.tensor([i])), about(image)) for i in (2, 3))
    temporal = (0.5 * 2000 * 1.0 + 1.0) / 2000**2
    assert ((a - b).var() / 2).item() == pytest.approx(temporal, rel=0.06)
    assert a.var().item() > 2 * temporal


def test_noise_power_spectrum_is_rate_times_mtf_squared():
    """NPS(f) = K²·λ·MTF(f)² within 10 % in every ring of frequencies."""
    size, grey, dose, half = 128, 0.5, 400.0, 0.25
    chain = Chain([ShotNoise(dose=(dose, dose), pedestal=(0.0, 0.0)), DetectorMtf(half=(half, half))])
    batch = Batch.of(torch.full((24, 1, size, size), grey))
    noise = chain(batch, Streams.root(0, batch.key, batch.visit, "nps")).image - grey
    power = torch.fft.rfft2(noise).abs().square().mean((0, 1)) / size**2
    wanted = (grey / dose) * mtf(size, size, torch.tensor(half).view(1, 1, 1, 1))[0, 0].square()
    radius = torch.sqrt(
        torch.fft.fftfreq(size).view(-1, 1).square() + torch.fft.rfftfreq(size).view(1, -1).square()
    )
    for low in torch.arange(0.02, 0.5, 0.06).tolist():
        ring = (radius >= low) & (radius < low + 0.06)
        assert power[ring].mean().item() == pytest.approx(wanted[ring].mean().item(), rel=0.10), f"f = {low:.2f}"


def test_a_kernel_that_cannot_be_compiled_falls_back(monkeypatch):
    def broken(function):
        def call(*arguments):
            raise RuntimeError("no C++ compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = Compiled(lambda x: 2 * x)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler here"):
        assert double(torch.ones(2), kernel="compiled").tolist() == [2, 2]
    assert double.failure == "RuntimeError: no C++ compiler here"
    assert double(torch.ones(2), kernel="compiled").tolist() == [2, 2]  # no second warning


@pytest.mark.slow
def test_the_compiled_kernel_counts_as_the_eager_one():
    """From the same hashed numbers, all but a pixel in ten thousand get the same count."""
    batch = Batch.of(torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0)))
    streams = Streams(torch.arange(2))
    compiled = ShotNoise(kernel="compiled").perturb(batch, streams).image
    if shot_noise._count.failure:
        pytest.skip(f"no compiler: {shot_noise._count.failure}")
    shot = ShotNoise(kernel="eager")
    drawn = shot.draw(streams.child("draw"), None)
    rows = torch.stack([drawn["dose"], drawn["pedestal"]], 1).unsqueeze(1).expand(-1, 64, -1)
    source = noise_source(streams.child("render"), 64, 96, hashed=True)
    eager = shot_noise._counted(batch.image.flatten(1, 2), source, rows).view_as(batch.image).clamp(0, 1)
    assert ((eager - compiled).abs() > 1e-4).float().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size"), [(1, 160), (3, 64)])
def test_the_compiled_camera_sees_what_the_eager_one_sees(channels, size, monkeypatch):
    """From the same hashed numbers, also where the image reaches over the edge of the detector."""
    image = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0))
    known, streams = about(image), Streams(torch.arange(3))
    compiled, eager = Camera(kernel="compiled"), Camera(kernel="eager")
    drawn = eager.draw(streams.child("draw"), known)
    drawn["offset"] = torch.tensor([[0, 0], [1000, 10], [1023, 1023]])
    found = compiled.render(image, drawn, streams.child("render"), known)
    if camera._expose.failure:
        pytest.skip(f"no compiler: {camera._expose.failure}")
    monkeypatch.setattr(camera._expose, "wanted", lambda kernel, tensor: kernel == "eager")  # the words, hashed
    monkeypatch.setattr(camera._expose, "_fill", lambda out, all: out.copy_(camera._expose.function(*all)))
    easier = camera._expose._easier.function
    monkeypatch.setattr(camera._expose._easier, "_fill", lambda out, all: out.copy_(easier(*all)))
    wanted = eager.render(image, drawn, streams.child("render"), known)
    step = 1.0 / (torch.exp2(drawn["bits"]) - 1).view(-1, 1, 1, 1)
    assert ((found - wanted).abs() > 1e-4 + 1e-3 * step).float().mean() < 2e-3


@pytest.mark.parametrize("size", [(40, 1023), (1030, 20)])
def test_windows_of_the_detector_are_its_wrapped_pattern(size):
    offset = torch.tensor([[0, 0], [1000, 1001], [1023, 1023]])
    packed = packed_patterns(3, torch.device("cpu"))
    wanted = shifted(packed, offset, *size)
    assert torch.equal(torch.cat(packed_windows(3, offset, *size)), wanted)
    assert wanted[1, 29, 11] == packed[5, 1012]


@pytest.mark.parametrize("seed", range(3))
def test_the_short_way_for_bright_images_changes_nothing(seed, monkeypatch):
    image = torch.rand(12, 1, 40, 48, generator=torch.Generator().manual_seed(seed)) * (torch.arange(12) % 3 > 0).view(
        -1, 1, 1, 1
    )  # every third image is black
    known = about(image)
    streams = Streams(torch.arange(12) + 100 * seed)
    for perturbation in (Camera(), ShotNoise()):
        drawn = perturbation.draw(streams.child("draw"), known)
        short = perturbation.render(image, drawn, streams.child("render"), known)
        with monkeypatch.context() as patch:
            patch.setattr(camera, "SPLIT", torch.inf)
            patch.setattr(shot_noise, "SPLIT", torch.inf)
            long = perturbation.render(image, drawn, streams.child("render"), known)
        assert torch.equal(short, long)
        easy = camera._many(drawn) if isinstance(perturbation, Camera) else drawn["dose"] * drawn["pedestal"] >= 5.0
        assert 0 < int(easy.sum()) < 12
