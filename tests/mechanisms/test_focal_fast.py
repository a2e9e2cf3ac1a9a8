"""The second version of focal attention against a naive float64 oracle, window by window and query by query."""

from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import attnbench
from attnbench.contract import Attention

DIM, HEADS = 6, 2
SIZES = [(14, 14), (13, 17), (1, 1), (3, 30), (5, 6), (21, 7)]
POOLS = ("fc", "conv", "mean", "max")
BORDERS = ("masked", "attended")


@dataclass(frozen=True)
class Case:
    """Settings of the mechanism."""

    window: int = 7
    topk: int = 128
    levels: int = 2
    pool: str = "fc"
    border: str = "masked"


CASES = [
    *(Case(border=border) for border in BORDERS),
    *(Case(topk=2, pool=pool, border=border) for pool in POOLS for border in BORDERS),
    *(Case(topk=10, levels=1, border=border) for border in BORDERS),
    *(Case(window=4, topk=5, levels=3, pool="conv", border=border) for border in BORDERS),
    *(Case(window=5, topk=20, levels=3, pool="mean", border=border) for border in BORDERS),
    *(Case(window=5, topk=30, levels=4, pool="fc", border=border) for border in BORDERS),
    *(Case(window=3, topk=7, levels=3, pool="max", border=border) for border in BORDERS),
    Case(window=1, topk=6, levels=2),
]


class Key(NamedTuple):
    """A fine token, or a cell of tokens: where it counts as being, and the tokens in it with their places."""

    y: int
    x: int
    tokens: list[tuple[int, int, int]]  # row, column, number of the place in the cell


