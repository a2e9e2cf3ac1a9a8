"""Border policies of focal attention: what a window meets at the edge of the map, one frozen object per module.

A policy lays the map out before the projection, tells what is beyond it and which keys are hidden, and puts the map
back.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnbench.errors import UserError

from ._hidden import Hidden
from ._pooling import CentredCells, PresentCells
from ._windows import AUTHORS_MASK, cached_constant, pad_to_windows, pairs_along, same_window, windows_along

Regions = tuple[tuple[int, int], ...]  # per pooled level: side of the attended region, and cells to a window's side


@dataclass(frozen=True, slots=True)
class MaskedBorder:
    """The border of the uniform backbone: nothing beyond the map is attended, and the window keeps its size."""

    window: int
    expand: int
    shift: int
    regions: Regions

    tiling: ClassVar[type[PresentCells]] = PresentCells
    around: ClassVar[bool] = False  # whether the ring goes on around the edge

    @classmethod
    def fit(cls, window: int, expand: int, shift: int, regions: Regions, grid: tuple[int, int]) -> Self:
        """Return the policy of a module; it is the same whatever the map's size was when the model was built."""
        del grid
        if shift:
            raise UserError("focal with the border 'masked' has no shifted windows; the border 'wrapped' has")
        return cls(window, expand, shift, regions)

    def ring(self) -> NDArray[np.intp]:
        """Return the place in the region of every entry of the ring's bias table, row-major."""
        return np.flatnonzero(~own_window(self.window, self.expand))

    def enter(self, x: Tensor) -> Tensor:
        """Lay out (B, H, W, C): as it is; it is padded after the projection, since no padding is attended."""
        return x

    def leave(self, x: Tensor, height: int, width: int) -> Tensor:
        """Cut the map out of what windows cover."""
        return x[:, :height, :width]

    def hidden(self, height: int, width: int, device: torch.device) -> Hidden | None:
        """Return which keys lie outside the map, if any."""
        return _outside(self, height, width, device)

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens are projected to queries, keys and values."""
        return height * width

    def real(self, side: int) -> NDArray[np.bool_]:
        """Return which places along an axis of windows are tokens of the map."""
        return np.arange(windows_along(side, self.window) * self.window) < side

    def fine_pairs(self, height: int, width: int) -> int:
        """Return how many queries and fine keys, tokens of the map, may attend each other."""
        axes = [self.real(side) for side in (height, width)]
        return prod(pairs(real, regions_along(real, self.window, self.expand)) for real in axes)


@dataclass(frozen=True, slots=True)
class WrappedBorder:
    """The authors' border: padding is attended, the ring wraps around, and a window that covers the map shrinks to it.

    The ring comes from the map rolled by (+-expand, +-expand), a window's size each time: places that two of them
    reach occur twice, each time with a bias of its own. Where twice the expansion exceeds the window, some places of
    the ring are not reached. Pooled keys beyond the map get -100. The windows of odd blocks may be shifted, as Swin's.
    """

    window: int
    expand: int
    shift: int
    regions: Regions

    tiling: ClassVar[type[CentredCells]] = CentredCells
    around: ClassVar[bool] = True  # whether the ring goes on around the edge

    @classmethod
    def fit(cls, window: int, expand: int, shift: int, regions: Regions, grid: tuple[int, int]) -> Self:
        """Return the policy of a module; one window covers a ``grid`` whose shorter side is at most ``window``."""
        if min(grid) <= window:
            window, expand, shift = min(grid), 0, 0
        if any(window < count for _, count in regions):
            raise UserError(f"a window of {window} tokens has no {regions[-1][1]} cells along a side; use fewer levels")
        if expand > window:
            raise UserError(f"expand ({expand}) must not exceed the window ({window})")
        return cls(window, expand, shift, regions)

    def ring(self) -> NDArray[np.intp]:
        """Return the place in the region of every entry of the ring's bias table: roll by roll, row-major."""
        own = own_window(self.window, self.expand)
        local = np.arange(self.window)
        found = []
        for down, right in ((2, 2), (2, 0), (0, 2), (0, 0)):  # where the rolled window begins, in expansions
            rows, columns = local + down * self.expand, local + right * self.expand
            places = rows[:, None] * len(own) + columns[None]
            found.append(places[~own[np.ix_(rows, columns)]])
        return np.concatenate(found)

    def enter(self, x: Tensor) -> Tensor:
        """Lay out (B, H, W, C): padded with zeros that are tokens like any other, and rolled by the shift."""
        padded = pad_to_windows(x, self.window)
        return padded.roll((-self.shift, -self.shift), dims=(1, 2)) if self.shift else padded

    def leave(self, x: Tensor, height: int, width: int) -> Tensor:
        """Roll back and cut the map out."""
        rolled = x.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else x
        return rolled[:, :height, :width]

    def hidden(self, height: int, width: int, device: torch.device) -> Hidden | None:
        """Return which keys get -100: pooled cells outside the map, and what another window's are after a shift."""
        return _masked(self, windows_along(height, self.window), windows_along(width, self.window), device)

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens are projected to queries, keys and values."""
        return windows_along(height, self.window) * windows_along(width, self.window) * self.window**2

    def real(self, side: int) -> NDArray[np.bool_]:
        """Return which places along an axis of windows are tokens of the map."""
        padded = windows_along(side, self.window) * self.window
        return (np.arange(padded) + self.shift) % padded < side

    def fine_pairs(self, height: int, width: int) -> int:
        """Return how many queries and fine keys, tokens of the map, may attend each other."""
        own = pairs_along(height, self.window, self.shift) * pairs_along(width, self.window, self.shift)
        # The rolls reach the same rows as columns, and every row of these with every column, the own window's too.
        place = np.arange(self.window + 2 * self.expand)
        reached = (place < self.window) | (place >= 2 * self.expand)
        inner = reached & (place >= self.expand) & (place < self.expand + self.window)
        axes = [self.real(side) for side in (height, width)]
        regions = [regions_along(real, self.window, self.expand, around=True) for real in axes]
        square, hole = (
            prod(pairs(real, region[:, some]) for real, region in zip(axes, regions, strict=True))
            for some in (reached, inner)
        )
        return own + square - hole


BORDERS: dict[str, type[MaskedBorder | WrappedBorder]] = {"masked": MaskedBorder, "wrapped": WrappedBorder}


def own_window(window: int, expand: int) -> NDArray[np.bool_]:
    """Return which places of the fine region, a square, are the window itself."""
    inside = np.zeros((window + 2 * expand,) * 2, dtype=bool)
    inside[expand : expand + window, expand : expand + window] = True
    return inside


def regions_along(present: NDArray[np.bool_], count: int, margin: int, around: bool = False) -> NDArray[np.bool_]:
    """Return which cells are present in every window's region along an axis: (windows, margin + count + margin).

    A window has ``count`` cells. Beyond the axis no cell is present, or those ``around`` it are.
    """
    extended = np.pad(present, margin, mode="wrap" if around else "constant")
    return np.lib.stride_tricks.sliding_window_view(extended, count + 2 * margin)[::count]


def pairs(real: NDArray[np.bool_], regions: NDArray[np.bool_]) -> int:
    """Return how many queries that are ``real`` and keys of their windows' ``regions`` there are along an axis."""
    queries = real.reshape(len(regions), -1)
    return int(np.count_nonzero(queries, axis=1) @ np.count_nonzero(regions, axis=1))


