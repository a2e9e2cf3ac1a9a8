"""No attention at all: the floor under every comparison.

IdentityFormer of MetaFormer Baselines for Vision, arXiv 2210.13452: a block whose token mixer returns its input.
"""

from torch import Tensor, nn

from attnbench.contract import NoSettings, Paper, Slot
from attnbench.registry import mechanism

METAFORMER = Paper("MetaFormer Baselines for Vision", arxiv="2210.13452", year=2022)


@mechanism("identity", paper=METAFORMER, complexity="0", prefix=True)
class IdentityMixing(nn.Module):
    """Mix nothing; what another mechanism costs above this is the price of its attention."""

    def __init__(self, slot: Slot, settings: NoSettings) -> None:
        super().__init__()

    def forward(self, x: Tensor, prefix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return (B, H, W, C) as it is, and so prefix tokens."""
        return x if prefix is None else (x, prefix)

    def macs(self, height: int, width: int, prefix: int = 0) -> int:
        """Return 0."""
        return 0
