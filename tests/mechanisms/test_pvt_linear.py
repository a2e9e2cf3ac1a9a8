"""Linear spatial reduction against a naive float64 version: every token attends a map averaged to side x side cells."""

from math import ceil, floor

import pytest
import torch
from torch import Tensor, nn

import attnbench


def naive(module: nn.Module, x: Tensor, side: int, heads: int) -> Tensor:
    """Attend cell by cell and query by query; a cell spans every token that it touches."""
    weights = module.state_dict()
    batch, height, width, dim = x.shape

    def linear(name: str, tokens: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"].reshape(-1, dim)
        return tokens @ weight.T + weights[f"{name}.bias"]

    cells = []
    for row in range(side):
        for column in range(side):
            top, bottom = floor(row * height / side), ceil((row + 1) * height / side)
            left, right = floor(column * width / side), ceil((column + 1) * width / side)
            cells.append(x[:, top:bottom, left:right].mean((1, 2)))
    reduced = linear("sr", torch.stack(cells, dim=1))  # (B, side², C)
    centred = reduced - reduced.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * weights["norm.weight"] + weights["norm.bias"]
    activated = normed * 0.5 * (1 + torch.erf(normed / 2**0.5))  # GELU, arXiv 1606.08415
    keys, values = linear("kv", activated).chunk(2, dim=-1)
    queries, head = linear("q", x.flatten(1, 2)), dim // heads
    out = torch.zeros_like(queries)
    for image in range(batch):
        for token in range(height * width):
            for index in range(heads):
                part = slice(index * head, (index + 1) * head)
                scores = keys[image, :, part] @ queries[image, token, part] / head**0.5
                out[image, token, part] = scores.softmax(0) @ values[image, :, part]
    return linear("proj", out).reshape(x.shape)


@pytest.mark.parametrize("grid", [(14, 14), (9, 10), (3, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("side", [7, 2])
def test_output_equals_the_oracle(grid: tuple[int, int], side: int) -> None:
    torch.manual_seed(0)
    slot = attnbench.Slot(dim=12, heads=3, stage=0, block=0, grid=(8, 8))
    module = attnbench.MECHANISMS["pvt_linear"].configure(side=side).build(slot).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
        x = torch.randn(2, *grid, 12, dtype=torch.double)
        torch.testing.assert_close(module(x), naive(module, x, side, 3), atol=1e-10, rtol=1e-10)


def test_keys_do_not_grow_with_the_map() -> None:
    slot = attnbench.Slot(dim=12, heads=3, stage=0, block=0, grid=(8, 8))
    module = attnbench.MECHANISMS["pvt_linear"].build(slot)
    per_token = [(module.macs(side, side) - module.macs(0, 0)) / side**2 for side in (7, 14, 56)]  # type: ignore[operator]
    assert per_token[0] == per_token[1] == per_token[2] == 2 * 12**2 + 2 * 49 * 12


def test_a_side_of_no_cells_is_refused() -> None:
    with pytest.raises(attnbench.UserError, match="side must be at least 1"):
        attnbench.MECHANISMS["pvt_linear"].configure(side=0)
