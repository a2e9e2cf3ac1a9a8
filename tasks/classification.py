"""Image classification: embedded scenes or a folder of images, cross-entropy, top-1.

Batches come from a ``DataLoader``. The random numbers of an image derive from (seed, epoch, index), so the number of
workers changes nothing, and no generator of the caller is touched. Workers start in Python's default way and end with
the iterator.
"""

import itertools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attnbench.errors import UserError
from attnbench.layers import ClassificationHead
from attnbench.registry import task
from attnbench.task_contract import Batch, Split

from ._folder import Folder
from ._shapes import Shapes

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, RGB
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
ORDER, IMAGE = 0, 1  # what a stream of random numbers is for: the first word of its seed


class Source(Protocol):
    """Where examples come from: pictures (H, W, 3) of 8 bits with their labels."""

    @property
    def identity(self) -> str:
        """Return the name of the data, or a hash of them."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their labels."""

    def count(self, split: Split) -> int:
        """Return the number of examples."""

    def train_example(
        self, index: int, resolution: tuple[int, int], scale: float, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], int]:
        """Return an augmented picture and its label."""

    def val_example(self, index: int, resolution: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        """Return a picture and its label."""


@task("classification")
class Classification:
    """Tell which class an image is of."""

    headline = "top1"

    def __init__(self, data: str | None) -> None:
        self.source: Source = Shapes() if data is None else Folder(Path(data))
        self.identity = self.source.identity
        self.num_classes = len(self.source.classes)
        self.train_images = self.source.count("train")

    @staticmethod
    def head(channels: tuple[int, ...], num_classes: int) -> ClassificationHead:
        """Return the head on the last stage's map."""
        return ClassificationHead(channels[-1], num_classes)

    def batches(
        self,
        split: Split,
        resolution: tuple[int, int],
        batch_size: int,
        seed: int,
        *,
        samples: int | None = None,
        scale: float = 1.0,
        workers: int = 0,
    ) -> Iterator[Batch]:
        """Yield batches with labels (B,), int64.

        Training gives samples // batch_size full batches, reshuffled each epoch; samples None means one epoch.
        Validation goes once through in order, and its last batch may be smaller.

        Raises:
            UserError: fewer training samples than one batch; an image that cannot be read, named.
        """
        count = self.source.count(split)
        if split == "val":
            examples: Dataset[_Item] = _Validation(self.source, resolution)
            draws: Iterator[tuple[int, int]] = ((0, index) for index in range(count))
        else:
            samples = count if samples is None else samples
            if samples < batch_size:
                raise UserError(f"{samples} training samples are fewer than one batch of {batch_size}")
            examples = _Training(self.source, resolution, scale, seed)
            draws = islice(_shuffled(count, seed), samples // batch_size * batch_size)
        loader = DataLoader(
            examples,
            batch_sampler=_grouped(draws, batch_size),
            num_workers=workers,
            collate_fn=_collate,
            generator=torch.Generator().manual_seed(seed),  # the loader's own draw, else from the caller's
        )
        return _delivered(loader)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean cross-entropy, in float32."""
        return F.cross_entropy(outputs.float(), targets, label_smoothing=label_smoothing)

    def score(self) -> "TopOne":
        """Return an empty score."""
        return TopOne()


class TopOne:
    """Counts images whose highest logit is the true class; ``outcomes`` keeps each, in order, for paired tests."""

    def __init__(self) -> None:
        self.outcomes: list[bool] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take logits (B, classes) and labels (B,); a row with NaN is wrong."""
        right = (outputs.argmax(dim=1) == targets) & ~outputs.isnan().any(dim=1)
        self.outcomes += right.tolist()

    def compute(self) -> dict[str, float]:
        """Return the share of right images, from whole numbers."""
        if not self.outcomes:
            raise ValueError("no image has been scored")
        return {"top1": sum(self.outcomes) / len(self.outcomes)}


_Item = tuple[Tensor, int] | UserError  # an error travels as a value: the loader would bury it in a traceback


class _Training(Dataset[_Item]):
    """Augmented examples by (epoch, index)."""

    def __init__(self, source: Source, resolution: tuple[int, int], scale: float, seed: int) -> None:
        self.source, self.resolution, self.scale, self.seed = source, resolution, scale, seed

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        random = np.random.default_rng([IMAGE, self.seed, *key])
        try:
            return _normalised(*self.source.train_example(key[1], self.resolution, self.scale, random))
        except UserError as error:
            return error


class _Validation(Dataset[_Item]):
    """Plain examples by (0, index)."""

    def __init__(self, source: Source, resolution: tuple[int, int]) -> None:
        self.source, self.resolution = source, resolution

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        try:
            return _normalised(*self.source.val_example(key[1], self.resolution))
        except UserError as error:
            return error


def _normalised(picture: NDArray[np.uint8], label: int) -> tuple[Tensor, int]:
    """Return the picture as (3, H, W), by ImageNet's mean and standard deviation."""
    scaled = (picture.astype(np.float32) - 255 * MEAN) / (255 * STD)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))), label


def _shuffled(count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yield (epoch, index) without end, each epoch in an order of its own."""
    for epoch in itertools.count():
        order = np.random.default_rng([ORDER, seed, epoch]).random(count).argsort(kind="stable")
        yield from ((epoch, int(index)) for index in order)


def _grouped(draws: Iterator[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    while group := list(islice(draws, size)):
        yield group


def _collate(items: list[_Item]) -> Batch | UserError:
    good: list[tuple[Tensor, int]] = []
    for item in items:
        if isinstance(item, UserError):
            return item
        good.append(item)
    images, labels = zip(*good, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels))


def _delivered(loader: DataLoader[_Item]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
