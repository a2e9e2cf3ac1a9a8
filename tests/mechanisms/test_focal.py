"""Focal attention (arXiv 2107.00641) against a naive float64 oracle over all pairs of tokens and pooled cells."""

from dataclasses import asdict, dataclass
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

DIM, HEADS = 6, 2
SIZES = [(14, 14), (13, 17), (1, 1), (7, 21), (3, 30), (8, 8)]
POOLS = ("fc", "conv", "mean", "max")


@dataclass(frozen=True)
class Case:
    """Settings of focal attention."""

    window: int = 7
    expand: int = 3
    levels: int = 2
    focal_window: int = 7
    pool: str = "fc"


CASES = [
    Case(),
    Case(focal_window=5, pool="conv"),
    Case(focal_window=3, pool="mean"),
    Case(focal_window=1, pool="max"),
    Case(window=4, expand=0, levels=1),
    Case(window=4, expand=1, levels=1),
    Case(window=4, expand=0, focal_window=3, pool="max"),
    Case(window=4, expand=1, levels=3, focal_window=3, pool="conv"),
    Case(window=4, expand=3, levels=3, focal_window=1, pool="mean"),
    Case(window=5, expand=0, levels=3, focal_window=3, pool="fc"),
    Case(window=5, expand=1, levels=3, focal_window=5, pool="max"),
    Case(window=5, expand=3, levels=2, focal_window=3, pool="conv"),
    Case(window=7, expand=0, levels=3, focal_window=1, pool="conv"),
    Case(window=7, expand=1, levels=3, focal_window=3, pool="fc"),
    Case(window=7, expand=3, levels=3, focal_window=5, pool="mean"),
]


