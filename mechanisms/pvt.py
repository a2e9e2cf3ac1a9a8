"""Spatial-reduction attention of the Pyramid Vision Transformer, arXiv 2102.12122, section 3.3, equations 2 and 3.

Queries are all tokens; keys and values come from a map reduced by a strided convolution. Where a side is not a multiple
of the stride, the border policy ``padded`` zero-pads the map at the bottom and right, so that every token is seen;
``dropped``, the authors', leaves the rest of such a map out.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.linear import Linear, linear
from attnbench.norms import LayerNorm
from attnbench.registry import mechanism

from ._prefix import join, part_again
from ._windows import pad_to_windows, windows_along

PVT = Paper(
    "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
    arxiv="2102.12122",
    year=2021,
)


class PaddedBorder:
    """Every token is in a patch; the last ones are padded with zeros."""

    @staticmethod
    def enter(x: Tensor, ratio: int) -> Tensor:
        """Lay out the map (B, H, W, C) for patches of ``ratio`` x ``ratio`` tokens."""
        return pad_to_windows(x, ratio)

    @staticmethod
    def patches(side: int, ratio: int) -> int:
        """Return how many patches there are along a side."""
        return windows_along(side, ratio)


class DroppedBorder:
    """The authors' border: tokens that fill no patch are seen by no query; a map smaller than a patch is refused."""

    @staticmethod
    def enter(x: Tensor, ratio: int) -> Tensor:
        """Lay out the map (B, H, W, C) for patches of ``ratio`` x ``ratio`` tokens."""
        if min(x.shape[1:3]) < ratio:
            raise UserError(f"a map of {x.shape[1]} x {x.shape[2]} tokens has no patch of {ratio} x {ratio}")
        return x

    @staticmethod
    def patches(side: int, ratio: int) -> int:
        """Return how many patches there are along a side."""
        return side // ratio


BORDERS: dict[str, type[PaddedBorder | DroppedBorder]] = {"padded": PaddedBorder, "dropped": DroppedBorder}


@dataclass(frozen=True, slots=True)
class ReductionSettings:
    """Settings of one stage."""

    sr_ratio: int = 1  # side of the patch that becomes one key; 1 reduces nothing
    border: str = "padded"  # padded, dropped
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if self.sr_ratio < 1:
            raise UserError(f"sr_ratio must be at least 1, not {self.sr_ratio}")
        if self.border not in BORDERS:
            raise UserError(f"border must be one of {', '.join(BORDERS)}, not {self.border!r}")


@mechanism(
    "pvt",
    paper=PVT,
    complexity="O((HW)² / R²)",
    stages=tuple(ReductionSettings(ratio) for ratio in (8, 4, 2, 1)),
    prefix=True,
)
class SpatialReductionAttention(nn.Module):
    """Attend a reduced map from every token."""

    def __init__(self, slot: Slot, settings: ReductionSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        self.sr_ratio, self.border = settings.sr_ratio, BORDERS[settings.border]
        self.q = Linear(slot.dim, slot.dim, bias=settings.qkv_bias)
        self.kv = Linear(slot.dim, 2 * slot.dim, bias=settings.qkv_bias)
        self.proj = Linear(slot.dim, slot.dim)
        if self.sr_ratio > 1:
            self.sr = nn.Conv2d(slot.dim, slot.dim, self.sr_ratio, stride=self.sr_ratio)
            self.norm = LayerNorm(slot.dim)

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to (B, H, W, C); with prefix tokens (B, P, C), which are not reduced, return both."""
        tokens, grid = join(x, prefix)
        q = self.q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, P + N, D)
        reduced = tokens if self.sr_ratio == 1 else self._reduce(x, prefix)
        kv = self.kv(reduced).unflatten(-1, (2, self.heads, -1))  # (B, P + N / R², 2, heads, D)
        k, v = (part.transpose(1, 2) for part in kv.unbind(2))
        out = F.scaled_dot_product_attention(q, k, v)
        return part_again(self.proj(out.transpose(1, 2).reshape(tokens.shape)), grid, prefix)

    def macs(self, height: int, width: int, prefix: int = 0) -> int:
        """Return the MACs of q and output projections, reduction, kv projection and the two products."""
        tokens, dim = height * width + prefix, self.proj.in_features
        patches = self.border.patches(height, self.sr_ratio) * self.border.patches(width, self.sr_ratio)
        reduction = patches * dim**2 * self.sr_ratio**2 if self.sr_ratio > 1 else 0
        keys = patches + prefix
        return 2 * tokens * dim**2 + reduction + 2 * keys * dim**2 + 2 * tokens * keys * dim

    def ideal_macs(self, height: int, width: int, prefix: int = 0) -> int:
        """Return the MACs without the padding of the last patches; every patch holds a token."""
        patches = self.border.patches(height, self.sr_ratio) * self.border.patches(width, self.sr_ratio)
        padding = max(0, patches * self.sr_ratio**2 - height * width)
        return self.macs(height, width, prefix) - padding * self.proj.in_features**2

    def _reduce(self, x: Tensor, prefix: Tensor | None) -> Tensor:
        """Return (B, P + N / R², C)."""
        # The convolution as the product that it is: of fewer than 32 channels in bfloat16 oneDNN returns wrong numbers
        # for it where the CPU has AMX (seen with torch 2.14).
        height, width = (self.border.patches(side, self.sr_ratio) for side in x.shape[1:3])
        laid = self.border.enter(x, self.sr_ratio)[:, : height * self.sr_ratio, : width * self.sr_ratio]
        patches = laid.unflatten(2, (width, -1)).unflatten(1, (height, -1)).transpose(2, 3)  # (B, h, w, R, R, C)
        weight = self.sr.weight.permute(0, 2, 3, 1).flatten(1)  # (C, R² C)
        tokens: Tensor = self.norm(linear(patches.flatten(3), weight, self.sr.bias).flatten(1, 2))
        return tokens if prefix is None else torch.cat([prefix, tokens], dim=1)
