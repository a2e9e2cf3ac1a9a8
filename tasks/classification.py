"""Image classification: embedded scenes or images on disk, cross-entropy, top-1 and top-5."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from attnbench.errors import UserError
from attnbench.layers import ClassificationHead
from attnbench.recipe import Recipe
from attnbench.registry import task
from attnbench.task_contract import Batch, Loading, Split

from ._augmentation import decorated, mixture, normalised
from ._check_classes import check
from ._data import Data
from ._loading import MIXTURE, Draw, load_batches, seeded
from ._open import open_source

FIFTH = 5  # classes from which on there is a top-5
Item = tuple[Tensor, int]


class Source(Data, Protocol):
    """Where examples come from: pictures (H, W, 3) of 8 bits with their labels."""

    def train_example(
        self, index: int, resolution: tuple[int, int], recipe: Recipe, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], int]:
        """Return a cropped and mirrored picture, and its label."""

    def val_example(self, index: int, resolution: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        """Return a picture and its label."""


@task("classification")
class Classification:
    """Tell which class an image is of."""

    headline: ClassVar[str] = "top1"
    heads: ClassVar[tuple[str, ...]] = ()
    check = staticmethod(check)

    def __init__(self, data: str | None, head: str | None = None) -> None:
        if head is not None:
            raise UserError(f"classification has one head, without a name; {head!r} is none of it")
        self.source: Source = open_source(data)
        self.identity = self.source.identity
        self.num_classes = len(self.source.classes)
        self.train_images = self.source.count("train")

    @staticmethod
    def head(channels: tuple[int, ...], num_classes: int, name: str | None = None) -> ClassificationHead:
        """Return the head on the last stage's map."""
        del name
        return ClassificationHead(channels[-1], num_classes)

    def batches(self, split: Split, resolution: tuple[int, int], loading: Loading, recipe: Recipe) -> Iterator[Batch]:
        """Yield batches with labels (B,), int64, or (B, classes) where the recipe mixes images.

        Raises:
            UserError: fewer training samples than one batch; an image that cannot be read, named; an odd number of
                images to mix.
        """
        count = self.source.count(split)
        if split == "val":
            return load_batches(split, count, loading, _Validation(self.source, resolution), _collate)
        mix = mixture(recipe, self.num_classes)
        if mix and loading.batch_size % 2:
            raise UserError(f"recipe.mixup and recipe.cutmix mix pairs: a batch of {loading.batch_size} has one over")
        example = _Training(self.source, resolution, recipe, loading.seed)
        batches = load_batches(split, count, loading, example, _collate, recipe.repeats)
        return _mixed(batches, mix, loading) if mix else batches

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        """Return the mean cross-entropy, in float32."""
        smoothing = recipe.label_smoothing if batch.targets.ndim == 1 else 0.0  # mixing smooths for itself
        return F.cross_entropy(model(batch.images).float(), batch.targets, label_smoothing=smoothing)

    def predict(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        """Return logits (B, classes)."""
        del recipe
        logits: Tensor = model(batch.images)
        return logits

    def score(self) -> "TopOne":
        """Return an empty score."""
        return TopOne()


class TopOne:
    """Counts images whose highest logit is the true class, and whose five highest hold it."""

    def __init__(self) -> None:
        self.outcomes: list[float] = []  # 1 for an image whose highest logit is right, else 0
        self._fifth: int | None = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take logits (B, classes) and labels (B,); a row with NaN is wrong."""
        sound = ~predictions.isnan().any(dim=1)
        self.outcomes += ((predictions.argmax(dim=1) == targets) & sound).float().tolist()
        if self._fifth is None or predictions.shape[1] < FIFTH:
            self._fifth = None
            return
        best = predictions.topk(FIFTH, dim=1).indices
        self._fifth += int(((best == targets[:, None]).any(dim=1) & sound).sum())

    def compute(self) -> dict[str, float]:
        """Return the share of right images, from whole numbers; top-5 where there are five classes."""
        count = len(self.outcomes)
        if not count:
            raise ValueError("no image has been scored")
        fifth = {} if self._fifth is None else {"top5": self._fifth / count}
        return {"top1": sum(self.outcomes) / count, **fifth}


@dataclass(frozen=True, slots=True)
class _Training:
    """Augmented examples."""

    source: Source
    resolution: tuple[int, int]
    recipe: Recipe
    seed: int

    def __call__(self, draw: Draw) -> Item:
        random = draw.random(self.seed)
        picture, label = self.source.train_example(draw.index, self.resolution, self.recipe, random)
        return decorated(picture, self.recipe, random), label


@dataclass(frozen=True, slots=True)
class _Validation:
    """Plain examples."""

    source: Source
    resolution: tuple[int, int]

    def __call__(self, draw: Draw) -> Item:
        picture, label = self.source.val_example(draw.index, self.resolution)
        return normalised(picture), label


def _collate(items: list[Item]) -> Batch:
    images, labels = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels))


def _mixed(
    batches: Iterator[Batch], mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], loading: Loading
) -> Iterator[Batch]:
    for number, batch in enumerate(batches, loading.skip):
        with seeded(np.random.default_rng([MIXTURE, loading.seed, number, loading.rank])):
            images, targets = mix(batch.images, batch.targets)
        yield Batch(images, targets)
