"""Detectors and segmentation networks: which of those printed are built here, and how their costs are counted."""

import re
from collections.abc import Mapping
from typing import Any, Final

from attnbench.published.catalogue import MODELS
from attnbench.tables.measured import Head, Need, Resolution, variant_key

COCO_SIZE: Final = (800, 1280)
_HEADS: Final[Mapping[str, Head]] = {
    "RetinaNet": Head("detection", "retinanet", 80),
    "Mask R-CNN": Head("detection", "mask_rcnn", 80),
    "UperNet": Head("segmentation", "upernet", 150),
    "Semantic FPN": Head("segmentation", "semantic_fpn", 150),
}
_WIDE: Final = 64  # channels of the first stage below which the heads here are narrower than the printed ones
_PRETRAINED: Final = (224, 224)  # what position embeddings are made for, before they are resized
# Regions of pooled windows for which Focal's printed MACs with RetinaNet and its parameters come out; see transfer.py.
FOCAL_WINDOWS: Final = (15, 13, 9, 7)
NO_MODEL: Final = "the model is not built here"
NO_NETWORK: Final = "the detector is not built here"
TOO_NARROW: Final = "the heads here are narrower behind a backbone of fewer than 64 channels than those printed"


def network_of(lead: tuple[str, ...]) -> str:
    """Return the detector or decoder among the words of a row; its last word where none is built here."""
    return next((word for word in lead if word in _HEADS), lead[-1])


def why_not(model: str, network: str) -> str | None:
    """Return why ``model`` with the printed detector or decoder ``network`` is not built here; None where it is."""
    if network not in _HEADS:
        return NO_NETWORK
    if model not in MODELS:
        return NO_MODEL
    config = MODELS[model].config
    return TOO_NARROW if config.get("embed_dims", [_WIDE])[0] < _WIDE else None


def need(model: str, network: str, resolution: Resolution) -> Need | None:
    """Return how the cost of ``model`` with the head printed as ``network`` is counted; None where it is not built."""
    if why_not(model, network) is not None:
        return None
    head = _HEADS[network]
    changes = _changes(model, head)
    built = _PRETRAINED if MODELS[model].kind == "pvt" else None
    key = f"{variant_key(model, changes)} with {network}"
    return Need(key, model, resolution, tuple(changes.items()), head, built)


def segmented_size(network: str, crop: str, note: str | None) -> Resolution:
    """Return the size at which the MACs of a segmentation network are printed, from its row.

    What the note states; else for UperNet, as its authors do, the crop's side times four of it; for Semantic FPN the
    crop.
    """
    stated = re.search(r"gflops at (\d+)x(\d+)", note or "")
    rows, columns = map(int, stated.groups() if stated else crop.split("x"))
    return (rows, 4 * rows) if network == "UperNet" and not stated else (rows, columns)


def _changes(model: str, head: Head) -> dict[str, Any]:
    detected = MODELS[model].kind == "focal" and head.task == "detection"
    return {"focal_windows": FOCAL_WINDOWS} if detected else {}
