"""Pictures out of images of any size: random crops to train on, the middle to validate on."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from attnbench.recipe import Recipe
from attnbench.task_contract import Split

from ._data import Data
from ._loading import seeded


class Images(Data, Protocol):
    """Labelled images."""

    def image(self, split: Split, index: int) -> tuple[Image.Image, int]:
        """Return an image in RGB and its label; one that cannot be read is a ``UserError`` that names it."""


@dataclass(frozen=True, slots=True)
class Photographs:
    """The pictures of a set of images."""

    images: Images

    @property
    def identity(self) -> str:
        """Return a hash of the data."""
        return self.images.identity

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of their labels."""
        return self.images.classes

    def count(self, split: Split) -> int:
        """Return the number of images."""
        return self.images.count(split)

    def train_example(
        self, index: int, resolution: tuple[int, int], recipe: Recipe, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], int]:
        """Return a random crop of at least ``recipe.scale`` of the area, maybe mirrored, (H, W, 3), and its label."""
        from torchvision.transforms import InterpolationMode, v2

        image, label = self.images.image("train", index)
        augment = v2.Compose(
            [
                v2.RandomResizedCrop(resolution, scale=(recipe.scale, 1.0), interpolation=InterpolationMode.BICUBIC),
                v2.RandomHorizontalFlip(recipe.flip),
            ]
        )
        with seeded(random):
            return np.array(augment(image)), label

    def val_example(self, index: int, resolution: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        """Return the middle of the image, as much as fits the proportions, (H, W, 3), and its label."""
        image, label = self.images.image("val", index)
        return np.array(ImageOps.fit(image, resolution[::-1], Image.Resampling.BICUBIC)), label
