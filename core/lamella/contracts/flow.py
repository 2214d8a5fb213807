"""Moving pixels and points by a flow: the displacement u (B, H, W, 2) in pixels, y then x."""

import torch
from torch import Tensor


def _positions(flow: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W) source rows and columns: r + u(r)."""
    height, width = flow.shape[1:3]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype).view(1, height, 1)
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype).view(1, 1, width)
    return rows + flow[..., 0], columns + flow[..., 1]


def _mirror(x: Tensor, size: int) -> Tensor:
    """Positions folded back into [0, size − 1], as in a mirror on the outermost pixels."""
    if size == 1:
        return torch.zeros_like(x)
    period = 2.0 * (size - 1)
    x = torch.remainder(x, period)
    return torch.minimum(x, period - x)


def sample_bilinear(image: Tensor, flow: Tensor) -> Tensor:
    """``image`` (B, C, H, W) at r + u(r), mirrored at the border.

    Written as lerps of four gathers, not as ``grid_sample``: exact where u is 0, and a constant stays constant.
    """
    height, width = image.shape[-2:]
    y, x = _positions(flow)
    y, x = _mirror(y, height), _mirror(x, width)
    top, left = y.floor().clamp(0, height - 1), x.floor().clamp(0, width - 1)
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    flat = image.flatten(2)

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows * width + columns).to(torch.int64).flatten(1).unsqueeze(1)
        return flat.gather(2, index.expand(-1, flat.shape[1], -1)).view_as(image)

    right_share, bottom_share = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    upper = torch.lerp(at(top, left), at(top, right), right_share)
    lower = torch.lerp(at(bottom, left), at(bottom, right), right_share)
    return torch.lerp(upper, lower, bottom_share)


def sample_nearest(values: Tensor, flow: Tensor, outside: int) -> Tensor:
    """``values`` (B, H, W) at the pixel nearest r + u(r); ``outside`` where that leaves the image."""
    height, width = values.shape[-2:]
    rows, columns = (position.round().to(torch.int64) for position in _positions(flow))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    moved = values.flatten(1).gather(1, index.flatten(1)).view_as(values)
    return torch.where(inside, moved, torch.full_like(moved, outside))


def invert(flow: Tensor, points: Tensor) -> Tensor:
    """Where points of the input land in the output: q with q + u(q) = r, by fixed-point iteration.

    Args:
        flow: (B, H, W, 2) displacement in pixels, y then x, with max‖∇u‖ < 1.
        points: (B, N, 2) float32 positions r, x then y as Kornia has them.
    """
    target = points.flip(-1)
    field = flow.movedim(-1, 1).to(points.dtype)  # (B, 2, H, W)
    found = target
    for _ in range(24):
        found = target - _flow_at(field, found)
    return found.flip(-1)


def _flow_at(field: Tensor, at: Tensor) -> Tensor:
    """``field`` (B, 2, H, W) at positions (B, N, 2), y then x, bilinear, held constant beyond the border."""
    height, width = field.shape[-2:]
    y, x = at[..., 0].clamp(0, height - 1), at[..., 1].clamp(0, width - 1)
    top, left = y.floor().clamp(max=max(height - 2, 0)), x.floor().clamp(max=max(width - 2, 0))
    flat = field.flatten(2)

    def value(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows.clamp(max=height - 1) * width + columns.clamp(max=width - 1)).to(torch.int64)
        return flat.gather(2, index.unsqueeze(1).expand(-1, 2, -1))

    across, down = (x - left).unsqueeze(1), (y - top).unsqueeze(1)
    upper = torch.lerp(value(top, left), value(top, left + 1), across)
    lower = torch.lerp(value(top + 1, left), value(top + 1, left + 1), across)
    return torch.lerp(upper, lower, down).movedim(1, -1)
