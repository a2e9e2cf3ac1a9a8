"""Inference of segmentation: windows, upsampling and averages against naive versions in float64."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

# By string: a type checker cannot see that tasks/ is installed as attnbench.tasks.
sliding: Any = importlib.import_module("attnbench.tasks._sliding")

sides = st.integers(1, 90)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(images: Tensor) -> Tensor:
    """Return four "logits" at stride 4: a plain function of each window, and of where in it a token lies."""
    assert images.shape[2] % 32 == images.shape[3] % 32 == 0
    means = F.avg_pool2d(images, 4)
    place = torch.linspace(0, 1, means.shape[2])[:, None] + torch.linspace(0, 1, means.shape[3])
    return torch.cat([means, (means.sum(1, keepdim=True) * place)], dim=1)


def bilinear(logits: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Resize (C, H, W) by the textbook, a side at a time: pixel i is at (i + 1/2) own / new - 1/2, clamped."""
    for axis, new in ((1, size[0]), (2, size[1])):
        own = logits.shape[axis]
        weights = np.zeros((new, own))
        for pixel in range(new):
            place = min(max((pixel + 0.5) * own / new - 0.5, 0), own - 1)
            low = int(place)
            weights[pixel, low] += 1 - (place - low)
            weights[pixel, min(low + 1, own - 1)] += place - low
        logits = np.moveaxis(np.tensordot(weights, logits, (1, axis)), 0, axis)
    return logits


def by_windows(image: Tensor, window: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Average windows one at a time, in float64."""
    rows, columns = image.shape[1:]
    height, width = min(window[0], rows), min(window[1], columns)
    total, count = np.zeros((4, rows, columns)), np.zeros((rows, columns))

    def starts(length: int, side: int) -> list[int]:
        found, start = [], 0
        while start + side < length:
            found.append(start)
            start += max(side * 2 // 3, 1)
        return [*found, length - side]

    for top in starts(rows, height):
        for left in starts(columns, width):
            part = torch.zeros(1, 3, -(height // -32) * 32, -(width // -32) * 32)
            part[0, :, :height, :width] = image[:, top : top + height, left : left + width]
            logits = network(part)[0, :, : -(height // -4), : -(width // -4)].double().numpy()
            total[:, top : top + height, left : left + width] += bilinear(logits, (height, width))
            count[top : top + height, left : left + width] += 1
    return total / count


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 70), st.integers(1, 70), st.integers(1, 5))
def test_windows_average_as_one_at_a_time_does(rows: int, columns: int, high: int, wide: int, batch: int) -> None:
    image = noise(3, rows, columns)
    found = sliding.in_windows(network, image, (max(high, rows // 4), max(wide, columns // 4)), batch)
    expected = by_windows(image, (max(high, rows // 4), max(wide, columns // 4)))
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


@given(sides, sides)
def test_a_window_that_covers_the_image_is_the_whole_image(rows: int, columns: int) -> None:
    image = noise(3, rows, columns)
    whole = sliding.whole(network, image[None])
    upsampled = F.interpolate(whole, size=(rows, columns), mode="bilinear", align_corners=False)[0]
    assert torch.equal(sliding.in_windows(network, image, (rows, columns + 5), 4), upsampled)


@given(st.integers(1, 200), st.integers(1, 100))
def test_windows_lie_in_the_image_and_cover_it(length: int, window: int) -> None:
    window = min(window, length)
    starts = list(sliding._starts(length, window))
    assert {pixel for start in starts for pixel in range(start, start + window)} == set(range(length))
    assert starts == sorted(set(starts))


def likely(maps: list[Tensor], size: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return class and lead over the second class of each pixel, in float64."""
    mean = np.zeros((maps[0].shape[0], *size))
    for logits in maps:
        scores = np.exp(bilinear(logits.double().numpy(), size))
        mean += scores / scores.sum(axis=0)
    ordered = np.sort(mean, axis=0)
    return mean.argmax(axis=0), ordered[-1] - ordered[-2]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.data())
def test_classes_are_those_of_mean_probabilities(
    rows: int, columns: int, high: int, wide: int, views: int, data: st.DataObject
) -> None:
    maps = [noise(3, rows + view, columns + view, seed=view) for view in range(views)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliding, "BAND", data.draw(st.sampled_from([1, 3 * wide * 2, 2**25])))
        found = sliding.most_likely(maps, (high, wide)).numpy()
    expected, lead = likely(maps, (high, wide))
    assert found.dtype == np.int16
    assert (found == expected)[lead > 1e-5].all()


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 39), st.integers(1, 40))
def test_bands_are_rows_of_torchs_upsampling(rows: int, high: int, start: int, count: int) -> None:
    logits, start = noise(2, rows, 5), min(start, high - 1)
    stop = min(start + count, high)
    expected = F.interpolate(logits[None], size=(high, 11), mode="bilinear", align_corners=False)[0, :, start:stop]
    torch.testing.assert_close(sliding._upsampled(logits, (high, 11), start, stop), expected, rtol=1e-5, atol=1e-5)


def test_a_pixel_with_nan_is_of_no_class() -> None:
    logits = noise(3, 2, 2)
    logits[1, 0, 0] = float("nan")
    assert sliding.most_likely([logits], (2, 2)).eq(-1).tolist() == [[True, False], [False, False]]
    assert sliding.most_likely([noise(3, 2, 2), logits], (2, 2)).eq(-1).tolist() == [[True, False], [False, False]]


def test_alignment_only_adds_zeros_after_the_image() -> None:
    images = noise(2, 3, 33, 64)
    found = sliding.aligned(images)
    assert found.shape == (2, 3, 64, 64)
    assert torch.equal(found[:, :, :33], images)
    assert not found[:, :, 33:].any()
    assert sliding.aligned(found) is found
