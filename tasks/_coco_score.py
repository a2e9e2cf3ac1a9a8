"""Average precision by pycocotools, the reference that the field's numbers come from; nothing of it is printed.

Definitions are COCO's: IoU .50 to .95 in steps of .05, 101 recall points, 100 detections an image, and objects small
below 32 x 32 pixels of area, large from 96 x 96, in the original image. Objects of crowd regions are neither found nor
missed. What the images have no object for has no value.
"""

import contextlib
import io
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._examples import Truth

BOX_KEYS = ("box_ap", "box_ap50", "box_ap75", "box_ap_small", "box_ap_medium", "box_ap_large")  # in COCO's order
MASK_KEYS = ("mask_ap", "mask_ap50", "mask_ap75")
HALF = 0  # index of the IoU of .50
ALL_AREAS = 0
KEPT = 100  # detections of one image


@dataclass(frozen=True, slots=True)
class Found:
    """The detections of one image, in pixels of the original."""

    boxes: NDArray[np.float64]  # (N, 4): left, top, width, height
    scores: NDArray[np.float64]  # (N,)
    labels: NDArray[np.int64]  # (N,)
    masks: tuple[dict[str, Any], ...] | None  # COCO's compressed run lengths, or None where the head has no masks


class CocoScore:
    """Collects the detections of images, each seen once, beside the truth of each."""

    def __init__(self, category_ids: tuple[int, ...]) -> None:
        self._category_ids = category_ids
        self._truths: list[Truth] = []
        self._found: list[Found] = []
        self._boxes: Any = None  # the evaluation of what was collected; None: not done

    def update(self, predictions: list[Found], targets: list[dict[str, Any]]) -> None:
        """Take the detections of a batch, and its targets: each has a ``truth``."""
        self._found += predictions
        self._truths += [target["truth"] for target in targets]
        self._boxes = None

    def compute(self) -> dict[str, float]:
        """Return the average precisions of boxes and, where the head has them, of masks; fractions."""
        if not self._truths:
            raise ValueError("no image has been scored")
        values = dict(zip(BOX_KEYS, self._evaluated().stats, strict=False))
        if all(found.masks is not None for found in self._found):
            values |= dict(zip(MASK_KEYS, self._evaluate("segm").stats, strict=False))
        return {name: float(value) for name, value in values.items() if value >= 0}

    @property
    def outcomes(self) -> list[float]:
        """Return how well the boxes of each image were found, 0..1, in order.

        The image's own average precision at IoU .50: all its detections in one ranking by score, each of which may find
        an object of its class, and the mean over the objects of the highest precision at which they are found. An image
        without an object comes to 1 less the highest score of a detection in it. Detections in crowds do not count.
        """
        ranked: dict[int, list[tuple[Any, int]]] = defaultdict(list)
        for item in self._evaluated().evalImgs if self._truths else ():
            if item is not None and item["aRng"] == self._evaluated().params.areaRng[ALL_AREAS]:
                objects = int((np.asarray(item["gtIgnore"]) == 0).sum())
                counted = ~item["dtIgnore"][HALF].astype(bool)
                hits = (item["dtMatches"][HALF] != 0)[counted]
                scores = np.asarray(item["dtScores"], dtype=np.float64)[counted]
                ranked[item["image_id"]].append(((scores, hits), objects))
        return [_outcome(ranked[truth.image_id]) for truth in self._truths]

    def _evaluated(self) -> Any:
        if self._boxes is None:
            self._boxes = self._evaluate("bbox")
        return self._boxes

    def _evaluate(self, kind: str) -> Any:
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(self._truth(kind), self._detections(kind), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation

    def _truth(self, kind: str) -> Any:
        annotations = [item for truth in self._truths for item in truth.annotations]
        if kind == "bbox":
            annotations = [{key: value for key, value in item.items() if key != "segmentation"} for item in annotations]
        return self._index([dict(item) for item in annotations])

    def _detections(self, kind: str) -> Any:
        from pycocotools import mask

        results: list[dict[str, Any]] = []
        for truth, found in zip(self._truths, self._found, strict=True):
            for index, label in enumerate(found.labels):
                result = {"id": len(results) + 1, "image_id": truth.image_id, "score": float(found.scores[index])}
                result |= {"category_id": self._category_ids[label], "iscrowd": 0}
                if kind == "bbox":
                    box = [float(side) for side in found.boxes[index]]
                    results.append({**result, "bbox": box, "area": box[2] * box[3]})
                elif found.masks is not None:
                    area = float(mask.area(found.masks[index]))
                    results.append({**result, "segmentation": found.masks[index], "area": area})
        return self._index(results)

    def _index(self, annotations: list[dict[str, Any]]) -> Any:
        """Return annotations or detections as the evaluator takes them; its own loader refuses an empty list."""
        from pycocotools.coco import COCO

        images = [{"id": truth.image_id, "height": truth.size[0], "width": truth.size[1]} for truth in self._truths]
        index = COCO()
        index.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": category} for category in self._category_ids],
        }
        index.createIndex()
        return index


def _outcome(classes: list[tuple[tuple[NDArray[np.float64], NDArray[np.bool_]], int]]) -> float:
    """Return the outcome of one image from each class's (scores, hits) and its number of objects."""
    objects = sum(count for _, count in classes)
    scores = np.concatenate([part[0] for part, _ in classes]) if classes else np.empty(0)
    if not objects:
        return float(1 - scores.max(initial=0.0))
    hits = np.concatenate([part[1] for part, _ in classes])[np.argsort(-scores, kind="stable")][:KEPT]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[hits].sum() / objects)
