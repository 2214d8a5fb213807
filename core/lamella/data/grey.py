"""The grey range of a whole image, remembered, so that its crops and tiles are mapped as it is."""

import numpy as np

_KEPT, _LOOKS = 4096, 256
_known: dict[tuple[object, ...], tuple[float, float]] = {}


def grey_ends(image: np.ndarray, key: int) -> tuple[float, float]:
    """The 0.1 and 99.9 percentiles of the pixels of an image.

    Sorting a large image takes longer than reading a crop of it, so what was found is kept for the next crop: by the
    sample's ``key``, the shape, the type and a few hundred pixels.

    >>> low, high = grey_ends(np.arange(1001), key=0)
    >>> round(low), round(high)
    (1, 999)
    """
    looks = image.flat[:: max(1, image.size // _LOOKS)].tobytes()
    name = (key, image.shape, image.dtype.str, looks)
    if name not in _known:
        low, high = np.percentile(image, (0.1, 99.9)).tolist()
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[name] = low, high
    return _known[name]
