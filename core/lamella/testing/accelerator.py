"""A GPU that is not there: shapes, dtypes and devices are followed without computing a value."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from lamella.contracts.batch import Batch
from lamella.testing.cases import Case, streams_of
from lamella.testing.subject import Subject

_READS = (DataDependentOutputException, DynamicOutputShapeException)


def on_an_accelerator(subject: Subject, case: Case) -> None:
    """On a GPU it reads no value, mixes no devices, and gives its result there."""
    promise = "run on a GPU as it does on a CPU"
    built = subject.build()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        _move(built, fake)
        batch = _moved(subject.batch(case), fake)
        try:
            result = subject.perturb(built, batch, streams_of(batch))
        except FakeTensorDeviceMismatchError as error:
            advice = "make tensors on image.device, and register kept ones with register_buffer"
            raise subject.broken(promise, f"{error}; {advice}", case) from None
        except _READS as error:
            raise subject.broken(promise, f"{error} makes the host wait for a value", case) from None
        except (UnsupportedFakeTensorException, UnsupportedOperatorException):
            return  # an operator that cannot be followed without values: a real GPU has to tell
        except RuntimeError as error:
            if ".numpy()" not in str(error):
                raise
            raise subject.broken(promise, "it calls .numpy(), which needs the values on the host", case) from None
        for name in ("image", "label", "weight", "instance"):
            was, now = getattr(batch, name), getattr(result, name)
            if (was.shape, was.dtype, was.device) != (now.shape, now.dtype, now.device):
                seen = f"{name} went from {was.dtype} on {was.device} to {now.dtype} on {now.device}"
                raise subject.broken(promise, seen, case)


def _move(built: Any, fake: FakeTensorMode) -> None:
    """Parameters and buffers as they would lie after ``module.to("cuda")``."""
    if isinstance(built, nn.Module):
        for module in built.modules():
            for kept in (module._parameters, module._buffers):
                for name, value in list(kept.items()):
                    if value is not None:
                        kept[name] = _fake(value, fake)  # type: ignore[assignment]


def _moved(batch: Batch, fake: FakeTensorMode) -> Batch:
    fields = {name: _fake(getattr(batch, name), fake) for name in Batch._fields if name != "meta"}
    return batch._replace(**fields, meta={name: _fake(value, fake) for name, value in batch.meta.items()})


def _fake(value: Tensor, fake: FakeTensorMode) -> Tensor:
    empty = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
