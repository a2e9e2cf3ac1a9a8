"""Focal attention, second version of arXiv 2107.00641's code: the nearest fine tokens and pooled windows, shared.

The queries of a window share one key set: per level, the ``topk`` keys nearest to the window's centre token, or all
where there are fewer. The bias of a query and a key is a small network's, one per level, of the displacement between
them. The authors run it once per window, query and key; it depends on the displacement alone, so here it runs once per
displacement that a map of this size has. What lies beyond the map is decided by a border policy: ``masked`` in the
uniform backbone, ``attended`` in the published models.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.linear import Linear, linear
from attnbench.registry import mechanism

from ._kept import Kept
from ._pooling import POOLS, CentredCells, PresentCells, WindowPool
from ._selecting import select
from ._windows import cached_constant, merge_windows, pad_to_windows, split_heads_by_window, windows_along

FOCAL_FAST = Paper(
    "Focal Self-attention for Local-Global Interactions in Vision Transformers", arxiv="2107.00641", year=2021
)

Axes = tuple[NDArray[np.int64], NDArray[np.int64]]  # what rows have, what columns have
Places = tuple[NDArray[np.int64], NDArray[np.int64]]  # along one axis: cells that may be attended, their middle tokens


@dataclass(frozen=True, slots=True)
class MaskedBorder:
    """The border of the uniform backbone: what holds no token of the map is never among the nearest."""

    window: int

    tiling: ClassVar[type[PresentCells]] = PresentCells

    @classmethod
    def fit(cls, window: int, grid: tuple[int, int]) -> Self:
        """Return the policy of a module; it is the same whatever the map's size was when the model was built."""
        del grid
        return cls(window)

    def enter(self, x: Tensor) -> Tensor:
        """Lay out (B, H, W, C): as it is; it is padded after the projection, since no padding is attended."""
        return x

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens are projected to queries, keys and values."""
        return height * width

    def places(self, side: int, cells: int) -> Places:
        """Return the keys of a level along an axis of ``side`` tokens, ``cells`` of them to a window's side."""
        cell = np.arange(windows_along(side, self.window) * cells)
        size = windows_along(self.window, cells)
        local = cell % cells * size
        first = cell // cells * self.window + local
        middle = first + np.minimum(size, self.window - local) // 2
        present = (local < self.window) & (first < side)
        return cell[present], middle[present]


@dataclass(frozen=True, slots=True)
class AttendedBorder:
    """The authors' border: the map is padded with zeros first, and padding is attended like any other token."""

    window: int

    tiling: ClassVar[type[CentredCells]] = CentredCells

    @classmethod
    def fit(cls, window: int, grid: tuple[int, int]) -> Self:
        """Return the policy of a module; a window that covers the shorter side of ``grid`` shrinks to it."""
        return cls(min(window, *grid))

    def enter(self, x: Tensor) -> Tensor:
        """Lay out (B, H, W, C): padded with zeros that are tokens like any other."""
        return pad_to_windows(x, self.window)

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens are projected to queries, keys and values."""
        return windows_along(height, self.window) * windows_along(width, self.window) * self.window**2

    def places(self, side: int, cells: int) -> Places:
        """Return the keys of a level along an axis of ``side`` tokens, ``cells`` of them to a window's side."""
        windows, size = windows_along(side, self.window), self.window // cells
        cell = np.arange(windows * cells)
        return cell, (windows * (self.window - cells * size)) // 2 + cell * size + size // 2


Border = MaskedBorder | AttendedBorder
BORDERS: dict[str, type[Border]] = {"masked": MaskedBorder, "attended": AttendedBorder}


def _check_cells(window: int, levels: int) -> None:
    if 2 ** (levels - 2) > window:
        raise UserError(f"a window of {window} tokens cannot be pooled at {levels} levels; use fewer")


