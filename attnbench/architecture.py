"""What surrounds the attention: how maps are embedded and reduced, and how a block is made. A value, not a class.

The uniform backbone is one architecture of it, see :func:`uniform`; each published family is another.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from attnbench.contract import STAGES
from attnbench.layers import ClassificationHead, Mlp, PatchEmbedding, PatchMerging, WholePatchEmbedding
from attnbench.sizes import Size

STEM = 4  # pixels to a token's side in stage 0


@dataclass(frozen=True, slots=True)
class Convolution:
    """Reduce a map by a strided convolution that leaves out what does not fit."""

    kernel: int
    stride: int
    padding: int = 0
    pre_norm: bool = False

    def build(self, channels: int, dim: int) -> nn.Module:
        """Return the module that maps (B, H, W, channels) to (B, H', W', dim)."""
        return PatchEmbedding(channels, dim, self.kernel, self.stride, self.padding, self.pre_norm)

    def side(self, side: int) -> int:
        """Return the side of the reduced map."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    def macs(self, channels: int, dim: int, tokens: int) -> int:
        """Return the MACs of making ``tokens`` tokens."""
        return tokens * channels * dim * self.kernel**2


@dataclass(frozen=True, slots=True)
class Patches:
    """Reduce a map by whole patches, the last ones padded."""

    stride: int

    def build(self, channels: int, dim: int) -> nn.Module:
        """Return the module that maps (B, H, W, channels) to (B, H', W', dim)."""
        return WholePatchEmbedding(channels, dim, self.stride, self.stride, 0)

    def side(self, side: int) -> int:
        """Return the side of the reduced map."""
        return -(-side // self.stride)

    def macs(self, channels: int, dim: int, tokens: int) -> int:
        """Return the MACs of making ``tokens`` tokens."""
        return tokens * channels * dim * self.stride**2


@dataclass(frozen=True, slots=True)
class Merging:
    """Reduce a map by joining 2 x 2 tokens, the last ones padded."""

    def build(self, channels: int, dim: int) -> nn.Module:
        """Return the module that maps (B, H, W, channels) to (B, H', W', dim)."""
        return PatchMerging(channels, dim)

    def side(self, side: int) -> int:
        """Return the side of the reduced map."""
        return -(-side // 2)

    def macs(self, channels: int, dim: int, tokens: int) -> int:
        """Return the MACs of making ``tokens`` tokens."""
        return tokens * 4 * channels * dim


Reduction = Convolution | Patches | Merging


@dataclass(frozen=True, slots=True)
class Architecture:
    """The four stages around the attention."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...] = (4,) * STAGES
    stem: Reduction = Patches(STEM)
    merging: Reduction = Merging()
    mlp: Callable[[int, float], Mlp] = Mlp  # from width and ratio
    norm_eps: float = 1e-5  # of the norms in blocks, between stages and in the head
    layer_scale: float | None = None  # where the factors on a block's branches begin; None: there are none
    positions: tuple[int, ...] = ()  # stages with a learned position embedding, of the build resolution
    class_token: bool = False  # in the last stage
    stage_norms: bool = False  # a norm after each stage
    weight_std: float | None = None  # of initial linear weights; None: LeCun's fan-in rule
    head: Callable[[int, int, float], nn.Module] = ClassificationHead  # from width, classes and norm_eps

    def grids(self, resolution: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the (H, W) of every stage's map, in tokens, for images of ``resolution`` (H, W) pixels."""
        found = []
        height, width = resolution
        for stage in range(STAGES):
            reduction = self.merging if stage else self.stem
            height, width = reduction.side(height), reduction.side(width)
            found.append((height, width))
        return tuple(found)


def uniform(size: Size) -> Architecture:
    """Return the backbone in which mechanisms are compared, at one of its sizes."""
    return Architecture(tuple(size.dim * 2**stage for stage in range(STAGES)), size.depths, size.heads)
