"""Spatial-reduction attention (arXiv 2102.12122) against a naive float64 oracle."""

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
RATIOS = (8, 4, 2, 1)  # of the four stages: arXiv 2102.12122, table 1
SIZES = [(14, 14), (13, 17), (1, 1), (7, 21), (3, 30), (8, 8), (16, 8)]


def reduced_tokens(state: dict[str, Tensor], x: Tensor, ratio: int) -> Tensor:
    """Reduce every ratio x ratio patch of the zero-padded map to one normalised token: (B, M, C)."""
    batch, height, width, dim = x.shape
    rows, columns = -(-height // ratio), -(-width // ratio)
    padded = x.new_zeros(batch, rows * ratio, columns * ratio, dim)
    padded[:, :height, :width] = x
    reduced = []
    for row in range(rows):
        for column in range(columns):
            token = state["sr.bias"].expand(batch, dim)
            for dy in range(ratio):
                for dx in range(ratio):
                    token = (
                        token + padded[:, row * ratio + dy, column * ratio + dx] @ state["sr.weight"][:, :, dy, dx].T
                    )
            centred = token - token.mean(-1, keepdim=True)
            normal = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
            reduced.append(normal * state["norm.weight"] + state["norm.bias"])
    return torch.stack(reduced, 1)


def oracle(state: dict[str, Tensor], x: Tensor, heads: int, ratio: int) -> Tensor:
    """Attend the reduced tokens token by token and head by head. (B, H, W, C) -> (B, H, W, C)."""
    batch, height, width, dim = x.shape
    depth = dim // heads
    tokens = x.reshape(batch, height * width, dim)
    sources = tokens if ratio == 1 else reduced_tokens(state, x, ratio)
    q = tokens @ state["q.weight"].T + state["q.bias"]
    kv = sources @ state["kv.weight"].T + state["kv.bias"]
    k, v = kv[..., :dim], kv[..., dim:]
    attended = []
    for token in range(height * width):
        per_head = []
        for head in range(heads):
            own = slice(head * depth, (head + 1) * depth)
            logits = (q[:, token, None, own] * k[..., own]).sum(-1) / depth**0.5  # (B, M)
            weights = torch.exp(logits - logits.amax(-1, keepdim=True))
            weights = weights / weights.sum(-1, keepdim=True)
            per_head.append((weights[..., None] * v[..., own]).sum(1))
        attended.append(torch.cat(per_head, -1))
    merged = torch.stack(attended, 1) @ state["proj.weight"].T + state["proj.bias"]
    return merged.reshape(batch, height, width, dim)


def randomised(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Fill every parameter with noise, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(0)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def build(stage: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=stage, block=0, grid=(14, 14))
    return randomised(attnbench.MECHANISMS["pvt"].build(slot), dtype)


def build_with(ratio: int, dim: int = DIM, heads: int = HEADS) -> nn.Module:
    slot = attnbench.Slot(dim=dim, heads=heads, stage=1, block=1, grid=(14, 14))
    return randomised(attnbench.MECHANISMS["pvt"].configure(sr_ratio=ratio).build(slot), torch.float64)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", range(4))
def test_output_equals_the_oracle(stage: int, size: tuple[int, int]) -> None:
    module, x = build(stage), noise(2, *size, DIM)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, HEADS, RATIOS[stage]))


@settings(deadline=None, max_examples=15, derandomize=True, database=None)
@given(
    ratio=st.integers(1, 9),
    height=st.integers(1, 10),
    width=st.integers(1, 10),
    heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**16),
)
def test_output_equals_the_oracle_for_any_ratio(ratio: int, height: int, width: int, heads: int, seed: int) -> None:
    module, x = build_with(ratio, dim=8, heads=heads), noise(2, height, width, 8, seed=seed)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, heads, ratio))


@pytest.mark.parametrize("stage", range(4))
def test_gradients_in_training_equal_those_through_the_oracle(stage: int) -> None:
    module, x, upstream = build(stage).train(), noise(2, 5, 9, DIM).requires_grad_(), noise(2, 5, 9, DIM, seed=2)
    state: dict[str, Tensor] = dict(module.named_parameters())
    leaves = [*state.values(), x]
    output, expected = module(x), oracle(state, x, HEADS, RATIOS[stage])
    assert_equal(output, expected)
    actual_gradients = torch.autograd.grad(output, leaves, upstream)
    for actual, through_oracle in zip(actual_gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert_equal(actual, through_oracle)


@pytest.mark.parametrize("stage", range(4))
def test_float32_is_the_oracle_up_to_rounding(stage: int) -> None:
    # The longest sum has DIM * 8 * 8 = 768 terms, and rounding errors of a sum of n terms grow like sqrt(n): 28 units.
    # 128 units of float32 rounding (1.5e-5) of the largest output leave room for a softmax that amplifies them.
    module, x = build(stage, torch.float32), noise(2, 13, 17, DIM).float()
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        output, expected = module(x), oracle(state, x.double(), HEADS, RATIOS[stage])
    assert output.dtype == torch.float32
    tolerance = 128 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(14, 14), (3, 5), (1, 7)])
