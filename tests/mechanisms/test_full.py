"""Full attention against a naive float64 oracle: every token attends every token."""

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
SIZES = [(14, 14), (13, 17), (1, 1), (7, 21), (3, 30), (8, 8), (1, 9)]


def oracle(state: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """Attend token by token and head by head. (B, H, W, C) -> (B, H, W, C)."""
    batch, height, width, dim = x.shape
    depth = dim // heads
    tokens = x.reshape(batch, height * width, dim)
    qkv = tokens @ state["qkv.weight"].T + state["qkv.bias"]
    q, k, v = qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., 2 * dim :]
    attended = []
    for token in range(height * width):
        per_head = []
        for head in range(heads):
            own = slice(head * depth, (head + 1) * depth)
            logits = (q[:, token, None, own] * k[..., own]).sum(-1) / depth**0.5  # (B, N)
            weights = torch.exp(logits - logits.amax(-1, keepdim=True))
            weights = weights / weights.sum(-1, keepdim=True)
            per_head.append((weights[..., None] * v[..., own]).sum(1))
        attended.append(torch.cat(per_head, -1))
    merged = torch.stack(attended, 1) @ state["proj.weight"].T + state["proj.bias"]
    return merged.reshape(batch, height, width, dim)


def build(dim: int = DIM, heads: int = HEADS, stage: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build the module with noise in every parameter, so that nothing hides behind a zero."""
    slot = attnbench.Slot(dim=dim, heads=heads, stage=stage, block=0, grid=(14, 14))
    module = attnbench.MECHANISMS["full"].build(slot).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_output_equals_the_oracle(size: tuple[int, int]) -> None:
    module, x = build(), noise(2, *size, DIM)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, HEADS))


@pytest.mark.parametrize(("dim", "heads"), [(4, 1), (6, 6), (20, 4)])
@pytest.mark.parametrize("stage", [0, 3])
def test_output_equals_the_oracle_for_any_number_of_heads(dim: int, heads: int, stage: int) -> None:
    module, x = build(dim, heads, stage), noise(2, 5, 4, dim)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, heads))


def test_gradients_in_training_equal_those_through_the_oracle() -> None:
    module, x, upstream = build().train(), noise(2, 5, 7, DIM).requires_grad_(), noise(2, 5, 7, DIM, seed=2)
    state: dict[str, Tensor] = dict(module.named_parameters())
    leaves = [*state.values(), x]
    output, expected = module(x), oracle(state, x, HEADS)
    assert_equal(output, expected)
    actual_gradients = torch.autograd.grad(output, leaves, upstream)
    for actual, through_oracle in zip(actual_gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert_equal(actual, through_oracle)


def test_float32_is_the_oracle_up_to_rounding() -> None:
    # Three sums of DIM or N terms follow one another, and rounding errors of a sum of n terms grow like sqrt(n):
    # 128 units of float32 rounding (1.5e-5) of the largest output leave room for a softmax that amplifies them.
    module, x = build(dtype=torch.float32), noise(2, 13, 17, DIM).float()
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        output, expected = module(x), oracle(state, x.double(), HEADS)
    assert output.dtype == torch.float32
    tolerance = 128 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


@settings(deadline=None, max_examples=15, derandomize=True, database=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_permuted_tokens_give_permuted_outputs(height: int, width: int, seed: int) -> None:
    module, x = build(), noise(2, height, width, DIM, seed=seed)
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        permuted = module(x.flatten(1, 2)[:, order].reshape(x.shape))
        assert_equal(permuted.flatten(1, 2), module(x).flatten(1, 2)[:, order])


def test_every_token_changes_every_output() -> None:
    module, x = build(), noise(1, 5, 4, DIM)
    moved = x.repeat(21, 1, 1, 1).flatten(1, 2)  # copy t < 20 has token t moved, the last has none
    for token in range(20):
        moved[token, token] += noise(DIM, seed=3)
    with torch.no_grad():
        output = module(moved.reshape(21, 5, 4, DIM)).flatten(1, 2)
    assert ((output[:20] - output[20]).abs().amax(-1) > 1e-8).all()


def test_a_constant_map_gives_the_projected_value() -> None:
    module, token = build(), noise(DIM)
    state = module.state_dict()
    value = state["qkv.weight"][2 * DIM :] @ token + state["qkv.bias"][2 * DIM :]
    with torch.no_grad():
        output = module(token.expand(1, 5, 7, DIM))
    assert_equal(output, (state["proj.weight"] @ value + state["proj.bias"]).expand_as(output))


def test_parameters_have_the_documented_names_and_shapes() -> None:
    assert {name: tuple(parameter.shape) for name, parameter in build().named_parameters()} == {
        "qkv.weight": (3 * DIM, DIM),
        "qkv.bias": (3 * DIM,),
        "proj.weight": (DIM, DIM),
        "proj.bias": (DIM,),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dim", "heads"), [(12, 3), (8, 8), (10, 1)])
def test_closed_form_macs_equal_traced_macs(size: tuple[int, int], dim: int, heads: int) -> None:
    module = build(dim, heads).to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, dim, device="meta", dtype=torch.float64))
    assert cast(Attention, module).macs(*size) == counter.get_total_flops() // 2


@pytest.mark.parametrize("size", SIZES)
def test_macs_are_those_of_the_swin_paper(size: tuple[int, int]) -> None:
    tokens = size[0] * size[1]  # arXiv 2103.14030, equation 1
    assert cast(Attention, build()).macs(*size) == 4 * tokens * DIM**2 + 2 * tokens**2 * DIM
