"""The TEM modality: grey values of any file become [0, 1], the same way in training and in use."""

import json
import math

import lamella
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from lamella import IGNORE, LamellaError, Modality, Sample
from lamella.errors import ConfigError, DataError
from lamella.registry.registry import current
from lamella_tem.modality import TemModality


def sample(image, label=None, instance=None, key=7, visit=0, pixel_nm=(0.5, 0.25), meta=None, name="one"):
    return Sample(image, label, instance, key, visit, pixel_nm, meta or {}, name)


def ramp(dtype, top, shape=(4, 8)):
    return np.linspace(0, top, math.prod(shape)).reshape(shape).astype(dtype)


def test_it_keeps_the_contract():
    assert isinstance(TemModality(), Modality)


def test_the_default_weak_set_can_be_built():
    chain = current().plan("chain", list(TemModality.weak), "weak").build()
    assert len(chain) == len(TemModality.weak)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integers_are_mapped_by_the_range_of_their_type(dtype, top):
    image = ramp(dtype, top)
    batch = TemModality().collate([sample(image)])
    assert (batch.image.dtype, batch.image.shape) == (torch.float32, (1, 1, 4, 8))
    np.testing.assert_allclose(batch.image[0, 0], image / top, atol=1e-6)


def test_sixteen_bits_are_not_cut_down_to_eight():
    image = np.array([[1000, 1001]], np.uint16)
    low, high = TemModality().collate([sample(image)]).image.flatten()
    assert high - low == pytest.approx(1 / 65535, rel=1e-2)


@given(
    arrays(
        st.sampled_from([np.uint8, np.uint16, np.float32]),
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements={"min_value": 0, "max_value": 250},
    ),
    st.sampled_from(["image", "data"]),
)
def test_every_mapping_ends_within_zero_and_one(image, intensity):
    modality = TemModality(intensity=intensity)
    modality.calibrate([image])
    grey = modality.collate([sample(image)]).image
    assert grey.isfinite().all()
    assert (grey.min() >= 0) & (grey.max() <= 1)


@pytest.mark.parametrize("intensity", ["image", "data"])
def test_floating_point_images_are_mapped_by_percentiles(intensity):
    image = np.random.default_rng(0).normal(1e4, 50.0, (64, 64)).astype(np.float32)
    modality = TemModality(intensity=intensity)
    modality.calibrate([image])
    low, high = np.percentile(image, (0.1, 99.9))
    grey = modality.collate([sample(image)]).image[0, 0]
    np.testing.assert_allclose(grey, ((image - low) / (high - low)).clip(0, 1), atol=1e-4)


def test_floating_point_images_are_refused_by_default_with_advice():
    with pytest.raises(DataError, match=r"'dtype' goes by; give intensity = 'image' or 'data', .* trained again"):
        TemModality().collate([sample(ramp(np.float32, 1.0))])


def test_by_image_each_image_has_its_own_range_and_by_data_all_share_one():
    dark, bright = ramp(np.uint8, 100), ramp(np.uint8, 200)
    own = TemModality(intensity="image").collate([sample(dark), sample(bright)]).image
    shared = TemModality(intensity="data")
    shared.calibrate([dark, bright])
    together = shared.collate([sample(dark), sample(bright)]).image
    assert own.amax((1, 2, 3)).tolist() == [1.0, 1.0]
    assert together.amax((1, 2, 3)).tolist() == pytest.approx([0.5, 1.0], abs=0.01)


@pytest.mark.parametrize("intensity", ["dtype", "image", "data"])
def test_the_mapping_survives_a_round_trip_through_json(intensity):
    modality = TemModality(intensity=intensity)
    modality.calibrate([ramp(np.uint8, 180)])
    other = TemModality()
    other.restore(json.loads(json.dumps(modality.state())))
    image = ramp(np.uint8, 90)
    assert torch.equal(other.collate([sample(image)]).image, modality.collate([sample(image)]).image)
    assert other.state() == modality.state()


def test_by_data_without_training_images_is_refused():
    with pytest.raises(ConfigError, match="training images"):
        TemModality(intensity="data").collate([sample(ramp(np.uint8, 9))])


