"""The contract of modalities: those registered keep it, and broken ones are caught and named."""

from functools import partial

import lamella
import numpy as np
import pytest
import torch
from lamella import Batch, Sample
from lamella.registry.registry import current
from lamella.testing import BrokenPromise, modality_contract


@pytest.mark.parametrize("component", current().components("modality"), ids=lambda c: c.full_name)
def test_registered_modality_keeps_its_contract(component):
    modality_contract(partial(lamella.build, "modality", component.full_name))()


class Correct:
    """Grey values over the highest of the training images; the dose as metadata."""

    channels = 1
    weak = ({"name": "shot-noise"},)

    def __init__(self):
        self.metadata, self.top = {"dose": 100.0}, 255.0

    def calibrate(self, images):
        self.top = float(max(image.max() for image in images))

    def state(self):
        return {"top": self.top}

    def restore(self, state):
        self.top = state["top"]

    def grey(self, samples):
        return torch.from_numpy(np.stack([s.image for s in samples]).astype(np.float32) / self.top)

    def collate(self, samples):
        labels = [s.label for s in samples]
        return Batch.of(
            self.grey(samples).clamp(0, 1).unsqueeze(1),
            label=None if labels[0] is None else torch.from_numpy(np.stack(labels).astype(np.int64)),
            key=torch.tensor([s.key for s in samples]),
            visit=torch.tensor([s.visit for s in samples]),
            pixel_nm=torch.tensor([s.pixel_nm for s in samples], dtype=torch.float32),
            meta={"dose": torch.tensor([s.meta.get("dose", self.metadata["dose"]) for s in samples])},
        )

    def picture(self, image):
        return np.repeat((image[0].numpy()[..., None] * 255).astype(np.uint8), 3, axis=2)


class TwoViews(Correct):
    """A correct one: each object at two magnifications."""

    def collate(self, samples):
        batch = super().collate(samples)
        return {
            "high": batch,
            "low": batch._replace(image=batch.image[..., ::2, ::2], label=None, weight=None),
        }


class By255(Correct):
    def calibrate(self, images):
        pass

    def grey(self, samples):
        return super().grey(samples).clamp(max=1e9)

    def collate(self, samples):
        return super().collate(samples)._replace(image=self.grey(samples).unsqueeze(1))


