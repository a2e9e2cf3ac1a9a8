"""Windows of a channels-last map: cut, mended, and attended with one bias for all and one mask each."""

from collections.abc import Callable
from functools import lru_cache, wraps

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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
    return parted.reshape(parts, x.shape[0], -1, heads, window * window, parted.shape[-1]).unbind(0)


def merge_windows(x: Tensor, window: int, columns: int) -> Tensor:
    """Mend (B, windows, heads, window², D), ``columns`` windows to a row, into a map (B, H, W, C)."""
    tiles = x.unflatten(3, (window, window)).unflatten(1, (-1, columns))  # (B, nH, nW, heads, w, w, D)
    rows = tiles.permute(0, 1, 4, 2, 5, 3, 6)  # (B, nH, w, nW, w, heads, D)
    return rows.reshape(x.shape[0], rows.shape[1] * window, columns * window, -1)


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


def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, visible: Tensor | None, hidden: Tensor | float = float("-inf")
) -> Tensor:
    """Attend within each window.

    Args:
        q: (B, windows, heads, L, D).
        k: (B, windows, heads, K, D).
        v: as k.
        bias: (heads, L, K), added to the scores of every window.
        visible: (windows, L or 1, K), True where a key may be attended; None where all may. Every query needs one.
        hidden: what stands in the place of the bias where a key may not be attended; a tensor has the bias's shape.

    Returns:
        (B, windows, heads, L, D).
    """
    if visible is None:  # windows join the batch: one bias for all
        out = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=bias[None])
        return out.unflatten(0, q.shape[:2])
    # Windows join the heads, so that one mask serves every image of the batch without a copy per image.
    mask = torch.where(visible[:, None], bias, hidden).flatten(0, 1)  # (windows * heads, L, K)
    out = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=mask[None])
    return out.unflatten(1, q.shape[1:3])


def cached_constant(build: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """Keep the last 64 tensors that ``build`` made: masks depend on the map's size, not on its content.

    They are made outside of inference mode, because a tensor made inside could not be saved for a later backward. A
    fake tensor is not kept, since it must not outlive its mode.
    """

    @lru_cache(maxsize=64)
    def kept(*arguments: object) -> Tensor | None:
        with torch.inference_mode(False):
            return build(*arguments)

    @wraps(build)
    def constant(*arguments: object) -> Tensor | None:
        return kept(*arguments) if type(torch.empty(0)) is Tensor else build(*arguments)

    return constant