def test_a_constant_image_gives_no_nan():
    image = np.full((4, 4), 77, np.uint8)
    modality = TemModality(intensity="data")
    modality.calibrate([image])
    for one in (modality, TemModality(intensity="image")):
        assert one.collate([sample(image)]).image.isfinite().all()


@pytest.mark.parametrize("intensity", ["image", "data"])
def test_an_image_in_one_colour_is_mapped_as_it_is_in_grey(intensity):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    red = np.stack([grey, np.zeros_like(grey), np.zeros_like(grey)], 2)
    found = []
    for image in (grey, red):
        modality = TemModality(intensity=intensity)
        modality.calibrate([image])
        found.append(modality.collate([sample(image)]).image)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_a_crop_is_mapped_as_its_whole_image():
    image = np.repeat(np.array([[10, 20], [110, 210]], np.uint8), 8, 1).repeat(8, 0)
    whole = TemModality(intensity="image").collate([sample(image)]).image[0, 0]
    for top, left in ((0, 0), (8, 0), (8, 8)):
        cut = sample(image[top : top + 8, left : left + 8])._replace(whole=image)
        found = TemModality(intensity="image").collate([cut]).image[0, 0]
        assert torch.equal(found, whole[top : top + 8, left : left + 8])


@pytest.mark.parametrize("intensity", ["image", "data"])
def test_values_of_any_order_use_the_whole_range(intensity):
    modality, tiny = TemModality(intensity=intensity), ramp(np.float32, 1e-9, (64, 64))
    modality.calibrate([tiny])
    assert modality.collate([sample(tiny)]).image.std() > 0.25


def test_colour_images_are_averaged_over_their_channels():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0], image[..., 1] = 30, 60
    batch = TemModality().collate([sample(image)])
    assert batch.image.shape == (1, 1, 4, 4)
    assert batch.image.unique().tolist() == pytest.approx([30 / 255])


def test_polarity_is_that_of_the_file_and_else_that_of_the_experiment():
    image = ramp(np.uint8, 9)
    samples = [sample(image, meta={"polarity": 1.0}), sample(image)]
    assert TemModality(polarity=-1).collate(samples).meta["polarity"].tolist() == [1.0, -1.0]
    assert TemModality().collate(samples).meta["polarity"].tolist() == [1.0, 1.0]
    with pytest.raises(LamellaError, match="polarity"):
        lamella.build("modality", "tem", polarity=0)


def test_everything_that_belongs_to_a_sample_is_in_the_batch():
    image, label = ramp(np.uint8, 255), np.zeros((4, 8), np.uint8)
    label[0] = IGNORE
    instance = np.full((4, 8), 70000)
    batch = TemModality().collate(
        [sample(image, label, instance, 2**62, 3), sample(image, label, instance, 5, 0, (math.nan, math.nan))]
    )
    assert (batch.label.dtype, batch.label[0, 0, 0].item(), batch.label[1, 1, 0].item()) == (torch.int64, IGNORE, 0)
    assert torch.equal(batch.weight, (batch.label != IGNORE).float())
    assert (batch.instance.dtype, batch.instance.max().item()) == (torch.int64, 70000)
    assert (batch.key.tolist(), batch.visit.tolist()) == ([2**62, 5], [3, 0])
    assert (batch.pixel_nm[0].tolist(), batch.pixel_nm[1].isnan().all().item()) == ([0.5, 0.25], True)


def test_without_labels_the_batch_has_neither_label_nor_weight():
    batch = TemModality().collate([sample(ramp(np.uint8, 255))])
    assert (batch.label, batch.weight, batch.instance) == (None, None, None)


def test_the_image_of_a_sample_is_left_as_it_was():
    image = ramp(np.float32, 1.0)
    before = image.copy()
    TemModality(intensity="image").collate([sample(image)])
    assert (image == before).all()


def test_a_picture_is_the_grey_image_in_three_channels():
    picture = TemModality().picture(torch.tensor([[[0.0, 0.5, 1.2]]]))
    assert (picture.dtype, picture.tolist()) == (np.uint8, [[[0] * 3, [128] * 3, [255] * 3]])
