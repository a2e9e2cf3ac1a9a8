"""Resizing, cropping and mirroring: what boxes and masks say is where the pixels are."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

framing: Any = importlib.import_module("attnbench.tasks._framing")
examples: Any = importlib.import_module("attnbench.tasks._examples")

Size = tuple[int, int]
sides = st.integers(40, 120)


def painted(size: Size, boxes: list[list[int]], masks: bool = False) -> Any:
    """An image black but for white boxes (left, top, right, bottom), the last on top."""
    picture = np.zeros((*size, 3), dtype=np.uint8)
    layers = np.zeros((len(boxes), *size), dtype=np.uint8)
    for layer, (left, top, right, bottom) in zip(layers, boxes, strict=True):
        layer[top:bottom, left:right] = 1
        picture[top:bottom, left:right] = 255
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    labels = np.arange(len(boxes), dtype=np.int64)
    return examples.Example(picture, size, corners, labels, layers if masks else None, None)


def extent(pixels: torch.Tensor) -> list[int]:
    """The smallest box around what is not black, by looking at every pixel."""
    rows, columns = pixels.any(dim=1).nonzero(), pixels.any(dim=0).nonzero()
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_an_image_is_as_large_as_fits() -> None:
    assert framing.fitted((480, 640), (800, 1333)) == (800, 1067)
    assert framing.fitted((400, 1000), (800, 1333)) == (533, 1333)
    assert framing.fitted((1, 4000), (64, 64)) == (1, 64)


def test_an_upright_image_has_the_canvas_turned() -> None:
    assert framing.fitted((640, 480), (800, 1333)) == (1067, 800)
    assert framing.fitted((480, 640), (1333, 800)) == (800, 1067)
    assert framing.fitted((500, 500), (800, 1333)) == (800, 800)


@settings(max_examples=100, deadline=None)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.floats(0.3, 2), st.integers(0, 10**6), st.booleans())
def test_what_a_view_shows_of_a_box_is_where_its_pixels_are(
    size: Size, canvas: Size, factor: float, seed: int, flip: bool
) -> None:
    random = np.random.default_rng(seed)
    height, width = size
    left, top = int(random.integers(width - 20)), int(random.integers(height - 20))
    example = painted(size, [[left, top, left + 20, top + 20]], masks=True)
    frame = framing.drawn(size, canvas, (factor, factor), float(flip), random)
    shown, found = framing.view(example.picture, frame), framing.objects(example, frame)
    limits = framing.turned(size, canvas)
    assert shown.shape[1] <= limits[0]
    assert shown.shape[2] <= limits[1]
    if not len(found["boxes"]):
        return
    mask_extent = extent(found["masks"][0])
    bright = extent(shown[0] > 127)
    # A pixel at the edge is half covered at most, and by nearest interpolation shifted by half a pixel of the source.
    slack = 1 + max(1.0, frame.resized[0] / height)
    assert np.abs(np.array(mask_extent) - found["boxes"][0].numpy()).max() <= slack
    assert np.abs(np.array(bright) - found["boxes"][0].numpy()).max() <= slack


@settings(max_examples=100, deadline=None)
@given(st.tuples(sides, sides), st.integers(0, 10**6))
def test_without_resizing_boxes_are_exactly_the_extent_of_their_pixels(size: Size, seed: int) -> None:
    random = np.random.default_rng(seed)
    left, top = int(random.integers(size[1] - 15)), int(random.integers(size[0] - 15))
    example = painted(size, [[left, top, left + 15, top + 15]], masks=True)
    height, width = int(random.integers(20, size[0] + 1)), int(random.integers(20, size[1] + 1))
    where = int(random.integers(size[0] - height + 1)), int(random.integers(size[1] - width + 1))
    frame = framing.Frame(size, *where, height, width, mirrored=bool(random.integers(2)))
    shown, found = framing.view(example.picture, frame), framing.objects(example, frame)
    area = int((shown[0] > 0).sum())
    assert len(found["boxes"]) == (area >= framing.KEPT * 15 * 15)
    if len(found["boxes"]):
        assert found["boxes"][0].tolist() == extent(shown[0] > 0)
        assert torch.equal(found["masks"][0].bool(), shown[0] > 0)


def test_a_mirrored_view_is_the_view_mirrored() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    example = painted((50, 70), [[10, 5, 30, 25], [40, 20, 69, 48]], masks=True)
    straight = framing.Frame((40, 56), 3, 5, 30, 45, mirrored=False)
    mirrored = framing.Frame((40, 56), 3, 5, 30, 45, mirrored=True)
    assert torch.equal(framing.view(picture, mirrored), framing.view(picture, straight).flip(-1))
    first, second = framing.objects(example, straight), framing.objects(example, mirrored)
    assert torch.equal(second["masks"], first["masks"].flip(-1))
    assert torch.allclose(second["boxes"][:, [2, 0]], 45 - first["boxes"][:, [0, 2]], atol=1e-5)
    assert torch.equal(second["boxes"][:, [1, 3]], first["boxes"][:, [1, 3]])


def test_a_box_of_less_than_a_pixel_or_beyond_the_border_is_not_learnt() -> None:
    example = painted((100, 100), [[10, 10, 11, 60], [20, 20, 40, 40]])
    outside = np.array([[-30, -30, -5, -5], [90, 90, 130, 140]], dtype=np.float64)
    boxes = np.concatenate([example.boxes, outside])
    example = examples.Example(example.picture, (100, 100), boxes, np.arange(4), None, None)
    found = framing.objects(example, framing.plain((100, 100), (50, 50)))
    assert found["labels"].tolist() == [1, 3]
    assert found["boxes"].tolist() == [[10, 10, 20, 20], [45, 45, 50, 50]]


def test_the_size_of_a_view_is_uniform_in_the_range_and_capped_by_the_canvas() -> None:
    frames = [framing.drawn((50, 50), (100, 100), (0.5, 1.5), 0.5, np.random.default_rng(seed)) for seed in range(2000)]
    resized = np.array([frame.resized[0] for frame in frames])
    assert resized.min() >= 50
    assert resized.max() <= 150
    assert np.abs(np.histogram(resized, bins=5, range=(50, 150))[0] / 2000 - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 2000)
    assert all(frame.height == min(frame.resized[0], 100) for frame in frames)
    assert abs(np.mean([frame.mirrored for frame in frames]) - 0.5) < 5 * 0.5 / np.sqrt(2000)
    assert {frame.top for frame in frames if frame.resized[0] == 102} <= {0, 1, 2}


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_flip_of_probability_none_or_one_is_certain(flip: float) -> None:
    drawn = [framing.drawn((9, 9), (9, 9), (1.0, 1.0), flip, np.random.default_rng(seed)) for seed in range(50)]
    assert {frame.mirrored for frame in drawn} == {bool(flip)}
