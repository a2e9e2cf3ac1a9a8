"""What a recipe does to a training picture besides cropping it: timm's augmentations, by timm."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnbench.errors import UserError
from attnbench.recipe import Recipe

from ._loading import seeded

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, RGB
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def normalised(picture: NDArray[np.uint8]) -> Tensor:
    """Return a picture (H, W, 3) of 8 bits as (3, H, W), by ImageNet's mean and standard deviation."""
    scaled = (picture.astype(np.float32) - 255 * MEAN) / (255 * STD)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def decorated(picture: NDArray[np.uint8], recipe: Recipe, random: np.random.Generator) -> Tensor:
    """Return a cropped picture (H, W, 3) as the model sees it in training: (3, H, W), normalised.

    In timm's order: RandAugment, or else colour jitter; then random erasing of the normalised picture by noise.
    """
    if not (recipe.rand_augment or recipe.color_jitter or recipe.erasing):
        return normalised(picture)
    with seeded(random):
        image = Image.fromarray(picture)
        if recipe.rand_augment:
            image = _rand_augment(recipe.rand_augment, max(picture.shape[:2]))(image)
        elif recipe.color_jitter:
            image = _jitter(recipe.color_jitter)(image)
        pixels = normalised(np.asarray(image))
        return _erasing(recipe.erasing)(pixels) if recipe.erasing else pixels


def mixture(recipe: Recipe, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return what mixes a batch (B, 3, H, W) and its labels (B,) into targets (B, num_classes); None: nothing does.

    Mixup (arXiv 1710.09412) and CutMix (1905.04899), one of them at random for a batch where the recipe has both.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    from timm.data import Mixup

    mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)
    return cast(Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], mix)


@lru_cache(maxsize=8)
def _rand_augment(word: str, side: int) -> Callable[[Image.Image], Image.Image]:
    """Return timm's RandAugment (arXiv 1909.13719); shifts are at most 0.45 of the longer side, as timm has them."""
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(0.45 * side),
        "img_mean": tuple(round(255 * float(value)) for value in MEAN),  # the colour of what a shift uncovers
        "magnitude_max": 9.999,  # at 10 timm posterizes to 0 bits, which newer Pillows refuse; else it changes nothing
    }
    try:
        made: Callable[[Image.Image], Image.Image] = rand_augment_transform(word, settings)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"recipe.rand_augment {word!r} is no word of timm, such as rand-m9-mstd0.5-inc1") from error
    return made


@lru_cache(maxsize=8)
def _jitter(strength: float) -> Callable[[Image.Image], Image.Image]:
    from torchvision.transforms.v2 import ColorJitter

    return cast(Callable[[Image.Image], Image.Image], ColorJitter(strength, strength, strength))


@lru_cache(maxsize=8)
def _erasing(probability: float) -> Any:
    """Return timm's random erasing (arXiv 1708.04896) by noise of every pixel."""
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability, mode="pixel", device="cpu")
