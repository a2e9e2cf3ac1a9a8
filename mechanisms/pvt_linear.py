"""Linear spatial-reduction attention of PVTv2, arXiv 2106.13797, section 3.1: keys from a map pooled to a fixed size.

The map is averaged to 7 x 7 cells whatever its size, so the cost grows linearly with the tokens. As in the authors'
code the cells of a map whose sides do not divide overlap by a token, and GELU follows the norm.
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

PVT_V2 = Paper("PVT v2: Improved Baselines with Pyramid Vision Transformer", arxiv="2106.13797", year=2021)


@dataclass(frozen=True, slots=True)
class PooledSettings:
    """Settings of one stage."""

    side: int = 7  # of the pooled map, in cells
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if self.side < 1:
            raise UserError(f"side must be at least 1, not {self.side}")


@mechanism("pvt_linear", paper=PVT_V2, complexity="O(HW P²)", stages=(PooledSettings(),) * 4, prefix=True)
class LinearReductionAttention(nn.Module):
    """Attend a map pooled to a fixed size from every token."""

    def __init__(self, slot: Slot, settings: PooledSettings) -> None:
        super().__init__()
        self.heads, self.side = slot.heads, settings.side
        self.q = Linear(slot.dim, slot.dim, bias=settings.qkv_bias)
        self.kv = Linear(slot.dim, 2 * slot.dim, bias=settings.qkv_bias)
        self.proj = Linear(slot.dim, slot.dim)
        self.sr = nn.Conv2d(slot.dim, slot.dim, 1)
        self.norm = LayerNorm(slot.dim)

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to (B, H, W, C); with prefix tokens (B, P, C), which are not pooled, return both."""
        tokens, grid = join(x, prefix)
        q = self.q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, P + N, D)
        cells = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.side).permute(0, 2, 3, 1).flatten(1, 2)
        # The convolution as the product that it is: around one, the compiler gives maps (B, H, W, C) another order.
        pooled = F.gelu(self.norm(linear(cells, self.sr.weight.flatten(1), self.sr.bias)))  # (B, side², C)
        keys = pooled if prefix is None else torch.cat([prefix, pooled], dim=1)
        k, v = (part.transpose(1, 2) for part in self.kv(keys).unflatten(-1, (2, self.heads, -1)).unbind(2))
        out = F.scaled_dot_product_attention(q, k, v)
        return part_again(self.proj(out.transpose(1, 2).reshape(tokens.shape)), grid, prefix)

    def macs(self, height: int, width: int, prefix: int = 0) -> int:
        """Return the MACs of q and output projections, of the pooled map's two, and the two products."""
        tokens, dim, cells = height * width + prefix, self.proj.in_features, self.side**2
        keys = cells + prefix
        return 2 * tokens * dim**2 + cells * dim**2 + 2 * keys * dim**2 + 2 * tokens * keys * dim
