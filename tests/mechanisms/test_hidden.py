"""What hides keys: exactly what its score says, and no share at all where rounding loses it."""

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

boxes = import_module("attnbench.mechanisms._boxes")  # by name: a type checker does not see plug-ins
hidden = import_module("attnbench.mechanisms._hidden")
products = import_module("attnbench.mechanisms._region_products")
spans = import_module("attnbench.mechanisms._spans")

IMAGES, HEADS, WINDOW, DIM, SIDES = 2, 2, 2, 6, (4, 6)  # DIM of a head
WINDOWS = SIDES[0] // WINDOW * SIDES[1] // WINDOW
LAYOUT = boxes.Layout(WINDOW, (spans.Span(WINDOW + 2, WINDOW, True), spans.Span(3, 1)), HEADS)
WHOLE = slice(0, SIDES[0] // WINDOW), slice(0, SIDES[1] // WINDOW)  # a box of all windows
FINE = LAYOUT.spans[0].side ** 2


def hiding(score: float, beyond: bool) -> tuple[Any, Tensor]:
    """Hide pooled cells beyond the map, or also fine keys of some windows from some queries: what hides, by window."""
    rows, columns = (np.arange(side // WINDOW)[:, None] + np.arange(-1, 2) for side in SIDES)
    inside = [(axis >= 0) & (axis < side // WINDOW) for axis, side in zip((rows, columns), SIDES, strict=True)]
    pooled = (inside[0][:, None, :, None] & inside[1][None, :, None, :]).reshape(WINDOWS, 1, -1)
    visible = np.concatenate([np.ones((WINDOWS, 1, FINE), dtype=bool), pooled], -1)
    if not beyond:
        visible = np.repeat(visible, WINDOW**2, axis=1)
        visible[1::2, 1:, 3] = False
    told = hidden.Hidden.where_not(visible, score, SIDES[1] // WINDOW, torch.device("cpu"), beyond)
    return told, torch.where(torch.from_numpy(visible), 0.0, score).double()


def maps(scale: float, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, pooled ones, and a bias; keys point away from queries: scores are low."""
    generator = torch.Generator().manual_seed(seed)
    shape = IMAGES, *SIDES, HEADS * DIM
    q = torch.randn(HEADS * DIM, generator=generator).expand(shape) + 0.3 * torch.randn(shape, generator=generator)
    k, v = -q * scale, torch.randn(shape, generator=generator)
    cells = IMAGES, SIDES[0] // WINDOW, SIDES[1] // WINDOW, HEADS * DIM
    pooled = torch.cat([-scale * q[:, ::WINDOW, ::WINDOW], torch.randn(cells, generator=generator)], -1)
    bias = torch.randn(HEADS, WINDOW**2, LAYOUT.keys, generator=generator)
    return torch.cat([q, k, v], -1).to(dtype), pooled.to(dtype), bias.to(dtype)


def naive(qkv: Tensor, pooled: Tensor, bias: Tensor, found: Tensor) -> Tensor:
    """Attend window after window in float64, adding what hides to every score."""
    qkv, pooled, bias = qkv.double(), pooled.double(), bias.double()
    out = torch.empty(IMAGES, *SIDES, HEADS, DIM, dtype=torch.float64)
    fine = np.pad(qkv.detach().numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
    coarse = np.pad(pooled.detach().numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for window in range(WINDOWS):
        row, column = divmod(window, SIDES[1] // WINDOW)
        top, left = row * WINDOW, column * WINDOW
        region = torch.from_numpy(fine[:, top : top + WINDOW + 2, left : left + WINDOW + 2]).flatten(1, 2)
        cells = torch.from_numpy(coarse[:, row : row + 3, column : column + 3]).flatten(1, 2)
        k, v = torch.cat([region[..., HEADS * DIM :], cells], 1).unflatten(-1, (2, HEADS, DIM)).permute(2, 0, 3, 1, 4)
        asked = qkv[:, top : top + WINDOW, left : left + WINDOW, : HEADS * DIM].unflatten(-1, (HEADS, DIM))
        q = asked.flatten(1, 2).transpose(1, 2)
        shares = (q @ k.mT * DIM**-0.5 + bias + found[window]).softmax(-1)
        out[:, top : top + WINDOW, left : left + WINDOW] = (shares @ v).transpose(1, 2).unflatten(1, (WINDOW, WINDOW))
    return out.flatten(-2)


def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FEW_QUERIES", 10**6)
    monkeypatch.setattr(products, "MANY_SCORES", 0)


@pytest.mark.parametrize("score", [-100.0, -math.inf])
@pytest.mark.parametrize("beyond", [True, False])
@given(far=st.floats(0, 250), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_outputs_are_those_of_the_scores_added(score: float, beyond: bool, far: float, seed: int) -> None:
    """Up to scores so low that a key hidden by -100 outweighs those that are seen."""
    told, found = hiding(score, beyond)
    qkv, pooled, bias = maps(far / DIM**0.5, seed)
    with pytest.MonkeyPatch.context() as patched:
        written_out(patched)
        actual = products.attend(qkv, [pooled], LAYOUT, bias, told)
    rounded = 5e-7 * (4 + far)  # scores are, in proportion to their size
    torch.testing.assert_close(actual.double(), naive(qkv, pooled, bias, found), rtol=0, atol=rounded)


def test_keys_beyond_the_map_do_outweigh_the_others_in_these_tests() -> None:
    told, found = hiding(-100.0, beyond=True)
    qkv, pooled, bias = maps(250 / DIM**0.5, 0)
    exact = naive(qkv, pooled, bias, found)
    without = naive(qkv, pooled, bias, torch.where(found < 0, -math.inf, found))
    assert (exact - without).abs().max() > 0.1
    assert told.beyond


def laid_out(qkv: Tensor, pooled: Tensor) -> Any:
    """Return the memory of a box of all windows, with what products need."""
    q, kv = qkv[..., : HEADS * DIM], qkv[..., HEADS * DIM :]
    place = boxes.Room(q, LAYOUT, 1, 1).place(IMAGES, WHOLE)
    for level, target in zip(LAYOUT.levels([kv, pooled], IMAGES), place.regions, strict=True):
        target.copy_(level.regions(slice(0, IMAGES)))
    place.tokens[0].copy_(LAYOUT.tokens(q))
    return place


@pytest.mark.parametrize("beyond", [True, False])
def test_no_share_is_subnormal_where_scores_are_as_close_as_in_networks(
    monkeypatch: pytest.MonkeyPatch, beyond: bool
) -> None:
    told, found = hiding(-100.0, beyond)
    qkv, pooled, bias = maps(1.0, 0)

    def shares() -> Tensor:
        out = products._shares(laid_out(qkv, pooled), bias, hidden.Hiding(told, bias), WHOLE)
        return out.view(HEADS, IMAGES, WINDOWS, -1, LAYOUT.keys)

    assert torch.equal(shares() == 0, (found < 0).expand_as(shares()))
    monkeypatch.setattr(hidden, "on_cpu", lambda _: False)
    as_they_would_be = shares()
    assert ((as_they_would_be > 0) & (as_they_would_be < torch.finfo(torch.float32).tiny)).any()


def test_a_querys_own_score_is_found_among_all() -> None:
    qkv, pooled, bias = maps(1.0, 0)
    place = laid_out(qkv, pooled)
    products._score(place, bias, None)
    q, k = (LAYOUT.tokens(x) for x in qkv[..., : 2 * HEADS * DIM].chunk(2, -1))  # (heads, B, down, across, w, w, D)
    middle = [row * (WINDOW + 2) + column for row in range(1, WINDOW + 1) for column in range(1, WINDOW + 1)]
    of_bias = bias[:, range(WINDOW**2), middle].view(HEADS, 1, 1, 1, WINDOW, WINDOW)
    expected = (q * k).sum(-1) * DIM**-0.5 + of_bias
    torch.testing.assert_close(place.own(), expected.flatten(0, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("beyond", [True, False])
@pytest.mark.parametrize("far", [1.0, 80.0, 250.0])
def test_gradients_are_those_of_the_scores_added(beyond: bool, far: float) -> None:
    told, found = hiding(-100.0, beyond)
    sources = [x.requires_grad_() for x in maps(far / DIM**0.5, 0, torch.float64)]
    qkv, pooled, bias = sources
    k_and_v = qkv[..., HEADS * DIM :]
    weight = torch.randn(IMAGES, *SIDES, HEADS * DIM, dtype=torch.float64)
    fine = torch.nn.functional.pad(k_and_v.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="circular")
    coarse = torch.nn.functional.pad(pooled.permute(0, 3, 1, 2), (1, 1, 1, 1))
    regions = [fine.unfold(2, WINDOW + 2, WINDOW).unfold(3, WINDOW + 2, WINDOW), coarse.unfold(2, 3, 1).unfold(3, 3, 1)]
    k, v = (  # (B, heads, windows, keys, D)
        torch.cat([part.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2, 3) for part in regions], 2)
        .unflatten(-1, (2, HEADS, DIM))
        .permute(3, 0, 4, 1, 2, 5)
    )
    q = LAYOUT.tokens(qkv[..., : HEADS * DIM]).flatten(4, 5).flatten(2, 3).transpose(0, 1)
    out = (q @ k.mT * DIM**-0.5 + bias[:, None] + found).softmax(-1) @ v  # (B, heads, windows, w², D)
    answered = LAYOUT.tokens(weight).flatten(4, 5).flatten(2, 3).transpose(0, 1)
    to_qkv, to_bias, (to_pooled,) = products.differentiate(
        weight, qkv.detach(), [pooled.detach()], LAYOUT, bias.detach(), told
    )
    expected = torch.autograd.grad((out * answered).sum(), sources)
    for actual, wanted in zip((to_qkv, to_pooled, to_bias), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-9 * float(wanted.abs().max()))
