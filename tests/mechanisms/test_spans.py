"""Regions of a map: gathered as numpy pads and slices, and added up by the adjoint of that."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

IMAGES, PARTS, DIM = 2, 4, 3

spans = import_module("attnbench.mechanisms._spans")  # by name: a type checker does not see where plug-ins lie


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, tuple[int, int], slice, tuple[slice, slice]]:
    """Draw a span, how many windows there are down and across, some images and a box of windows."""
    step = draw(st.integers(1, 5))
    around = draw(st.booleans())
    margin = draw(st.integers(0, 7))
    down, across = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    parts = []
    for count in (IMAGES, down, across):
        start = draw(st.integers(0, count - 1))
        parts.append(slice(start, draw(st.integers(start + 1, count))))
    images, rows, columns = parts
    return spans.Span(step + 2 * margin, step, around), (down, across), images, (rows, columns)


def padded(level: Tensor, span: Any, windows: tuple[int, int]) -> Tensor:
    """Extend the whole map as numpy does; cells that a last window lacks are zero too."""
    short = [(0, count * span.step - side) for count, side in zip(windows, level.shape[1:3], strict=True)]
    filled = np.pad(level.numpy(), ((0, 0), *short, (0, 0)))
    around = (span.margin, span.margin)
    sides = ((0, 0), around, around, (0, 0))
    return torch.from_numpy(np.pad(filled, sides, mode="wrap") if span.around else np.pad(filled, sides))


def drawn(span: Any, windows: tuple[int, int], lacking: int, seed: int) -> Tensor:
    """Return a map that windows do not divide, where they need not."""
    lacking = 0 if span.around else min(lacking, span.step - 1)
    generator = torch.Generator().manual_seed(seed)
    sides = windows[0] * span.step - lacking, windows[1] * span.step
    return torch.randn(IMAGES, *sides, PARTS * DIM, generator=generator, dtype=torch.float64)


@given(case=cases(), lacking=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_regions_are_slices_of_the_extended_map(case: Any, lacking: int, seed: int) -> None:
    span, windows, images, (rows, columns) = case
    level = drawn(span, windows, lacking, seed)
    extended = padded(level, span, windows)
    side = span.side
    expected = [
        extended[image, row * span.step :, column * span.step :][:side, :side].reshape(side, side, PARTS, DIM)
        for image in range(images.start, images.stop)
        for row in range(rows.start, rows.stop)
        for column in range(columns.start, columns.stop)
    ]
    regions = spans.Level.of(level, PARTS, span, windows, IMAGES).regions(images)[:, :, rows, columns]
    assert torch.equal(regions.flatten(1, 3), torch.stack(expected).permute(3, 0, 1, 2, 4))


@given(case=cases(), lacking=st.integers(0, 4), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_adding_up_is_the_adjoint_of_the_regions(case: Any, lacking: int, seed: int) -> None:
    span, windows, images, box = case
    level = drawn(span, windows, lacking, seed)
    regions = spans.Level.of(level, PARTS, span, windows, IMAGES).regions(images)[:, :, box[0], box[1]]
    other = torch.randn(regions.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    added = torch.zeros_like(level)
    sums = spans.Level.of(added, PARTS, span, windows, IMAGES)
    for _ in range(2):  # nothing is left of what was added up before
        if sums.extended is not None:
            added[images] = torch.nan  # all of it is written
        sums.clear()
        sums.add(other, images, box)
        sums.fold(images)
    torch.testing.assert_close((regions * other).sum(), (level * added).sum(), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("margin", "lacking", "copied"), [(0, 0, False), (0, 1, True), (1, 0, True)])
def test_regions_that_cover_the_map_are_views_of_it(margin: int, lacking: int, copied: bool) -> None:
    level = torch.randn(IMAGES, 6 - lacking, 9, PARTS * DIM)
    regions = spans.Level.of(level, PARTS, spans.Span(3 + 2 * margin, 3), (2, 3), IMAGES).regions(slice(0, 1))
    assert (regions.untyped_storage().data_ptr() != level.untyped_storage().data_ptr()) == copied
