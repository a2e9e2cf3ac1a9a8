"""Shifted-window attention of the Swin Transformer, arXiv 2103.14030, section 3.2.

Blocks with an odd index shift their windows by half a window. Two tokens attend each other exactly if they lie in the
same window of the shifted grid, so nothing wraps around and padding is never attended. An axis that one window covers
is not shifted. The border policy says what becomes of a window on a small map: ``masked`` keeps it, ``shrunk`` is the
authors'.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.registry import mechanism

from ._bias import relative_position_index
from ._windows import (
    attend_windows,
    cached_constant,
    merge_windows,
    pad_to_windows,
    same_window,
    split_heads_by_window,
    windows_along,
)

SWIN = Paper("Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arxiv="2103.14030", year=2021)


def _masked(window: int, shift: int, _grid: tuple[int, int]) -> tuple[int, int]:
    """Keep window and shift, whatever the size of the map when the model was built."""
    return window, shift


def _shrunk(window: int, shift: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Shrink the window to a map whose shorter side it covers, and shift no window there, as the authors do."""
    return (min(grid), 0) if min(grid) <= window else (window, shift)


BORDERS = {"masked": _masked, "shrunk": _shrunk}  # from window, shift and grid to window and shift


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Settings of one stage."""

    window: int = 7  # side, in tokens
    shift: bool = True  # odd blocks shift by half a window
    border: str = "masked"  # masked, shrunk
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"window must be at least 1, not {self.window}")
        if self.border not in BORDERS:
            raise UserError(f"border must be one of {', '.join(BORDERS)}, not {self.border!r}")


@mechanism("swin", paper=SWIN, complexity="O(HW w²)", stages=(WindowSettings(),) * 4)
class ShiftedWindowAttention(nn.Module):
    """Attend within windows that odd blocks shift."""

    relative_position_index: Tensor

    def __init__(self, slot: Slot, settings: WindowSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        shift = settings.window // 2 if settings.shift and slot.block % 2 else 0
        self.window, self.shift = BORDERS[settings.border](settings.window, shift, slot.grid)
        self.qkv = nn.Linear(slot.dim, 3 * slot.dim, bias=settings.qkv_bias)
        self.proj = nn.Linear(slot.dim, slot.dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, slot.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = relative_position_index(self.window, self.window)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, height, width, _ = x.shape
        shifts = tuple(self.shift if side > self.window else 0 for side in (height, width))
        qkv = pad_to_windows(self.qkv(x), self.window)
        if any(shifts):
            qkv = qkv.roll((-shifts[0], -shifts[1]), dims=(1, 2))
        q, k, v = split_heads_by_window(qkv, self.window, parts=3, heads=self.heads)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, w², w²)
        visible = _mask(height, width, self.window, shifts, x.device)
        out = attend_windows(q, k, v, bias, visible)
        out = merge_windows(out, self.window, columns=windows_along(width, self.window))
        if any(shifts):
            out = out.roll(shifts, dims=(1, 2))
        return self.proj(out[:, :height, :width])

    def macs(self, height: int, width: int) -> int:
        """Return 4 N C² of projections and 2 w⁴ C of products per window, padding included."""
        dim, area = self.proj.in_features, self.window**2
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        return 4 * height * width * dim**2 + 2 * windows * area**2 * dim


@cached_constant
def _mask(height: int, width: int, window: int, shifts: tuple[int, int], device: torch.device) -> Tensor | None:
    """Return which pairs of tokens may attend each other: (windows, w², w²), or None where all may."""
    if not any(shifts) and height % window == 0 and width % window == 0:
        return None
    return torch.tensor(same_window(height, width, window, shifts), device=device)