def test_ratio_one_is_full_attention(size: tuple[int, int]) -> None:
    module, x = build_with(1), noise(2, *size, DIM)
    state = module.state_dict()
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=1, block=1, grid=(14, 14))
    full = attnbench.MECHANISMS["full"].build(slot).double().eval()
    full.load_state_dict(
        {
            "qkv.weight": torch.cat([state["q.weight"], state["kv.weight"]]),
            "qkv.bias": torch.cat([state["q.bias"], state["kv.bias"]]),
            "proj.weight": state["proj.weight"],
            "proj.bias": state["proj.bias"],
        }
    )
    with torch.no_grad():
        assert_equal(module(x), full(x))


def test_permuted_tokens_give_permuted_outputs_at_ratio_one() -> None:
    module, x = build_with(1), noise(2, 6, 7, DIM)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        permuted = module(x.flatten(1, 2)[:, order].reshape(x.shape))
        assert_equal(permuted.flatten(1, 2), module(x).flatten(1, 2)[:, order])


def test_permuting_whole_patches_moves_their_outputs_along() -> None:
    # Reduced tokens carry no position: swapping the two 4 x 4 patches of a 4 x 8 map swaps the outputs.
    module, x = build_with(4), noise(2, 4, 8, DIM)
    with torch.no_grad():
        assert_equal(module(x.roll(4, dims=2)), module(x).roll(4, dims=2))


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (3, 16), (8, 7)])
@pytest.mark.parametrize("stage", range(3))
def test_padding_is_with_zeros_to_the_right_and_bottom(stage: int, size: tuple[int, int]) -> None:
    module, x, ratio = build(stage), noise(2, *size, DIM), RATIOS[stage]
    padded = torch.zeros(2, -(-size[0] // ratio) * ratio, -(-size[1] // ratio) * ratio, DIM, dtype=torch.float64)
    padded[:, : size[0], : size[1]] = x
    with torch.no_grad():
        assert_equal(module(x), module(padded)[:, : size[0], : size[1]])


@pytest.mark.parametrize("stage", range(4))
def test_every_token_changes_every_output(stage: int) -> None:
    # 5 x 9 is a multiple of no ratio but 1: the tokens of the ragged last patches count too.
    module, x = build(stage), noise(1, 5, 9, DIM)
    moved = x.repeat(46, 1, 1, 1).flatten(1, 2)  # copy t < 45 has token t moved, the last has none
    for token in range(45):
        moved[token, token] += noise(DIM, seed=3)
    with torch.no_grad():
        output = module(moved.reshape(46, 5, 9, DIM)).flatten(1, 2)
    assert ((output[:45] - output[45]).abs().amax(-1) > 1e-8).all()


@pytest.mark.parametrize("stage", range(4))
def test_parameters_have_the_documented_names_and_shapes(stage: int) -> None:
    ratio = RATIOS[stage]
    expected: dict[str, tuple[int, ...]] = {
        "q.weight": (DIM, DIM),
        "q.bias": (DIM,),
        "kv.weight": (2 * DIM, DIM),
        "kv.bias": (2 * DIM,),
        "proj.weight": (DIM, DIM),
        "proj.bias": (DIM,),
    }
    if ratio > 1:
        expected |= {"sr.weight": (DIM, DIM, ratio, ratio), "sr.bias": (DIM,)}
        expected |= {"norm.weight": (DIM,), "norm.bias": (DIM,)}
    assert {name: tuple(parameter.shape) for name, parameter in build(stage).named_parameters()} == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", range(4))
def test_closed_form_macs_equal_traced_macs(stage: int, size: tuple[int, int]) -> None:
    module = build(stage).to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, DIM, device="meta", dtype=torch.float64))
    assert cast(Attention, module).macs(*size) == counter.get_total_flops() // 2


@pytest.mark.parametrize(("ratio", "dim", "heads"), [(3, 8, 8), (5, 10, 1), (7, 20, 4)])
def test_closed_form_macs_equal_traced_macs_for_any_ratio(ratio: int, dim: int, heads: int) -> None:
    module = build_with(ratio, dim, heads).to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, 13, 17, dim, device="meta", dtype=torch.float64))
    assert cast(Attention, module).macs(13, 17) == counter.get_total_flops() // 2


@pytest.mark.parametrize("grid", [(8, 8), (9, 11), (5, 4)], ids=str)
def test_the_authors_border_sees_the_whole_patches_alone(grid: tuple[int, int]) -> None:
    """What fills no patch changes no key: the map without it has the same keys for the queries that it keeps."""
    torch.manual_seed(0)
    slot = attnbench.Slot(dim=12, heads=3, stage=0, block=0, grid=grid)
    module = attnbench.MECHANISMS["pvt"].configure(sr_ratio=4, border="dropped").build(slot).double()
    x = torch.randn(2, *grid, 12, dtype=torch.double)
    height, width = (side // 4 * 4 for side in grid)
    torch.testing.assert_close(module(x)[:, :height, :width], module(x[:, :height, :width]), atol=1e-12, rtol=0)
    changed = x.clone()
    changed[:, height:], changed[:, :, width:] = 9.0, 9.0
    torch.testing.assert_close(module(changed)[:, :height, :width], module(x)[:, :height, :width], atol=1e-12, rtol=0)


def test_the_authors_border_refuses_a_map_without_a_patch() -> None:
    slot = attnbench.Slot(dim=12, heads=3, stage=0, block=0, grid=(8, 8))
    module = attnbench.MECHANISMS["pvt"].configure(sr_ratio=4, border="dropped").build(slot)
    with pytest.raises(attnbench.UserError, match="a map of 3 x 8 tokens has no patch of 4 x 4"):
        module(torch.zeros(1, 3, 8, 12))
