"""Masks as COCO's run lengths and polygons, by pycocotools."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the compressed run lengths of a mask (H, W)."""
    from pycocotools import mask as tools

    runs: dict[str, Any] = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return runs


def decoded(segmentation: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return polygons or run lengths, compressed or not, as a mask (H, W) of 0 and 1."""
    from pycocotools import mask as tools

    runs = segmentation
    if isinstance(segmentation, list):
        runs = tools.merge(tools.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        runs = tools.frPyObjects(segmentation, *size)
    with warnings.catch_warnings():  # its arrays were made before numpy 2 asked them for a word about copies
        warnings.simplefilter("ignore", DeprecationWarning)
        mask: NDArray[np.uint8] = tools.decode(runs)
    return mask
