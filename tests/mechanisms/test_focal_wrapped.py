"""Focal attention as its authors' first version computes it, against a naive float64 version, key by key.

The ring wraps around the map, a key that two rolls bring is two keys, what lies outside the map of pooled tokens has a
score of bias - 100, and padding is attended (arXiv 2107.00641; the border policy "wrapped").
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import attnbench

TOLERANCE = 1e-10
DIM = 6
OUTSIDE = -100.0  # what the authors add to the score of a key that is not to be seen

Weights = Mapping[str, Tensor]
# Keys and values (B, heads, D), each with what every query of the window adds to their product, (heads,) per query.
Keys = list[tuple[Tensor, Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Case:
    """One module's settings and the map that it gets."""

    grid: tuple[int, int]
    window: int
    expand: int
    levels: int = 2
    focal_window: int = 3
    pool: str = "fc"
    shift: bool = False
    expand_layer: str = "all"
    block: int = 0
    heads: int = 2

    def __str__(self) -> str:
        height, width = self.grid
        changed = [f"{name}={value}" for name, value in asdict(self).items() if value != getattr(Case, name, None)]
        return f"{height}x{width} " + " ".join(changed[1:])

    @property
    def side(self) -> int:
        """The side of a window: never more than the map's shorter side."""
        return min(self.window, *self.grid)

    @property
    def reach(self) -> int:
        """How far the rolls go: nowhere if a window spans the map or ``expand_layer`` leaves the block out."""
        left_out = {"all": [], "even": [0], "odd": [1]}[self.expand_layer]
        return 0 if min(self.grid) <= self.window or self.block % 2 in left_out else self.expand

    @property
    def displaced(self) -> int:
        """How far the map is shifted."""
        return self.window // 2 if self.shift and self.block % 2 and min(self.grid) > self.window else 0


def places(rows: int, columns: int | None = None) -> list[tuple[int, int]]:
    return list(product(range(rows), range(rows if columns is None else columns)))


