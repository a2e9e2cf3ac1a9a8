"""Semantic segmentation: a class for each pixel; UperNet or Semantic FPN, pixel cross-entropy, mean IoU.

Training sees random crops of randomly resized images. Validation sees each image whole, resized so that it covers the
resolution, and is scored at the label map's own size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbench.errors import unknown
from attnbench.recipe import Recipe
from attnbench.registry import task
from attnbench.task_contract import Batch, Loading, Split

from ._augmentation import normalised
from ._check_label_maps import check
from ._crops import distorted, inference_size, resized, training_crop
from ._data import Data
from ._iou import IGNORE, MeanIou, Truth
from ._label_maps import LabelMaps
from ._loading import Draw, load_batches
from ._semantic_fpn import SemanticFpn
from ._shapes_labels import ShapesLabels
from ._sliding import aligned, in_windows, most_likely, whole
from ._upernet import UperNet

AUXILIARY = 0.4  # weight of the auxiliary head's loss
WINDOWS = 8  # sliding windows that are run together
HEADS = {"upernet": UperNet, "semantic_fpn": SemanticFpn}


class Source(Data, Protocol):
    """Where examples come from: pictures of 8 bits with label maps, -1 where a pixel is ignored."""

    def example(
        self, split: Split, index: int, resolution: tuple[int, int], scale: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Return the picture (H, W, 3) and its label map (h, w).

        What is drawn is drawn at the resolution; what is read has a size of its own, and the picture, not the label
        map, may come smaller than that as long as it covers ``scale`` times the resolution.
        """


@task("segmentation")
class Segmentation:
    """Tell which class each pixel is of."""

    headline = "miou"
    heads = tuple(HEADS)
    check = staticmethod(check)

    def __init__(self, data: str | None, head: str | None = None) -> None:
        if head is not None and head not in HEADS:
            raise unknown("head of segmentation", head, HEADS)
        self.source: Source = ShapesLabels() if data is None else LabelMaps(Path(data))
        self.identity = self.source.identity
        self.num_classes = len(self.source.classes)
        self.train_images = self.source.count("train")

    @staticmethod
    def head(channels: tuple[int, ...], num_classes: int, name: str | None = None) -> nn.Module:
        """Return the named head: (B, num_classes, H / 4, W / 4) of four stage maps."""
        name = next(iter(HEADS)) if name is None else name
        if name not in HEADS:
            raise unknown("head of segmentation", name, HEADS)
        return HEADS[name](channels, num_classes)

    def batches(self, split: Split, resolution: tuple[int, int], loading: Loading, recipe: Recipe) -> Iterator[Batch]:
        """Yield batches; targets are labels (B, H, W), int64, -1 ignored, in training, and :class:`Truth` otherwise.

        Raises:
            UserError: fewer training samples than one batch; a file that cannot be read or does not fit, named.
        """
        if split == "train":
            training = _Training(self.source, resolution, recipe, loading.seed)
            count = self.train_images
            return load_batches(split, count, loading, training, _training_batch, recipe.repeats)
        testing = _Validation(self.source, resolution, recipe.test_scales)
        return load_batches(split, self.source.count(split), loading, testing, _validation_batch)

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        """Return the mean over images and pixels of the cross-entropy, ignored pixels counting as zero, in float32.

        An auxiliary head's loss is added with a weight of 0.4.
        """
        del recipe
        images = aligned(batch.images)
        backbone = cast(Any, model)
        main, auxiliary = backbone.head.train_logits(backbone.stages(images))
        loss = _cross_entropy(main, batch.targets, _size(images))
        return loss if auxiliary is None else loss + AUXILIARY * _cross_entropy(auxiliary, batch.targets, _size(images))

    def predict(self, model: nn.Module, batch: Batch, recipe: Recipe) -> list[Tensor]:
        """Return the class of each pixel, int16, one map (h, w) of each image's own size.

        ``recipe`` is the one that the batches were made with.
        """
        truth: Truth = batch.targets
        predictions: dict[int, Tensor] = {}
        for group in _groups(truth, 1 if recipe.slide else len(truth.labels)):
            views = []
            for images, sizes in zip((batch.images, *truth.rescaled), truth.sizes, strict=True):
                height, width = sizes[group[0]]
                view = images[group, :, :height, :width]
                views += [_logits(model, view, truth.window, recipe.slide, mirrored) for mirrored in _sides(recipe)]
            for place, image in enumerate(group):
                predictions[image] = most_likely([view[place] for view in views], _size(truth.labels[image]))
        return [predictions[image] for image in range(len(truth.labels))]

    def score(self) -> MeanIou:
        """Return an empty score."""
        return MeanIou(self.source.classes)


