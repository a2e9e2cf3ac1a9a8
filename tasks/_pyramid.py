"""A feature pyramid (Lin et al., arXiv 1612.03144): a norm of each channels-last map, then the library's pyramid."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

WIDE = 64  # channels of the first stage from which on heads have the papers' width


def wide(channels: tuple[int, ...]) -> bool:
    """Say whether a backbone is tiny or larger: its heads are as wide as in the papers."""
    return channels[0] >= WIDE


class Pyramid(nn.Module):
    """Normalise each map that is read (as Swin's and Focal's authors do), then join them from the top down.

    Args:
        channels: of the maps that are read.
        width: channels of every level, ``out_channels``.
        extra: makes the levels above the last map.
    """

    def __init__(self, channels: tuple[int, ...], width: int, extra: nn.Module) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.out_channels = width
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in channels)
        self.levels = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra)

    def forward(self, maps: list[Tensor]) -> Any:
        """Map (B, H_i, W_i, C_i), the last of the four first, to an ordered dict of levels (B, width, H_i, W_i).

        Maps that are not read, the first ones, are left out. Keys are "0", "1", ..., then those of the extra levels.
        """
        read = maps[-len(self.norms) :]
        normed = [norm(item).permute(0, 3, 1, 2) for norm, item in zip(self.norms, read, strict=True)]
        return self.levels(OrderedDict((str(index), item) for index, item in enumerate(normed)))


def anchors(generator: Any, levels: list[Tensor], strides: tuple[int, ...]) -> list[Tensor]:
    """Return the anchors (N_i, 4) of each level, in pixels, float32.

    The generator would divide the image's size by the map's, which at the ceiling of an odd size is not the stride.
    """
    generator.set_cell_anchors(torch.float32, levels[0].device)
    grids, steps = [level.shape[-2:] for level in levels], [(stride, stride) for stride in strides]
    found: list[Tensor] = generator.grid_anchors(grids, steps)
    return found
