"""Objects of rare classes, carried from labelled images into others with their label and some of their surroundings."""

import torch
from lamella import Batch, Streams
from lamella.errors import ConfigError
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d


def paste_objects(
    batch: Batch,
    donors: Batch,
    streams: Streams,
    *,
    classes: Tensor,
    p: float = 0.5,
    halo: int = 4,
    reach: tuple[float, float] = (0.125, 0.5),
) -> Batch:
    """Paste into each image, with probability ``p``, every object of ``classes`` that one donor shows.

    Image i takes from donor i (or i modulo their number). What is carried is the objects and ``halo`` pixels around
    them, moved by up to ``reach`` of the image's height and width, its border blended over five pixels. Image, label
    and trust move together; instances are dropped, since two images may use one number. What would fall outside is
    left out, and a donor that shows no such object changes nothing.

    Args:
        batch: (B, C, H, W) images with labels (B, H, W) and trust (B, H, W).
        donors: labelled images with trust, of any number and size.
        streams: of ``batch``.
        classes: (N,) int64 class ids.

    Source: Ghiasi et al., Simple Copy-Paste, CVPR 2021; into unlabelled images as Tranheden et al., DACS, WACV 2021,
    which carries half the classes where we carry the rare ones with their surroundings.
    """
    label, weight, image = _labelled(donors)
    height, width = batch.image.shape[-2:]
    count = len(batch.image)
    which = (torch.arange(count, device=image.device) % len(image)).view(-1, 1, 1)
    down, across = streams.uniform(-1.0, 1.0, 2).view(-1, 2, 1, 1).unbind(1)
    rows = torch.arange(height, device=image.device).view(1, -1, 1) - (down * reach[0] * height).round().long()
    columns = torch.arange(width, device=image.device).view(1, 1, -1) - (across * reach[1] * width).round().long()
    tall, wide = image.shape[-2:]
    inside = (rows >= 0) & (rows < tall) & (columns >= 0) & (columns < wide)
    inside = inside & (streams.uniform(0.0, 1.0) < p).view(-1, 1, 1)
    rows, columns = rows.clamp(0, tall - 1), columns.clamp(0, wide - 1)

    shown = label[which, rows, columns]
    objects = (torch.isin(shown, classes) & inside).float().unsqueeze(1)
    region = max_pool2d(objects, 2 * halo + 1, stride=1, padding=halo) * inside.unsqueeze(1)
    share = avg_pool2d(region, 5, stride=1, padding=2, count_include_pad=False) * inside.unsqueeze(1)
    taken = share[:, 0] > 0.5
    carried = image.movedim(1, -1)[which, rows, columns].movedim(-1, 1)
    own_label, own_weight, own = _labelled(batch)
    return batch._replace(
        image=torch.lerp(own, carried, share),
        label=torch.where(taken, shown, own_label),
        weight=torch.where(taken, weight[which, rows, columns], own_weight),
        instance=None,
    )


def neighbours(batch: Batch) -> Batch:
    """The batch moved on by one: for each image the one before it, as a donor."""
    label, weight, image = _labelled(batch)
    return batch._replace(image=image.roll(1, 0), label=label.roll(1, 0), weight=weight.roll(1, 0))


def rare_classes(wanted: list[str], class_names: list[str]) -> Tensor:
    """(N,) int64 ids of the classes that are named.

    Raises: ConfigError for a class that the data do not have.

    >>> rare_classes(["void"], ["silicon", "oxide", "void"])
    tensor([2])
    """
    unknown = [name for name in wanted if name not in class_names]
    if unknown:
        raise ConfigError(f"paste: no class is called {', '.join(unknown)}; there are {', '.join(class_names)}")
    return torch.tensor([class_names.index(name) for name in wanted], dtype=torch.int64)


def _labelled(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.label is not None and batch.weight is not None
    return batch.label, batch.weight, batch.image
