"""Equation 9: each image of a defect against its other view, at its own and at the other magnification, in one pass.

With Z = [H; L] stacked, every term of the equation (HH, HL, LH, LL) is a log-sum-exp over half a row of one Gram
matrix Z·Zᵀ/τ. It is computed in tiles of rows and once more in the backward, so that no more than one tile is held:
memory grows with the batch, not with its square.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lamella.contracts.precision import in_float32
from torch import Tensor

from lamella_sem.gather import gathered

TILE, GPU_TILE = 128, 512
"""Rows of the Gram matrix at a time; a GPU is done with few rows before the next are asked for."""
TERMS = ("hh", "hl", "lh", "ll")
"""Anchor and target of the terms, in the order of the paper's sum over m and n."""
_EXCLUDED = -1e30


class FourWay(NamedTuple):
    """Sums of −log p over the anchors of each term, and how many anchors there are."""

    total: Tensor
    """(4,) with gradient, in the order of ``TERMS``."""
    count: Tensor
    """(4,) without gradient: of this process."""


def four_way(
    high: Tensor,
    low: Tensor,
    *,
    temperature: float,
    defect: Tensor,
    present: Tensor | None = None,
    alike: Tensor | None = None,
    tile: int | None = None,
) -> FourWay:
    """The four terms of equation 9 for N defects in two views at each magnification, before their means.

    For anchor i (1 … 2N) at magnification m and target magnification n, with j(i) the other view of the same defect,

        ℓ_i = −f_i^m·f_{j(i)}^n/τ + log Σ_{a ∈ I(i)} exp(f_i^m·f_a^n/τ),    I(i) = {j(i)} ∪ {a: defect(a) ≠ defect(i)}

    so I(i) holds all other images but those known to show the same. A term's total divided by its count is its mean
    over 2N; the mean of the four is the paper's loss. Under several processes the targets are those of all of them,
    the anchors this process's own: totals and counts are to be summed over processes.

    Args:
        high: (2N, D) features of the first views of every defect, then of the second; usually of norm 1.
        low: (2N, D), likewise.
        temperature: τ.
        defect: (N,) int64; images whose numbers agree are not counted as negatives of each other (the same defect,
            the same die, a known repeat).
        present: (N, 2), 0 where a defect has no image at high (column 0) or low (1) magnification; such images are
            neither anchors nor targets.
        alike: (N,) int64; only images whose numbers agree are negatives of each other (defects on one pattern), so that
            what the rest of the image shows tells nobody apart. All of them by default.
        tile: rows of the Gram matrix at a time; by default `TILE`, on a GPU `GPU_TILE`.

    Source: the paper's equation 9. Its I is "the negative samples associated with image i"; as in SimCLR and CAN it
    contains the positive, or no term would be a probability. The image itself and, across magnifications, the same
    view at the other one are left out of the sum.

    >>> views = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    >>> same = four_way(views, views, temperature=0.1, defect=torch.arange(3))
    >>> bool((same.total[0] - same.total[1]).abs() < 1e-5), same.count.tolist()
    (True, [6.0, 6.0, 6.0, 6.0])
    """
    images = len(high)  # 2N
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    groups = torch.stack([defect, torch.zeros_like(defect) if alike is None else alike]).repeat(1, 2)  # (2, 2N)
    there = high.new_ones(images, 2) if present is None else present.repeat(2, 1).to(high.dtype)
    own = torch.arange(images, device=high.device)
    other = own.roll(images // 2)  # j(i), in this process's numbering
    stacked = torch.stack([high, low])
    lse = _RowsLogSumExp.apply(
        stacked.flatten(0, 1),
        gathered(stacked),
        groups.repeat(1, 2),
        gathered(groups),
        gathered(there.t().contiguous()),
        other.repeat(2) + rank * images,
        1.0 / temperature,
        tile or (TILE if high.device.type == "cpu" else GPU_TILE),
    ).view(2, images, 2)  # anchor's magnification, image, target's magnification
    views = _wide(stacked)
    positive = torch.einsum("mid,nid->min", views, views[:, other]) / temperature
    counted = there.t().unsqueeze(2) * there[other].unsqueeze(0)  # (2, 2N, 2): anchor and target are there
    each = torch.where(counted > 0, lse - positive, 0.0)
    return FourWay(each.sum(1).flatten(), counted.sum(1).flatten().to(each.dtype))


def _wide(value: Tensor) -> Tensor:
    """In float32, or as it is in float64."""
    return value if value.dtype == torch.float64 else value.float()


class _RowsLogSumExp(torch.autograd.Function):
    """log Σ exp of rows·columnsᵀ·scale over each of two blocks of columns, without what is excluded.

    Recomputed tile by tile in the backward. The tensors after ``columns`` carry no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        row_groups: Tensor,
        column_groups: Tensor,
        column_there: Tensor,
        positive: Tensor,
        scale: float,
        tile: int,
    ) -> Tensor:
        with in_float32(rows):
            wide, flat = _wide(rows), _wide(columns).flatten(0, 1)  # (R, D), (2M, D)
            out = wide.new_empty(len(rows), 2)
            for start in range(0, len(rows), tile):
                part = slice(start, start + tile)
                gram = _tile(wide[part], flat, row_groups[:, part], column_groups, column_there, positive[part], scale)
                torch.logsumexp(gram, 2, out=out[part])
        ctx.save_for_backward(rows, columns, row_groups, column_groups, column_there, positive, out)
        ctx.scale, ctx.tile = scale, tile
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, columns, row_groups, column_groups, column_there, positive, lse = ctx.saved_tensors
        with in_float32(rows):
            wide, flat = _wide(rows), _wide(columns).flatten(0, 1)
            for_rows, for_columns = torch.empty_like(wide), torch.zeros_like(flat)
            for start in range(0, len(rows), ctx.tile):
                part = slice(start, start + ctx.tile)
                share = _tile(
                    wide[part], flat, row_groups[:, part], column_groups, column_there, positive[part], ctx.scale
                )
                share.sub_(lse[part].unsqueeze(2)).exp_().mul_((grad[part] * ctx.scale).unsqueeze(2))
                share = share.flatten(1)  # (T, 2M): the derivative by every entry of the tile
                for_rows[part] = share @ flat
                for_columns.addmm_(share.t(), wide[part])
        out = for_rows.to(rows.dtype), for_columns.view_as(columns).to(columns.dtype)
        return (*out, None, None, None, None, None, None)


def _tile(
    rows: Tensor,
    columns: Tensor,
    row_groups: Tensor,
    column_groups: Tensor,
    column_there: Tensor,
    positive: Tensor,
    scale: float,
) -> Tensor:
    """(T, 2, M): a tile of the Gram matrix, with what is excluded far below everything else."""
    gram = (rows @ columns.t()).mul_(scale).view(len(rows), 2, -1)
    place = torch.arange(column_groups.shape[1], device=rows.device)
    same, alike = row_groups.unsqueeze(2) == column_groups.unsqueeze(1)  # (T, M) each
    no_negative = (same | ~alike) & (place != positive.unsqueeze(1))
    excluded = no_negative.unsqueeze(1) | (column_there == 0).unsqueeze(0)
    return gram.masked_fill_(excluded, _EXCLUDED)
