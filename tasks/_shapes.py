"""The embedded data ``shapes.v1``: two coloured figures far apart, whose hues together decide the class.

The rule is that of the card game Set, for one attribute: figures of the same hue are labelled with that hue, figures of
different hues with the third. No figure alone decides, nor does any sum of scores of parts: averaging the scores of
(red, red) and (green, green) is all that a sum can say of (red, green). Places must be mixed before they are judged.

- Validation: 180 scenes, the same for every run; each ordered pair of hues equally often, so that one figure says
  nothing of the class, and a model that only adds up parts stays near one third.
- Training: 32,760 scenes, two thirds of them with one hue twice. Without that lead, the class is pure parity, and a
  small network learns nothing for thousands of images; what it says of single figures is of no use in validation.
- The figures lie in different halves of the picture, at least 0.15 of its shorter side apart; their radius is 0.14 to
  0.21 of it. Up to two smaller grey figures, and a grainy grey ground, distract.

Scenes depend on split and index alone; a run's seed decides their order and the training windows. Random numbers come
from ``Generator.random`` only, the one method whose stream numpy has kept. Changed scenes need a new name.
"""

from colorsys import hsv_to_rgb
from math import pi
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attnbench.recipe import Recipe
from attnbench.task_contract import Split

from ._scene import Background, Kind, Scene, SceneObject, Wave, Window, box, render

HUES = ("red", "green", "blue")
RADIUS = (0.14, 0.21)  # of the deciding figures, shorter sides
GAP = 0.15  # least distance of the deciding figures, shorter sides
CORE = 0.5  # share of a deciding figure's radius that every training window shows, all around its centre

_DECIDING: tuple[Kind, ...] = ("disc", "hexagon", "square")
_DISTRACTING: tuple[Kind, ...] = ("triangle", "cross", "square", "disc")
_STREAM: dict[Split, int] = {"train": 0, "val": 1}


class _Dice:
    """Numbers of one scene, in the order they are asked for."""

    def __init__(self, split: Split, index: int) -> None:
        self._random = np.random.default_rng(np.random.SeedSequence([1, _STREAM[split], index])).random

    def between(self, low: float, high: float) -> float:
        return float(low + (high - low) * self._random())

    def kind(self, kinds: tuple[Kind, ...]) -> Kind:
        return kinds[self.below(len(kinds))]

    def below(self, count: int) -> int:
        return int(count * self._random())


class Shapes:
    """The scenes of ``shapes.v1`` as pictures."""

    identity = "shapes.v1"
    classes: tuple[str, ...] = HUES
    _counts: ClassVar[dict[Split, int]] = {"train": 32_760, "val": 180}

    def count(self, split: Split) -> int:
        """Return the number of scenes."""
        return self._counts[split]

    def train_example(
        self, index: int, resolution: tuple[int, int], recipe: Recipe, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], int]:
        """Return picture (H, W, 3) and label of a training scene, through a random window.

        It is not mirrored: scenes are as often one way round as the other.
        """
        scene = draw("train", index)
        return render(scene, resolution, training_window(scene, resolution, recipe.scale, random)), scene.label

    def val_example(self, index: int, resolution: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        """Return picture (H, W, 3) and label of a validation scene, the whole of it."""
        scene = draw("val", index)
        return render(scene, resolution), scene.label


def draw(split: Split, index: int) -> Scene:
    """Return scene ``index`` of ``split``, the same on every call."""
    dice = _Dice(split, index)
    hues = _train_hues(index) if split == "train" else divmod(index % 9, 3)
    distractors = tuple(_distractor(dice) for _ in range(dice.below(3)))
    return Scene((-hues[0] - hues[1]) % 3, _background(dice), distractors + _pair(dice, hues))


def training_window(scene: Scene, proportions: tuple[int, int], scale: float, random: np.random.Generator) -> Window:
    """Return a window with at least ``scale`` of the area, its side log-uniform, that shows every deciding core."""
    cores = [box(item, proportions, CORE) for item in scene.deciding]
    top, left = (min(core[side] for core in cores) for side in (0, 1))
    bottom, right = (max(core[side] for core in cores) for side in (2, 3))
    side = float(max(scale**0.5, bottom - top, right - left) ** random.random())
    return Window(_start(top, bottom, side, random), _start(left, right, side, random), side)


def _start(low: float, high: float, side: float, random: np.random.Generator) -> float:
    """Return where a window of ``side`` within 0..1 may begin so that it spans ``low``..``high``."""
    least, most = max(0.0, high - side), min(low, 1 - side)
    return float(least + (most - least) * random.random())


def _train_hues(index: int) -> tuple[int, int]:
    """Return a pair: in turn two of one hue, and one of the six pairs of different hues."""
    turn, place = divmod(index, 3)
    first = turn % 3
    return (first, first) if place < 2 else (first, (first + 1 + turn // 3 % 2) % 3)


def _pair(dice: _Dice, hues: tuple[int, int]) -> tuple[SceneObject, ...]:
    """Place one figure in each half, above and below or side by side, in random order."""
    upright, swapped = dice.below(2), dice.below(2)
    found = []
    for half, hue in enumerate(hues):
        radius = dice.between(*RADIUS)
        along, across = dice.between(radius, 0.5 - GAP / 2 - radius), dice.between(radius, 1 - radius)
        along = 1 - along if half != swapped else along
        colour = hsv_to_rgb((hue + dice.between(-0.08, 0.08)) / 3 % 1, dice.between(0.85, 1), dice.between(0.85, 1))
        centre = (along, across) if upright else (across, along)
        found.append(SceneObject(dice.kind(_DECIDING), centre, radius, dice.between(0, 2 * pi), colour, hue))
    return tuple(found)


def _distractor(dice: _Dice) -> SceneObject:
    centre, grey = (dice.between(0, 1), dice.between(0, 1)), dice.between(0.2, 0.8)
    radius, angle = dice.between(0.03, 0.1), dice.between(0, 2 * pi)
    return SceneObject(dice.kind(_DISTRACTING), centre, radius, angle, (grey, grey, grey), None)


def _background(dice: _Dice) -> Background:
    grey = dice.between(0.4, 0.6)
    red, green, blue = (grey + dice.between(-0.04, 0.04) for _ in range(3))
    waves = tuple(
        Wave(dice.between(0.01, 0.03), (dice.between(-12, 12), dice.between(-12, 12)), dice.between(0, 2 * pi))
        for _ in range(4)
    )
    return Background((red, green, blue), waves)