def cells_per_side(window: int, level: int) -> tuple[int, int]:
    """Return how many cells a window has per side at a pooled level, and the side of a cell."""
    return 2**level, -(-window // 2**level)


@cache
def fine_pairs(height: int, width: int, window: int, expand: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return, for (query token, key token), own window?, in the ring?, own bias row, ring query, ring key: (N, N)."""
    tokens = [(y, x) for y in range(height) for x in range(width)]
    region = [(y, x) for y in range(-expand, window + expand) for x in range(-expand, window + expand)]
    ring = [(y, x) for y, x in region if not (0 <= y < window and 0 <= x < window)]
    place = {position: number for number, position in enumerate(ring)}
    own, near = (torch.zeros(len(tokens), len(tokens), dtype=torch.bool) for _ in range(2))
    row, query, key = (torch.zeros(len(tokens), len(tokens), dtype=torch.long) for _ in range(3))
    for i, (query_y, query_x) in enumerate(tokens):
        top, left = query_y // window * window, query_x // window * window
        for j, (key_y, key_x) in enumerate(tokens):
            if (top, left) == (key_y // window * window, key_x // window * window):
                own[i, j] = True
                row[i, j] = (query_y - key_y + window - 1) * (2 * window - 1) + (query_x - key_x + window - 1)
            elif (key_y - top, key_x - left) in place:
                near[i, j] = True
                query[i, j] = (query_y - top) * window + (query_x - left)
                key[i, j] = place[key_y - top, key_x - left]
    return own, near, row, query, key


@cache
def cells(height: int, width: int, window: int, level: int) -> dict[tuple[int, int], list[tuple[int, int, int, int]]]:
    """Return the cell map: per cell its real tokens (y, x) and their places (dy, dx) in the cell."""
    split, side = cells_per_side(window, level)
    contents: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {
        (row, column): []
        for row in range(-(-height // window) * split)
        for column in range(-(-width // window) * split)
    }
    for y in range(height):
        for x in range(width):
            (i, local_y), (j, local_x) = divmod(y, window), divmod(x, window)
            cell = (i * split + local_y // side, j * split + local_x // side)
            contents[cell].append((y, x, local_y % side, local_x % side))
    return contents


@cache
def cell_pairs(height: int, width: int, window: int, level: int, focal_window: int) -> tuple[Tensor, Tensor]:
    """Return, for (query token, cell), whether it is seen and the index of its bias: both (N, M)."""
    split, _ = cells_per_side(window, level)
    reach, span = focal_window // 2, focal_window + split - 1
    contents = cells(height, width, window, level)
    visible = torch.zeros(height * width, len(contents), dtype=torch.bool)
    index = torch.zeros(height * width, len(contents), dtype=torch.long)
    for y in range(height):
        for x in range(width):
            top, left = y // window * split - reach, x // window * split - reach
            for number, ((row, column), real) in enumerate(contents.items()):
                if real and 0 <= row - top < span and 0 <= column - left < span:
                    down, right = y % window - (row - top) + span - 1, x % window - (column - left) + span - 1
                    visible[y * width + x, number] = True
                    index[y * width + x, number] = down * (window + span - 1) + right
    return visible, index


def pooled(state: dict[str, Tensor], x: Tensor, case: Case, level: int) -> Tensor:
    """Pool the input map cell by cell, (B, M, C); a cell without a real token is zero, and never seen."""
    batch, height, width, dim = x.shape
    _, side = cells_per_side(case.window, level)
    tokens = []
    for real in cells(height, width, case.window, level).values():
        if not real:
            tokens.append(x.new_zeros(batch, dim))
            continue
        ys, xs, dys, dxs = (list(axis) for axis in zip(*real, strict=True))
        values = x[:, ys, xs]  # (B, real, C)
        if case.pool == "mean":
            tokens.append(values.sum(1) / len(real))
        elif case.pool == "max":
            tokens.append(values.max(1).values)
        elif case.pool == "fc":
            weight = state[f"pool_layers.{level}.weight"].reshape(side, side)[dys, dxs]
            tokens.append((values * weight[:, None]).sum(1) + state[f"pool_layers.{level}.bias"])
        else:
            kernel = state[f"pool_layers.{level}.weight"][:, 0][:, dys, dxs]  # (C, real)
            tokens.append((values * kernel.T).sum(1) + state[f"pool_layers.{level}.bias"])
    return torch.stack(tokens, 1)


def visibility_and_bias(
    state: dict[str, Tensor], height: int, width: int, heads: int, case: Case
) -> tuple[Tensor, Tensor]:
    """Return which key each query sees, (N, K), and the bias of each such pair, (heads, N, K)."""
    own, near, row, query, key = fine_pairs(height, width, case.window, case.expand)
    table = state["relative_position_bias_table"]
    bias = torch.stack([table[:, head][row] for head in range(heads)])
    if case.expand > 0:
        ring = state["relative_position_bias_table_to_neighbors"][0]
        bias = torch.where(near, torch.stack([ring[head][query, key] for head in range(heads)]), bias)
    visible = [own | near]
    biases = [bias]
    for level in range(case.levels - 1):
        seen, index = cell_pairs(height, width, case.window, level, case.focal_window)
        table = state[f"relative_position_bias_table_to_windows.{level}"]
        visible.append(seen)
        biases.append(torch.stack([table[head][index] for head in range(heads)]))
    return torch.cat(visible, -1), torch.cat(biases, -1)


def oracle(state: dict[str, Tensor], x: Tensor, heads: int, case: Case) -> Tensor:
    """Attend over all tokens and all cells in one softmax, head by head. (B, H, W, C) -> (B, H, W, C)."""
    batch, height, width, dim = x.shape
    depth = dim // heads
    tokens = x.reshape(batch, height * width, dim)
    sources = torch.cat([tokens, *(pooled(state, x, case, level) for level in range(case.levels - 1))], 1)
    q_weight, k_weight, v_weight = state["qkv.weight"].chunk(3)
    q_bias, k_bias, v_bias = state["qkv.bias"].chunk(3)
    q, k, v = tokens @ q_weight.T + q_bias, sources @ k_weight.T + k_bias, sources @ v_weight.T + v_bias
    visible, bias = visibility_and_bias(state, height, width, heads, case)
    attended = []
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)
        logits = q[..., own] @ k[..., own].transpose(1, 2) / depth**0.5 + bias[head]
        logits = logits.masked_fill(~visible, -torch.inf)
        weights = torch.exp(logits - logits.amax(-1, keepdim=True))
        attended.append(weights / weights.sum(-1, keepdim=True) @ v[..., own])
    merged = torch.cat(attended, -1) @ state["proj.weight"].T + state["proj.bias"]
    return merged.reshape(batch, height, width, dim)


def randomised(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Fill every parameter with noise, so that a wrong index into a bias table shows."""
    generator = torch.Generator().manual_seed(0)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            std = 0.5 if "table" in name else 0.3
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def build(case: Case, dim: int = DIM, heads: int = HEADS, dtype: torch.dtype = torch.float64) -> nn.Module:
    slot = attnbench.Slot(dim=dim, heads=heads, stage=0, block=1, grid=(14, 14))
    return randomised(attnbench.MECHANISMS["focal"].configure(**asdict(case)).build(slot), dtype)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_equals_the_oracle(case: Case, size: tuple[int, int]) -> None:
    module, x = build(case), noise(2, *size, DIM)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, HEADS, case))


