"""Kornia's own 2D classes: each is admitted and keeps the reduced contract, or is refused in one sentence."""

import inspect

import kornia.augmentation
import lamella
import pytest
import torch
from kornia.augmentation import GeometricAugmentationBase2D, IntensityAugmentationBase2D
from lamella import IGNORE, Batch, Chain, Streams
from lamella.errors import ContractError
from lamella.testing import perturbation_contract

REFUSED = {
    "CenterCrop": {"size": 8},
    "LongestMaxSize": {"max_size": 8},
    "PadTo": {"size": (200, 200)},
    "RandomCrop": {"size": (8, 8)},
    "RandomDissolving": {},
    "RandomResizedCrop": {"size": (8, 8)},
    "Resize": {"size": 8},
    "SmallestMaxSize": {"max_size": 8},
}
"""What the adapter does not admit, with arguments that Kornia takes."""

ARGUMENTS = {
    "Denormalize": {"mean": 0.1, "std": 0.8},
    "Normalize": {"mean": 0.1, "std": 1.2},
    "RandomAffine": {"degrees": 20.0, "translate": (0.1, 0.1), "scale": (0.9, 1.1), "shear": 5.0},
    "RandomClahe": {"grid_size": (2, 2)},
    "RandomGaussianBlur": {"kernel_size": 3, "sigma": (0.1, 2.0)},
    "RandomMotionBlur": {"kernel_size": 3, "angle": 35.0, "direction": 0.5},
    "RandomRain": {"number_of_drops": (3, 6), "drop_height": (2, 4), "drop_width": (-2, 2)},
    "RandomRotation": {"degrees": 30.0},
    "RandomRotation90": {"times": (1, 3)},
    "RandomShear": {"shear": 10.0},
    "RandomTranslate": {"translate_x": (-0.2, 0.2), "translate_y": (-0.2, 0.2)},
}
"""What the others need, or at least something to do."""

COLOUR = {
    "ColorJiggle", "ColorJitter", "RandomGrayscale", "RandomHue", "RandomPlanckianJitter", "RandomRGBShift",
    "RandomSaturation", "RandomSnow", "RandomJPEG", "RandomRain",
}  # fmt: skip
"""Kornia computes these on three channels only."""


def classes() -> list[str]:
    """The names of all 2D intensity and geometry classes of the installed Kornia."""
    bases = (IntensityAugmentationBase2D, GeometricAugmentationBase2D)
    return sorted(
        name
        for name, cls in vars(kornia.augmentation).items()
        if inspect.isclass(cls) and issubclass(cls, bases) and cls not in bases
    )


def component(name: str):
    return lamella.kornia(f"kornia.augmentation:{name}", **ARGUMENTS.get(name, {}))


@pytest.mark.parametrize("name", [name for name in classes() if name not in REFUSED])
def test_admitted_class_keeps_the_reduced_contract(name):
    channels = (3,) if name in COLOUR else (1,)
    perturbation_contract(component(name), reduced=True, channels=channels, examples=2)()


@pytest.mark.parametrize("name", REFUSED)
def test_refused_class_says_why(name):
    with pytest.raises(ContractError) as caught:
        lamella.kornia(f"kornia.augmentation:{name}", **REFUSED[name])()
    message = str(caught.value)
    assert name in message and "\n" not in message
    assert "size" in message or "more than an image" in message


@pytest.mark.parametrize(
    ("target", "parameters", "part"),
    [
        ("kornia.augmentation:RandomCutMixV2", {}, "neither a 2D intensity nor a 2D geometry augmentation"),
        ("kornia.augmentation:RandomRotation3D", {"degrees": 3.0}, "neither a 2D"),
        ("kornia.augmentation:RandomElasticTransform", {}, "neither a 2D"),
        ("kornia.augmentation:RandomGaussianBlur", {"kernel": 3}, "does not take these parameters"),
        ("kornia.augmentation:RandomRotation", {"degrees": -3.0}, "does not take these parameters"),
        ("kornia.augmentation:RandomAffine", {"degrees": 3.0, "shear": (1, 2, 3)}, "does not take these"),
        ("kornia.augmentation:RandomGausianBlur", {}, "not an importable class"),
        ("kornia.augmentations:RandomGaussianBlur", {}, "not an importable class"),
        ("RandomGaussianBlur", {}, "not an importable class"),
        ("kornia.augmentation:AUGMENT", {}, "not an importable class"),
        ("kornia.filters:gaussian_blur2d", {}, "neither a 2D"),
    ],
)
def test_other_targets_are_refused(target, parameters, part):
    with pytest.raises(ContractError, match=part):
        lamella.kornia(target, **parameters)()


def scene(*, size: int = 32) -> Batch:
    label = torch.randint(0, 4, (2, size, size), generator=torch.Generator().manual_seed(0))
    return Batch.of(torch.rand(2, 1, size, size), label=label, instance=label + 1)


