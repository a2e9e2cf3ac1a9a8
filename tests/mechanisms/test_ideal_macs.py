"""Ideal MACs against a count, one by one, of the tokens, cells and pairs that the papers' definitions let through."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

import attnbench
from attnbench.contract import Slot

DIM, HEADS = 12, 3
SIZES = [(13, 17), (28, 28), (7, 7), (1, 1), (8, 3)]
SMALL = [(13, 17), (14, 21), (7, 7), (1, 1), (8, 3)]  # for oracles over all pairs of tokens
LARGE = (20, 20)  # a grid that no window covers
Place = tuple[int, ...]  # row and column


def build(name: str, block: int = 0, grid: tuple[int, int] = LARGE, **settings: Any) -> nn.Module:
    slot = Slot(dim=DIM, heads=HEADS, stage=0, block=block, grid=grid)
    with torch.device("meta"):
        return attnbench.MECHANISMS[name].configure(**settings).build(slot)


def ideal(module: Any, size: Place) -> int:
    return module.ideal_macs(*size)


def up(side: int, step: int) -> int:
    return -(-side // step)


def layout(side: int, window: int, shift: int, padded_first: bool) -> list[int | None]:
    """Return which token each place of an axis of whole windows holds after padding and shift; None for padding."""
    tokens: list[int | None] = list(range(side))
    padding: list[int | None] = [None] * (-side % window)
    if padded_first:
        tokens += padding
        return tokens[shift:] + tokens[:shift]
    return tokens[shift % side :] + tokens[: shift % side] + padding


def region(place: int, length: int, window: int, shift: int) -> int:
    """Return the part of the shifted axis that the authors' code of Swin numbers so before it makes its mask."""
    return sum(place >= bound for bound in (length - window, length - shift)) if shift else 0


