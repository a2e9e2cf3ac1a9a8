"""How an image is brought to a canvas, and its boxes and masks with it: resize, crop, mirror.

An image keeps its proportions and is made as large as the canvas allows; an upright one is shown on an upright canvas,
as COCO's convention of a short and a long side has it. Training multiplies that size by a random factor, uniform in its
range (large-scale jitter, arXiv 2012.07177, section 3): what is then larger than the canvas is cropped to it at random.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._examples import Example

KEPT = 0.1  # least share of a box's area that a crop must leave of it
LEAST = 1.0  # pixels of width and height, after resizing and cropping


@dataclass(frozen=True, slots=True)
class Frame:
    """Where on the resized image the view lies, and whether it is mirrored. Pixels of the resized image."""

    resized: tuple[int, int]  # (h, w) of the whole image
    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def fitted(size: tuple[int, int], canvas: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """Return the size (h, w) of an image (H, W) on ``canvas``, times ``factor``."""
    height, width = turned(size, canvas)
    scale = factor * min(height / size[0], width / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def turned(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Return ``canvas`` (H, W), upright for an upright image and lying for a lying one."""
    upright, canvas_upright = size[0] > size[1], canvas[0] > canvas[1]
    return canvas if upright == canvas_upright or size[0] == size[1] else (canvas[1], canvas[0])


def plain(size: tuple[int, int], canvas: tuple[int, int]) -> Frame:
    """Return the frame of validation: the whole image."""
    resized = fitted(size, canvas)
    return Frame(resized, 0, 0, *resized, mirrored=False)


def drawn(
    size: tuple[int, int],
    canvas: tuple[int, int],
    scales: tuple[float, float],
    flip: float,
    random: np.random.Generator,
) -> Frame:
    """Return a random frame of training. Four numbers are drawn, whatever they are used for."""
    factor, down, right, coin = random.random(4)
    resized = fitted(size, canvas, scales[0] + (scales[1] - scales[0]) * float(factor))
    limits = turned(size, canvas)
    height, width = min(resized[0], limits[0]), min(resized[1], limits[1])
    top, left = int(down * (resized[0] - height + 1)), int(right * (resized[1] - width + 1))
    return Frame(resized, top, left, height, width, mirrored=bool(coin < flip))


def view(picture: NDArray[np.uint8], frame: Frame) -> Tensor:
    """Return the part of (H, W, 3) that ``frame`` shows, as (3, h, w), 8 bits."""
    from torchvision.transforms.v2 import InterpolationMode

    return _shown(torch.from_numpy(picture).permute(2, 0, 1), frame, InterpolationMode.BILINEAR)


def objects(example: Example, frame: Frame) -> dict[str, Tensor]:
    """Return what a detector learns from: the boxes that enough is left of, clipped, with labels and masks.

    Boxes (N, 4) are left, top, right, bottom in pixels of the view; labels (N,) int64; masks (N, h, w) of 0 and 1.
    """
    whole = _placed(example, frame)
    boxes = whole.clip(0, (frame.width, frame.height) * 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.prod(whole[:, 2:] - whole[:, :2], axis=1)
    kept = (sides >= LEAST).all(axis=1) & (sides.prod(axis=1) >= KEPT * area)
    found = {"boxes": torch.from_numpy(boxes[kept]).float(), "labels": torch.from_numpy(example.labels[kept])}
    if example.masks is None:
        return found
    from torchvision.transforms.v2 import InterpolationMode

    masks = _shown(torch.from_numpy(example.masks[kept]), frame, InterpolationMode.NEAREST)
    seen = masks.flatten(1).any(dim=1).bool()  # of bytes it is bytes
    return {name: tensor[seen] for name, tensor in {**found, "masks": masks}.items()}


def _placed(example: Example, frame: Frame) -> NDArray[np.float64]:
    """Return the boxes in pixels of the view, not clipped; those beyond the image's border end at it."""
    height, width = example.size
    ratios = np.array([frame.resized[1] / width, frame.resized[0] / height] * 2)
    boxes: NDArray[np.float64] = example.boxes.clip(0, (width, height) * 2) * ratios - ((frame.left, frame.top) * 2)
    if frame.mirrored:
        boxes[:, [0, 2]] = frame.width - boxes[:, [2, 0]]
    return boxes


def _shown(pixels: Tensor, frame: Frame, interpolation: object) -> Tensor:
    """Return the part of (N, H, W) that ``frame`` shows."""
    from torchvision.transforms.v2 import functional

    resized = functional.resize(pixels, list(frame.resized), interpolation=interpolation, antialias=True)
    part: Tensor = functional.crop(resized, frame.top, frame.left, frame.height, frame.width)
    return functional.horizontal_flip(part) if frame.mirrored else part
