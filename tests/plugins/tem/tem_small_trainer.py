"""A network of two layers, noise of one strength, and weak-to-strong training made of them."""

import torch
from lamella import IGNORE, Batch, Chain, Mean, Perturbation, Range, Warp, per_image
from lamella_tem.weak_to_strong import WeakToStrong
from torch import nn

NAMES = ["a", "b", "c"]


class Net(nn.Module):
    """Encode and decode, with a batch norm to watch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())
        self.last = nn.Conv2d(4, 3, 1)

    def encode(self, image):
        return [image, self.first(image)]

    def decode(self, features, size):
        return self.last(features[-1])


class Noise(Perturbation):
    family = "machine"

    def __init__(self, *, strength: Range = (0.0, 0.0), p: float = 1.0):
        super().__init__(p=p)
        self.strength = strength

    def draw(self, streams, about):
        return {"strength": streams.uniform(*self.strength)}

    def render(self, image, drawn, streams, about):
        return image + per_image(drawn["strength"], image) * streams.normal(*image.shape[1:])


class Shift(Warp):
    family = "sample"

    def draw(self, streams, about):
        return {"by": streams.uniform(2.0, 2.0)}

    def flow(self, drawn, streams, about):
        u = torch.zeros(len(drawn["by"]), about.height, about.width, 2)
        return u + torch.stack([drawn["by"], 0 * drawn["by"]], -1).view(-1, 1, 1, 2)


def batches(images=4, size=12):
    torch.manual_seed(0)
    x, u = torch.rand(images, 1, size, size), torch.rand(images, 1, size, size)
    label = torch.randint(0, 3, (images, size, size))
    label[0, :3] = IGNORE
    keys = torch.arange(images) + 100
    return {"labelled": Batch.of(x, label=label), "unlabelled": Batch.of(u, key=keys)}


def trainer(*strengths, **options):
    torch.manual_seed(1)
    sets = [Chain([Noise(strength=(s, s))]) for s in strengths or (0.1, 0.3)]
    given = {"tau": 0.34, "drop": 0.0, "losses": {"ce": literal_ce}, **options}
    return WeakToStrong(backbone=Net(), sets=sets, class_names=NAMES, **given)


def literal_ce(logits, label, weight, /):
    total, count = logits.new_zeros(()), 0
    for b in range(len(label)):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                if label[b, y, x] != IGNORE:
                    total = total - logits[b, :, y, x].log_softmax(0)[label[b, y, x]]
                    count += 1
    return Mean(total, torch.tensor(float(count)))