class Doubles(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        return batch._replace(image=batch.image.double())


class TwoChannels(Correct):
    channels = 2


class ByBatch(Correct):
    def grey(self, samples):
        grey = np.stack([s.image for s in samples]).astype(np.float32)
        return torch.from_numpy(grey / max(grey.mean(), 1.0) / 10)


class Forgets(Correct):
    def restore(self, state):
        pass


class KeepsArray(Correct):
    def state(self):
        return {"top": np.float32(self.top)}


class OtherKeys(Correct):
    def collate(self, samples):
        return super().collate(samples)._replace(key=torch.arange(len(samples)))


class NoVisits(Correct):
    def collate(self, samples):
        return super().collate(samples)._replace(visit=torch.zeros(len(samples), dtype=torch.int64))


class NoPixelSize(Correct):
    def collate(self, samples):
        return super().collate(samples)._replace(pixel_nm=torch.full((len(samples), 2), torch.nan))


class PixelSizeInXAndY(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        return batch._replace(pixel_nm=batch.pixel_nm.flip(1))


class LabelsOfNeighbours(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        if batch.label is None:
            return batch
        return batch._replace(label=batch.label.roll(1, 0), weight=batch.weight.roll(1, 0))


class MirroredLabels(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        return batch if batch.label is None else batch._replace(label=batch.label.flip(2), weight=batch.weight.flip(2))


class OneClass(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        return batch if batch.label is None else batch._replace(label=batch.label * 0)


class DropsLabels(Correct):
    def collate(self, samples):
        return super().collate(samples)._replace(label=None, weight=None)


class SwapsClassesOfViews(TwoViews):
    def collate(self, samples):
        views = super().collate(samples)
        return {view: batch._replace(label=views["high"].label.flip(0)) for view, batch in views.items()}


class ZeroMetadata(Correct):
    def collate(self, samples):
        return super().collate(samples)._replace(meta={"dose": torch.zeros(len(samples))})


class OtherMetadata(Correct):
    def collate(self, samples):
        return super().collate(samples)._replace(meta={})


class TrustsIgnored(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        return batch if batch.label is None else batch._replace(weight=torch.ones(batch.label.shape))


class ByteLabels(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        return batch if batch.label is None else batch._replace(label=batch.label.to(torch.uint8))


class InventsLabels(Correct):
    def collate(self, samples):
        batch = super().collate(samples)
        label = torch.zeros_like(batch.image[:, 0], dtype=torch.int64) if batch.label is None else batch.label
        return batch._replace(label=label)


class FloatPicture(Correct):
    def picture(self, image):
        return image.movedim(0, -1).expand(-1, -1, 3).numpy()


class NoPicture:
    channels, metadata, weak = 1, {}, ()


class NamelessWeak(Correct):
    weak = ({"dose": 10},)


BROKEN = {
    By255: r"grey values in \[0, 1\]",
    Doubles: "float32",
    TwoChannels: r"images \(B, 2, H, W\)",
    ByBatch: "treat each image alone",
    Forgets: "map grey values alike after restore",
    KeepsArray: "plain JSON values",
    OtherKeys: "keep the keys",
    NoVisits: "keep the visits of the samples",
    NoPixelSize: "keep the pixel sizes of the samples",
    PixelSizeInXAndY: "keep the pixel sizes of the samples, y and x",
    LabelsOfNeighbours: "keep the labels of the samples",
    MirroredLabels: "keep the labels of the samples",
    OneClass: "keep the labels of the samples",
    DropsLabels: "keep the labels of the samples: there are none",
    ZeroMetadata: "carry 'dose' of the samples, or what it declares for it",
    OtherMetadata: "carry the metadata it declares",
    TrustsIgnored: "give ignored pixels the weight 0",
    ByteLabels: r"labels \(B, H, W\) int64",
    InventsLabels: "no label where no sample has one",
    FloatPicture: "show a picture .* uint8",
    NoPicture: "have all of a Modality: it has no calibrate",
    NamelessWeak: "weak set as specs with a name",
}

test_correct_modality = modality_contract(Correct)
test_two_views = modality_contract(TwoViews)


@pytest.mark.parametrize("modality", BROKEN, ids=lambda c: c.__name__)
def test_broken_promise_is_caught_and_named(modality):
    with pytest.raises(BrokenPromise, match=f"{modality.__name__} must .*{BROKEN[modality]}"):
        modality_contract(modality)()


def test_classes_and_metadata_of_the_samples():
    def samples(dtype):
        image = np.full((8, 8), np.iinfo(dtype).max, dtype)
        return [Sample(image, i, None, i, 0, (1.0, 1.0), {"dose": 3.0 + i}, "") for i in range(2)]

    class DefaultDose(Correct):
        def collate(self, samples):
            return super().collate(samples)._replace(meta={"dose": torch.full((len(samples),), self.metadata["dose"])})

    modality_contract(Correct, samples=samples)()
    with pytest.raises(BrokenPromise, match="carry 'dose' of the samples"):
        modality_contract(DefaultDose, samples=samples)()
    with pytest.raises(BrokenPromise, match="keep the labels of the samples"):
        modality_contract(SwapsClassesOfViews, samples=samples)()


def test_own_samples():
    seen = []

    def samples(dtype):
        seen.append(dtype.name)
        image = np.full((8, 8), np.iinfo(dtype).max, dtype)
        return [Sample(image, None, None, i, 0, (1.0, 1.0), {"dose": 3.0}, "") for i in range(2)]

    modality_contract(Correct, samples=samples)()
    assert seen == ["uint8", "uint16"]
