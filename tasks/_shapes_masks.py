"""Which pixels show which figure of a ``shapes.v1`` scene: what its boxes, masks and label maps are made of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._scene import Kind, Scene, coverage

KINDS: tuple[Kind, ...] = ("disc", "triangle", "square", "hexagon", "cross")
SHOWN = 0.5  # least share of a pixel that a figure covers where the pixel is one of its own


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that shows at least one pixel."""

    kind: Kind
    mask: NDArray[np.bool_]  # (H, W)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) around the pixels, the last column and row included."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def figures(scene: Scene, resolution: tuple[int, int]) -> tuple[Figure, ...]:
    """Return the figures of a picture (H, W) of the whole scene, without what others painted over hide."""
    left = np.ones(resolution, dtype=np.float32)  # share of each pixel that nothing seen so far covers
    found = []
    for item in reversed(scene.objects):  # later ones lie above
        rows, columns, covered = coverage(item, resolution)
        seen = np.zeros(resolution, dtype=bool)
        seen[rows, columns] = covered * left[rows, columns] >= SHOWN
        left[rows, columns] *= 1 - covered
        if seen.any():
            found.append(Figure(item.kind, seen))
    return tuple(reversed(found))


def label_map(scene: Scene, resolution: tuple[int, int]) -> NDArray[np.int64]:
    """Return the label of each pixel (H, W): 0 for the ground, then the number of the figure's kind, from 1."""
    labels = np.zeros(resolution, dtype=np.int64)
    for figure in figures(scene, resolution):
        labels[figure.mask] = 1 + KINDS.index(figure.kind)
    return labels


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs in COCO's order, down the columns, beginning with those that are not of the mask."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    lengths: list[int] = np.diff(edges, prepend=0).tolist()
    return lengths