def attention(tokens: int, pairs: int) -> int:
    """Return the MACs of queries, keys, values and output, and of the two products."""
    return 4 * tokens * DIM**2 + 2 * pairs * DIM


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("window", [7, 4, 1])
def test_swin_counts_pairs_of_one_window(window: int, block: int, size: Place) -> None:
    def home(place: int, side: int) -> int:
        return (place - (window // 2 if block and side > window else 0)) // window

    homes = Counter((home(y, size[0]), home(x, size[1])) for y, x in product(*map(range, size)))
    expected = attention(size[0] * size[1], sum(tokens**2 for tokens in homes.values()))
    assert ideal(build("swin", block, window=window), size) == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("window", [7, 4])
def test_the_authors_swin_counts_pairs_of_tokens_that_its_mask_shows(window: int, block: int, size: Place) -> None:
    shift = window // 2 if block else 0
    homes: Counter[tuple[int, ...]] = Counter()
    axes = [layout(side, window, shift, padded_first=False) for side in size]
    for (row, y), (column, x) in product(*map(enumerate, axes)):
        if y is not None and x is not None:
            regions = (region(row, len(axes[0]), window, shift), region(column, len(axes[1]), window, shift))
            homes[row // window, column // window, *regions] += 1
    expected = attention(size[0] * size[1], sum(tokens**2 for tokens in homes.values()))
    assert ideal(build("swin", block, window=window, border="shrunk"), size) == expected


def pooled_macs(cells: dict[Place, int]) -> int:
    """Return the MACs of pooling, given how many tokens of the map each cell holds, and of the cells' keys, values."""
    held = [tokens for tokens in cells.values() if tokens]
    return sum(held) * DIM + 2 * len(held) * DIM**2


@pytest.mark.parametrize("size", SMALL, ids=str)
@pytest.mark.parametrize(
    ("window", "expand", "levels", "focal_window"),
    [(7, 3, 2, 7), (7, 3, 1, 1), (4, 1, 3, 3), (5, 7, 4, 1), (3, 0, 2, 5)],
)
def test_focal_counts_tokens_and_cells_of_the_map(
    window: int, expand: int, levels: int, focal_window: int, size: Place
) -> None:
    tokens = list(product(*map(range, size)))
    corners = Counter((y // window * window, x // window * window) for y, x in tokens)

    def near(corner: Place, key: Place) -> bool:
        return all(-expand <= here - start < window + expand for start, here in zip(corner, key, strict=True))

    pairs = sum(queries * sum(near(corner, key) for key in tokens) for corner, queries in corners.items())
    expected = 0
    for cells in (2**level for level in range(levels - 1)):
        cell = up(window, cells)
        held = Counter(tuple(at // window * cells + at % window // cell for at in token) for token in tokens)
        margin = (focal_window - 1) // 2
        for corner, queries in corners.items():
            first = [start // window * cells - margin for start in corner]
            side = focal_window + cells - 1
            pairs += queries * sum(all(0 <= k - f < side for f, k in zip(first, key, strict=True)) for key in held)
        expected += pooled_macs(held)
    module = build("focal", window=window, expand=expand, levels=levels, focal_window=focal_window)
    assert ideal(module, size) == expected + attention(len(tokens), pairs)


@pytest.mark.parametrize("size", SMALL, ids=str)
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    ("window", "expand", "levels", "focal_window"),
    [(7, 3, 2, 7), (4, 3, 1, 1), (4, 1, 3, 3), (5, 0, 2, 5), (5, 5, 3, 1)],
)
def test_the_authors_focal_counts_keys_that_hold_tokens_and_are_not_hidden(
    window: int, expand: int, levels: int, focal_window: int, shift: bool, size: Place
) -> None:
    moved = window // 2 if shift else 0
    axes = [layout(side, window, moved, padded_first=True) for side in size]
    lengths = [len(axis) for axis in axes]
    real: set[Place] = {(r, c) for (r, y), (c, x) in product(*map(enumerate, axes)) if y is not None and x is not None}
    own = list(product(range(window), repeat=2))
    rolls = {(y + dy, x + dx) for y, x in own for dy, dx in product((-expand, expand), repeat=2)} - set(own)
    held = [authors_cells(real, lengths, window, 2**level) for level in range(levels - 1)]
    pairs = 0
    for corner in product(*(range(0, length, window) for length in lengths)):
        inside = [(corner[0] + y, corner[1] + x) for y, x in own]
        queries = [place for place in inside if place in real]
        parts = Counter(tuple(region(*at, window, moved) for at in zip(p, lengths, strict=True)) for p in queries)
        pairs += sum(count**2 for count in parts.values())
        ring = sum(((corner[0] + y) % lengths[0], (corner[1] + x) % lengths[1]) in real for y, x in rolls)
        pooled = 0
        for level, cells in enumerate(held):
            firsts = [start // window * 2**level - (focal_window - 1) // 2 for start in corner]
            spans = [range(first, first + focal_window + 2**level - 1) for first in firsts]
            pooled += sum(cells.get(key, 0) > 0 for key in product(*spans))
        pairs += len(queries) * (ring + pooled)
    settings = {"window": window, "expand": expand, "levels": levels, "focal_window": focal_window}
    module = build("focal", 1, LARGE, shift=shift, border="wrapped", **settings)
    expected = attention(size[0] * size[1], pairs) + sum(map(pooled_macs, held))
    assert ideal(module, size) == expected


def authors_cells(real: set[Place], lengths: list[int], window: int, cells: int) -> dict[Place, int]:
    """Return how many tokens each cell holds, whole cells lying over the middle of the padded map."""
    size = window // cells
    counts = [length // window * cells for length in lengths]
    starts = [(length - count * size) // 2 for length, count in zip(lengths, counts, strict=True)]
    found: dict[Place, int] = {}
    for row, column in product(*map(range, counts)):
        rows, columns = (range(s + i * size, s + (i + 1) * size) for s, i in zip(starts, (row, column), strict=True))
        found[row, column] = sum(place in real for place in product(rows, columns))
    return found


def bias_macs(size: Place, levels: int) -> int:
    """Return the MACs of every level's network for every displacement of two tokens of the map."""
    ys, xs = ({a - b for a in range(side) for b in range(side)} for side in size)
    displacements = len(set(product(ys, xs)))
    hidden = DIM // HEADS
    return levels * displacements * (2 * hidden + hidden * HEADS)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("window", "topk", "levels"), [(7, 128, 2), (4, 5, 3), (5, 30, 4), (1, 6, 2)])
def test_focal_fast_counts_the_nearest_keys_of_every_token(window: int, topk: int, levels: int, size: Place) -> None:
    tokens = list(product(*map(range, size)))
    keys, expected = min(topk, len(tokens)), bias_macs(size, levels)
    for cells in (2**level for level in range(levels - 1)):
        cell = up(window, cells)
        held = Counter(tuple(at // window * cells + at % window // cell for at in token) for token in tokens)
        keys += min(topk, len(held))
        expected += pooled_macs(held)
    module = build("focal_fast", window=window, topk=topk, levels=levels)
    assert ideal(module, size) == expected + attention(len(tokens), len(tokens) * keys)


@pytest.mark.parametrize("size", [(13, 17), (14, 21), (8, 3)], ids=str)
@pytest.mark.parametrize(("window", "topk", "levels"), [(7, 128, 2), (4, 5, 3), (5, 30, 3)])
def test_the_authors_focal_fast_counts_chosen_keys_that_hold_tokens(
    window: int, topk: int, levels: int, size: Place
) -> None:
    lengths = [up(side, window) * window for side in size]
    real = set(product(*map(range, size)))
    sizes = [(1, window)] + [(window // 2**level, 2**level) for level in range(levels - 1)]
    held = [authors_cells(real, lengths, window, cells) for _, cells in sizes]
    pairs = 0
    for corner in product(*(range(0, length, window) for length in lengths)):
        queries = sum((corner[0] + y, corner[1] + x) in real for y, x in product(range(window), repeat=2))
        for (cell, per_window), cells in zip(sizes, held, strict=True):
            starts = [(length - length // window * per_window * cell) // 2 for length in lengths]
            away = []
            for key in cells:  # row-major
                middles = [start + at * cell + cell // 2 for start, at in zip(starts, key, strict=True)]
                away.append(sum((c + window // 2 - m) ** 2 for c, m in zip(corner, middles, strict=True)))
            chosen = torch.tensor(away).float().neg().topk(min(topk, len(away))).indices.tolist()
            counts = list(cells.values())
            pairs += queries * sum(counts[key] > 0 for key in chosen)
    expected = attention(size[0] * size[1], pairs) + bias_macs(size, levels) + sum(map(pooled_macs, held[1:]))
    module = build("focal_fast", window=window, topk=topk, levels=levels, border="attended")
    assert ideal(module, size) == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("ratio", "border"), [(8, "padded"), (2, "padded"), (1, "padded"), (2, "dropped")])
@pytest.mark.parametrize("prefix", [0, 1])
def test_pvt_reduces_tokens_of_the_map_only(ratio: int, border: str, prefix: int, size: Place) -> None:
    seen = [range(side // ratio * ratio if border == "dropped" else side) for side in size]
    patches = Counter((y // ratio, x // ratio) for y, x in product(*seen))
    tokens, keys = size[0] * size[1] + prefix, len(patches) + prefix
    reduction = sum(patches.values()) * DIM**2 if ratio > 1 else 0
    expected = 2 * tokens * DIM**2 + reduction + 2 * keys * DIM**2 + 2 * tokens * keys * DIM
    module: Any = build("pvt", sr_ratio=ratio, border=border)
    assert module.ideal_macs(*size, prefix) == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("swin", {"shift": False}),
        ("swin", {"shift": False, "border": "shrunk"}),
        ("focal", {"expand": 0, "focal_window": 1}),
        ("focal", {"expand": 3, "levels": 1, "border": "wrapped"}),
        ("focal_fast", {}),
        ("focal_fast", {"border": "attended"}),
        ("pvt", {}),
    ],
    ids=str,
)
def test_nothing_is_saved_where_nothing_is_padded_or_hidden(name: str, settings: dict[str, Any]) -> None:
    module: Any = build(name, **settings)
    assert module.ideal_macs(56, 112) == module.macs(56, 112)


@pytest.mark.parametrize("name", attnbench.MECHANISMS.names())
def test_a_backbone_saves_what_its_attention_modules_save(name: str) -> None:
    with torch.device("meta"):
        model = attnbench.build_model(name, resolution=(230, 101))
    saved = 0
    for stage, blocks in enumerate(model.blocks):
        grid = up(230, 4 * 2**stage), up(101, 4 * 2**stage)
        for block in blocks:  # type: ignore[attr-defined]
            saved += block.attn.macs(*grid) - getattr(block.attn, "ideal_macs", block.attn.macs)(*grid)
    assert model.ideal_macs(230, 101) == model.macs(230, 101) - saved
    assert (saved > 0) == (name in ("swin", "focal", "focal_fast", "pvt"))


def test_a_class_token_is_counted() -> None:
    with torch.device("meta"):
        model: Any = attnbench.create_model("pvt_small")
    assert model.ideal_macs(224, 224) == model.macs(224, 224)
