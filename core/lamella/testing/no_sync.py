"""A stand-in for a GPU: code that would make the host wait for the device fails on a CPU too."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_REFUSED = {
    "_local_scalar_dense": "a value is read (.item(), float(), bool(), if); keep it a tensor",
    "equal": "torch.equal reads a value; compare with (a == b).all() and keep the tensor",
    "allclose": "torch.allclose reads a value; keep the comparison a tensor",
    "nonzero": "the size of nonzero() is read from the data; use torch.where(condition, a, b)",
    "masked_select": "the size of masked_select() is read from the data; multiply by the mask",
    "unique_consecutive": "the size of unique() is read from the data",
    "unique_dim": "the size of unique() is read from the data",
    "_unique": "the size of unique() is read from the data",
    "_unique2": "the size of unique() is read from the data",
    "bincount": "the size of bincount() is read from the data; use scatter_add_ into a tensor of known size",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class HostSync(AssertionError):
    """An operation whose result the host has to wait for."""


class _Calls(TorchFunctionMode):
    """What only the call tells: numbers of the host that are sent to a device, and ``one_hot`` with its classes.

    ``one_hot`` with a number of classes checks its values on a CPU, not on a GPU.
    """

    running = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _sends(func, args, kwargs):
            raise HostSync(
                f"host–device sync at {_place()}: numbers of the host are copied to the device; "
                "make them there (torch.full, torch.arange), or once before training"
            )
        if func is not functional.one_hot or kwargs.get("num_classes", args[-1] if len(args) > 1 else -1) < 0:
            return func(*args, **kwargs)
        self.running = True
        try:
            return func(*args, **kwargs)
        finally:
            self.running = False


class _Refuse(TorchDispatchMode):
    def __init__(self, calls: _Calls):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        reason = None if self.calls.running else _REFUSED.get(name)
        if name in _INDEXING and _by_mask(args[1]) and not _fills(args):
            reason = "the size of x[mask] is read from the data; use torch.where(mask, a, b)"
        if name == "repeat_interleave" and "output_size" not in (kwargs or {}):
            reason = "the size of repeat_interleave() is read from the data; give it output_size"
        if reason is None:
            result = func(*args, **(kwargs or {}))
            if name not in ("_to_copy", "copy_") or not _comes_back(args, result):
                return result
            reason = "a tensor comes back from the device; leave it there until the log step"
        raise HostSync(f"host–device sync at {_place()}: {reason} (aten.{name})")


@contextmanager
def no_sync() -> Iterator[None]:
    """Within it, whatever would make the host wait for a GPU raises `HostSync`, on a CPU as well.

    It refuses reading a value (``.item()``, ``bool(tensor)``), ``nonzero``, ``unique``, indexing by a mask and
    ``torch.tensor([…], device=…)``. ``tolist()`` and ``numpy()`` of a CPU tensor pass unseen.

    >>> with no_sync():
    ...     _ = torch.where(torch.ones(3) > 0, 1.0, 0.0)
    >>> with no_sync():
    ...     _ = torch.ones(3).sum().item()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lamella.testing.no_sync.HostSync: host–device sync at ...
    """
    with _Calls() as calls, _Refuse(calls):
        yield


def _sends(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether numbers that are no tensor become one on the device of a tensor; a device named "cpu" is none."""
    if func not in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
        return False
    data = kwargs.get("data", args[-1] if args else None)
    asked = func is torch.Tensor.new_tensor or kwargs.get("device") not in (None, "cpu")
    return asked and not isinstance(data, torch.Tensor)


def _by_mask(indices: Any) -> bool:
    return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in indices)


def _fills(args: Any) -> bool:
    """Whether one number goes where a mask is true: torch does that by ``masked_fill``, which waits for nothing."""
    return len(args) > 2 and args[2].ndim == 0 and all(t is None or t.dtype == torch.bool for t in args[1])


def _comes_back(args: Any, result: Any) -> bool:
    source = next((a for a in reversed(args) if isinstance(a, torch.Tensor)), None)
    return source is not None and source.device.type not in ("cpu", "meta") and result.device.type == "cpu"


def _place() -> str:
    """The innermost line outside of torch and of this file."""
    for frame in reversed(traceback.extract_stack()):
        path = frame.filename.replace("\\", "/")
        if "/torch/" not in path and not path.endswith("testing/no_sync.py"):
            return f"{path.rsplit('/', 1)[-1]}:{frame.lineno} ({(frame.line or '').strip()})"
    return "an unknown place"
