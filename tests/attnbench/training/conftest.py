"""A small task with random data, and a function that trains a small model on it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnbench
from attnbench.layers import ClassificationHead
from attnbench.recipe import Recipe
from attnbench.task_contract import Batch, Loading, Split
from attnbench.training.loop import Training, train

CLASSES = 5


class Errors:
    """The share of right images."""

    def __init__(self) -> None:
        self.outcomes: list[float] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.outcomes += (predictions.argmax(1) == targets).float().tolist()

    def compute(self) -> dict[str, float]:
        return {"top1": sum(self.outcomes) / len(self.outcomes)}


class Noise:
    """Images of noise with random labels, each drawn from (seed, place)."""

    headline, heads = "top1", ()
    identity, num_classes, train_images = "noise.v1", CLASSES, 64
    poisoned: int | None = None  # place of an image that is not a number
    closed = 0  # iterators that were ended

    def batches(self, split: Split, resolution: tuple[int, int], loading: Loading, recipe: Recipe) -> Iterator[Batch]:
        del recipe
        samples = (loading.samples or self.train_images) if split == "train" else 10
        together = loading.batch_size * loading.ranks
        count = samples // together if split == "train" else -(-samples // together)
        try:
            for number in range(loading.skip, count):
                start = number * together + loading.rank * loading.batch_size
                places = range(start, min(start + loading.batch_size, samples))
                images, labels = zip(*(self._example(place, loading.seed, resolution) for place in places), strict=True)
                yield Batch(torch.stack(images), torch.tensor(labels))
        finally:
            self.closed += 1

    def _example(self, place: int, seed: int, resolution: tuple[int, int]) -> tuple[Tensor, int]:
        random = np.random.default_rng([seed, place])
        image = torch.from_numpy(random.normal(size=(3, *resolution)).astype(np.float32))
        return image * (float("nan") if place == self.poisoned else 1.0), int(random.integers(CLASSES))

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        del recipe
        return F.cross_entropy(model(batch.images).float(), batch.targets)

    def predict(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        del recipe
        logits: Tensor = model(batch.images)
        return logits

    def score(self) -> Errors:
        return Errors()


def _model(mechanism: str = "identity", drop_path: float = 0.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    return attnbench.build_model(
        mechanism,
        "nano",
        resolution=(32, 32),
        drop_path=drop_path,
        head=lambda dims: ClassificationHead(dims[-1], CLASSES),
        **settings,
    )


def _train(model: nn.Module, task: Any, recipe: Recipe, **more: Any) -> Training:
    common: dict[str, Any] = {
        "resolution": (32, 32),
        "seed": 0,
        "device": torch.device("cpu"),
        "autocast": None,
        "workers": 0,
        "progress": print,
    }
    return train(model, task, recipe, **{**common, **more})


@pytest.fixture
def noise() -> Noise:
    """Return the task."""
    return Noise()


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Return a function that builds a nano model, always the same."""
    return _model


@pytest.fixture
def fit() -> Callable[..., Training]:
    """Return a function that trains on the CPU."""
    return _train