@dataclass(frozen=True, slots=True)
class _Training:
    """Crops: a view (3, H, W), normalised, and labels (H, W), int16."""

    source: Source
    resolution: tuple[int, int]
    recipe: Recipe
    seed: int

    def __call__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        random = draw.random(self.seed)
        scale = float(random.uniform(*self.recipe.scales))
        picture, labels = self.source.example("train", draw.index, self.resolution, scale)
        picture, labels = training_crop(picture, labels, self.resolution, scale, random)
        if random.random() < self.recipe.flip:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        if self.recipe.color_jitter:
            picture = distorted(picture, self.recipe.color_jitter, random)
        view = _filled(normalised(picture), self.resolution, 0)
        return view, _filled(torch.from_numpy(labels.copy()), self.resolution, IGNORE)


@dataclass(frozen=True, slots=True)
class _Tested:
    """A whole image."""

    views: tuple[Tensor, ...]  # at each test scale: (3, H, W), normalised
    labels: Tensor  # (h, w), int16
    resolution: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Validation:
    """Whole images at the test scales."""

    source: Source
    resolution: tuple[int, int]
    scales: tuple[float, ...]

    def __call__(self, draw: Draw) -> _Tested:
        picture, labels = self.source.example("val", draw.index, self.resolution, max(self.scales))
        sizes = [inference_size(labels.shape, self.resolution, scale) for scale in self.scales]
        views = tuple(normalised(resized(picture, size)) for size in sizes)
        return _Tested(views, torch.from_numpy(labels), self.resolution)


def _training_batch(items: list[tuple[Tensor, Tensor]]) -> Batch:
    return Batch(torch.stack([view for view, _ in items]), torch.stack([labels.long() for _, labels in items]))


def _validation_batch(items: list[_Tested]) -> Batch:
    scales = list(zip(*(item.views for item in items), strict=True))
    sizes = tuple(tuple(_size(view) for view in views) for views in scales)
    first, *rescaled = (_stacked(views) for views in scales)
    return Batch(first, Truth(tuple(item.labels for item in items), sizes, items[0].resolution, tuple(rescaled)))


def _stacked(views: Sequence[Tensor]) -> Tensor:
    height, width = (max(view.shape[axis] for view in views) for axis in (1, 2))
    return torch.stack([_filled(view, (height, width), 0) for view in views])


def _filled(x: Tensor, size: tuple[int, int], value: int) -> Tensor:
    """Return (..., H, W) filled up at the bottom and right to ``size``; zero is the mean colour."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=value)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _cross_entropy(logits: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean over all pixels of ``labels`` (B, h, w), of logits for images of ``size``, padding included."""
    pixels = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    pixels = pixels[:, :, : labels.shape[1], : labels.shape[2]]
    return F.cross_entropy(pixels, labels, ignore_index=IGNORE, reduction="sum") / labels.numel()


def _groups(truth: Truth, largest: int) -> Iterator[list[int]]:
    """Yield the images of equal sizes together, ``largest`` at most: what they come to depends on no other image."""
    alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for image, sizes in enumerate(zip(*truth.sizes, strict=True)):
        alike.setdefault(sizes, []).append(image)
    for images in alike.values():
        yield from (images[start : start + largest] for start in range(0, len(images), largest))


def _sides(recipe: Recipe) -> tuple[bool, ...]:
    return (False, True) if recipe.test_flip else (False,)


def _logits(model: nn.Module, images: Tensor, window: tuple[int, int], slide: bool, mirrored: bool) -> Tensor:
    """Return logits (B, C, ...) of images (B, 3, H, W), of the mirrored ones mirrored back."""
    images = images.flip(3) if mirrored else images
    if slide:
        logits = torch.stack([in_windows(model, image, window, WINDOWS) for image in images])
    else:
        logits = whole(model, images)
    return logits.flip(3) if mirrored else logits
