"""Pooling of windows into cells: the coarse tokens of focal attention."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ._windows import cached_constant, pad_to_windows, windows_along

LEARNED = ("fc", "conv")
POOLS = (*LEARNED, "mean", "max")


class WindowPool(nn.Module):
    """Pool every window of a map to ``cells`` x ``cells`` tokens, each over ceil(window / cells)² tokens.

    ``fc`` weights a cell's places, one weight for all channels; ``conv`` weights them per channel; absent tokens count
    as zeros in both. ``mean`` and ``max`` go over the tokens that are there, and an empty cell is zero.
    """

    def __init__(self, pool: str, dim: int, window: int, cells: int) -> None:
        super().__init__()
        self.pool, self.window, self.cells = pool, window, cells
        self.dim, self.cell = dim, windows_along(window, cells)  # cell: its side, in tokens
        if pool in LEARNED:
            shape, channels = ((1, self.cell**2), 1) if pool == "fc" else ((dim, 1, self.cell, self.cell), dim)
            self.weight = nn.Parameter(torch.full(shape, self.cell**-2))  # begins as the mean, as the authors' does
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, H, W, C) to (B, nH * cells, nW * cells, C)."""
        cells = self._cells(x)  # (B, rows, columns, cell², C)
        if self.pool == "fc":
            return (self.weight @ cells).squeeze(-2) + self.bias
        if self.pool == "conv":
            places = cells.flatten(0, 2).transpose(1, 2).unflatten(-1, (self.cell, self.cell))  # (cells, C, cell, cell)
            return F.conv2d(places, self.weight, self.bias, groups=self.dim).flatten(1).unflatten(0, cells.shape[:3])
        present = _present(x.shape[1], x.shape[2], self.window, self.cells, x.device)
        if self.pool == "mean":
            return cells.mean(-2) if present is None else cells.sum(-2) / present.sum(-2).clamp(min=1)
        if present is None:
            return cells.amax(-2)
        highest = cells.masked_fill(~present, float("-inf")).amax(-2)
        return highest.masked_fill(~present.any(-2), 0)

    def macs(self, cells: int) -> int:
        """Return the MACs of pooling ``cells`` cells; mean and max multiply nothing."""
        return cells * self.cell**2 * self.dim if self.pool in LEARNED else 0

    def _cells(self, x: Tensor) -> Tensor:
        padded = pad_to_windows(x, self.window)
        tiles = padded.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))  # (B, nH, w, nW, w, C)
        rest = self.cell * self.cells - self.window
        if rest:
            tiles = F.pad(tiles, (0, 0, 0, rest, 0, 0, 0, rest))
        split = tiles.unflatten(4, (self.cells, self.cell)).unflatten(2, (self.cells, self.cell))
        ordered = split.permute(0, 1, 2, 4, 5, 3, 6, 7)  # (B, nH, cells, nW, cells, cell, cell, C)
        rows, columns = ordered.shape[1] * self.cells, ordered.shape[3] * self.cells
        return ordered.reshape(x.shape[0], rows, columns, self.cell**2, self.dim)


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
