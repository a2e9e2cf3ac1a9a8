"""Object detection: data of COCO's format or embedded scenes, RetinaNet or Mask R-CNN, COCO's average precision.

The resolution is a canvas that images are made to fit, proportions kept. They are never padded to it: a batch is padded
at the bottom and right, with the mean colour, to its largest image, rounded up to whole tokens of the last stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from attnbench.errors import unknown
from attnbench.recipe import Recipe
from attnbench.registry import task
from attnbench.task_contract import Batch, Loading, Split

from ._augmentation import MEAN, STD
from ._check_coco import check
from ._coco import Coco
from ._coco_score import CocoScore, Found
from ._examples import Source
from ._framing import drawn, objects, plain, view
from ._loading import Draw, load_batches
from ._mask_rcnn import RegionHead
from ._retinanet import RetinaNetHead
from ._run_lengths import encoded
from ._shapes_objects import ShapesObjects

MULTIPLE = 32  # pixels: one token of the last stage
INSIDE = 0.5  # probability from which on a pixel is the object's

Item = tuple[Tensor, dict[str, Any]]  # a view (3, h, w) of 8 bits, and its target


@task("detection")
class Detection:
    """Find objects: a box, a class and a score of each, and with ``mask_rcnn`` a mask."""

    headline: ClassVar[str] = "box_ap"
    heads: ClassVar[tuple[str, ...]] = ("retinanet", "mask_rcnn", "faster_rcnn")
    check = staticmethod(check)

    def __init__(self, data: str | None, head: str | None = None) -> None:
        masks = _known(head) == "mask_rcnn"
        self.source: Source = ShapesObjects(masks) if data is None else Coco(Path(data), masks)
        self.identity = self.source.identity
        self.num_classes = len(self.source.classes)
        self.train_images = self.source.count("train")

    @staticmethod
    def head(channels: tuple[int, ...], num_classes: int, name: str | None = None) -> nn.Module:
        """Return the detector behind the four stages; the first of ``heads`` where none is named."""
        name = _known(name)
        if name == "retinanet":
            return RetinaNetHead(channels, num_classes)
        return RegionHead(channels, num_classes, masks=name == "mask_rcnn")

    def batches(self, split: Split, resolution: tuple[int, int], loading: Loading, recipe: Recipe) -> Iterator[Batch]:
        """Yield batches whose targets are a list with a dict of each image.

        ``size`` (h, w) is that of the image in the batch, without padding. Training has ``boxes``, ``labels`` and,
        where masks are learnt, ``masks`` beside it; validation has ``truth``.

        Raises:
            UserError: fewer training samples than one batch; an image that cannot be read, named.
        """
        count = self.source.count(split)
        if split == "val":
            return load_batches(split, count, loading, _Validation(self.source, resolution), _collate)
        example = _Training(self.source, resolution, recipe.scales, recipe.flip, loading.seed)
        return load_batches(split, count, loading, example, _collate, recipe.repeats)

    def loss(self, model: nn.Module, batch: Batch, recipe: Recipe) -> Tensor:
        """Return the sum of the head's losses, the mean over images, in float32."""
        del recipe
        backbone = cast(Any, model)
        loss: Tensor = backbone.head.losses(backbone.stages(batch.images), _sizes(batch), batch.targets)
        return loss

    def predict(self, model: nn.Module, batch: Batch, recipe: Recipe) -> list[Found]:
        """Return the detections of each image, in pixels of the original, and clipped to it."""
        del recipe
        backbone = cast(Any, model)
        found = backbone.head.detections(backbone.stages(batch.images), _sizes(batch))
        pairs = zip(found, batch.targets, strict=True)
        return [_original(one, target["size"], target["truth"].size) for one, target in pairs]

    def score(self) -> CocoScore:
        """Return an empty score."""
        return CocoScore(self.source.category_ids)


@dataclass(frozen=True, slots=True)
class _Training:
    """Random views with what is to be learnt from them."""

    source: Source
    canvas: tuple[int, int]
    scales: tuple[float, float]
    flip: float
    seed: int

    def __call__(self, draw: Draw) -> Item:
        random = draw.random(self.seed)
        example = self.source.example("train", draw.index, self.canvas, self.scales[1])
        frame = drawn(example.size, self.canvas, self.scales, self.flip, random)
        pixels = view(example.picture, frame)
        return pixels, {"size": tuple(pixels.shape[1:]), **objects(example, frame)}


@dataclass(frozen=True, slots=True)
class _Validation:
    """Whole images with their truth."""

    source: Source
    canvas: tuple[int, int]

    def __call__(self, draw: Draw) -> Item:
        example = self.source.example("val", draw.index, self.canvas)
        pixels = view(example.picture, plain(example.size, self.canvas))
        return pixels, {"size": tuple(pixels.shape[1:]), "truth": example.truth}


def _collate(items: list[Item]) -> Batch:
    """Normalise the views and pad them, by zeros, to the largest."""
    height, width = (-(-max(pixels.shape[side] for pixels, _ in items) // MULTIPLE) * MULTIPLE for side in (1, 2))
    images = torch.zeros(len(items), 3, height, width)
    mean, std = (torch.from_numpy(255 * numbers)[:, None, None] for numbers in (MEAN, STD))
    for image, (pixels, _) in zip(images, items, strict=True):
        part = image[:, : pixels.shape[1], : pixels.shape[2]]
        part.copy_(pixels).sub_(mean).div_(std)
    return Batch(images, [target for _, target in items])


def _sizes(batch: Batch) -> list[tuple[int, int]]:
    return [target["size"] for target in batch.targets]


def _original(found: dict[str, Tensor], size: tuple[int, int], original: tuple[int, int]) -> Found:
    """Return detections at ``size`` (h, w) as ones on the ``original`` image (H, W); those with NaN are left out."""
    found = {name: tensor.cpu() for name, tensor in found.items()}
    sound = found["boxes"].isfinite().all(dim=1) & found["scores"].isfinite()
    found = {name: tensor[sound] for name, tensor in found.items()}
    (height, width), limits = original, torch.tensor([original[1], original[0]] * 2, dtype=torch.float64)
    ratios = torch.tensor([width / size[1], height / size[0]] * 2, dtype=torch.float64)
    boxes = (found["boxes"].double() * ratios).clamp(min=torch.zeros(4, dtype=torch.float64), max=limits)
    masks = _pasted(found["masks"], boxes, (height, width)) if "masks" in found else None
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return Found(sides, found["scores"].double().numpy(), found["labels"].numpy(), masks)


def _pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[dict[str, Any], ...]:
    """Return masks (N, 1, 28, 28) in their boxes (N, 4) as run lengths; one at a time, for whole ones are large."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    runs = []
    for probabilities, box in zip(masks.float(), boxes.float(), strict=True):
        whole = paste_masks_in_image(probabilities[None], box[None], size)[0, 0]
        runs.append(encoded((whole >= INSIDE).numpy()))
    return tuple(runs)


def _known(head: str | None) -> str:
    if head is not None and head not in Detection.heads:
        raise unknown("head of detection", head, Detection.heads)
    return Detection.heads[0] if head is None else head
