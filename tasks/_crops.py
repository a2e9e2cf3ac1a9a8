"""What the network sees of a picture and its label map: a random crop in training, the whole at test.

A picture and its label map may differ in size; both are cut by the same shares of their sides. Pictures are resized
bilinearly and with antialiasing by Pillow, which computes the crop alone; a label is that of the nearest pixel.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._loading import seeded

Picture = NDArray[np.uint8]  # (H, W, 3)
Labels = NDArray[np.int16]  # (h, w)
Size = tuple[int, int]  # height, width

LONGEST = 4  # a test image's longer side at most, in that of the resolution
CELL = 4  # pixels of a token of the first stage


def training_crop(
    picture: Picture, labels: Labels, resolution: Size, scale: float, random: np.random.Generator
) -> tuple[Picture, Labels]:
    """Return a random window of the image resized to ``scale`` times what covers the resolution.

    Where ``scale`` is below 1, the window may be smaller than the resolution, never larger.
    """
    factor = scale * max(side / own for side, own in zip(resolution, labels.shape, strict=True))
    rows, columns = (max(round(factor * own), 1) for own in labels.shape)
    height, width = min(rows, resolution[0]), min(columns, resolution[1])
    top, left = (int(random.integers(room + 1)) for room in (rows - height, columns - width))
    across, down = picture.shape[1] / columns, picture.shape[0] / rows
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    cut = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, _within(box, picture))
    nearest = np.ix_(
        _nearest(top, height, rows, labels.shape[0]),
        _nearest(left, width, columns, labels.shape[1]),
    )
    return np.asarray(cut), labels[nearest]


def distorted(picture: Picture, strength: float, random: np.random.Generator) -> Picture:
    """Return the picture with brightness, contrast, saturation changed by up to ``strength``, hue by a fifth of it."""
    from torchvision.transforms import v2  # takes seconds

    jitter = v2.ColorJitter(strength, strength, strength, min(strength / 5, 0.5))
    with seeded(random):
        return np.asarray(jitter(Image.fromarray(picture)))


def inference_size(size: Size, resolution: Size, scale: float) -> Size:
    """Return the size, in multiples of 4, at which an image of ``size`` is tested.

    The image covers ``scale`` times the resolution, but that its longer side is at most 4 times as long.
    """
    ratios = [side / own for side, own in zip(resolution, size, strict=True)]
    factor = scale * min(max(ratios), LONGEST * max(resolution) / max(size))
    height, width = (max(round(factor * own / CELL), 1) * CELL for own in size)
    return height, width


def resized(picture: Picture, size: Size) -> Picture:
    """Return the whole picture at ``size``."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


def _nearest(start: int, count: int, length: int, own: int) -> NDArray[np.int64]:
    """Return the nearest of ``own`` pixels to each of ``count`` from ``start`` on, of a side resized to ``length``."""
    # Whole numbers: the middle of pixel i, at (i + 1/2) own / length, lies in the pixel that this rounds down to.
    return (2 * np.arange(start, start + count, dtype=np.int64) + 1) * own // (2 * length)


def _within(box: tuple[float, float, float, float], picture: Picture) -> tuple[float, float, float, float]:
    """Return the box without what rounding put beyond the picture, which Pillow refuses."""
    left, top, right, bottom = box
    return left, top, min(right, picture.shape[1]), min(bottom, picture.shape[0])