def axis(case: Case, side: int, cells: int) -> list[list[int]]:
    """Return the tokens of every cell along an axis, beyond the map too; cells of a window from its first token on.

    The authors' cells have the same number of tokens each, and lie over the middle of the padded axis.
    """
    windows = -(-side // case.window)
    if case.border == "attended":
        size = case.window // cells
        start = (windows * case.window - windows * cells * size) // 2
        return [list(range(start + cell * size, start + (cell + 1) * size)) for cell in range(windows * cells)]
    size = -(-case.window // cells)
    firsts = [(window * case.window, cell * size) for window in range(windows) for cell in range(cells)]
    return [[first + local for local in range(start, min(start + size, case.window))] for first, start in firsts]


def level_keys(case: Case, height: int, width: int, cells: int) -> list[Key]:
    """Return the keys of a level, row-major; with the masked border only those that hold a token of the map."""
    size = case.window // cells if case.border == "attended" else -(-case.window // cells)
    keys = []
    for rows in axis(case, height, cells):
        for columns in axis(case, width, cells):
            places = [(y, x, (y - rows[0]) * size + x - columns[0]) for y in rows for x in columns]
            real = [place for place in places if place[0] < height and place[1] < width]
            if real:
                keys.append(Key(rows[len(rows) // 2], columns[len(columns) // 2], real))
    return keys


def pooled(state: dict[str, Tensor], x: Tensor, case: Case, level: int, key: Key) -> Tensor:
    """Pool the tokens of a cell, (B, C), of the map (B, H, W, C)."""
    if level == 0:
        return x[:, key.y, key.x]
    ys, xs, places = (list(part) for part in zip(*key.tokens, strict=True))
    tokens = x[:, ys, xs]  # (B, tokens, C)
    if case.pool == "mean":
        return tokens.mean(1)
    if case.pool == "max":
        return tokens.max(1).values
    weight = state[f"pool_layers.{level - 1}.weight"].flatten(1).T[places]  # (tokens, 1 or C)
    return (tokens * weight).sum(1) + state[f"pool_layers.{level - 1}.bias"]


def oracle(state: dict[str, Tensor], x: Tensor, heads: int, case: Case) -> Tensor:
    """Attend query by query. (B, H, W, C) -> (B, H, W, C)."""
    batch, height, width, dim = x.shape
    if case.border == "attended":
        right, bottom = -width % case.window, -height % case.window
        padded = torch.cat([x, x.new_zeros(batch, height, right, dim)], 2)
        padded = torch.cat([padded, x.new_zeros(batch, bottom, width + right, dim)], 1)
    else:
        padded = x
    levels = []
    for level in range(case.levels):
        cells = case.window if level == 0 else 2 ** (level - 1)
        keys = level_keys(case, padded.shape[1], padded.shape[2], cells)
        tokens = torch.stack([pooled(state, padded, case, level, key) for key in keys], 1)
        levels.append((keys, (tokens @ state["qkv.weight"].T + state["qkv.bias"]).unflatten(-1, (3, heads, -1))))
    q = (x @ state["qkv.weight"].T + state["qkv.bias"]).unflatten(-1, (3, heads, -1))[:, :, :, 0]
    out = torch.empty(batch, height, width, heads, dim // heads, dtype=x.dtype)
    for top in range(0, height, case.window):
        for left in range(0, width, case.window):
            chosen = [nearest(case, keys, top, left) for keys, _ in levels]
            k, v = (
                torch.cat([qkv[:, numbers, part] for (_, qkv), numbers in zip(levels, chosen, strict=True)], 1)
                for part in (1, 2)
            )
            for y in range(top, min(top + case.window, height)):
                for column in range(left, min(left + case.window, width)):
                    biases = [
                        bias(state, level, [levels[level][0][number] for number in numbers], y, column)
                        for level, numbers in enumerate(chosen)
                    ]
                    scores = (k * q[:, y, column, None]).sum(-1) / (dim // heads) ** 0.5 + torch.cat(biases)
                    weights = torch.exp(scores - scores.amax(1, keepdim=True))  # (B, keys, heads)
                    weights = weights / weights.sum(1, keepdim=True)
                    out[:, y, column] = (weights[..., None] * v).sum(1)
    return out.flatten(3) @ state["proj.weight"].T + state["proj.bias"]


def nearest(case: Case, keys: list[Key], top: int, left: int) -> list[int]:
    """Return the numbers of the keys nearest to the middle token of the window whose first token is at (top, left)."""
    y, x = top + case.window // 2, left + case.window // 2
    distances = torch.tensor([((y - key.y) ** 2 + (x - key.x) ** 2) ** 0.5 for key in keys], dtype=torch.float32)
    numbers: list[int] = torch.topk(-distances, min(case.topk, len(keys))).indices.tolist()
    return numbers


def bias(state: dict[str, Tensor], level: int, keys: list[Key], y: int, x: int) -> Tensor:
    """Return the network's output for a query and every key, (keys, heads)."""
    first, second = (
        (state[f"coord2rpb_all.{level}.{layer}.weight"], state[f"coord2rpb_all.{level}.{layer}.bias"])
        for layer in (0, 2)
    )
    away = torch.tensor([[y - key.y, x - key.x] for key in keys], dtype=first[0].dtype)
    return (away @ first[0].T + first[1]).clamp(min=0) @ second[0].T + second[1]


def randomised(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def build(case: Case, dim: int = DIM, heads: int = HEADS, dtype: torch.dtype = torch.float64) -> nn.Module:
    slot = attnbench.Slot(dim=dim, heads=heads, stage=0, block=1, grid=(14, 14))
    return randomised(attnbench.MECHANISMS["focal_fast"].configure(**asdict(case)).build(slot), dtype)


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
        window=st.integers(4, 8),
        topk=st.integers(1, 60),
        levels=st.integers(1, 4),
        pool=st.sampled_from(POOLS),
        border=st.sampled_from(BORDERS),
    ),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    heads=st.sampled_from([1, 2, 4]),
)
def test_output_equals_the_oracle_for_any_settings(case: Case, height: int, width: int, heads: int) -> None:
    module, x = build(case, dim=4, heads=heads), noise(2, height, width, 4)
    with torch.no_grad():
        assert_equal(module(x), oracle(module.state_dict(), x, heads, case))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pool", POOLS)
def test_gradients_in_training_equal_those_through_the_oracle(pool: str, border: str) -> None:
    case = Case(window=4, topk=9, levels=3, pool=pool, border=border)
    module = build(case).train()
    x, upstream = noise(2, 9, 6, DIM).requires_grad_(), noise(2, 9, 6, DIM, seed=2)
    state: dict[str, Tensor] = dict(module.named_parameters())
    leaves = [*state.values(), x]
    actual_gradients = torch.autograd.grad(module(x), leaves, upstream)
    through_oracle = torch.autograd.grad(oracle(state, x, HEADS, case), leaves, upstream)
    for actual, expected in zip(actual_gradients, through_oracle, strict=True):
        assert_equal(actual, expected)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pool", POOLS)
def test_float32_is_the_oracle_up_to_rounding(pool: str, border: str) -> None:
    # Sums of up to 134 terms follow one another, and rounding errors of a sum of n terms grow like sqrt(n): 12. Biases
    # of up to ten, whose rounding the softmax passes on as a relative error, leave 128 units of the largest output.
    case = Case(pool=pool, border=border)
    module, x = build(case, dtype=torch.float32), noise(2, 13, 17, DIM).float()
    state = {name: tensor.double() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        output, expected = module(x), oracle(state, x.double(), HEADS, case)
    assert output.dtype == torch.float32
    tolerance = 128 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("topk", [1, 2, 9, 20, 109, 110, 200])
@pytest.mark.parametrize("token", [(4, 4), (0, 9), (10, 9)])
def test_a_query_sees_exactly_the_nearest_tokens_of_the_map(token: tuple[int, int], topk: int) -> None:
    module, x = build(Case(window=3, topk=topk, levels=1)), noise(1, 11, 10, DIM)
    nn.init.zeros_(module.get_parameter("coord2rpb_all.0.2.weight"))  # or far keys would fade below the tolerance
    moved = x.repeat(111, 1, 1, 1).flatten(1, 2)  # copy t < 110 has token t moved, the last has none
    for other in range(110):
        moved[other, other] += noise(DIM, seed=3)
    with torch.no_grad():
        output = module(moved.reshape(111, 11, 10, DIM))[:, token[0], token[1]]
    seen = (output[:110] - output[110]).abs().amax(-1) > 1e-10
    seen[token[0] * 10 + token[1]] = False  # it also asks: whether it is among the keys does not show
    centre = [side // 3 * 3 + 1 for side in token]
    away = torch.tensor([(y - centre[0]) ** 2 + (x - centre[1]) ** 2 for y in range(11) for x in range(10)])
    hidden = ~seen
    hidden[token[0] * 10 + token[1]] = False
    assert min(topk, 110) - 1 <= int(seen.sum()) <= min(topk, 109)
    assert not seen.any() or not hidden.any() or away[seen].max() <= away[hidden].min()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize(("window", "topk", "levels"), [(4, 6, 3), (5, 128, 4), (7, 128, 2)])
def test_padding_is_never_attended(window: int, topk: int, levels: int, pool: str, size: tuple[int, int]) -> None:
    # Where all tokens are alike, so are their pools, and any average is their value: only padding could change it.
    module, token = build(Case(window, topk, levels, pool)), noise(DIM)
    state = module.state_dict()
    value = state["qkv.weight"][2 * DIM :] @ token + state["qkv.bias"][2 * DIM :]
    with torch.no_grad():
        output = module(token.expand(1, *size, DIM))
    assert_equal(output, (state["proj.weight"] @ value + state["proj.bias"]).expand_as(output))


@pytest.mark.parametrize("pool", POOLS)
def test_the_attended_border_takes_padding_for_tokens(pool: str) -> None:
    module, x = build(Case(pool=pool, border="attended")), noise(2, 13, 17, DIM)
    padded = torch.zeros(2, 14, 21, DIM, dtype=torch.float64)
    padded[:, :13, :17] = x
    with torch.no_grad():
        assert_equal(module(x), module(padded)[:, :13, :17])


@pytest.mark.parametrize("pool", POOLS)
def test_borders_agree_where_windows_cover_the_map_exactly(pool: str) -> None:
    x = noise(2, 14, 21, DIM)
    with torch.no_grad():
        assert_equal(build(Case(pool=pool))(x), build(Case(pool=pool, border="attended"))(x))


@pytest.mark.parametrize("border", BORDERS)
def test_one_key_is_the_middle_of_the_window(border: str) -> None:
    module, x = build(Case(topk=1, levels=1, border=border)), noise(2, 14, 21, DIM)
    state = module.state_dict()
    value = x[:, 3::7, 3::7] @ state["qkv.weight"][2 * DIM :].T + state["qkv.bias"][2 * DIM :]
    expected = (value @ state["proj.weight"].T + state["proj.bias"]).repeat_interleave(7, 1).repeat_interleave(7, 2)
    with torch.no_grad():
        assert_equal(module(x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_all_keys_without_bias_are_full_attention(size: tuple[int, int]) -> None:
    module, x = build(Case(topk=1000, levels=1)), noise(2, *size, DIM)
    for parameter in module.get_submodule("coord2rpb_all").parameters():
        nn.init.zeros_(parameter)
    slot = attnbench.Slot(dim=DIM, heads=HEADS, stage=0, block=0, grid=(14, 14))
    full = attnbench.MECHANISMS["full"].build(slot).double().eval()
    shared = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("coord2rpb_all")}
    full.load_state_dict(shared)
    with torch.no_grad():
        assert_equal(module(x), full(x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_have_the_documented_names_and_shapes(case: Case) -> None:
    expected: dict[str, tuple[int, ...]] = {
        "qkv.weight": (3 * DIM, DIM),
        "qkv.bias": (3 * DIM,),
        "proj.weight": (DIM, DIM),
        "proj.bias": (DIM,),
    }
    for level in range(case.levels):
        expected[f"coord2rpb_all.{level}.0.weight"] = (DIM // HEADS, 2)
        expected[f"coord2rpb_all.{level}.0.bias"] = (DIM // HEADS,)
        expected[f"coord2rpb_all.{level}.2.weight"] = (HEADS, DIM // HEADS)
        expected[f"coord2rpb_all.{level}.2.bias"] = (HEADS,)
    for level in range(case.levels - 1):
        side = case.window // 2**level if case.border == "attended" else -(-case.window // 2**level)
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


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"topk": 0}, "at least 1"),
        ({"levels": 5}, "a window of 7 tokens cannot be pooled at 5 levels"),
        ({"pool": "sum"}, "one of fc, conv, mean, max"),
        ({"border": "wrapped"}, "one of masked, attended"),
    ],
)
def test_settings_that_have_no_meaning_are_refused(refused: dict[str, object], message: str) -> None:
    with pytest.raises(attnbench.UserError, match=message):
        attnbench.MECHANISMS["focal_fast"].configure(**refused)


def test_the_authors_window_shrinks_to_a_map_that_it_covers() -> None:
    """A module made for a map of 5 x 9 tokens is the one of window 5: same weights, same outputs."""
    torch.manual_seed(0)
    mechanism, slot = attnbench.MECHANISMS["focal_fast"], attnbench.Slot(dim=8, heads=2, stage=0, block=0, grid=(5, 9))
    shrunk = mechanism.configure(window=7, topk=6, border="attended").build(slot).double()
    small = mechanism.configure(window=5, topk=6, border="attended").build(slot).double()
    small.load_state_dict(shrunk.state_dict())
    x = torch.randn(1, 5, 9, 8, dtype=torch.double)
    assert torch.equal(shrunk(x), small(x))
    assert shrunk.macs(5, 9) == small.macs(5, 9)  # type: ignore[operator]
    kept = mechanism.configure(window=7, topk=6).build(slot)
    assert kept.state_dict()["pool_layers.0.weight"].shape == (1, 49)
    with pytest.raises(attnbench.UserError, match="a window of 2 tokens cannot be pooled at 4 levels"):
        mechanism.configure(levels=4, border="attended").build(attnbench.Slot(8, 2, 0, 0, (2, 2)))
