"""A gauge study of a run: what its trials are, what comes out for parts that are known, and mistakes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from lamella import Batch, Chain, build
from lamella.cli.main import main
from lamella.data.formats.files import read_image
from lamella.engine.experiment import read_experiment
from lamella.engine.fit import fit
from lamella.engine.run import open_run
from lamella.engine.trust.gauge import FIGURES, Measurer, Study, summary, within
from lamella.errors import RunError
from lamella.registry.plugins import RegistryFile
from lamella.registry.registry import Registry

SIGMA = 0.04
SIDES = (14, 17, 20, 23, 26)


def noisy(count=2, size=96):
    """Flat grey with white noise of `SIGMA`."""
    random = torch.Generator().manual_seed(1)
    image = 0.5 + SIGMA * torch.randn(count, 1, size, size, generator=random)
    return Batch.of(image, key=torch.arange(count) + 7, visit=torch.zeros(count, dtype=torch.int64))


def chain(*specs):
    return Chain([build("perturbation", spec.pop("name"), **spec) for spec in map(dict, specs)])


BLUR = {"name": "blur", "sigma": (1.5, 1.5)}
SHIFT = {"name": "stage-shift", "y": (3.0, 3.0), "x": (-2.0, -2.0)}
AGAIN = {"name": "own-noise"}


def test_a_setup_is_the_same_for_every_image_and_differs_from_the_next():
    study = Study(chain({"name": "stage-shift", "y": (-9.0, 9.0), "x": (0.0, 0.0)}), chain(), setups=4, repeats=2)
    outside = [(view.label == 255).sum((1, 2)).tolist() for _, _, view in study.views(noisy(3))]
    assert all(len(set(of_image)) == 1 for of_image in outside)
    assert outside[0::2] == outside[1::2]
    assert len({of_image[0] for of_image in outside}) > 1


def test_repeats_differ_by_as_much_noise_as_the_image_has_though_the_focus_smooths_it():
    study = Study(chain(SHIFT, BLUR), chain(AGAIN), setups=1, repeats=2)
    (_, _, one), (_, _, two) = study.views(noisy())
    differ = (one.image - two.image)[..., 8:-8, 8:-8].std() / 2**0.5
    assert differ == pytest.approx(SIGMA, rel=0.05)


def test_trials_depend_on_the_seed_and_the_image_alone():
    study = Study(chain(SHIFT, BLUR), chain(AGAIN), setups=2, repeats=2)
    both, alone = noisy(2), noisy(2)
    alone = Batch.of(alone.image[1:], key=alone.key[1:], visit=alone.visit[1:])
    for (_, _, many), (_, _, single) in zip(study.views(both), study.views(alone), strict=True):
        assert torch.allclose(many.image[1:], single.image, atol=1e-5)
    other = Study(chain(SHIFT, BLUR), chain(AGAIN), setups=2, repeats=2, seed=1)
    assert not torch.equal(next(other.views(both))[2].image, next(study.views(both))[2].image)


def test_margins_from_outside_are_cut_off():
    outside = np.zeros((40, 30), bool)
    outside[:3] = outside[:, 27:] = True
    outside[20, 5] = True
    kept = within(np.ones((40, 30), np.uint8), outside)
    assert kept.shape == (37, 27)
    assert kept[17, 5] == 255
    assert (kept == 255).sum() == 1
    with pytest.raises(RunError, match="weaken the set"):
        within(np.ones((40, 30), np.uint8), np.ones((40, 30), bool))


def test_a_moved_image_is_measured_without_its_margins(run):
    registry = Registry.load(RegistryFile.read(run / "registry.toml"))
    _, trainer, modality, header = open_run(run / "run", registry=registry)
    measurer = Measurer(trainer, modality, torch.device("cpu"), header["data"]["class_names"], {}, 512)
    _, _, view = next(Study(chain(SHIFT), chain()).views(noisy(1, 64)))
    with torch.inference_mode():
        label = measurer.label(view)
    assert label.shape == (64 - 3, 64 - 2) and label.max() < 255


def rows(values, before):
    """Trials of one class whose thickness is ``values`` (images, setups, repeats)."""
    empty = dict.fromkeys(FIGURES, np.nan)
    for image, of_image in enumerate(values):
        yield {**empty, "image": f"i{image}", "setup": -1, "repeat": -1, "class": "a", "thickness_nm": before[image]}
        for setup, repeat in np.ndindex(of_image.shape):
            value = of_image[setup, repeat]
            yield {**empty, "image": f"i{image}", "setup": setup, "repeat": repeat, "class": "a", "thickness_nm": value}


def test_the_summary_tells_bias_lost_trials_and_the_share_of_a_tolerance():
    values = np.random.default_rng(0).normal(0, 0.1, (4, 3, 2)) + np.array([5.0, 6.0, 7.0, 8.0])[:, None, None]
    values[3, 1, 0] = np.nan
    study = Study(Chain([]), Chain([]), setups=3, repeats=2)
    (found,) = summary(list(rows(values, [5.5, 6.5, 7.5, 8.5])), study, tolerance_nm=3.0)
    assert found["images"] == 3
    assert found["lost"] == pytest.approx(1 / 24)
    assert found["bias"] == pytest.approx(values[:3].mean() - 6.5)
    assert found["tolerance_percent"] == pytest.approx(100 * 6 * found["rr"] / 3.0)
    assert found["part"] == pytest.approx(1.0, abs=0.15)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the tiny plugin, with the sets of this one; and its registry in force."""
    from tiny_plugin import __file__ as tiny

    folder = tmp_path_factory.mktemp("gauge")
    path = folder / "registry.toml"
    where = Path(tiny).parent.as_posix()
    path.write_text(f"[plugins]\nenable = ['tem']\nlocal = ['tiny_plugin']\npath = ['{where}']\n")
    (folder / "tiny.toml").write_text(
        'modality = "tiny-grey"\n[data.labelled]\nsource = { name = "tiny-squares", count = 8, size = 64 }\n'
        '[trainer]\nname = "tiny-plain"\nbackbone = { name = "tiny-conv" }\n'
        "[fit]\nsteps = 60\nbatch_size = 4\noptimizer = { lr = 0.03 }\n"
    )
    registry = Registry.load(RegistryFile.read(path))
    fit(read_experiment(folder / "tiny.toml", registry=registry), folder / "run")
    random = np.random.default_rng(3)
    (folder / "images").mkdir()
    for number, side in enumerate(SIDES):
        grey = np.full((64, 64), 0.2)
        grey[20 : 20 + side, 16 : 16 + side] = 0.8
        pixels = ((grey + random.normal(0, 0.05, grey.shape)).clip(0, 1) * 255).astype(np.uint8)
        told = {"imagej": True, "resolution": (2.0, 2.0), "metadata": {"unit": "nm"}}
        tifffile.imwrite(folder / "images" / f"part{number}.tif", pixels, **told)
    return folder


