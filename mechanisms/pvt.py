"""Spatial-reduction attention of the Pyramid Vision Transformer, arXiv 2102.12122, section 3.3, equations 2 and 3.

Queries are all tokens; keys and values come from a map reduced by a strided convolution. Where a side is not a multiple
of the stride, the map is zero-padded at the bottom and right, so that every token is seen (the authors' code drops the
rest of such a map).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.contract import Paper, Slot
from attnbench.errors import UserError
from attnbench.registry import mechanism

from ._windows import pad_to_windows, windows_along

PVT = Paper(
    "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
    arxiv="2102.12122",
    year=2021,
)


@dataclass(frozen=True, slots=True)
class ReductionSettings:
    """Settings of one stage."""

    sr_ratio: int = 1  # side of the patch that becomes one key; 1 reduces nothing

    def __post_init__(self) -> None:
        if self.sr_ratio < 1:
            raise UserError(f"sr_ratio must be at least 1, not {self.sr_ratio}")


@mechanism(
    "pvt", paper=PVT, complexity="O((HW)² / R²)", stages=tuple(ReductionSettings(ratio) for ratio in (8, 4, 2, 1))
)
class SpatialReductionAttention(nn.Module):
    """Attend a reduced map from every token."""

    def __init__(self, slot: Slot, settings: ReductionSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        self.sr_ratio = settings.sr_ratio
        self.q = nn.Linear(slot.dim, slot.dim)
        self.kv = nn.Linear(slot.dim, 2 * slot.dim)
        self.proj = nn.Linear(slot.dim, slot.dim)
        if self.sr_ratio > 1:
            self.sr = nn.Conv2d(slot.dim, slot.dim, self.sr_ratio, stride=self.sr_ratio)
            self.norm = nn.LayerNorm(slot.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        q = self.q(x.flatten(1, 2)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D)
        kv = self.kv(self._reduce(x)).unflatten(-1, (2, self.heads, -1))  # (B, N / R², 2, heads, D)
        k, v = (part.transpose(1, 2) for part in kv.unbind(2))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def macs(self, height: int, width: int) -> int:
        """Return the MACs of q and output projections, reduction, kv projection and the two products."""
        tokens, dim = height * width, self.proj.in_features
        keys = windows_along(height, self.sr_ratio) * windows_along(width, self.sr_ratio)
        reduction = keys * dim**2 * self.sr_ratio**2 if self.sr_ratio > 1 else 0
        return 2 * tokens * dim**2 + reduction + 2 * keys * dim**2 + 2 * tokens * keys * dim

    def _reduce(self, x: Tensor) -> Tensor:
        if self.sr_ratio == 1:
            return x.flatten(1, 2)
        # A channels-last map seen as NCHW is what the convolution takes without a copy.
        reduced = self.sr(pad_to_windows(x, self.sr_ratio).permute(0, 3, 1, 2))
        tokens: Tensor = self.norm(reduced.permute(0, 2, 3, 1).flatten(1, 2))  # (B, N / R², C)
        return tokens