@pytest.mark.parametrize("degrees", [45.0, 90.0])
def test_labels_from_outside_are_ignored_with_weight_0(degrees):
    turn = lamella.kornia("kornia.augmentation:RandomRotation", degrees=(degrees, degrees), p=1.0)
    batch = scene()
    result = turn().perturb(batch, Streams(torch.arange(2)))
    ignored = result.label == IGNORE
    assert (result.weight == 0).equal(ignored) and (result.instance == 0).equal(ignored)
    corner = result.label[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    if degrees == 45.0:
        assert (corner == IGNORE).all() and 0.1 < ignored.float().mean() < 0.3
        assert (result.image.squeeze(1)[..., 0, 0] == 0).all()
    else:
        assert not ignored.any()
        assert result.label.equal(batch.label.rot90(1, (1, 2)))
        torch.testing.assert_close(result.image, batch.image.rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_an_empty_batch_stays_one():
    turn, batch = lamella.kornia("kornia.augmentation:RandomRotation", degrees=9.0), Batch.of(torch.zeros(0, 1, 8, 8))
    assert turn().perturb(batch, Streams(batch.key)).image.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("name", ["RandomAffine", "RandomShear", "RandomTranslate"])
@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_what_padding_invents_is_ignored_as_zeros_are(name, padding):
    how = {"RandomAffine": {"degrees": 0.0, "translate": (0.3, 0.3)}, "RandomShear": {"shear": (30.0, 30.0)}}
    how = how.get(name, {"translate_x": (0.2, 0.2), "translate_y": (0.3, 0.3)})
    padded, plain = (
        lamella.kornia(f"kornia.augmentation:{name}", padding_mode=mode, p=1.0, **how)().perturb(
            scene(), Streams(torch.arange(2))
        )
        for mode in (padding, "zeros")
    )
    assert plain.label.eq(IGNORE).any() and padded.label.equal(plain.label)
    assert padded.weight.equal(plain.weight) and padded.instance.equal(plain.instance)
    assert not padded.image.equal(plain.image)


def test_shift_moves_everything_by_as_many_pixels():
    shift = lamella.kornia(
        "kornia.augmentation:RandomTranslate", translate_x=(0.25, 0.25), translate_y=(0.0, 0.0), p=1.0
    )
    batch = scene()
    result = shift().perturb(batch, Streams(torch.arange(2)))
    assert (result.label[:, :, :8] == IGNORE).all()
    assert result.label[:, :, 8:].equal(batch.label[:, :, :-8])
    assert result.instance[:, :, 8:].equal(batch.instance[:, :, :-8])
    torch.testing.assert_close(result.image[..., 9:], batch.image[..., 1:-8], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("RandomAffine", {"degrees": 20.0, "scale": (0.8, 1.2), "shear": 8.0}),
        ("RandomRotation", {"degrees": 40.0}),
        ("RandomPerspective", {}),
        ("RandomShear", {"shear": 15.0}),
        ("RandomTranslate", {"translate_x": (-0.3, 0.3)}),
    ],
)
def test_label_moves_on_the_same_grid_as_the_image(name, parameters):
    """An image sampled by the nearest pixel shows, pixel for pixel, what the label says."""
    move = lamella.kornia(f"kornia.augmentation:{name}", resample="NEAREST", p=1.0, **parameters)()
    label = torch.randint(0, 4, (6, 64, 64), generator=torch.Generator().manual_seed(1))
    result = move.perturb(Batch.of(label.unsqueeze(1) / 4, label=label), Streams(torch.arange(6)))
    inside = result.label != IGNORE
    shown = (result.image.squeeze(1) * 4).round().long()
    assert inside.float().mean() > 0.5
    assert (shown == result.label)[inside].float().mean() > 0.999  # sources halfway between two pixels


def test_gate_leaves_image_and_label_alone_together():
    flip = lamella.kornia("kornia.augmentation:RandomHorizontalFlip", p=0.5)()
    batch = scene().select(torch.zeros(64, dtype=torch.int64))
    result = flip.perturb(batch, Streams(torch.arange(64)))
    turned = (result.image != batch.image).flatten(1).any(1)
    assert turned.equal((result.label != batch.label).flatten(1).any(1))
    assert 16 < turned.sum() < 48


def test_chain_leaves_the_global_generator_alone():
    blur = lamella.kornia("kornia.augmentation:RandomGaussianBlur", kernel_size=3, sigma=(0.1, 2.0), p=1.0)
    batch = scene()
    before = torch.get_rng_state()
    Chain([blur()])(batch, Streams(torch.arange(2)))
    assert torch.get_rng_state().equal(before)


def test_calculates_in_float32_under_autocast():
    made = lamella.kornia("kornia.augmentation:RandomGaussianBlur", kernel_size=(5, 5), sigma=(1.0, 1.0), p=1.0)
    blur = made()
    batch = Batch.of(torch.rand(2, 1, 32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = blur.perturb(batch, Streams(batch.key)).image
    assert inside.equal(blur.perturb(batch, Streams(batch.key)).image)
