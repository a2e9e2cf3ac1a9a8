"""Regions of a map: gathered as numpy pads and slices, and added up by the adjoint of that."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

spans = import_module("attnbench.mechanisms._spans")  # by name: a type checker does not see where plug-ins lie


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, int, int, Any]:
    """Draw a span, how many windows there are, and a chunk of them."""
    step = draw(st.integers(1, 5))
    around = draw(st.booleans())
    margin = draw(st.integers(0, 7))
    down, across = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    parts = []
    for count in (2, down, across):
        start = draw(st.integers(0, count - 1))
        parts.append(slice(start, draw(st.integers(start + 1, count))))
    return spans.Span(step + 2 * margin, step, around), down, across, spans.Chunk(*parts)


def padded(level: Tensor, span: Any, down: int, across: int) -> Tensor:
    """Extend the whole map, as no code of ours does; cells that a last window lacks are zero too."""
    short = [(0, count * span.step - side) for count, side in zip((down, across), level.shape[1:3], strict=True)]
    filled = np.pad(level.numpy(), ((0, 0), *short, (0, 0)))
    around = (span.margin, span.margin)
    sides = ((0, 0), around, around, (0, 0))
    return torch.from_numpy(np.pad(filled, sides, mode="wrap") if span.around else np.pad(filled, sides))


@given(case=cases(), lacking=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_regions_are_slices_of_the_extended_map(case: tuple[Any, int, int, Any], lacking: int, seed: int) -> None:
    span, down, across, chunk = case
    lacking = 0 if span.around else min(lacking, span.step - 1)  # a map that windows do not divide
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(2, down * span.step - lacking, across * span.step, 3, generator=generator, dtype=torch.float64)
    extended = padded(level, span, down, across)
    expected = [
        extended[image, row * span.step :, column * span.step :][: span.side, : span.side].reshape(-1, 3)
        for image in range(chunk.images.start, chunk.images.stop)
        for row in range(chunk.rows.start, chunk.rows.stop)
        for column in range(chunk.columns.start, chunk.columns.stop)
    ]
    assert torch.equal(spans.gather([level], (span,), chunk), torch.stack(expected))


@given(case=cases(), lacking=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_adding_up_is_the_adjoint_of_gathering(case: tuple[Any, int, int, Any], lacking: int, seed: int) -> None:
    span, down, across, chunk = case
    lacking = 0 if span.around or not span.margin else min(lacking, span.step - 1)
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(2, down * span.step - lacking, across * span.step, 4, generator=generator, dtype=torch.float64)
    gathered = spans.gather([level], (span,), chunk)
    other = torch.randn(gathered.shape, generator=generator, dtype=torch.float64)
    sizes = [part.stop - part.start for part in (chunk.images, chunk.rows, chunk.columns)]
    added = torch.zeros_like(level)
    images = level[chunk.images]
    sums = spans.extended_zeros(images, span, (down, across)) if span.margin else added[chunk.images]
    of_these = spans.Chunk(slice(0, len(images)), chunk.rows, chunk.columns)
    spans.scatter(other.unflatten(0, sizes).unflatten(-1, (2, 2)), [sums], (span,), of_these)
    if span.margin:
        added[chunk.images] = torch.nan  # all of it is written
        spans.fold(sums, span, added[chunk.images])
    torch.testing.assert_close((gathered * other).sum(), (level * added).sum(), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("around", [False, True])
def test_levels_lie_one_after_the_other(around: bool) -> None:
    levels = [torch.randn(1, 4, 4, 2), torch.randn(1, 2, 2, 2)]
    of_levels = spans.Span(4, 2, around), spans.Span(3, 1)
    chunk = spans.Chunk(slice(0, 1), slice(0, 2), slice(0, 2))
    both = spans.gather(levels, of_levels, chunk)
    alone = [spans.gather([level], (span,), chunk) for level, span in zip(levels, of_levels, strict=True)]
    assert torch.equal(both, torch.cat(alone, 1))
