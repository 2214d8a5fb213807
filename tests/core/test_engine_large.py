"""Predicting large images in strips gives what predicting them whole gives, in bounded memory."""

import numpy as np
import pytest
import torch
from lamella import Batch, Sample
from lamella.engine.evaluate import predict_whole
from lamella.engine.large import predict_large


class Local:
    """Classes from a blurred grey value: every tile border would show if tiles were not blended right."""

    def predict(self, batch):
        blurred = torch.nn.functional.avg_pool2d(batch.image, 3, 1, 1)
        return torch.cat([1 - blurred, blurred], 1)


class Plain:
    def collate(self, samples):
        return Batch.of(torch.from_numpy(np.stack([s.image for s in samples]).astype(np.float32) / 255).unsqueeze(1))


def sample(image):
    return Sample(image, None, None, 0, 0, (1.0, 1.0), {}, "large")


@pytest.mark.parametrize("size", [(64, 64), (200, 70), (163, 305), (97, 500)])
def test_strips_equal_tiles_of_the_whole(size):
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    strips = predict_large(Local(), sample(image), Plain(), tile=64, device=torch.device("cpu"))
    whole = predict_whole(Local(), Plain().collate([sample(image)]), 64)[0]
    certain = (whole[0] - whole[1]).abs().numpy() > 1e-5
    assert certain.mean() > 0.99
    assert (strips == whole.argmax(0).numpy())[certain].all()


def test_no_more_than_a_strip_of_probabilities_is_held(monkeypatch):
    held = []
    honest = torch.Tensor.new_zeros

    def counted(self, *size, **options):
        held.append(int(np.prod(size)))
        return honest(self, *size, **options)

    monkeypatch.setattr(torch.Tensor, "new_zeros", counted)
    image = np.zeros((1000, 300), np.uint8)
    predict_large(Local(), sample(image), Plain(), tile=64, device=torch.device("cpu"))
    assert held and max(held) == 2 * 64 * 300