@cached_constant
def _outside(border: MaskedBorder, height: int, width: int, device: torch.device) -> Hidden | None:
    """Tell what is outside the map; a row and a column are inside independently, so one axis at a time."""

    def axis(side: int, span: int, count: int) -> NDArray[np.bool_]:
        """Return (windows, span): whether that cell, ``count`` to a window's side, holds a token of the map."""
        first = np.arange(windows_along(side, border.window))[:, None] * count - (span - count) // 2
        window, local = np.divmod(first + np.arange(span), count)
        token = local * windows_along(border.window, count)  # the cell's first, within its window
        return (window >= 0) & (token < border.window) & (window * border.window + token < side)

    levels = [
        (border.window + 2 * border.expand, border.window),
        *border.regions,
    ]  # the fine level: w cells to a window
    keys = np.concatenate([_grid(axis(height, *level), axis(width, *level)) for level in levels], axis=-1)
    return Hidden.where_not(keys, float("-inf"), windows_along(width, border.window), device)


@cached_constant
def _masked(border: WrappedBorder, down: int, across: int, device: torch.device) -> Hidden | None:
    """Tell all but pooled cells of the map, and but its own region within a shifted window."""

    def axis(windows: int, span: int, count: int) -> NDArray[np.bool_]:
        cell = np.arange(windows)[:, None] * count - (span - count) // 2 + np.arange(span)
        return (cell >= 0) & (cell < windows * count)

    own = own_window(border.window, border.expand).ravel()
    fine = np.ones((down * across, 1, own.size), dtype=bool)
    if border.shift:
        sides = down * border.window, across * border.window
        fine = np.repeat(fine, border.window**2, axis=1)
        fine[..., own] = same_window(*sides, border.window, (border.shift, border.shift))
    pooled = [_grid(axis(down, *region), axis(across, *region)) for region in border.regions]
    pooled = [np.broadcast_to(keys, (*fine.shape[:2], keys.shape[-1])) for keys in pooled]
    keys = np.concatenate([fine, *pooled], axis=-1)
    return Hidden.where_not(keys, AUTHORS_MASK, across, device, beyond=not border.shift)


def _grid(rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Join (nH, span) and (nW, span) into (nH * nW, 1, span²)."""
    grid = rows[:, None, :, None] & columns[None, :, None, :]
    return grid.reshape(rows.shape[0] * columns.shape[0], 1, -1)
