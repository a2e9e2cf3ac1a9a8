"""Focal self-attention, arXiv 2107.00641, section 3.2: fine tokens nearby, pooled tokens far away, one softmax.

The queries of a window attend the (w + 2e)² fine tokens around and inside it, and for each pooled level k the cells
around it, where a window holds 2^k x 2^k cells. Biases are the authors': a relative table for the own window, a free
table for the ring around it, a relative table per pooled level. What lies beyond the map is decided by a border policy;
the one here masks it, never wraps, and keeps the window whatever the map's size.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.registry import mechanism

from ._bias import relative_position_index
from ._pooling import POOLS, WindowPool
from ._regions import gather_regions
from ._windows import (
    attend_windows,
    cached_constant,
    merge_windows,
    pad_to_windows,
    split_heads_by_window,
    windows_along,
)

FOCAL = Paper(
    "Focal Self-attention for Local-Global Interactions in Vision Transformers", arxiv="2107.00641", year=2021
)


@dataclass(frozen=True, slots=True)
class FocalSettings:
    """Settings of one stage."""

    window: int = 7  # w: side of the query window, in tokens
    expand: int = 3  # e: width of the ring of fine tokens around it
    levels: int = 2  # the fine level and levels - 1 pooled ones
    focal_window: int = 7  # side of the region of pooled windows, odd
    pool: str = "fc"  # fc, conv, mean, max

    def __post_init__(self) -> None:
        if self.window < 1 or self.expand < 0 or self.levels < 1:
            raise UserError(f"window and levels must be at least 1 and expand at least 0, not {self}")
        if self.focal_window < 1 or self.focal_window % 2 == 0:
            raise UserError(f"focal_window must be odd and positive, not {self.focal_window}")
        if self.pool not in POOLS:
            raise UserError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}")


@dataclass(frozen=True, slots=True)
class MaskedBorder:
    """The border policy of the uniform backbone: nothing beyond the map is attended."""

    window: int
    expand: int
    pooled: tuple[tuple[int, int], ...]  # per level: side of the attended region, in cells, and cells to a window

    def extend(self, x: Tensor, margin: int) -> Tensor:
        """Extend the map (B, H, W, C) by ``margin`` tokens or cells on every side; what is there is masked."""
        return F.pad(x, (0, 0, margin, margin, margin, margin)) if margin else x

    def visible(self, height: int, width: int, device: torch.device) -> Tensor | None:
        """Return which keys lie inside the map: (windows, 1, keys), or None where all do."""
        return _inside(self, height, width, device)


@mechanism(
    "focal",
    paper=FOCAL,
    complexity="O(HW (w + 2e)² + HW s²)",
    stages=tuple(FocalSettings(focal_window=side) for side in (7, 5, 3, 1)),
)
class FocalAttention(nn.Module):
    """Attend fine tokens nearby and pooled tokens farther away."""

    own_index: Tensor
    region_order: Tensor

    def __init__(self, slot: Slot, settings: FocalSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        self.window, self.expand = settings.window, settings.expand
        self.side = self.window + 2 * self.expand  # of the fine region
        cells = [2**level for level in range(settings.levels - 1)]  # to a window's side, per pooled level
        self.regions = tuple((settings.focal_window + count - 1, count) for count in cells)
        self.border = MaskedBorder(self.window, self.expand, self.regions)
        self.qkv = nn.Linear(slot.dim, 3 * slot.dim)
        self.proj = nn.Linear(slot.dim, slot.dim)
        self.pool_layers = nn.ModuleList(WindowPool(settings.pool, slot.dim, self.window, count) for count in cells)
        self._make_biases()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, height, width, dim = x.shape
        qkv = pad_to_windows(self.qkv(x), self.window)
        (q,) = split_heads_by_window(qkv[..., :dim], self.window, parts=1, heads=self.heads)
        levels = [qkv[..., dim:]]
        # Pooled tokens ask nothing: no q.
        levels += [F.linear(pool(x), self.qkv.weight[dim:], self.qkv.bias[dim:]) for pool in self.pool_layers]
        spans = [(self.side, self.window), *self.regions]
        extended = [
            self.border.extend(level, (side - step) // 2) for level, (side, step) in zip(levels, spans, strict=True)
        ]
        k, v = gather_regions(extended, spans, self.heads)  # each (B, windows, heads, keys, D)
        visible = self.border.visible(height, width, x.device)
        out = attend_windows(q, k, v, self._bias(), visible)
        out = merge_windows(out, self.window, columns=windows_along(width, self.window))
        return self.proj(out[:, :height, :width])

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of projections, pooling and the two products, padding and masked keys included."""
        dim = self.proj.in_features
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        keys = self.side**2 + sum(side**2 for side, _ in self.regions)
        pooled = [windows * count**2 for _, count in self.regions]
        pooling = sum(cast(WindowPool, pool).macs(cells) for pool, cells in zip(self.pool_layers, pooled, strict=True))
        products = 2 * windows * self.window**2 * keys * dim
        return int(4 * height * width * dim**2 + pooling + 2 * sum(pooled) * dim**2 + products)

    def _make_biases(self) -> None:
        window, heads, area = self.window, self.heads, self.window**2
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        if self.expand:
            ring = torch.empty(1, heads, area, self.side**2 - area)
            self.relative_position_bias_table_to_neighbors = nn.Parameter(ring)
        self.relative_position_bias_table_to_windows = nn.ParameterList(
            torch.empty(heads, (window + side - 1) ** 2) for side, _ in self.regions
        )
        for name, table in self.named_parameters():
            if name.startswith("relative_position_bias_table"):
                nn.init.trunc_normal_(table, std=0.02)
        inside = np.zeros((self.side, self.side), dtype=bool)
        inside[self.expand : self.expand + window, self.expand : self.expand + window] = True
        own_then_ring = np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)])
        self.register_buffer("own_index", relative_position_index(window, window), persistent=False)
        self.register_buffer("region_order", torch.tensor(own_then_ring.argsort()), persistent=False)
        for level, (side, _) in enumerate(self.regions):
            self.register_buffer(f"pooled_index_{level}", relative_position_index(window, side), persistent=False)

    def _bias(self) -> Tensor:
        """Return (heads, w², keys): own window and ring in the region's order, then the pooled levels."""
        fine = self.relative_position_bias_table[self.own_index].permute(2, 0, 1)  # (heads, w², w²)
        if self.expand:
            ring = self.relative_position_bias_table_to_neighbors[0]
            fine = torch.cat([fine, ring], dim=-1)[..., self.region_order]
        tables = self.relative_position_bias_table_to_windows
        pooled = [table[:, self.get_buffer(f"pooled_index_{level}")] for level, table in enumerate(tables)]
        return torch.cat([fine, *pooled], dim=-1)


@cached_constant
def _inside(border: MaskedBorder, height: int, width: int, device: torch.device) -> Tensor | None:
    """Return (windows, 1, keys): a row and a column are inside independently, so one axis at a time."""

    def axis(side: int, span: int, count: int) -> NDArray[np.bool_]:
        """Return (windows, span): whether that cell, ``count`` to a window's side, holds a token of the map."""
        first = np.arange(windows_along(side, border.window))[:, None] * count - (span - count) // 2
        window, local = np.divmod(first + np.arange(span), count)
        token = local * windows_along(border.window, count)  # the cell's first, within its window
        return (window >= 0) & (token < border.window) & (window * border.window + token < side)

    levels = [(border.window + 2 * border.expand, border.window), *border.pooled]  # the fine level: w cells to a window
    inside = []
    for span, count in levels:
        rows, columns = axis(height, span, count), axis(width, span, count)
        grid = rows[:, None, :, None] & columns[None, :, None, :]  # (nH, nW, span, span)
        inside.append(grid.reshape(rows.shape[0] * columns.shape[0], 1, span**2))
    keys = np.concatenate(inside, axis=-1)
    return None if keys.all() else torch.tensor(keys, device=device)
