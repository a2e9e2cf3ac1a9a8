"""Prefix tokens, a class token for instance: put before the tokens of a map, and taken off again."""

import torch
from torch import Tensor

Grid = tuple[int, int]


def join(x: Tensor, prefix: Tensor | None) -> tuple[Tensor, Grid]:
    """Return prefix tokens (B, P, C), if any, and the map (B, H, W, C) as (B, P + H * W, C), and (H, W)."""
    tokens = x.flatten(1, 2)
    return tokens if prefix is None else torch.cat([prefix, tokens], dim=1), (x.shape[1], x.shape[2])


def part_again(tokens: Tensor, grid: Grid, prefix: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Return the map (B, H, W, C) of ``tokens``, and the prefix tokens (B, P, C) where there are such."""
    if prefix is None:
        return tokens.unflatten(1, grid)
    return tokens[:, prefix.shape[1] :].unflatten(1, grid), tokens[:, : prefix.shape[1]]
