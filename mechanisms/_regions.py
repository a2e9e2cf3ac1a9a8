"""Regions around windows, gathered once: every window's keys and values, of all levels, side by side in one tensor."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Span = tuple[int, int]  # side of a region, and step from one region to the next, both in cells of its level


def gather_regions(levels: list[Tensor], spans: list[Span], heads: int) -> tuple[Tensor, Tensor]:
    """Return keys and values, each (B, windows, heads, keys, D), keys level by level and row-major within a level.

    A level is (B, rows, columns, 2C), keys then values, and has as many regions of its span as every other level:
    rows = (regions down - 1) * step + side.
    """
    k, v = _Gather.apply(heads, spans, *levels).flatten(2, 3).unbind(0)
    return k, v


class _Gather(torch.autograd.Function):
    """One strided copy per level, and one strided sum per overlap back.

    Autograd's own way, ``unfold`` and ``cat``, copies everything twice and sums overlaps one dimension at a time: that
    took a fifth of a training step.
    """

    @staticmethod
    def forward(ctx: Any, heads: int, spans: list[Span], *levels: Tensor) -> Tensor:
        """Return (2, B, regions down, regions across, heads, keys, D)."""
        ctx.heads, ctx.spans, ctx.shapes = heads, spans, [level.shape for level in levels]
        views = [_view(level, span, heads) for level, span in zip(levels, spans, strict=True)]
        keys = sum(side**2 for side, _ in spans)
        gathered = levels[0].new_empty(*views[0].shape[:5], keys, views[0].shape[-1])
        for view, part in zip(views, _parts(gathered, spans), strict=True):
            part.copy_(view)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Sum the gradient of every copy of a cell."""
        parts = _parts(grad, ctx.spans)
        sums = [_sum(*item, ctx.heads) for item in zip(parts, ctx.spans, ctx.shapes, strict=True)]
        return None, None, *sums


def _view(level: Tensor, span: Span, heads: int) -> Tensor:
    """View (B, rows, columns, 2C) as (2, B, regions down, regions across, heads, side, side, D)."""
    side, step = span
    regions = level.unflatten(-1, (2, heads, -1)).unfold(1, side, step).unfold(2, side, step)
    return regions.permute(3, 0, 1, 2, 4, 6, 7, 5)


def _parts(gathered: Tensor, spans: list[Span]) -> list[Tensor]:
    """View the keys of each level: (..., side, side, D)."""
    levels = gathered.split([side**2 for side, _ in spans], dim=-2)
    return [level.unflatten(-2, (side, side)) for level, (side, _) in zip(levels, spans, strict=True)]


def _sum(grad: Tensor, span: Span, shape: torch.Size, heads: int) -> Tensor:
    """Add (2, B, regions down, regions across, heads, side, side, D) up into the level's (B, rows, columns, 2C)."""
    side, step = span
    down, across = grad.shape[2:4]
    reach = -(-side // step)  # blocks of step x step cells that a region touches along an axis
    total = grad.new_zeros(shape[0], (down + reach - 1) * step, (across + reach - 1) * step, shape[-1])
    blocks = total.unflatten(-1, (2, heads, -1)).unflatten(2, (-1, step)).unflatten(1, (-1, step))
    blocks = blocks.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (2, B, blocks down, blocks across, heads, step, step, D)
    for row in range(reach):
        for column in range(reach):
            piece = grad[..., row * step : (row + 1) * step, column * step : (column + 1) * step, :]
            height, width = piece.shape[-3:-1]
            blocks[:, :, row : row + down, column : column + across, :, :height, :width] += piece
    return total[:, : shape[1], : shape[2]]
