"""Shifted-window attention (arXiv 2103.14030) against a naive float64 oracle over all pairs of tokens."""

from functools import cache
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import attnbench
from attnbench.contract import Attention

DIM, HEADS = 12, 3
SIZES = [(14, 14), (13, 17), (1, 1), (7, 21), (3, 30), (8, 8), (20, 5), (4, 9)]


def window_of(position: int, side: int, window: int, shift: int) -> int:
    """Return the index of the window that holds a position along one axis; a side of one window has no shift."""
    return (position - (shift if side > window else 0)) // window


@cache
def pairs(height: int, width: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Return which token sees which, and the row of the bias table of each such pair: both (N, N)."""
    tokens = [(y, x) for y in range(height) for x in range(width)]
    home = {(y, x): (window_of(y, height, window, shift), window_of(x, width, window, shift)) for y, x in tokens}
    visible = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    rows = torch.zeros(len(tokens), len(tokens), dtype=torch.long)
    for i, (query_y, query_x) in enumerate(tokens):
        for j, (key_y, key_x) in enumerate(tokens):
            if home[query_y, query_x] == home[key_y, key_x]:
                visible[i, j] = True
                rows[i, j] = (query_y - key_y + window - 1) * (2 * window - 1) + (query_x - key_x + window - 1)
    return visible, rows


def oracle(state: dict[str, Tensor], x: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """Attend over all pairs of tokens, head by head. (B, H, W, C) -> (B, H, W, C)."""
    batch, height, width, dim = x.shape
    depth = dim // heads
    visible, rows = pairs(height, width, window, shift)
    qkv = x.reshape(batch, height * width, dim) @ state["qkv.weight"].T + state["qkv.bias"]
    q, k, v = qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., 2 * dim :]
    attended = []
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)
        bias = state["relative_position_bias_table"][:, head][rows]  # (N, N)
        logits = q[..., own] @ k[..., own].transpose(1, 2) / depth**0.5 + bias
        logits = logits.masked_fill(~visible, -torch.inf)
        weights = torch.exp(logits - logits.amax(-1, keepdim=True))
        attended.append(weights / weights.sum(-1, keepdim=True) @ v[..., own])
    merged = torch.cat(attended, -1) @ state["proj.weight"].T + state["proj.bias"]
    return merged.reshape(batch, height, width, dim)


def build(
    window: int = 7,
    block: int = 0,
    shift: bool = True,
    dim: int = DIM,
    heads: int = HEADS,
    dtype: torch.dtype = torch.float64,
) -> nn.Module:
    """Build the module with noise in every parameter, so that a wrong index into the bias table shows."""
    slot = attnbench.Slot(dim=dim, heads=heads, stage=0, block=block, grid=(14, 14))
    module = attnbench.MECHANISMS["swin"].configure(window=window, shift=shift).build(slot).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            std = 0.5 if "table" in name else 0.3
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def shift_of(window: int, block: int, shift: bool) -> int:
    return window // 2 if shift and block % 2 == 1 else 0


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [4, 7])
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("shift", [True, False])
def test_output_equals_the_oracle(size: tuple[int, int], window: int, block: int, shift: bool) -> None:
    module, x = build(window, block, shift), noise(2, *size, DIM)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, HEADS, window, shift_of(window, block, shift)))


@settings(deadline=None, max_examples=20, derandomize=True, database=None)
@given(
    window=st.integers(1, 8),
    block=st.integers(0, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    heads=st.sampled_from([1, 2, 4]),
)
def test_output_equals_the_oracle_for_any_window(window: int, block: int, height: int, width: int, heads: int) -> None:
    module, x = build(window, block, dim=8, heads=heads), noise(2, height, width, 8)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, heads, window, shift_of(window, block, True)))


def test_defaults_are_a_window_of_seven_shifted_in_odd_blocks() -> None:
    x = noise(2, 13, 17, DIM)
    for block in (0, 1):
        for stage in range(4):
            slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=stage, block=block, grid=(14, 14))
            module = attnbench.MECHANISMS["swin"].build(slot).double().eval()
            with torch.no_grad():
                assert_equal(module(x), oracle(module.state_dict(), x, HEADS, 7, shift_of(7, block, True)))


@pytest.mark.parametrize("size", [(9, 6), (3, 9), (8, 8)])
@pytest.mark.parametrize("block", [0, 1])
def test_gradients_in_training_equal_those_through_the_oracle(size: tuple[int, int], block: int) -> None:
    module = build(4, block).train()
    x, upstream = noise(2, *size, DIM).requires_grad_(), noise(2, *size, DIM, seed=2)
    state: dict[str, Tensor] = dict(module.named_parameters())
    leaves = [*state.values(), x]
    output, expected = module(x), oracle(state, x, HEADS, 4, shift_of(4, block, True))
    assert_equal(output, expected)
    actual_gradients = torch.autograd.grad(output, leaves, upstream)
    for actual, through_oracle in zip(actual_gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert_equal(actual, through_oracle)


@pytest.mark.parametrize("block", [0, 1])
def test_float32_is_the_oracle_up_to_rounding(block: int) -> None:
    # Three sums of DIM or window**2 terms follow one another, and rounding errors of n terms grow like sqrt(n):
    # 128 units of float32 rounding (1.5e-5) of the largest output leave room for a softmax that amplifies them.
    module, x = build(7, block, dtype=torch.float32), noise(2, 13, 17, DIM).float()
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        output, expected = module(x), oracle(state, x.double(), HEADS, 7, shift_of(7, block, True))
    assert output.dtype == torch.float32
    tolerance = 128 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


# Windows of 4 on a map of 6 x 9. Unshifted they start at rows 0, 4 and columns 0, 4, 8; shifted at rows 0, 2 and
# columns 0, 2, 6, since a shift by 2 leaves two rows and columns before the first whole window.
# (block, token, rows that it sees, columns that it sees)
NEIGHBOURHOODS = [
    (0, (0, 0), (0, 4), (0, 4)),
    (0, (3, 5), (0, 4), (4, 8)),
    (0, (5, 8), (4, 6), (8, 9)),
    (1, (0, 0), (0, 2), (0, 2)),
    (1, (1, 5), (0, 2), (2, 6)),
    (1, (3, 4), (2, 6), (2, 6)),
    (1, (5, 8), (2, 6), (6, 9)),
]


@pytest.mark.parametrize(("block", "token", "rows", "columns"), NEIGHBOURHOODS)
def test_an_output_changes_with_exactly_the_tokens_of_its_window(
    block: int, token: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    module, x = build(4, block), noise(1, 6, 9, DIM)
    moved = x.repeat(55, 1, 1, 1).flatten(1, 2)  # copy t < 54 has token t moved, the last has none
    for other in range(54):
        moved[other, other] += noise(DIM, seed=3)
    with torch.no_grad():
        output = module(moved.reshape(55, 6, 9, DIM))[:, token[0], token[1]]
    changed = ((output[:54] - output[54]).abs().amax(-1) > 1e-10).reshape(6, 9)
    expected = torch.zeros(6, 9, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 30), (13, 17), (14, 14), (5, 5), (9, 2)])
@pytest.mark.parametrize("block", [0, 1])
def test_padding_is_never_attended(size: tuple[int, int], block: int) -> None:
    # Where all tokens are alike, any average over real tokens is their value: only padding could change it.
    module, token = build(4, block), noise(DIM)
    state = module.state_dict()
    value = state["qkv.weight"][2 * DIM :] @ token + state["qkv.bias"][2 * DIM :]
    with torch.no_grad():
        output = module(token.expand(1, *size, DIM))
    assert_equal(output, (state["proj.weight"] @ value + state["proj.bias"]).expand_as(output))


@pytest.mark.parametrize("size", [(7, 7), (3, 6), (1, 1), (7, 2)])
def test_a_map_inside_one_window_is_not_shifted(size: tuple[int, int]) -> None:
    x = noise(2, *size, DIM)
    with torch.no_grad():
        assert_equal(build(7, block=1)(x), build(7, block=0)(x))


@pytest.mark.parametrize("size", [(7, 7), (3, 6), (1, 1)])
@pytest.mark.parametrize("block", [0, 1])
def test_one_window_without_bias_is_full_attention(size: tuple[int, int], block: int) -> None:
    module, x = build(7, block), noise(2, *size, DIM)
    state = module.state_dict()
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=0, block=0, grid=(14, 14))
    full = attnbench.MECHANISMS["full"].build(slot).double().eval()
    full.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith(("qkv.", "proj."))})
    with torch.no_grad():
        state["relative_position_bias_table"].zero_()
        assert_equal(module(x), full(x))


@pytest.mark.parametrize("window", [4, 7])
def test_parameters_have_the_documented_names_and_shapes(window: int) -> None:
    assert {name: tuple(parameter.shape) for name, parameter in build(window).named_parameters()} == {
        "qkv.weight": (3 * DIM, DIM),
        "qkv.bias": (3 * DIM,),
        "proj.weight": (DIM, DIM),
        "proj.bias": (DIM,),
        "relative_position_bias_table": ((2 * window - 1) ** 2, HEADS),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [4, 7])
@pytest.mark.parametrize(("block", "shift"), [(0, True), (1, True), (1, False)])
def test_closed_form_macs_equal_traced_macs(size: tuple[int, int], window: int, block: int, shift: bool) -> None:
    module = build(window, block, shift).to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, DIM, device="meta", dtype=torch.float64))
    assert cast(Attention, module).macs(*size) == counter.get_total_flops() // 2


@pytest.mark.parametrize(("window", "size"), [(7, (14, 14)), (7, (7, 21)), (4, (8, 8)), (4, (12, 20))])
def test_macs_of_whole_windows_are_those_of_the_paper(window: int, size: tuple[int, int]) -> None:
    tokens = size[0] * size[1]  # arXiv 2103.14030, equation 2
    assert cast(Attention, build(window)).macs(*size) == 4 * tokens * DIM**2 + 2 * window**2 * tokens * DIM
