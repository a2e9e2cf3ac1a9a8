"""Semantic segmentation: a class for each pixel; UperNet or Semantic FPN, pixel cross-entropy, mean IoU.

Training sees random crops of randomly resized images. Validation sees each image whole, resized so that it covers the
resolution, and is scored at the label map's own size.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attnbench.errors import UserError, unknown
from attnbench.recipe import Recipe
from attnbench.registry import task
from attnbench.task_contract import Batch, Loading, Split

from ._check_label_maps import check
from ._crops import distorted, inference_size, resized, training_crop
from ._iou import IGNORE, MeanIou, Truth
from ._label_maps import LabelMaps
from ._semantic_fpn import SemanticFpn
from ._shapes_labels import ShapesLabels
from ._sliding import aligned, in_windows, most_likely, whole
from ._upernet import UperNet

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, RGB
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
ORDER, IMAGE = 0, 1  # what a stream of random numbers is for: the first word of its seed
AUXILIARY = 0.4  # weight of the auxiliary head's loss
WINDOWS = 8  # sliding windows that are run together
HEADS = {"upernet": UperNet, "semantic_fpn": SemanticFpn}


class Source(Protocol):
    """Where examples come from: pictures of 8 bits with label maps, -1 where a pixel is ignored."""

    @property
    def identity(self) -> str:
        """Return the name of the data, or a hash of them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, each once, in the order of their labels."""

    def count(self, split: Split) -> int:
        """Return the number of images."""

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
        examples = _Examples(self.source, split, resolution, loading.seed, recipe)
        loader = DataLoader(
            examples,
            batch_sampler=_cut(self.source.count(split), split, loading),
            num_workers=loading.workers,
            collate_fn=examples.collate,
            generator=torch.Generator().manual_seed(loading.seed),  # the loader's own draw, else from the caller's
        )
        return _delivered(loader)

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:  # noqa: ARG002  # the contract's
        """Return the mean over images and pixels of the cross-entropy, ignored pixels counting as zero, in float32.

        An auxiliary head's loss is added with a weight of 0.4.
        """
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


@dataclass(frozen=True)
class _Example:
    """One image as it goes into a batch: at one size in training, at each test scale in validation."""

    views: tuple[Tensor, ...]  # (3, H, W), normalised
    labels: Tensor  # (h, w), int16


_Item = _Example | UserError  # an error travels as a value: the loader would bury it in a traceback


@dataclass(frozen=True)
class _Examples(Dataset[_Item]):
    """Examples by (epoch, index)."""

    source: Source
    split: Split
    resolution: tuple[int, int]
    seed: int
    recipe: Recipe

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        try:
            return self._trained(*key) if self.split == "train" else self._tested(key[1])
        except UserError as error:
            return error

    def collate(self, items: list[_Item]) -> Batch | UserError:
        """Return the batch of the items, or the first error among them."""
        good: list[_Example] = []
        for item in items:
            if isinstance(item, UserError):
                return item
            good.append(item)
        if self.split == "train":
            labels = torch.stack([example.labels.long() for example in good])
            return Batch(torch.stack([example.views[0] for example in good]), labels)
        scales = list(zip(*(example.views for example in good), strict=True))
        sizes = tuple(tuple(_size(view) for view in views) for views in scales)
        first, *rescaled = (_stacked(views) for views in scales)
        return Batch(first, Truth(tuple(example.labels for example in good), sizes, self.resolution, tuple(rescaled)))

    def _trained(self, epoch: int, index: int) -> _Example:
        random = np.random.default_rng([IMAGE, self.seed, epoch, index])
        scale = float(random.uniform(*self.recipe.scales))
        picture, labels = self.source.example("train", index, self.resolution, scale)
        picture, labels = training_crop(picture, labels, self.resolution, scale, random)
        if random.random() < self.recipe.flip:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        if self.recipe.color_jitter:
            picture = distorted(picture, self.recipe.color_jitter, random)
        view = _filled(_normalised(picture), self.resolution, 0)
        return _Example((view,), _filled(torch.from_numpy(labels.copy()), self.resolution, IGNORE))

    def _tested(self, index: int) -> _Example:
        scales = self.recipe.test_scales
        picture, labels = self.source.example("val", index, self.resolution, max(scales))
        sizes = [inference_size(labels.shape, self.resolution, scale) for scale in scales]
        views = tuple(_normalised(resized(picture, size)) for size in sizes)
        return _Example(views, torch.from_numpy(labels))


def _normalised(picture: NDArray[np.uint8]) -> Tensor:
    """Return the picture as (3, H, W), by ImageNet's mean and standard deviation."""
    scaled = (picture.astype(np.float32) - 255 * MEAN) / (255 * STD)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


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


def _cut(count: int, split: Split, loading: Loading) -> Iterator[list[tuple[int, int]]]:
    """Yield what each batch of this process holds, as (epoch, index)."""
    size = loading.batch_size
    if split == "train":
        samples = count if loading.samples is None else loading.samples
        whole_batches = samples // (size * loading.ranks) * size * loading.ranks
        if not whole_batches:
            raise UserError(f"{samples} training samples are fewer than one batch of {size * loading.ranks}")
        draws: Iterator[tuple[int, int]] = islice(_shuffled(count, loading.seed), whole_batches)
    else:
        draws = ((0, index) for index in range(count))
    groups = iter(lambda: list(islice(draws, size)), [])
    return islice(groups, loading.skip * loading.ranks + loading.rank, None, loading.ranks)


def _shuffled(count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yield (epoch, index) without end, each epoch in an order of its own."""
    for epoch in itertools.count():
        order = np.random.default_rng([ORDER, seed, epoch]).random(count).argsort(kind="stable")
        yield from ((epoch, int(index)) for index in order)


def _delivered(loader: DataLoader[_Item]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
