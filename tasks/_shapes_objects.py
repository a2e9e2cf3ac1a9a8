"""The embedded scenes of ``shapes.v1`` as detection data: the figures are the objects, their kinds the classes.

A box is that of the pixels which show the figure, as COCO's boxes are: what others hide is not in it.
"""

from typing import Any, ClassVar

import numpy as np

from attnbench.task_contract import Split

from ._examples import Example, Truth
from ._scene import render
from ._shapes import Shapes, draw
from ._shapes_masks import KINDS, Figure, figures, run_lengths

ID_STEP = 100  # more than the figures of a scene


class ShapesObjects:
    """The scenes with their objects; ``masks`` asks for masks."""

    identity = "shapes.v1 objects"
    classes: tuple[str, ...] = KINDS
    category_ids: ClassVar[tuple[int, ...]] = tuple(range(1, len(KINDS) + 1))

    def __init__(self, masks: bool) -> None:
        self._masks = masks

    def count(self, split: Split) -> int:
        """Return the number of scenes."""
        return Shapes().count(split)

    def example(self, split: Split, index: int, canvas: tuple[int, int], scale: float = 1.0) -> Example:
        """Return a scene drawn at ``scale`` times the canvas."""
        height, width = (max(1, round(scale * side)) for side in canvas)
        scene = draw(split, index)
        shown = figures(scene, (height, width))
        truth = tuple(
            self._annotation(figure, index + 1, ID_STEP * index + place + 1) for place, figure in enumerate(shown)
        )
        return Example(
            picture=render(scene, (height, width)),
            size=(height, width),
            boxes=np.array([figure.box for figure in shown], dtype=np.float64).reshape(-1, 4),
            labels=np.array([KINDS.index(figure.kind) for figure in shown], dtype=np.int64),
            masks=np.stack([figure.mask.astype(np.uint8) for figure in shown]) if self._masks else None,
            truth=Truth(index + 1, (height, width), truth),
        )

    def _annotation(self, figure: Figure, image: int, number: int) -> dict[str, Any]:
        left, top, right, bottom = figure.box
        found: dict[str, Any] = {
            "id": number,
            "image_id": image,
            "bbox": [left, top, right - left, bottom - top],
            "category_id": 1 + KINDS.index(figure.kind),
            "area": int(figure.mask.sum()),
            "iscrowd": 0,
        }
        if self._masks:
            found["segmentation"] = {"size": list(figure.mask.shape), "counts": run_lengths(figure.mask)}
        return found
