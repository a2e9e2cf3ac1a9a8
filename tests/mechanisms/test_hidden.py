"""What hides keys: exactly what its score says, and no share at all where rounding loses it."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

products = import_module("attnbench.mechanisms._region_products")  # by name: a type checker does not see plug-ins

KEYS, QUERIES = 6, 3


def hiding(score: float, rows: int = 2, columns: int = 2) -> tuple[Any, Any, Tensor]:
    """Some windows of which two alike hide the last two keys, the box of all of them, and what hides by window."""
    visible = np.ones((rows * columns, 1, KEYS), dtype=bool)
    visible[1:3, :, -2:] = False
    hidden = products.Hidden.where_not(visible, score, columns, torch.device("cpu"))
    box = slice(0, rows), slice(0, columns)
    found = torch.where(torch.from_numpy(visible), 0.0, score)
    return hidden, box, found.repeat(2, QUERIES, 1)  # of two images


def added(hidden: Any, box: Any, raw: Tensor) -> Tensor:
    scores = raw.clone()
    hidden.add(hidden.of(*box, raw.dtype), scores)
    return scores


@given(scale=st.floats(0, 90), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_shares_are_those_of_the_scores_added(scale: float, seed: int) -> None:
    """Up to scores so far apart that a hidden key outweighs those that are seen."""
    raw = torch.randn(8, QUERIES, KEYS, generator=torch.Generator().manual_seed(seed)) * scale
    hidden, box, found = hiding(-100.0)
    expected = (raw.double() + found).softmax(-1)
    actual = added(hidden, box, raw).softmax(-1)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-12)


def test_no_share_is_subnormal_where_scores_are_as_close_as_in_networks() -> None:
    raw = 10 * torch.rand(8, QUERIES, KEYS)
    hidden, box, found = hiding(-100.0)
    least = torch.finfo(torch.float32).tiny
    written = (raw + found).softmax(-1)
    assert ((written > 0) & (written < least)).any()  # as they would be
    shares = added(hidden, box, raw).softmax(-1)
    assert not ((shares > 0) & (shares < least)).any()
    assert torch.equal(shares == 0, found < 0)


def test_a_hidden_key_that_outweighs_the_others_is_attended() -> None:
    raw = torch.zeros(8, QUERIES, KEYS)
    raw[:, 0, -1] = 150
    hidden, box, found = hiding(-100.0)
    hides = found[:, 0, -1] < 0
    assert hides.sum() == 4  # two windows, of two images
    assert (added(hidden, box, raw).softmax(-1)[hides, 0, -1] > 0.99).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minus_infinity_is_added_as_it_is(dtype: torch.dtype) -> None:
    raw = torch.randn(8, QUERIES, KEYS, dtype=dtype)
    hidden, box, found = hiding(-torch.inf)
    assert torch.equal(added(hidden, box, raw), raw + found)
