"""The passes of a step through the network: labelled images, weak views and dropped features, and what batch norm sees.

Symbols as in the paper (section 2.2): p^w are the probabilities of the weak view, fp is the feature perturbation.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from lamella import SegmentationBackbone, logits_of
from torch import Tensor, nn

Statistics = Literal["all", "weak"]
"""Which views batch norm follows: with ``all`` labelled images and weak views pass together, with ``weak`` apart."""


class FirstPass(NamedTuple):
    """What a step asks of the network before its strong views are made."""

    logits: Tensor
    """Of labelled images, (B, K, H, W)."""
    p_w: Tensor
    """Of weak views, without gradient, (B_u, K, H, W)."""
    perturbed: Tensor | None
    """Logits of weak views under the feature perturbation, p^fp before its softmax; None without one."""


def first_pass(
    network: SegmentationBackbone,
    image: Tensor,
    weak: Tensor,
    *,
    drop: float | None,
    statistics: Statistics,
    teacher: SegmentationBackbone | None = None,
) -> FirstPass:
    """Labelled images (B, C, H, W) and weak views (B_u, C, H_u, W_u) through the network.

    With ``statistics = "all"`` those of one size pass together, dropped features too, as in UniMatch's code.

    Args:
        drop: share of the channels that the feature perturbation drops; None leaves it out.
        teacher: the network that p^w is of; else the same.
    """
    joint = statistics == "all" and teacher is None and image.shape[1:] == weak.shape[1:]
    tied = joint and looks_across_images(network)
    if tied or (joint and drop is not None):
        return _joint_pass(network, image, weak, drop, tied=tied)
    logits = logits_of(network, image)
    p_w, features = weak_pass(network, weak, learns=drop is not None, teacher=teacher)
    perturbed = None
    if drop is not None:
        with recording(network, statistics):
            perturbed = network.decode(drop_channels(features, drop, weak.shape[1]), _size(weak))
    return FirstPass(logits, p_w, perturbed)


def _joint_pass(
    network: SegmentationBackbone, image: Tensor, weak: Tensor, drop: float | None, *, tied: bool
) -> FirstPass:
    """Labelled images and weak views at once; tied by batch norm, with and without dropped features too.

    The labelled ones' dropped features are decoded for their part in the statistics alone, as in UniMatch's code. Where
    nothing ties images to each other, they are left out, and pseudo-labels have no part in the pass with a gradient.
    """
    count, size = len(image), _size(weak)
    both = network.encode(torch.cat([image, weak]))
    ours, theirs = [feature[:count] for feature in both], [feature[count:] for feature in both]
    if tied and drop is None:
        logits, of_weak = network.decode(both, size).tensor_split([count])
        perturbed = None
    elif tied:
        assert drop is not None
        all_maps = [torch.cat(maps) for maps in zip(both, drop_channels(both, drop, weak.shape[1]))]
        first, last = len(both[0]), len(both[0]) + count
        logits, of_weak, _, perturbed = network.decode(all_maps, size).tensor_split([count, first, last])
    else:
        assert drop is not None
        with torch.no_grad():
            of_weak = network.decode(theirs, size)
        learned = [torch.cat(maps) for maps in zip(ours, drop_channels(theirs, drop, weak.shape[1]))]
        logits, perturbed = network.decode(learned, size).tensor_split([count])
    return FirstPass(logits, of_weak.detach().float().softmax(1), perturbed)


def weak_pass(
    network: SegmentationBackbone, weak: Tensor, *, learns: bool = False, teacher: SegmentationBackbone | None = None
) -> tuple[Tensor, list[Tensor]]:
    """p^w without gradient, the teacher's where there is one, and the network's features, with a gradient if it learns.

    Features that nobody uses, those of a teacher's pupil that does not learn from them, are not computed.
    """
    features: list[Tensor] = []
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        if learns or teacher is None:
            features = network.encode(weak)
    with torch.no_grad():
        logits = network.decode(features, _size(weak)) if teacher is None else logits_of(teacher, weak)
    return logits.float().softmax(1).detach(), features


def drop_channels(features: Sequence[Tensor], rate: float, channels: int) -> list[Tensor]:
    """Feature perturbation: whole channels of every feature map dropped, the rest scaled by 1/(1 − rate).

    Args:
        channels: of the image; a map of no more is the image itself, as some encoders give it, and stays.

    Source: UniMatch (Yang et al., CVPR 2023), Dropout2d on the encoder's features.
    """
    drop = partial(nn.functional.dropout2d, p=rate, training=True)
    return [drop(feature) if feature.shape[1] > channels else feature for feature in features]


def recording(network: Any, statistics: Statistics) -> AbstractContextManager[None]:
    """A context in which batch norm records of strong views and dropped features what ``statistics`` says."""
    return statistics_left_alone(network) if statistics == "weak" else nullcontext()


@contextmanager
def statistics_left_alone(network: Any) -> Iterator[None]:
    """Within it batch norms use the statistics of the batch and record nothing: for probes without gradient."""
    norms = [norm for norm in _batch_norms(network) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def looks_across_images(network: Any) -> bool:
    """Whether what a network in train mode says of an image depends on the others of its batch."""
    return len(_batch_norms(network)) > 0


def _batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [norm for norm in network.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