@dataclass(frozen=True, slots=True)
class NearestSettings:
    """Settings of one stage."""

    window: int = 7  # side of the query window, in tokens
    topk: int = 128  # keys of a level
    levels: int = 2  # the fine level and levels - 1 pooled ones
    pool: str = "fc"  # fc, conv, mean, max
    border: str = "masked"  # masked, attended
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("window", "topk", "levels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        _check_cells(self.window, self.levels)
        if self.pool not in POOLS:
            raise UserError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}")
        if self.border not in BORDERS:
            raise UserError(f"border must be one of {', '.join(BORDERS)}, not {self.border!r}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What decides, with the map's size, which keys a window attends."""

    border: Border
    topk: int
    cells: tuple[int, ...]  # keys to a window's side, per level; the fine level's are the window's tokens


@mechanism("focal_fast", paper=FOCAL_FAST, complexity="O(HW k)", stages=(NearestSettings(),) * 4)
class NearestFocalAttention(nn.Module):
    """Attend the fine tokens and pooled windows nearest to the window's centre."""

    def __init__(self, slot: Slot, settings: NearestSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        self.border = BORDERS[settings.border].fit(settings.window, slot.grid)
        self.window = self.border.window
        cells = tuple(2**level for level in range(settings.levels - 1))
        _check_cells(self.window, settings.levels)  # again: it may have shrunk
        self.selection = Selection(self.border, settings.topk, (self.window, *cells))
        self.qkv = Linear(slot.dim, 3 * slot.dim, bias=settings.qkv_bias)
        self.proj = Linear(slot.dim, slot.dim)
        self.pool_layers = nn.ModuleList(
            WindowPool(settings.pool, slot.dim, self.window, count, self.border.tiling) for count in cells
        )
        hidden = slot.dim // slot.heads
        self.coord2rpb_all = nn.ModuleList(
            nn.Sequential(Linear(2, hidden), nn.ReLU(), Linear(hidden, slot.heads)) for _ in range(settings.levels)
        )
        self.kept_table = Kept()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, height, width, dim = x.shape
        x = self.border.enter(x)
        qkv = pad_to_windows(self.qkv(x), self.window)
        (q,) = split_heads_by_window(qkv[..., :dim], self.window, parts=1, heads=self.heads)
        # Pooled tokens ask nothing: no q.
        bias = None if self.qkv.bias is None else self.qkv.bias[dim:]
        pooled = [linear(pool(x), self.qkv.weight[dim:], bias) for pool in self.pool_layers]
        k, v = self._gather([qkv[..., dim:], *pooled], height, width)
        # Windows join the heads, so that one bias serves every image of the batch; heads first, as the gather has them.
        out = F.scaled_dot_product_attention(q.transpose(1, 2).flatten(1, 2), k, v, attn_mask=self._bias(height, width))
        out = out.unflatten(1, (self.heads, -1)).transpose(1, 2)  # (B, windows, heads, w², D)
        out = merge_windows(out, self.window, columns=windows_along(width, self.window))
        return self.proj(out[:, :height, :width])

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of projections, pooling, bias networks and the two products, padding included."""
        dim, tokens, keys = self.proj.in_features, self._padded(height, width), self._keys(height, width)
        pooled = self._pooled(height, width)
        pooling = sum(cast(WindowPool, pool).macs(cells) for pool, cells in zip(self.pool_layers, pooled, strict=True))
        products = 2 * tokens * keys * dim
        projections = (3 * self.border.tokens(height, width) + height * width + 2 * sum(pooled)) * dim**2
        return int(projections + pooling + self._network(self._distinct(height, width)) + products)

    def ideal_macs(self, height: int, width: int) -> int:
        """Return the MACs without padding, of the bias networks for the displacements of the map itself."""
        dim = self.proj.in_features
        total = 4 * height * width * dim**2 + 2 * self._pairs(height, width) * dim
        for module in self.pool_layers:
            pool = cast(WindowPool, module)
            held = [pool.tiles.held(self._real(side)) for side in (height, width)]
            cells = prod(int(np.count_nonzero(tokens)) for tokens in held)
            total += pool.ideal_macs(prod(int(tokens.sum()) for tokens in held)) + 2 * cells * dim**2
        return total + self._network(len(self.selection.cells) * (2 * height - 1) * (2 * width - 1))

    def surplus(self, height: int, width: int) -> dict[str, int]:
        """Return the MACs that the authors' code does beyond these, for the same outputs."""
        pairs = self._padded(height, width) * self._keys(height, width)
        return {
            "pooled queries": sum(self._pooled(height, width)) * self.proj.in_features**2,
            "biases of equal displacements": self._network(pairs - self._distinct(height, width)),
        }

    def _padded(self, height: int, width: int) -> int:
        """Return the tokens of the padded map."""
        return windows_along(height, self.window) * windows_along(width, self.window) * self.window**2

    def _pooled(self, height: int, width: int) -> list[int]:
        """Return the cells of each pooled level."""
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        return [windows * cells**2 for cells in self.selection.cells[1:]]

    def _keys(self, height: int, width: int) -> int:
        """Return the keys of a query."""
        choices = [_choices(self.selection, cells, height, width) for cells in self.selection.cells]
        return sum(min(self.selection.topk, count) for count in choices)

    def _real(self, side: int) -> NDArray[np.bool_]:
        """Return which places along an axis of windows are tokens of the map."""
        return np.arange(windows_along(side, self.window) * self.window) < side

    def _pairs(self, height: int, width: int) -> int:
        """Return how many queries, tokens of the map, and keys that hold such attend each other."""
        if self.border.tokens(height, width) == height * width:  # no padding is among the nearest
            return height * width * self._keys(height, width)
        axes = [self._real(side) for side in (height, width)]
        present = [np.outer(*axes).ravel()]  # by number, see _nearest
        for module in self.pool_layers:
            held = [cast(WindowPool, module).tiles.held(real) for real in axes]
            present.append((np.outer(*held) > 0).ravel())
        chosen = _nearest(self.selection, height, width, torch.device("cpu"))[0].numpy()
        rows, columns = (np.count_nonzero(real.reshape(-1, self.window), axis=1) for real in axes)
        return int(np.outer(rows, columns).ravel() @ np.count_nonzero(np.concatenate(present)[chosen], axis=1))

    def _distinct(self, height: int, width: int) -> int:
        """Return the displacements of the padded map, all levels together."""
        padded = [windows_along(side, self.window) * self.window for side in (height, width)]
        return len(self.selection.cells) * (2 * padded[0] - 1) * (2 * padded[1] - 1)

    def _network(self, displacements: int) -> int:
        """Return the MACs of the bias networks for that many displacements."""
        return displacements * (2 + self.heads) * (self.proj.in_features // self.heads)

    def _gather(self, levels: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Gather keys and values, each (B, heads * windows, keys, D), out of levels (B, rows, columns, 2C)."""
        chosen = _nearest(self.selection, height, width, levels[0].device)[0]  # (windows, keys)
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        parted = [level.flatten(1, 2).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4) for level in levels]
        sources = torch.cat(parted, dim=3)  # (2, B, heads, tokens and cells, D)
        gathered = select(sources.flatten(0, 2), chosen.flatten())  # (2 * B * heads, windows * keys, D)
        k, v = gathered.unflatten(1, (windows, -1)).unflatten(0, sources.shape[:3]).flatten(2, 3).unbind(0)
        return k, v

    def _table(self, height: int, width: int) -> Tensor:
        """Return the bias of every displacement of the padded map, level by level: (levels * displacements, heads)."""
        weight = self.proj.weight
        down, across = (windows_along(side, self.window) * self.window for side in (height, width))
        coordinates = _displacements(down, across, weight.device).to(weight.dtype)
        return torch.cat([network(coordinates) for network in self.coord2rpb_all])

    def _bias(self, height: int, width: int) -> Tensor:
        """Return (1, heads * windows, w², keys)."""
        make = partial(self._table, height, width)
        table = self.kept_table.get(make, self.coord2rpb_all.parameters(), key=(height, width))
        rows = _bias_rows(self.selection, height, width, table.device)  # (windows, w², keys)
        # gather, whose backward adds rows up many times faster on a CPU than that of index_select
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        gathered = table.t().gather(1, rows.flatten().expand(self.heads, -1))
        return gathered.view(1, self.heads * windows, self.window**2, -1)


def _choices(selection: Selection, cells: int, height: int, width: int) -> int:
    """Return how many keys a level has to choose from."""
    return len(selection.border.places(height, cells)[0]) * len(selection.border.places(width, cells)[0])


@cached_constant
def _nearest(selection: Selection, height: int, width: int, device: torch.device) -> Tensor:
    """Return each window's keys, (2, windows, keys): the number over all levels' cells, and the code of the place.

    The code of a token at row y, column x is y * span + x with span = 2 * padded width - 1, so that the difference of
    two codes tells the displacement.
    """
    window, numbers, codes, before = selection.border.window, [], [], 0
    down, across = windows_along(height, window), windows_along(width, window)
    centres = np.arange(down) * window + window // 2, np.arange(across) * window + window // 2
    for cells in selection.cells:
        (rows, ys), (columns, xs) = selection.border.places(height, cells), selection.border.places(width, cells)
        order = _order(centres, (ys, xs), selection.topk)
        number = before + rows[:, None] * (across * cells) + columns
        code = ys[:, None] * (2 * across * window - 1) + xs
        numbers.append(torch.from_numpy(number).flatten()[order])
        codes.append(torch.from_numpy(code).flatten()[order])
        before += down * across * cells**2
    return torch.stack([torch.cat(numbers, 1), torch.cat(codes, 1)]).to(device)


def _order(centres: Axes, middles: Axes, topk: int) -> Tensor:
    """Return the row-major numbers of the keys nearest to each centre: (windows, at most topk).

    Ties at the cut fall as the authors': as torch.topk on CPU decides, row by row, for float32. It sees order and
    equality only, and those of the squares are the distances' own.
    """
    across = torch.from_numpy(-((centres[1][:, None] - middles[1]) ** 2)).float()[:, None]  # (windows, 1, columns)
    near = across.new_empty(len(centres[1]), len(middles[0]), len(middles[1]))
    chosen = []
    for centre in centres[0]:  # one row of windows at a time: all at once are 200 MB for a map of 224 x 224
        down = torch.from_numpy(-((centre - middles[0]) ** 2)).float()[:, None]  # (rows, 1)
        torch.add(down, across, out=near)  # one buffer: a new one every time would leave the heap in pieces
        chosen.append(near.flatten(1).topk(min(topk, near[0].numel())).indices)
    return torch.cat(chosen)


@cached_constant
def _displacements(down: int, across: int, device: torch.device) -> Tensor:
    """Return every displacement of a map, row-major: (displacements, 2), rows before columns."""
    ys, xs = (torch.arange(1.0 - side, side, device="cpu") for side in (down, across))
    return torch.cartesian_prod(ys, xs).to(device)


@cached_constant
def _bias_rows(selection: Selection, height: int, width: int, device: torch.device) -> Tensor:
    """Return which row of the levels' bias tables each query and key of a window has: (windows, w², keys)."""
    window = selection.border.window
    down, across = (windows_along(side, window) * window for side in (height, width))
    span = 2 * across - 1
    tokens = np.arange(down)[:, None] * span + np.arange(across)  # codes, as in _nearest
    tiles = tokens.reshape(down // window, window, -1, window).swapaxes(1, 2)  # (nH, nW, w, w)
    queries = torch.from_numpy(tiles.reshape(-1, window**2, 1))
    codes = _nearest(selection, height, width, torch.device("cpu"))[1]
    sizes = [min(selection.topk, _choices(selection, cells, height, width)) for cells in selection.cells]
    # Tables of (2 down - 1) * span displacements, one per level; their middle is no displacement.
    starts = np.repeat(np.arange(len(sizes)) * (2 * down - 1) * span, sizes) + (down - 1) * span + across - 1
    rows = queries - codes[:, None]
    rows += torch.from_numpy(starts)  # in place: these are 100 MB for a map of 224 x 224
    return rows.to(device)
