"""The embedded scenes of ``shapes.v1`` as segmentation data: the ground is a class, and each kind of figure is one."""

import numpy as np
from numpy.typing import NDArray

from attnbench.task_contract import Split

from ._scene import render
from ._shapes import Shapes, draw
from ._shapes_masks import KINDS, label_map


class ShapesLabels:
    """The scenes with their label maps."""

    identity = "shapes.v1 labels"
    classes: tuple[str, ...] = ("ground", *KINDS)

    def count(self, split: Split) -> int:
        """Return the number of scenes."""
        return Shapes().count(split)

    def example(
        self, split: Split, index: int, resolution: tuple[int, int], scale: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Return picture and label map of a scene, drawn at ``scale`` times the resolution.

        The label map of validation is drawn at the resolution, so that no test scale changes what is scored.
        """
        height, width = (max(1, round(scale * side)) for side in resolution)
        scene = draw(split, index)
        labels = label_map(scene, (height, width) if split == "train" else resolution)
        return render(scene, (height, width)), labels.astype(np.int16)