@pytest.fixture
def gauge(run, monkeypatch, capsys):
    """Call the command; gives (exit code, standard output, standard error)."""
    monkeypatch.setenv("LAMELLA_REGISTRY", str(run / "registry.toml"))

    def call(*arguments):
        code = 0
        try:
            main(["gauge", str(run / "run"), *map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code or 0
        return code, *capsys.readouterr()

    return call


def test_squares_of_known_sides_are_told_apart(gauge, run, tmp_path):
    code, out, _ = gauge(run / "images", "--out", tmp_path / "g", "--class", "square", "--tolerance-nm", "2")
    assert code == 0, out
    with (tmp_path / "g" / "gauge.csv").open(encoding="utf-8") as file:
        found = {row["figure"]: row for row in csv.DictReader(file)}
    middle = found["cd_mid_nm"]
    assert float(middle["part"]) == pytest.approx(np.std(SIDES, ddof=1) / 2, rel=0.1)  # half a nm per pixel
    assert float(middle["mean"]) == pytest.approx(np.mean(SIDES) / 2, abs=1.0)  # half a pixel a side is lost
    assert 0 < float(middle["rr"]) < 0.3
    assert float(middle["tolerance_percent"]) == pytest.approx(100 * 6 * float(middle["rr"]) / 2, rel=1e-3)
    with (tmp_path / "g" / "trials.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(SIDES) * (1 + 3 * 3)
    picture = read_image(tmp_path / "g" / "gauge.png")
    assert picture.std() > 5
    assert "square cd_mid_nm" in out


def test_the_same_seed_gives_the_same_study_and_another_another(gauge, run, tmp_path):
    small = (run / "images", "--setups", "2", "--repeats", "2", "--json")
    first, second, other = (
        json.loads(gauge(*small, "--out", tmp_path / str(number), "--seed", seed)[1])
        for number, seed in enumerate(("0", "0", "1"))
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--class", "fin"], "there is no such class or structure; there are ground, square, disc"),
        (["--structure", "both=square+fin"], "there is no class 'fin'"),
        (["--repeat", "nothing-of-that-name"], "nothing-of-that-name"),
    ],
)
def test_mistakes_are_one_sentence(gauge, run, tmp_path, arguments, said):
    code, _, err = gauge(run / "images", "--out", tmp_path / "g", *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "g").exists()


def test_one_image_no_pixel_size_or_a_study_that_is_there_are_refused(gauge, run, tmp_path):
    code, _, err = gauge(run / "images" / "part0.tif", "--out", tmp_path / "g")
    assert (code, "give two at least" in err) == (2, True)
    for number in range(2):
        tifffile.imwrite(tmp_path / f"bare{number}.tif", np.zeros((32, 32), np.uint8))
    bare = sorted(tmp_path.glob("bare*.tif"))
    code, _, err = gauge(*bare, "--out", tmp_path / "g")
    assert (code, "--pixel-nm" in err) == (2, True)
    code, _, err = gauge(run / "images", "--out", bare[0])
    assert (code, err) == (2, f"lamella: --out {bare[0]} is a file; name a folder\n")  # before it measures
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "gauge.csv").write_text("mine")
    code, _, err = gauge(run / "images", "--out", tmp_path / "g")
    assert (code, "choose another --out" in err) == (2, True)
    assert (tmp_path / "g" / "gauge.csv").read_text() == "mine"