def project(weights: Weights, tokens: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return queries, keys and values, each (B, H, W, heads, D)."""
    batch, height, width, dim = tokens.shape
    mapped = tokens @ weights["qkv.weight"].T + weights["qkv.bias"]
    return mapped.reshape(batch, height, width, 3, heads, dim // heads).unbind(3)


def own_keys(weights: Weights, keys: Tensor, values: Tensor, corner: tuple[int, int], case: Case) -> Keys:
    """Return the window's own tokens; after a shift, tokens of another region are hidden."""
    side, table = case.side, weights["relative_position_bias_table"]

    def region(place: int, start: int, length: int) -> int:
        beyond = [length - side, length - case.displaced] if case.displaced else []
        return sum(start + place >= bound for bound in beyond)

    found: Keys = []
    for key_y, key_x in places(side):
        extras = []
        for y, x in places(side):
            index = (y - key_y + side - 1) * (2 * side - 1) + (x - key_x + side - 1)
            same = all(
                region(one, start, length) == region(other, start, length)
                for one, other, start, length in zip((y, x), (key_y, key_x), corner, keys.shape[1:3], strict=True)
            )
            extras.append(table[index] + (0.0 if same else OUTSIDE))
        row, column = corner[0] + key_y, corner[1] + key_x
        found.append((keys[:, row, column], values[:, row, column], extras))
    return found


def ring_keys(weights: Weights, keys: Tensor, values: Tensor, corner: tuple[int, int], case: Case) -> Keys:
    """Return what four rolls bring into the window from outside it, around the map's border if need be."""
    if not case.reach:
        return []
    side, reach, table = case.side, case.reach, weights["relative_position_bias_table_to_neighbors"]
    found: Keys = []
    for down, right in [(-reach, -reach), (-reach, reach), (reach, -reach), (reach, reach)]:
        for y, x in places(side):
            source_y, source_x = y - down, x - right  # torch.roll brings to a place what lies that far before it
            if 0 <= source_y < side and 0 <= source_x < side:
                continue
            row, column = (corner[0] + source_y) % keys.shape[1], (corner[1] + source_x) % keys.shape[2]
            extras = [table[0, :, query, len(found)] for query in range(side * side)]
            found.append((keys[:, row, column], values[:, row, column], extras))
    assert table.shape[-1] == len(found)
    return found


def pooled_map(weights: Weights, tokens: Tensor, case: Case, level: int) -> Tensor:
    """Return one token for each of 2^level x 2^level cells of every window, (B, rows, columns, C)."""
    height, width = tokens.shape[1:3]
    cell = case.side // 2**level
    rows, columns = (ceil(length / case.side) * 2**level for length in (height, width))
    top, left = (height - rows * cell) // 2, (width - columns * cell) // 2
    assert top >= 0
    assert left >= 0
    pooled = []
    for row, column in places(rows, columns):
        inside = [tokens[:, top + row * cell + y, left + column * cell + x] for y, x in places(cell)]  # each (B, C)
        if case.pool == "fc":
            weight, bias = weights[f"pool_layers.{level}.weight"], weights[f"pool_layers.{level}.bias"]
            token = sum((weight[0, place] * inside[place] for place in range(cell * cell)), start=bias)
        elif case.pool == "conv":
            weight, bias = weights[f"pool_layers.{level}.weight"], weights[f"pool_layers.{level}.bias"]
            token = bias + sum(
                (weight[:, 0, y, x] * inside[y * cell + x] for y, x in places(cell)), start=torch.zeros_like(bias)
            )
        elif case.pool == "mean":
            token = torch.stack(inside).sum(0) / len(inside)
        else:
            token = torch.stack(inside).amax(0)
        pooled.append(token)
    return torch.stack(pooled, dim=1).unflatten(1, (rows, columns))


def pooled_keys(
    weights: Weights, keys: Tensor, values: Tensor, window: tuple[int, int], case: Case, level: int
) -> Keys:
    """Return the pooled tokens around the window (counted in windows), those that lie outside the map as zeros."""
    stride, side = 2**level, case.side
    kernel = 2 * (case.focal_window // 2) + 2 * stride - 1
    dropped = stride - 1  # of the unfold's first rows and columns
    seen = case.focal_window + stride - 1
    assert kernel - dropped == seen
    table = weights[f"relative_position_bias_table_to_windows.{level}"]
    found: Keys = []
    for key_y, key_x in places(seen):
        row, column = (
            index * stride - kernel // 2 + dropped + key for index, key in zip(window, (key_y, key_x), strict=True)
        )
        inside = 0 <= row < keys.shape[1] and 0 <= column < keys.shape[2]
        extras = []
        for y, x in places(side):
            index = (y - key_y + seen - 1) * (side + seen - 1) + (x - key_x + seen - 1)
            extras.append(table[:, index] + (0.0 if inside else OUTSIDE))
        if inside:
            found.append((keys[:, row, column], values[:, row, column], extras))
        else:
            found.append((torch.zeros_like(keys[:, 0, 0]), torch.zeros_like(values[:, 0, 0]), extras))
    return found


def naive(weights: Weights, x: Tensor, case: Case) -> Tensor:
    """Attend window by window and query by query; one softmax over all keys of all levels."""
    side, (height, width) = case.side, case.grid
    rows, columns = ceil(height / side), ceil(width / side)
    tokens = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
    tokens = tokens.roll((-case.displaced, -case.displaced), dims=(1, 2))
    queries, keys, values = project(weights, tokens, case.heads)
    coarse = [
        project(weights, pooled_map(weights, tokens, case, level), case.heads)[1:] for level in range(case.levels - 1)
    ]
    lines = [[torch.empty(0)] * (columns * side) for _ in range(rows * side)]
    for window in places(rows, columns):
        corner = (window[0] * side, window[1] * side)
        found = own_keys(weights, keys, values, corner, case) + ring_keys(weights, keys, values, corner, case)
        for level, (level_keys, level_values) in enumerate(coarse):
            found += pooled_keys(weights, level_keys, level_values, window, case, level)
        all_keys = torch.stack([key for key, _, _ in found])  # (K, B, heads, D)
        all_values = torch.stack([value for _, value, _ in found])
        for number, (y, x_) in enumerate(places(side)):
            query = queries[:, corner[0] + y, corner[1] + x_]
            scores = (query * all_keys).sum(-1) / (DIM // case.heads) ** 0.5  # (K, B, heads)
            scores = scores + torch.stack([extras[number] for _, _, extras in found])[:, None]
            mixed = (scores.softmax(0)[..., None] * all_values).sum(0)  # (B, heads, D)
            lines[corner[0] + y][corner[1] + x_] = mixed.flatten(1)
    out = torch.stack([torch.stack(line, dim=1) for line in lines], dim=1)  # (B, H, W, C)
    out = out @ weights["proj.weight"].T + weights["proj.bias"]
    return out.roll((case.displaced, case.displaced), dims=(1, 2))[:, :height, :width]


def build(case: Case) -> nn.Module:
    chosen = asdict(case)
    grid, block, heads = (chosen.pop(name) for name in ("grid", "block", "heads"))
    mechanism = attnbench.MECHANISMS["focal"].configure(border="wrapped", **chosen)
    return mechanism.build(attnbench.Slot(dim=DIM, heads=heads, stage=0, block=block, grid=grid))


def draw(case: Case, batch: int = 1) -> tuple[nn.Module, Tensor]:
    """Return the module with weights so large that a wrong index shows, and a map."""
    torch.manual_seed(0)
    module = build(case).double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.5 if name.endswith("weight") else 1.0)
    return module, torch.randn(batch, *case.grid, DIM, dtype=torch.double)


def check(case: Case, batch: int = 1) -> None:
    module, x = draw(case, batch)
    with torch.no_grad():
        expected = naive(dict(module.named_parameters()), x, case)
        torch.testing.assert_close(module(x), expected, atol=TOLERANCE, rtol=TOLERANCE)


MAPS = [
    Case((8, 8), 4, 2),
    Case((4, 8), 2, 1, heads=3),
    Case((12, 8), 4, 1),
    Case((9, 9), 4, 2),  # padding on both axes
    Case((8, 5), 4, 2, heads=3),  # on the columns
    Case((7, 9), 3, 1),  # on the rows
    Case((5, 11), 3, 2, levels=3),
    Case((4, 4), 4, 2),  # one window
    Case((3, 3), 7, 3, levels=3, focal_window=5),
    Case((3, 9), 4, 2),  # the shorter side is the window
    Case((8, 3), 7, 3, levels=3),  # and the longer is padded to a multiple of it
    Case((10, 4), 4, 2, shift=True, block=1, levels=3, pool="conv"),
    Case((2, 5), 3, 1, levels=3, expand_layer="odd"),
    Case((1, 4), 2, 1),
    Case((1, 1), 2, 1),
]
WINDOWS = [
    Case((4, 6), 2, 0),
    Case((4, 4), 2, 1, levels=3),
    Case((5, 4), 2, 2),  # the rolls go a whole window far: nothing of the window itself comes back
    Case((6, 6), 3, 0, levels=3),
    Case((6, 6), 3, 1, levels=3),  # 3 does not divide by 2: trimmed around the centre
    Case((9, 6), 3, 2),
    Case((8, 12), 4, 3),
    Case((8, 8), 4, 4, levels=1),
    Case((10, 6), 5, 2, levels=3),
    Case((10, 10), 5, 3, levels=3),
    Case((7, 12), 6, 3, levels=3),
    Case((12, 12), 6, 4),
    Case((14, 14), 7, 3, levels=3),
    Case((8, 14), 7, 4, levels=3),
    Case((16, 9), 8, 4, levels=3),
    Case((9, 16), 8, 5),
]
LEVELS = [
    Case(grid, window, 1, levels, focal_window, pool)
    for (grid, window), levels, focal_window, pool in [
        (((7, 9), 3), 1, 3, "fc"),
        *product([((7, 9), 3)], [2, 3], [1, 3, 5], ["fc", "conv"]),
        *product([((10, 11), 5)], [3], [1, 3, 5], ["mean", "max"]),
        *product([((8, 6), 4)], [2, 3], [3], ["conv", "mean", "max"]),
        (((9, 10), 4), 4, 3, "fc"),
        (((8, 5), 4), 3, 7, "conv"),
    ]
]
SHIFTS = [
    Case(grid, window, expand, levels, 3, pool, shift=True, block=block)
    for (grid, window, expand, levels, pool), block in product(
        [
            ((8, 8), 4, 2, 3, "conv"),
            ((9, 6), 3, 1, 3, "fc"),
            ((7, 9), 4, 2, 2, "mean"),
            ((6, 11), 5, 2, 3, "max"),
            ((6, 6), 3, 0, 1, "fc"),
            ((4, 4), 4, 2, 2, "fc"),
            ((5, 4), 2, 1, 3, "conv"),
        ],
        [1, 2, 3],
    )
    if block != 3 or grid == (8, 8)
]
LAYERS = [
    replace(case, expand_layer=layer, block=block)
    for case in [Case((7, 6), 3, 1, levels=3), Case((8, 8), 4, 3, shift=True)]
    for layer, block in product(["all", "even", "odd"], [0, 1])
]
CASES = [*MAPS, *WINDOWS, *LEVELS, *SHIFTS, *LAYERS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_equals_the_oracle(case: Case) -> None:
    check(case)


def test_images_do_not_mix() -> None:
    check(Case((7, 9), 4, 2, levels=3, shift=True, block=1), batch=3)


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    window = draw(st.integers(2, 5))
    grid = draw(st.tuples(st.integers(1, 3 * window), st.integers(1, 2 * window + 1)))
    deepest = min(window, *grid).bit_length()  # a pooled level's window has at least one token
    return Case(
        grid if draw(st.booleans()) else grid[::-1],
        window,
        draw(st.integers(0, window)),
        draw(st.integers(1, min(3, deepest + 1))),
        draw(st.sampled_from([1, 3, 5])),
        draw(st.sampled_from(["fc", "conv", "mean", "max"])),
        draw(st.booleans()),
        draw(st.sampled_from(["all", "even", "odd"])),
        draw(st.integers(0, 3)),
        draw(st.sampled_from([1, 2, 3])),
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=any_case())
def test_output_equals_the_oracle_whatever_the_settings(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("table", ["", "_to_windows.0", "_to_windows.1"])
def test_a_hidden_key_scores_a_hundred_less(table: str) -> None:
    """Hidden keys weigh next to nothing, unless their bias makes up for it: here for the last row's queries."""
    case = Case((12, 9), 3, 1, levels=3, shift=True, block=1)
    module, x = draw(case)
    weights = dict(module.named_parameters())
    biases = weights[f"relative_position_bias_table{table}"]
    raised = biases if table else biases.T  # (heads, places)
    with torch.no_grad():
        raised[:, -round(raised.shape[1] ** 0.5) :] -= OUTSIDE
        out, expected = module(x), naive(weights, x, case)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "OUTSIDE", float("-inf"))
            unseen = naive(weights, x, case)
    torch.testing.assert_close(out, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert (expected - unseen).abs().max() > 0.1


@pytest.mark.parametrize(
    "case",
    [
        Case((7, 6), 3, 1, levels=3, shift=True, block=1),
        Case((5, 7), 4, 3, levels=3, pool="conv", heads=3),
        Case((3, 7), 4, 2, levels=2, focal_window=1),
    ],
    ids=str,
)
def test_gradients_equal_the_oracles(case: Case) -> None:
    module, x = draw(case)
    x.requires_grad_()
    weights = dict(module.named_parameters())
    wanted = torch.randn(x.shape, dtype=torch.double)
    leaves = [*weights.values(), x]
    own = torch.autograd.grad((module(x) * wanted).sum(), leaves)
    expected = torch.autograd.grad((naive(weights, x, case) * wanted).sum(), leaves)
    for name, one, other in zip([*weights, "x"], own, expected, strict=True):
        assert other.abs().max() > 1e-3, name
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=TOLERANCE, msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_macs_are_those_that_torch_counts(case: Case) -> None:
    with torch.device("meta"):
        module = build(case)
        x = torch.empty(1, *case.grid, DIM)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    assert 2 * module.macs(*case.grid) == counter.get_total_flops() > 0  # type: ignore[operator]
