"""Intersection over union of label maps, by counting pixels in whole numbers.

The confusion matrix is kept as what is read of it, its diagonal and its two margins: data sets of thousands of classes
fit. Ignored pixels count nowhere. A class that neither the ground truth nor any prediction shows has no IoU and is left
out of the mean, as in mmsegmentation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnbench.errors import UserError

IGNORE = -1  # in ground truth: no class; in predictions: none, never right


class Truth(NamedTuple):
    """Targets of a validation batch.

    Images of one batch differ in size and are zero-padded at the bottom and right to the largest; what is not padding
    is in ``sizes``, (H, W), first by test scale and then by image.
    """

    labels: tuple[Tensor, ...]  # each (h, w), int16, of the label map's own size
    sizes: tuple[tuple[tuple[int, int], ...], ...]
    window: tuple[int, int]  # the resolution
    rescaled: tuple[Tensor, ...]  # the images at the test scales after the first


class MeanIou:
    """Counts pixels by class over all images; ``outcomes`` keeps each image's mean IoU, in order.

    An image's outcome is the mean over the classes in its own ground truth; 1 where all of it is ignored.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.outcomes: list[float] = []
        self.right, self.true, self.predicted = np.zeros((3, len(self.classes)), dtype=np.int64)

    def update(self, predictions: Sequence[Tensor], targets: Truth) -> None:
        """Take label maps (h, w) of whole numbers, one an image, of the size and device of ``targets.labels``."""
        for predicted, true in zip(predictions, targets.labels, strict=True):
            if predicted.shape != true.shape:
                raise ValueError(f"a prediction of {tuple(predicted.shape)} for labels of {tuple(true.shape)}")
            self._add(predicted, true)

    def compute(self) -> dict[str, float]:
        """Return the mean IoU over classes and the share of right pixels.

        Raises:
            UserError: every pixel is ignored.
        """
        if not self.outcomes:
            raise ValueError("no image has been scored")
        if not self.true.any():
            raise UserError("every pixel of the validation label maps is ignored; there is nothing to score")
        defined = [iou for iou in self._ious() if iou is not None]
        return {
            "miou": sum(defined) / len(defined),
            "pixel_accuracy": int(self.right.sum()) / int(self.true.sum()),
        }

    @property
    def by_class(self) -> dict[str, dict[str, float]]:
        """Return each class's IoU, without those that no pixel is of or was taken for."""
        pairs = zip(self.classes, self._ious(), strict=True)
        return {"class_iou": {name: iou for name, iou in pairs if iou is not None}}

    def _add(self, predicted: Tensor, true: Tensor) -> None:
        counted = true != IGNORE
        predicted, true = predicted[counted].long(), true[counted].long()
        right, truth = self._counts(true[predicted == true]), self._counts(true)
        said = self._counts(predicted[predicted != IGNORE])
        present = truth > 0
        union = truth + said - right
        self.outcomes.append(float((right[present] / union[present]).mean()) if present.any() else 1.0)
        self.right += right
        self.true += truth
        self.predicted += said

    def _counts(self, labels: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        counts: np.ndarray[tuple[int], np.dtype[np.int64]] = (
            torch.bincount(labels, minlength=len(self.classes)).cpu().numpy()
        )
        return counts

    def _ious(self) -> list[float | None]:
        union = self.true + self.predicted - self.right
        return [int(r) / int(u) if u else None for r, u in zip(self.right, union, strict=True)]
