"""Global self-attention: every token attends every token.

Attention Is All You Need, arXiv 1706.03762, section 3.2; on image tokens: ViT, arXiv 2010.11929. Without a position
embedding, which in ViT belongs to the model and not to the attention.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.contract import NoSettings, Paper, Slot
from attnbench.linear import Linear
from attnbench.registry import mechanism

from ._prefix import join, part_again

VIT = Paper("An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arxiv="2010.11929", year=2020)


@mechanism("full", paper=VIT, complexity="O((HW)²)", prefix=True)
class FullAttention(nn.Module):
    """Attend globally."""

    def __init__(self, slot: Slot, settings: NoSettings) -> None:
        super().__init__()
        self.heads = slot.heads
        self.qkv = Linear(slot.dim, 3 * slot.dim)
        self.proj = Linear(slot.dim, slot.dim)

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to (B, H, W, C); with prefix tokens (B, P, C), return both."""
        tokens, grid = join(x, prefix)
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, D)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each (B, heads, N, D)
        out = F.scaled_dot_product_attention(q, k, v)
        return part_again(self.proj(out.transpose(1, 2).reshape(tokens.shape)), grid, prefix)

    def macs(self, height: int, width: int, prefix: int = 0) -> int:
        """Return 4 N C² of projections and 2 N² C of products, N = height * width + prefix."""
        tokens, dim = height * width + prefix, self.proj.in_features
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim
