"""Mask R-CNN (He et al., arXiv 1703.06870) and Faster R-CNN, its box half (1506.01497), on a feature pyramid.

As in the papers: P2 to P5 and a pooled P6, three anchors a place, of 32 to 512 pixels; 256 anchors and 512 regions of
an image are learnt from, a quarter of the regions objects; the best 2,000 proposals in training and 1,000 in test; box
head of two layers of 1,024, mask head of four convolutions and a deconvolution to 28 x 28. Backbones narrower than tiny
have pyramid and mask head of 64 and a box head of 256. Every part is the library's; losses are taken image by image, so
that their mean is one over images, and in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._pyramid import Pyramid, anchors, wide

STRIDES = (4, 8, 16, 32, 64)
SIZES = ((32,), (64,), (128,), (256,), (512,))
RATIOS = (0.5, 1.0, 2.0)
POOLED = ("0", "1", "2", "3")  # the levels that regions are read from
WIDTH, NARROW = 256, 64
HIDDEN, NARROW_HIDDEN = 1024, 256  # of the box head
KEPT = 100  # detections of one image, as COCO counts them
REGIONS, MASKS = 1000, 100  # of one image, of which costs are told
SIDE = 14  # cells of a fixed region: 224 pixels at stride 16, as the pyramid's paper assigns regions to levels


class RegionHead(nn.Module):
    """Pyramid, region proposals, box head, and mask head where ``masks`` are asked for."""

    def __init__(self, channels: tuple[int, ...], num_classes: int, masks: bool) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        width, hidden = (WIDTH, HIDDEN) if wide(channels) else (NARROW, NARROW_HIDDEN)
        self.pyramid = Pyramid(channels, width, LastLevelMaxPool())
        self.proposer = _proposer(width)
        self.regions = _regions(width, hidden, num_classes + 1, masks)  # class 0 is the background
        self.masks = masks

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs that costs are told of: all but the sorting out, for a fixed number of regions.

        Objectness and encoded anchors of each level, class scores (B * 1000, classes + 1), encoded boxes, and masks
        (B * 100, classes + 1, 28, 28).
        """
        levels = self.pyramid(maps)
        objectness, deltas = self.proposer.head(list(levels.values()))
        dense = (*objectness, *deltas)
        boxes = self._boxes(_fixed(levels, REGIONS, self.regions.box_roi_pool.output_size))
        if not self.masks:
            return (*dense, *boxes)
        return (*dense, *boxes, self._masks(_fixed(levels, MASKS, self.regions.mask_roi_pool.output_size)))

    def losses(self, maps: list[Tensor], sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]]) -> Tensor:
        """Return the sum of the losses of proposals, boxes and masks, the mean over images, in float32.

        Args:
            maps: the four of the backbone.
            sizes: (h, w) of each image without its padding.
            targets: ``boxes`` (N, 4), ``labels`` (N,) and, with a mask head, ``masks`` (N, h, w) of each image.
        """
        from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

        shifted = [{**target, "labels": target["labels"] + 1} for target in targets]
        levels = self.pyramid(maps)
        proposals, parts = self._proposals(levels, sizes, shifted)
        sampled, matched, labels, encoded = self.regions.select_training_samples(proposals, shifted)
        counts = [len(item) for item in sampled]
        scores, deltas = self._boxes(self._pooled(self.regions.box_roi_pool, levels, sampled))
        for rows in zip(scores.split(counts), deltas.split(counts), labels, encoded, strict=True):
            parts += fastrcnn_loss(rows[0], rows[1], [rows[2]], [rows[3]])
        if self.masks:
            positive = [label > 0 for label in labels]
            places = [boxes[chosen] for boxes, chosen in zip(sampled, positive, strict=True)]
            logits = self._masks(self._pooled(self.regions.mask_roi_pool, levels, places))
            drawn = logits.split([len(place) for place in places])
            for mask, place, target, index, chosen in zip(drawn, places, shifted, matched, positive, strict=True):
                parts.append(maskrcnn_loss(mask, [place], [target["masks"]], [target["labels"]], [index[chosen]]))
        return torch.stack(list(parts)).sum() / len(targets)

    def detections(self, maps: list[Tensor], sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Return ``boxes`` (N, 4) in pixels of the input, ``scores``, ``labels`` of each image, at most 100.

        With a mask head also ``masks`` (N, 1, 28, 28), probabilities within the boxes.
        """
        from torchvision.models.detection.roi_heads import maskrcnn_inference

        levels = self.pyramid(maps)
        proposals, _ = self._proposals(levels, sizes, None)
        scores, deltas = self._boxes(self._pooled(self.regions.box_roi_pool, levels, proposals))
        found = self.regions.postprocess_detections(scores, deltas, proposals, sizes)
        names = ("boxes", "scores", "labels")
        results = [dict(zip(names, image, strict=True)) for image in zip(*found, strict=True)]
        if self.masks:
            logits = self._masks(self._pooled(self.regions.mask_roi_pool, levels, found[0]))
            for result, mask in zip(results, maskrcnn_inference(logits, found[2]), strict=True):
                result["masks"] = mask
        return [{**result, "labels": result["labels"] - 1} for result in results]

    def _boxes(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = self.regions.box_predictor(self.regions.box_head(pooled))
        return scores.float(), deltas.float()

    def _masks(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.regions.mask_predictor(self.regions.mask_head(pooled)).float()
        return logits

    def _pooled(self, pool: nn.Module, levels: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """Return what ``pool`` reads at the boxes of each image (all of them, c, s, s)."""
        padded = tuple(STRIDES[0] * side for side in levels["0"].shape[-2:])
        pooled: Tensor = pool({name: level.float() for name, level in levels.items()}, boxes, [padded])
        return pooled.to(levels["0"].dtype)

    def _proposals(
        self, levels: dict[str, Tensor], sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the proposals of each image, and with targets the losses, two of each image."""
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        features = list(levels.values())
        objectness, deltas = self.proposer.head(features)
        counts = [output[0].numel() for output in objectness]
        flat, encoded = concat_box_prediction_layers(objectness, deltas)
        flat, encoded = flat.float().view(len(sizes), -1), encoded.float().view(len(sizes), -1, 4)
        places = [torch.cat(anchors(self.proposer.anchor_generator, features, STRIDES))] * len(sizes)
        decoded = self.proposer.box_coder.decode(encoded.detach().flatten(0, 1), places)
        proposals, _ = self.proposer.filter_proposals(decoded.view(len(sizes), -1, 4), flat, sizes, counts)
        if targets is None:
            return proposals, []
        labels, boxes = self.proposer.assign_targets_to_anchors(places, targets)
        wanted = self.proposer.box_coder.encode(boxes, places)
        losses: list[Tensor] = []
        for rows in zip(flat, encoded, labels, wanted, strict=True):
            losses += self.proposer.compute_loss(rows[0], rows[1], [rows[2]], [rows[3]])
        return proposals, losses


def _proposer(width: int) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    return RegionProposalNetwork(
        AnchorGenerator(SIZES, (RATIOS,) * len(SIZES)),
        RPNHead(width, len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2000, "testing": 1000},
        nms_thresh=0.7,
    )


def _regions(width: int, hidden: int, outputs: int, masks: bool) -> Any:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.ops import MultiScaleRoIAlign

    box_pool, mask_pool = (MultiScaleRoIAlign(list(POOLED), side, sampling_ratio=2) for side in (7, 14))
    return RoIHeads(
        box_pool,
        TwoMLPHead(width * 7**2, hidden),
        FastRCNNPredictor(hidden, outputs),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=512,
        positive_fraction=0.25,
        bbox_reg_weights=None,  # the library's: 10, 10, 5, 5
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=KEPT,
        mask_roi_pool=mask_pool if masks else None,
        mask_head=MaskRCNNHeads(width, (width,) * 4, dilation=1) if masks else None,
        mask_predictor=MaskRCNNPredictor(width, width, outputs) if masks else None,
    )


def _fixed(levels: dict[str, Tensor], count: int, output_size: Sequence[int]) -> Tensor:
    """Return what regions of fixed places read (B * count, c, s, s): squares along the diagonal, equally many a level.

    It depends on no value, so it runs on ``meta``; it has no MACs, as in the published counts.
    """
    from torchvision.ops import roi_align

    share = count // len(POOLED)
    parts = []
    for name in POOLED:
        level = levels[name]
        height, width = level.shape[-2:]
        along = torch.linspace(0, 1, share, device=level.device)
        left, top = along * max(width - SIDE, 0), along * max(height - SIDE, 0)
        boxes = torch.stack([left, top, left + min(SIDE, width), top + min(SIDE, height)], dim=1)
        parts.append(roi_align(level.float(), [boxes] * len(level), tuple(output_size), sampling_ratio=2))
    return torch.cat(parts).to(levels[POOLED[0]].dtype)
