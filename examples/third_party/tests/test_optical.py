"""What this plugin registers keeps the contracts of Lamella, and does what it says."""

from functools import partial

import lamella
import numpy as np
import pytest
import torch
from lamella import Batch, Sample, Streams
from lamella.errors import ContractError, DataError
from lamella.testing import dataset_contract, modality_contract, perturbation_contract
from lamella_optical.chromatic_shift import ChromaticShift
from lamella_optical.dataset import optical_wafer
from lamella_optical.illumination_gradient import IlluminationGradient
from lamella_optical.modality import OpticalModality
from lamella_optical.surface import CLASSES, surface


def colour_samples(dtype: np.dtype) -> list[Sample]:
    """Three colour samples of 8 or 16 bit, one of them in dark field."""
    random, top = np.random.default_rng(0), np.iinfo(dtype).max
    images = [random.integers(0, top, (16, 20, 3)).astype(dtype) for _ in range(3)]
    label = random.integers(0, 3, (16, 20)).astype(np.uint8)
    label[:4] = 255
    return [
        Sample(image, label, None, 100 + i, i, (400.0, 400.0), {"illumination": 1.0 - 2.0 * (i == 2)}, f"image {i}")
        for i, image in enumerate(images)
    ]


test_modality = modality_contract(OpticalModality)  # of grey images
test_modality_in_colour = modality_contract(OpticalModality, samples=colour_samples)
test_modality_with_white_balance = modality_contract(partial(OpticalModality, white="data"), samples=colour_samples)
test_dataset = dataset_contract(partial(optical_wafer, count=4, size=64))
test_dataset_in_dark_field = dataset_contract(partial(optical_wafer, count=4, size=64, illumination="dark-field"))
test_illumination_gradient = perturbation_contract(IlluminationGradient, channels=(1, 3))
test_chromatic_shift = perturbation_contract(ChromaticShift, channels=(3,))


def test_all_of_it_is_registered():
    assert isinstance(lamella.build("modality", "optical"), OpticalModality)
    assert isinstance(lamella.build("perturbation", "optical:chromatic-shift", shift=1), ChromaticShift)
    assert {"optical-wafer"} <= set(lamella.names("dataset"))


def test_illumination_reaches_the_batch():
    batch = OpticalModality().collate(colour_samples(np.dtype(np.uint8)))
    assert batch.meta["illumination"].tolist() == [1.0, 1.0, -1.0]


def test_white_balance_makes_a_coloured_white_white():
    modality = OpticalModality(white="data")
    image = np.full((8, 8, 3), (250, 200, 100), np.uint8)
    modality.calibrate([image])
    sample = Sample(image, None, None, 0, 0, (1.0, 1.0), {}, "white")
    assert torch.equal(modality.collate([sample]).image, torch.ones(1, 3, 8, 8))


def test_floating_point_images_are_refused():
    sample = Sample(np.zeros((8, 8, 3), np.float32), None, None, 0, 0, (1.0, 1.0), {}, "odd.tif")
    with pytest.raises(DataError, match=r"odd\.tif"):
        OpticalModality().collate([sample])


def test_colours_part_and_the_label_stays():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 1.0
    label = (image[:, 0] > 0).long()
    perturbed = ChromaticShift(shift=(2.0, 2.0)).perturb(Batch.of(image, label=label), Streams(torch.tensor([3])))
    assert torch.equal(perturbed.label, label)
    assert torch.equal(perturbed.image[:, 1], image[:, 1])
    changed = (perturbed.image != image).any(1).any(1)[0].nonzero().flatten()
    assert changed.min() >= 8 - 3 and changed.max() <= 8 + 2  # nothing farther from the edge than the shift


def test_one_channel_has_no_colours_to_shift():
    with pytest.raises(ContractError, match="3 channels"):
        ChromaticShift()(torch.zeros(1, 1, 8, 8))


def test_every_class_occurs_in_a_few_surfaces():
    assert set(np.unique([surface(0, index, 128).label for index in range(4)])) == set(range(len(CLASSES)))
