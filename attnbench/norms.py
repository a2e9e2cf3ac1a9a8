"""PyTorch's norms, which in inference stay one call each in a compiled graph for a CPU.

The compiler would fuse one with what follows, and read the map three times from memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench.compiling import wanted


class LayerNorm(nn.LayerNorm):
    """Normalise the last axes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        normalise = _layer_norm if _stays_whole(x) else F.layer_norm
        out: Tensor = normalise(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return out


class GroupNorm(nn.GroupNorm):
    """Normalise groups of channels, each over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, ...) to (B, C, ...)."""
        normalise = _group_norm if _stays_whole(x) else F.group_norm
        out: Tensor = normalise(x, self.num_groups, self.weight, self.bias, self.eps)
        return out


def _stays_whole(x: Tensor) -> bool:
    return wanted(x) and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


_layer_norm = torch.library.custom_op(
    "attnbench::layer_norm",
    F.layer_norm,
    mutates_args=(),
    schema="(Tensor x, int[] shape, Tensor? scale, Tensor? shift, float eps) -> Tensor",
)
_group_norm = torch.library.custom_op(
    "attnbench::group_norm",
    F.group_norm,
    mutates_args=(),
    schema="(Tensor x, int groups, Tensor? scale, Tensor? shift, float eps) -> Tensor",
)


@_layer_norm.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@_group_norm.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)
