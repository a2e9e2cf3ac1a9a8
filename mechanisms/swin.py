"""Shifted-window attention of the Swin Transformer, arXiv 2103.14030, section 3.2.

Blocks with an odd index shift their windows by half a window. Two tokens attend each other exactly if they lie in the
same window of the shifted grid, so nothing wraps around. What becomes of windows at the edge of the map is decided by a
border policy: ``masked`` in the uniform backbone, where padding is never attended, ``shrunk`` in the published models.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.linear import Linear
from attnbench.registry import mechanism

from ._bias import relative_position_index
from ._boxes import Layout
from ._hidden import Hidden
from ._kept import Kept
from ._regions import attend_regions
from ._spans import Span
from ._windows import AUTHORS_MASK, cached_constant, pad_to_windows, pairs_along, same_window, windows_along

SWIN = Paper("Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arxiv="2103.14030", year=2021)


@dataclass(frozen=True, slots=True)
class MaskedBorder:
    """The border of the uniform backbone: no padding is attended; an axis that one window covers is not shifted."""

    window: int
    shift: int

    @classmethod
    def fit(cls, window: int, shift: int, grid: tuple[int, int]) -> Self:
        """Return the policy of a module; it is the same whatever the map's size was when the model was built."""
        del grid
        return cls(window, shift)

    def enter(self, x: Tensor) -> Tensor:
        """Lay out (B, H, W, C) before the projection: shifted where windows divide it, which is a third of the copy."""
        return self._shifted(x) if self._divides(x) else x

    def lay_out(self, qkv: Tensor) -> Tensor:
        """Pad and shift the projected map (B, H, W, 3C) where windows do not divide it: padding is not projected."""
        return qkv if self._divides(qkv) else self._shifted(pad_to_windows(qkv, self.window))

    def leave(self, out: Tensor, height: int, width: int) -> Tensor:
        """Shift back, and cut the map out of what windows cover."""
        shifts = self.shifts(height, width)
        return (out.roll(shifts, dims=(1, 2)) if any(shifts) else out)[:, :height, :width]

    def _divides(self, x: Tensor) -> bool:
        return x.shape[1] % self.window == 0 and x.shape[2] % self.window == 0

    def _shifted(self, x: Tensor) -> Tensor:
        rows, columns = self.shifts(x.shape[1], x.shape[2])
        return x.roll((-rows, -columns), dims=(1, 2)) if rows or columns else x

    def shifts(self, height: int, width: int) -> tuple[int, int]:
        """Return the shift of each axis."""
        return self.shift if height > self.window else 0, self.shift if width > self.window else 0

    def pairs(self, side: int) -> int:
        """Return how many pairs of the map's tokens may attend each other along an axis of ``side`` tokens."""
        return pairs_along(side, self.window, self.shifts(side, side)[0])

    def hidden(self, height: int, width: int, device: torch.device) -> Hidden | None:
        """Return which tokens of a window may not attend each other, if any."""
        if height % self.window == 0 and width % self.window == 0 and not any(self.shifts(height, width)):
            return None
        return _hidden(height, width, self.window, self.shifts(height, width), float("-inf"), device)

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens are projected to queries, keys and values."""
        return height * width


@dataclass(frozen=True, slots=True)
class ShrunkBorder:
    """The authors' border: a window that covers the map's shorter side shrinks to it, and nothing is shifted there.

    Maps that windows do not divide are refused by the authors' code; here they are treated as timm does: shifted, then
    padded with zeros that are tokens like any other, the mask of the shift laid over the padded map.
    """

    window: int
    shift: int

    @classmethod
    def fit(cls, window: int, shift: int, grid: tuple[int, int]) -> Self:
        """Return the policy of a module for maps of the size ``grid``."""
        return cls(min(grid), 0) if min(grid) <= window else cls(window, shift)

    def enter(self, x: Tensor) -> Tensor:
        """Lay out (B, H, W, C) before the projection: shifted and padded."""
        return pad_to_windows(x.roll((-self.shift, -self.shift), dims=(1, 2)) if self.shift else x, self.window)

    def lay_out(self, qkv: Tensor) -> Tensor:
        """Return the projected map as it is."""
        return qkv

    def leave(self, out: Tensor, height: int, width: int) -> Tensor:
        """Cut the map out of what windows cover, and shift back."""
        cut = out[:, :height, :width]
        return cut.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else cut

    def pairs(self, side: int) -> int:
        """Return how many pairs of the map's tokens may attend each other along an axis of ``side`` tokens.

        Padding comes after the shift: every window is whole but the last, which the mask of the shift parts.
        """
        whole = windows_along(side, self.window) - 1
        return whole * self.window**2 + pairs_along(side - whole * self.window, self.window, self.window - self.shift)

    def hidden(self, height: int, width: int, device: torch.device) -> Hidden | None:
        """Return which tokens of a window get -100 for each other, if any."""
        if not self.shift:
            return None
        padded = [windows_along(side, self.window) * self.window for side in (height, width)]
        return _hidden(*padded, self.window, (self.shift, self.shift), AUTHORS_MASK, device)

    def tokens(self, height: int, width: int) -> int:
        """Return how many tokens are projected to queries, keys and values."""
        return windows_along(height, self.window) * windows_along(width, self.window) * self.window**2


BORDERS: dict[str, type[MaskedBorder | ShrunkBorder]] = {"masked": MaskedBorder, "shrunk": ShrunkBorder}


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
        self.border = BORDERS[settings.border].fit(settings.window, shift, slot.grid)
        self.window = self.border.window
        self.layout = Layout(self.window, (Span(self.window, self.window),), self.heads)
        self.qkv = Linear(slot.dim, 3 * slot.dim, bias=settings.qkv_bias)
        self.proj = Linear(slot.dim, slot.dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, slot.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = relative_position_index(self.window, self.window)
        self.register_buffer("relative_position_index", index, persistent=False)
        self.kept_bias = Kept()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        _, height, width, _ = x.shape
        qkv = self.border.lay_out(self.qkv(self.border.enter(x)))
        bias = self.kept_bias.get(self._bias, [self.relative_position_bias_table])
        hidden = self.border.hidden(height, width, x.device)
        out = attend_regions(qkv, [], self.layout, bias, hidden)
        return self.proj(self.border.leave(out, height, width))

    def macs(self, height: int, width: int) -> int:
        """Return 4 N C² of projections and 2 w⁴ C of products per window, padding included."""
        dim, area = self.proj.in_features, self.window**2
        windows = windows_along(height, self.window) * windows_along(width, self.window)
        projections = (3 * self.border.tokens(height, width) + height * width) * dim**2
        return projections + 2 * windows * area**2 * dim

    def ideal_macs(self, height: int, width: int) -> int:
        """Return the MACs without padding and without pairs that the shift's mask hides."""
        dim = self.proj.in_features
        return 4 * height * width * dim**2 + 2 * self.border.pairs(height) * self.border.pairs(width) * dim

    def _bias(self) -> Tensor:
        """Return (heads, w², w²)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()


@cached_constant
def _hidden(
    height: int, width: int, window: int, shifts: tuple[int, int], score: float, device: torch.device
) -> Hidden | None:
    same = same_window(height, width, window, shifts)
    return Hidden.where_not(same, score, windows_along(width, window), device)