@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@given(
    case=st.builds(
        Case,
        window=st.integers(1, 8),
        expand=st.integers(0, 4),
        levels=st.integers(1, 4),
        focal_window=st.sampled_from([1, 3, 5, 7]),
        pool=st.sampled_from(POOLS),
    ),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    heads=st.sampled_from([1, 2, 4]),
)
def test_output_equals_the_oracle_for_any_settings(case: Case, height: int, width: int, heads: int) -> None:
    module, x = build(case, dim=4, heads=heads), noise(2, height, width, 4)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, heads, case))


@pytest.mark.parametrize(("stage", "focal_window"), [(0, 7), (1, 5), (2, 3), (3, 1)])
def test_defaults_are_those_of_the_published_models(stage: int, focal_window: int) -> None:
    # Every published model has windows of 7, expanded by 3, two levels, and regions of 7, 5, 3 and 1 windows.
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=stage, block=0, grid=(14, 14))
    module, x = randomised(attnbench.MECHANISMS["focal"].build(slot), torch.float64), noise(2, 16, 15, DIM)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, HEADS, Case(7, 3, 2, focal_window, "fc")))


@pytest.mark.parametrize("size", [(9, 6), (3, 9)])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("window", "expand", "levels"), [(4, 1, 3), (5, 2, 2), (5, 0, 3)])
def test_gradients_in_training_equal_those_through_the_oracle(
    window: int, expand: int, levels: int, pool: str, size: tuple[int, int]
) -> None:
    case = Case(window, expand, levels, 3, pool)
    module = build(case).train()
    x, upstream = noise(2, *size, DIM).requires_grad_(), noise(2, *size, DIM, seed=2)
    state: dict[str, Tensor] = dict(module.named_parameters())
    leaves = [*state.values(), x]
    output, expected = module(x), oracle(state, x, HEADS, case)
    assert_equal(output, expected)
    actual_gradients = torch.autograd.grad(output, leaves, upstream)
    for actual, through_oracle in zip(actual_gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert_equal(actual, through_oracle)


@pytest.mark.parametrize("pool", POOLS)
def test_float32_is_the_oracle_up_to_rounding(pool: str) -> None:
    # Sums of up to 169 + 64 terms follow one another, and rounding errors of a sum of n terms grow like sqrt(n): 15.
    # 128 units of float32 rounding (1.5e-5) of the largest output leave room for a softmax that amplifies them.
    case = Case(levels=3, focal_window=5, pool=pool)
    module, x = build(case, dtype=torch.float32), noise(2, 13, 17, DIM).float()
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        output, expected = module(x), oracle(state, x.double(), HEADS, case)
    assert output.dtype == torch.float32
    tolerance = 128 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


# (case, token, rows that it sees, columns that it sees) on a map of 11 x 10, which windows of 3 leave ragged.
NEIGHBOURHOODS = [
    (Case(3, 0, 1, 1), (4, 4), (3, 6), (3, 6)),  # its window
    (Case(3, 0, 1, 7), (10, 9), (9, 11), (9, 10)),  # its window, cut by the border; the focal window is idle
    (Case(3, 1, 1, 1), (4, 4), (2, 7), (2, 7)),  # one ring around its window
    (Case(3, 2, 1, 1), (0, 9), (0, 5), (7, 10)),
    (Case(3, 0, 2, 1, "mean"), (4, 4), (3, 6), (3, 6)),  # the cell of its own window only
    (Case(3, 0, 2, 3, "mean"), (4, 4), (0, 9), (0, 9)),  # the cells of 3 x 3 windows
    (Case(3, 1, 2, 3, "fc"), (10, 9), (6, 11), (6, 10)),  # the cells of 2 x 2 windows, cut by the border
    (Case(3, 1, 3, 1, "conv"), (0, 4), (0, 4), (2, 7)),  # four cells of its own window: the ring reaches further
    (Case(3, 0, 3, 5, "fc"), (0, 0), (0, 9), (0, 9)),
]


@pytest.mark.parametrize(("case", "token", "rows", "columns"), NEIGHBOURHOODS, ids=str)
def test_an_output_changes_with_exactly_the_tokens_in_reach(
    case: Case, token: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    module, x = build(case), noise(1, 11, 10, DIM)
    moved = x.repeat(111, 1, 1, 1).flatten(1, 2)  # copy t < 110 has token t moved, the last has none
    for other in range(110):
        moved[other, other] += noise(DIM, seed=3)
    with torch.no_grad():
        output = module(moved.reshape(111, 11, 10, DIM))[:, token[0], token[1]]
    changed = ((output[:110] - output[110]).abs().amax(-1) > 1e-10).reshape(11, 10)
    expected = torch.zeros(11, 10, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 30), (13, 17), (14, 14), (5, 5), (9, 2)])
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize(("window", "expand", "levels", "focal_window"), [(4, 1, 3, 3), (5, 3, 3, 5), (7, 0, 2, 7)])
def test_padding_is_never_attended(
    window: int, expand: int, levels: int, focal_window: int, pool: str, size: tuple[int, int]
) -> None:
    # Where all tokens are alike, so are their pools, and any average is their value: only padding could change it.
    module, token = build(Case(window, expand, levels, focal_window, pool)), noise(DIM)
    state = module.state_dict()
    value = state["qkv.weight"][2 * DIM :] @ token + state["qkv.bias"][2 * DIM :]
    with torch.no_grad():
        output = module(token.expand(1, *size, DIM))
    assert_equal(output, (state["proj.weight"] @ value + state["proj.bias"]).expand_as(output))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", [4, 7])
