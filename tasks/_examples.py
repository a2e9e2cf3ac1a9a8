"""What a source of detection data hands out: pictures, objects to learn from, and the truth that a score needs."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attnbench.task_contract import Split

from ._data import Data


@dataclass(frozen=True, slots=True)
class Truth:
    """What a COCO evaluator knows of one image, in COCO's own form and ids.

    ``annotations`` are those of the image, crowds and degenerate boxes among them: ``id`` (unique in the split, not 0),
    ``bbox`` (left, top, width, height), ``category_id``, ``area`` and ``iscrowd``; where the data have masks,
    ``segmentation`` too (polygons or run lengths). Pixels are those of ``size``.
    """

    image_id: int
    size: tuple[int, int]  # (H, W)
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One picture and the objects to learn from; crowds and degenerate boxes are no such objects."""

    picture: NDArray[np.uint8]  # (h, w, 3); the whole image, at its own size or reduced
    size: tuple[int, int]  # (H, W) of the image that boxes and masks are given for, pixels
    boxes: NDArray[np.float64]  # (N, 4): left, top, right, bottom
    labels: NDArray[np.int64]  # (N,): indices into the source's classes
    masks: NDArray[np.uint8] | None  # (N, H, W), 0 or 1; None where the data have no masks, or none were asked for
    truth: Truth


class Source(Data, Protocol):
    """Where examples come from."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Return the ids that truths use, in the order of the labels."""

    def example(self, split: Split, index: int, canvas: tuple[int, int], factor: float = 1.0) -> Example:
        """Return an example to be shown at what fits ``canvas`` (H, W), times at most ``factor``.

        A rendered picture has the size of the canvas. One from a file keeps its own size, unless it can be read faster
        at a smaller one that is still no smaller than it will be shown.
        """
