"""Pooling of windows into cells: the coarse tokens of focal attention."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ._windows import cached_constant, pad_to_windows, windows_along

LEARNED = ("fc", "conv")
POOLS = (*LEARNED, "mean", "max")


@dataclass(frozen=True, slots=True)
class PresentCells:
    """Windows cut into cells from their first token; the last cells of a window may be partly empty, or all."""

    window: int
    cells: int  # along a window's side

    @property
    def side(self) -> int:
        """Side of a cell, in tokens."""
        return windows_along(self.window, self.cells)

    def split(self, x: Tensor) -> Tensor:
        """View (B, H, W, C), padded where need be, as (B, rows, side, columns, side, C)."""
        padded = pad_to_windows(x, self.window)
        rest = self.side * self.cells - self.window
        if rest:
            tiles = padded.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))  # (B, nH, w, nW, w, C)
            padded = F.pad(tiles, (0, 0, 0, rest, 0, 0, 0, rest)).flatten(3, 4).flatten(1, 2)
        return padded.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))

    def present(self, x: Tensor) -> Tensor | None:
        """Return which places of cells hold a token, (rows, columns, side², 1), or None where all do."""
        return _present(x.shape[1], x.shape[2], self.window, self.cells, x.device)

    def held(self, real: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return how many tokens of the map each cell holds along an axis, told which places of windows are such."""
        windows = real.reshape(-1, self.window)
        places = np.pad(windows, ((0, 0), (0, self.side * self.cells - self.window)))
        return np.count_nonzero(places.reshape(-1, self.side), axis=1)


@dataclass(frozen=True, slots=True)
class CentredCells:
    """The authors' cells: whole ones over the middle of the map, whose rest is left out; every place counts."""

    window: int
    cells: int  # along a window's side, at most ``window``

    @property
    def side(self) -> int:
        """Side of a cell, in tokens."""
        return self.window // self.cells

    def split(self, x: Tensor) -> Tensor:
        """View (B, H, W, C), H and W multiples of the window, as (B, rows, side, columns, side, C)."""
        counts = [windows_along(side, self.window) * self.cells for side in x.shape[1:3]]
        starts = [(side - count * self.side) // 2 for side, count in zip(x.shape[1:3], counts, strict=True)]
        middle = x.narrow(1, starts[0], counts[0] * self.side).narrow(2, starts[1], counts[1] * self.side)
        return middle.unflatten(2, (-1, self.side)).unflatten(1, (-1, self.side))

    def present(self, x: Tensor) -> None:
        """Return None: all places count."""

    def held(self, real: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return how many tokens of the map each cell holds along an axis, told which places of windows are such."""
        middle = real.size // self.window * self.cells * self.side
        start = (real.size - middle) // 2
        return np.count_nonzero(real[start : start + middle].reshape(-1, self.side), axis=1)


class WindowPool(nn.Module):
    """Pool every cell of a map to one token.

    ``fc`` weights a cell's places, one weight for all channels; ``conv`` weights them per channel; absent tokens count
    as zeros in both. ``mean`` and ``max`` go over the tokens that are there, and an empty cell is zero.
    """

    def __init__(
        self, pool: str, dim: int, window: int, cells: int, tiling: type[PresentCells | CentredCells] = PresentCells
    ) -> None:
        super().__init__()
        self.pool, self.dim, self.tiles = pool, dim, tiling(window, cells)
        if pool in LEARNED:
            side = self.tiles.side
            shape, channels = ((1, side**2), 1) if pool == "fc" else ((dim, 1, side, side), dim)
            self.weight = nn.Parameter(torch.full(shape, side**-2))  # begins as the mean, as the authors' does
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, H, W, C) to (B, nH * cells, nW * cells, C)."""
        split = self.tiles.split(x)  # (B, rows, side, columns, side, C)
        if self.pool == "fc":  # along rows of tokens as they lie, then across
            along = torch.matmul(self.weight.view(self.tiles.side, 1, 1, self.tiles.side), split)
            return along.squeeze(-2).sum(2) + self.bias
        present, cells = self.tiles.present(x), split.transpose(2, 3).flatten(3, 4)  # (B, rows, columns, side², C)
        if self.pool == "conv":
            square = (self.tiles.side,) * 2
            places = cells.flatten(0, 2).transpose(1, 2).unflatten(-1, square)  # (cells, C, side, side)
            return F.conv2d(places, self.weight, self.bias, groups=self.dim).flatten(1).unflatten(0, cells.shape[:3])
        if self.pool == "mean":
            return cells.mean(-2) if present is None else cells.sum(-2) / present.sum(-2).clamp(min=1)
        if present is None:
            return cells.amax(-2)
        highest = cells.masked_fill(~present, float("-inf")).amax(-2)
        return highest.masked_fill(~present.any(-2), 0)

    def macs(self, cells: int) -> int:
        """Return the MACs of pooling ``cells`` cells; mean and max multiply nothing."""
        return cells * self.tiles.side**2 * self.dim if self.pool in LEARNED else 0

    def ideal_macs(self, tokens: int) -> int:
        """Return the MACs of pooling cells that hold ``tokens`` tokens of the map."""
        return tokens * self.dim if self.pool in LEARNED else 0


@cached_constant
def _present(height: int, width: int, window: int, cells: int, device: torch.device) -> Tensor | None:
    """Return which places of every cell hold a token: (rows, columns, cell², 1), or None where all do."""

    def axis(side: int) -> NDArray[np.bool_]:
        """Return (windows * cells, cell)."""
        cell = windows_along(window, cells)
        local = np.arange(cells * cell)
        token = np.arange(windows_along(side, window))[:, None] * window + local
        return ((local < window) & (token < side)).reshape(-1, cell)

    rows, columns = axis(height), axis(width)
    present = rows[:, None, :, None] & columns[None, :, None, :]
    if present.all():
        return None
    return torch.tensor(present.reshape(rows.shape[0], columns.shape[0], -1, 1), device=device)
