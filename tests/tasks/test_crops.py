"""Crops of segmentation: a picture and its label map stay together, whatever their sizes."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
crops: Any = importlib.import_module("attnbench.tasks._crops")

sides = st.integers(1, 80)
scales = st.floats(0.25, 3)


def ramp(rows: int, columns: int) -> NDArray[np.uint8]:
    """Return a picture whose red tells how far down a pixel is, and whose green tells how far right."""
    picture = np.zeros((rows, columns, 3), dtype=np.uint8)
    picture[..., 0] = np.round(255 * (np.arange(rows)[:, None] + 0.5) / rows)
    picture[..., 1] = np.round(255 * (np.arange(columns) + 0.5) / columns)
    return picture


def numbered(rows: int, columns: int) -> NDArray[np.int16]:
    return np.arange(rows * columns, dtype=np.int16).reshape(rows, columns)


@given(sides, sides, sides, sides, scales, st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_each_pixel_keeps_its_label(
    rows: int, columns: int, high: int, wide: int, scale: float, reduced: int, seed: int
) -> None:
    picture = ramp(-(rows // -reduced), -(columns // -reduced))
    cut, labels = crops.training_crop(
        picture, numbered(rows, columns), (high, wide), scale, np.random.default_rng(seed)
    )
    assert cut.shape == (*labels.shape, 3)
    factor = scale * max(high / rows, wide / columns)
    for channel, own, read, place in (
        (0, rows, picture.shape[0], labels // columns),
        (1, columns, picture.shape[1], labels % columns),
    ):
        # Half a pixel by the nearest label, as much where the filter meets the border, one colour by rounding.
        allowed = 255 * (0.5 / own + 0.5 / read + 0.5 / max(round(factor * own), 1)) + 1
        assert np.abs(cut[..., channel] - 255 * (place + 0.5) / own).max() <= allowed


@given(sides, sides, sides, sides, scales, st.integers(0, 99))
def test_a_crop_is_at_most_the_resolution_and_fills_it_from_scale_one(
    rows: int, columns: int, high: int, wide: int, scale: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    cut, _ = crops.training_crop(ramp(rows, columns), numbered(rows, columns), (high, wide), scale, random)
    assert cut.shape[0] <= high
    assert cut.shape[1] <= wide
    if scale >= 1:
        assert cut.shape[:2] == (high, wide)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_crop_is_cut_from_the_resized_image(scale: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    cut, labels = crops.training_crop(noise, numbered(48, 64), (32, 32), scale, np.random.default_rng(1))
    size = (round(48 * scale * 32 / 48), round(64 * scale * 32 / 48))
    whole = np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    nearest = torch.nn.functional.interpolate(
        torch.from_numpy(numbered(48, 64))[None, None].double(), size=size, mode="nearest-exact"
    )[0, 0].numpy()
    places = [
        (top, left)
        for top in range(size[0] - cut.shape[0] + 1)
        for left in range(size[1] - cut.shape[1] + 1)
        if np.array_equal(nearest[top : top + cut.shape[0], left : left + cut.shape[1]], labels)
    ]
    assert any(
        np.abs(whole[top : top + cut.shape[0], left : left + cut.shape[1]] - cut).max() <= 1 for top, left in places
    )


def test_crops_reach_every_corner() -> None:
    labels = numbered(20, 20)
    random = np.random.default_rng(0)
    seen = {int(crops.training_crop(ramp(20, 20), labels, (10, 10), 2.0, random)[1][0, 0]) for _ in range(2000)}
    assert seen == {row * 20 + column for row in range(11) for column in range(11)}


@given(sides, sides, st.integers(32, 90), st.integers(32, 90), st.floats(0.5, 2))
def test_a_test_image_covers_the_resolution_or_is_four_times_as_long(
    rows: int, columns: int, high: int, wide: int, scale: float
) -> None:
    size = crops.inference_size((rows, columns), (high, wide), scale)
    factor = scale * max(high / rows, wide / columns)
    longest = 4 * scale * max(high, wide)
    if factor * max(rows, columns) > longest:
        factor = longest / max(rows, columns)
    for found, own in zip(size, (rows, columns), strict=True):
        assert found % 4 == 0
        assert found >= 4
        assert abs(found - factor * own) <= 2 + 1e-9 or found == 4


def test_distortion_depends_on_its_generator_alone_and_spares_the_callers() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    before = torch.random.get_rng_state()
    first, again, other = (crops.distorted(picture, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, picture)