def test_the_own_window_alone_is_swin_without_shift(window: int, size: tuple[int, int]) -> None:
    module, x = build(Case(window, expand=0, levels=1)), noise(2, *size, DIM)
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=0, block=0, grid=(14, 14))
    swin = attnbench.MECHANISMS["swin"].configure(window=window).build(slot).double().eval()
    swin.load_state_dict(dict(module.named_parameters()), strict=False)
    assert dict(swin.named_parameters()).keys() == dict(module.named_parameters()).keys()
    with torch.no_grad():
        assert_equal(module(x), swin(x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_have_the_documented_names_and_shapes(case: Case) -> None:
    window, region = case.window, case.window + 2 * case.expand
    expected: dict[str, tuple[int, ...]] = {
        "qkv.weight": (3 * DIM, DIM),
        "qkv.bias": (3 * DIM,),
        "proj.weight": (DIM, DIM),
        "proj.bias": (DIM,),
        "relative_position_bias_table": ((2 * window - 1) ** 2, HEADS),
    }
    if case.expand > 0:
        shape = (1, HEADS, window**2, region**2 - window**2)
        expected["relative_position_bias_table_to_neighbors"] = shape
    for level in range(case.levels - 1):
        split, side = cells_per_side(window, level)
        shape_to_windows = (HEADS, (window + case.focal_window + split - 2) ** 2)
        expected[f"relative_position_bias_table_to_windows.{level}"] = shape_to_windows
        if case.pool == "fc":
            expected |= {f"pool_layers.{level}.weight": (1, side**2), f"pool_layers.{level}.bias": (1,)}
        elif case.pool == "conv":
            expected |= {f"pool_layers.{level}.weight": (DIM, 1, side, side), f"pool_layers.{level}.bias": (DIM,)}
    assert {name: tuple(parameter.shape) for name, parameter in build(case).named_parameters()} == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_closed_form_macs_equal_traced_macs(case: Case, size: tuple[int, int]) -> None:
    module = build(case).to("meta")
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, DIM, device="meta", dtype=torch.float64))
    assert cast(Attention, module).macs(*size) == counter.get_total_flops() // 2
