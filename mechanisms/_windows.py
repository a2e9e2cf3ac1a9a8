"""Windows of a channels-last map: cut and mended."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Constant = TypeVar("Constant")

AUTHORS_MASK = -100.0  # what the authors of Swin and Focal add to the score of a key that is to be hidden


def windows_along(side: int, window: int) -> int:
    """Return how many windows of ``window`` tokens cover ``side`` tokens."""
    return -(-side // window)


def pairs_along(side: int, window: int, shift: int) -> int:
    """Return how many pairs of places share a segment of an axis: ``shift`` places, then ``window`` each, the rest."""
    first = min(shift, side)
    whole, rest = divmod(side - first, window)
    return first**2 + whole * window**2 + rest**2


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Zero-pad (B, H, W, C) at the bottom and right to multiples of ``window``."""
    bottom, right = -x.shape[1] % window, -x.shape[2] % window
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def split_heads_by_window(x: Tensor, window: int, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Cut (B, H, W, parts * C), H and W multiples of ``window``, into ``parts`` of (B, windows, heads, window², D)."""
    rows = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, nH, w, nW, w, parts * C)
    parted = rows.unflatten(-1, (parts, heads, -1)).permute(
        5, 0, 1, 3, 6, 2, 4, 7
    )  # (parts, B, nH, nW, heads, w, w, D)
    windows = parted.shape[2] * parted.shape[3]
    return parted.reshape(parts, x.shape[0], windows, heads, window * window, parted.shape[-1]).unbind(0)


def merge_windows(x: Tensor, window: int, columns: int) -> Tensor:
    """Mend (B, windows, heads, window², D), ``columns`` windows to a row, into a map (B, H, W, C)."""
    tiles = x.unflatten(3, (window, window)).unflatten(1, (-1, columns))  # (B, nH, nW, heads, w, w, D)
    rows = tiles.permute(0, 1, 4, 2, 5, 3, 6)  # (B, nH, w, nW, w, heads, D)
    return rows.flatten(5, 6).flatten(3, 4).flatten(1, 2)


def same_window(height: int, width: int, window: int, shifts: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pairs of tokens share a window before the roll by ``-shifts``: (windows, w², w²).

    Padding forms a window of its own, so that its queries, whose outputs are cropped, have something to attend.
    """
    rows = (np.arange(height) - shifts[0]) // window
    columns = (np.arange(width) - shifts[1]) // window
    grid = windows_along(height, window) * window, windows_along(width, window) * window
    ids = np.full(grid, np.iinfo(np.int64).max)
    ids[:height, :width] = rows[:, None] * grid[1] + columns[None, :]
    rolled = np.roll(ids, (-shifts[0], -shifts[1]), axis=(0, 1)).reshape(grid[0] // window, window, -1, window)
    tiles = rolled.swapaxes(1, 2).reshape(-1, window**2)  # (windows, w²)
    same: NDArray[np.bool_] = tiles[:, :, None] == tiles[:, None, :]
    return same


@dataclass(frozen=True, slots=True)
class _Box(Generic[Constant]):
    """What torch.compile takes for a constant: of two bare tensors in one graph it would confuse the names."""

    content: Constant


def cached_constant(build: Callable[..., Constant]) -> Callable[..., Constant]:
    """Keep the last 64 constants that ``build`` made: masks depend on the map's size, not on its content.

    They are made outside of inference mode, because a tensor made inside could not be saved for a later backward. A
    fake tensor is not kept, since it must not outlive its mode. Compiled code holds what it was compiled with.
    """

    @lru_cache(maxsize=64)
    def kept(*arguments: object) -> Constant:
        with torch.inference_mode(False):
            return build(*arguments)

    def boxed(*arguments: object) -> _Box[Constant]:
        return _Box(kept(*arguments) if type(torch.empty(0)) is Tensor else build(*arguments))

    # All that torch.compiler.assume_constant_result does, but for importing the compiler, which takes seconds.
    boxed._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @wraps(build)
    def constant(*arguments: object) -> Constant:
        return boxed(*arguments).content

    return constant
