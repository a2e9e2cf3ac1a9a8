"""Focal self-attention, arXiv 2107.00641, section 3.2: fine tokens nearby, pooled tokens far away, one softmax.

The queries of a window attend the (w + 2e)² fine tokens around and inside it, and for each pooled level k the cells
around it, where a window holds 2^k x 2^k cells. Biases are the authors': a relative table for the own window, a free
table for the ring around it, a relative table per pooled level. What lies beyond the map is decided by a border policy,
see ``_focal_borders.py``: ``masked`` in the uniform backbone, ``wrapped`` in the published models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.linear import Linear, linear
from attnbench.registry import mechanism

from ._bias import relative_position_index
from ._boxes import Layout
from ._focal_bias import join, region_order
from ._focal_borders import BORDERS, own_window, pairs, regions_along
from ._kept import Kept
from ._pooling import POOLS, WindowPool
from ._regions import attend_regions
from ._spans import Span
from ._windows import pad_to_windows, windows_along

FOCAL = Paper(
    "Focal Self-attention for Local-Global Interactions in Vision Transformers", arxiv="2107.00641", year=2021
)

UNEXPANDED = {"all": -1, "even": 0, "odd": 1}  # expand_layer -> block index modulo 2 that does not expand


@dataclass(frozen=True, slots=True)
class FocalSettings:
    """Settings of one stage."""

    window: int = 7  # w: side of the query window, in tokens
    expand: int = 3  # e: width of the ring of fine tokens around it
    levels: int = 2  # the fine level and levels - 1 pooled ones
    focal_window: int = 7  # side of the region of pooled windows, odd
    pool: str = "fc"  # fc, conv, mean, max
    shift: bool = False  # odd blocks shift by half a window
    expand_layer: str = "all"  # blocks that expand: all; even: all but those of even index; odd: all but those of odd
    border: str = "masked"  # masked, wrapped
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("expand", 0), ("levels", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.focal_window < 1 or self.focal_window % 2 == 0:
            raise UserError(f"focal_window must be odd and positive, not {self.focal_window}")
        if self.pool not in POOLS:
            raise UserError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}")
        if self.border not in BORDERS:
            raise UserError(f"border must be one of {', '.join(BORDERS)}, not {self.border!r}")
        if self.expand_layer not in UNEXPANDED:
            raise UserError(f"expand_layer must be one of {', '.join(UNEXPANDED)}, not {self.expand_layer!r}")


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
    twice: Tensor

    def __init__(self, slot: Slot, settings: FocalSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        cells = [2**level for level in range(settings.levels - 1)]  # to a window's side, per pooled level
        regions = tuple((settings.focal_window + count - 1, count) for count in cells)
        expand = 0 if slot.block % 2 == UNEXPANDED[settings.expand_layer] else settings.expand
        shift = settings.window // 2 if settings.shift and slot.block % 2 else 0
        self.border = BORDERS[settings.border].fit(settings.window, expand, shift, regions, slot.grid)
        self.window, self.regions = self.border.window, regions
        self.side = self.window + 2 * self.border.expand  # of the fine region
        self.qkv = Linear(slot.dim, 3 * slot.dim, bias=settings.qkv_bias)
        self.proj = Linear(slot.dim, slot.dim)
        self.pool_layers = nn.ModuleList(
            WindowPool(settings.pool, slot.dim, self.window, count, self.border.tiling) for count in cells
        )
        fine = Span(self.side, self.window, self.border.around)
        self.layout = Layout(self.window, (fine, *(Span(*region) for region in regions)), self.heads)
        self._make_biases()
        self.kept_bias = Kept()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, height, width, dim = x.shape
        x = self.border.enter(x)
        qkv = pad_to_windows(self.qkv(x), self.window)
        bias = None if self.qkv.bias is None else self.qkv.bias[dim:]
        # Pooled tokens ask nothing: no q.
        pooled = [linear(pool(x), self.qkv.weight[dim:], bias) for pool in self.pool_layers]
        hidden = self.border.hidden(height, width, x.device)
        scores = self.kept_bias.get(self._bias, self._tables())
        out = attend_regions(qkv, pooled, self.layout, scores, hidden)
        return self.proj(self.border.leave(out, height, width))

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of projections, pooling and the two products, padding and masked keys included."""
        dim = self.proj.in_features
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        keys = self.side**2 + sum(side**2 for side, _ in self.regions)
        pooled = [windows * count**2 for _, count in self.regions]
        pooling = sum(cast(WindowPool, pool).macs(cells) for pool, cells in zip(self.pool_layers, pooled, strict=True))
        products = 2 * windows * self.window**2 * keys * dim
        projections = (3 * self.border.tokens(height, width) + height * width) * dim**2
        return int(projections + pooling + 2 * sum(pooled) * dim**2 + products)

    def ideal_macs(self, height: int, width: int) -> int:
        """Return the MACs without padding and masked keys."""
        dim, axes = self.proj.in_features, [self.border.real(side) for side in (height, width)]
        total, attended = 4 * height * width * dim**2, self.border.fine_pairs(height, width)
        for module, (side, count) in zip(self.pool_layers, self.regions, strict=True):
            pool = cast(WindowPool, module)
            held = [pool.tiles.held(real) for real in axes]
            cells = prod(int(np.count_nonzero(tokens)) for tokens in held)
            total += pool.ideal_macs(prod(int(tokens.sum()) for tokens in held)) + 2 * cells * dim**2
            regions = [regions_along(tokens > 0, count, (side - count) // 2) for tokens in held]
            attended += prod(pairs(*axis) for axis in zip(axes, regions, strict=True))
        return total + 2 * attended * dim

    def surplus(self, height: int, width: int) -> dict[str, int]:
        """Return the MACs that the authors' code does beyond these, for the same outputs."""
        dim, area = self.proj.in_features, self.window**2
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        twice = len(self.border.ring()) + area - self.side**2  # keys of the rolled maps less places of the region
        pooled = sum(windows * count**2 for _, count in self.regions)
        return {"ring keys that occur twice": 2 * windows * area * twice * dim, "pooled queries": pooled * dim**2}

    def _make_biases(self) -> None:
        window, heads = self.window, self.heads
        ring = self.border.ring()
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        if ring.size:
            table = torch.empty(1, heads, window**2, ring.size)
            self.relative_position_bias_table_to_neighbors = nn.Parameter(table)
        self.relative_position_bias_table_to_windows = nn.ParameterList(
            torch.empty(heads, (window + side - 1) ** 2) for side, _ in self.regions
        )
        for name, table in self.named_parameters():
            if name.startswith("relative_position_bias_table"):
                nn.init.trunc_normal_(table, std=0.02)
        order, twice = region_order(own_window(window, self.border.expand), ring)
        self.register_buffer("own_index", relative_position_index(window, window), persistent=False)
        self.register_buffer("region_order", torch.tensor(order), persistent=False)
        self.register_buffer("twice", torch.tensor(twice), persistent=False)
        for level, (side, _) in enumerate(self.regions):
            self.register_buffer(f"pooled_index_{level}", relative_position_index(window, side), persistent=False)

    def _tables(self) -> Iterator[Tensor]:
        """Return what the bias is made of."""
        yield self.relative_position_bias_table
        if self.border.expand:
            yield self.relative_position_bias_table_to_neighbors
        yield from self.relative_position_bias_table_to_windows

    def _bias(self) -> Tensor:
        """Return (heads, w², keys), see :func:`._focal_bias.join`."""
        ring = self.relative_position_bias_table_to_neighbors[0] if self.border.expand else None
        tables = list(self.relative_position_bias_table_to_windows)
        pooled = [self.get_buffer(f"pooled_index_{level}") for level in range(len(tables))]
        places = [self.own_index, self.region_order, self.twice, *pooled]
        return join(self.relative_position_bias_table, ring, tables, places)
