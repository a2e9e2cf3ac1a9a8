"""RetinaNet (Lin et al., arXiv 1708.02002): one dense stage, focal loss; the library's parts behind our backbone.

As in the paper: C3 to C5 are read, P6 is a strided convolution of C5 and P7 one of P6; nine anchors a place, of 32 to
512 pixels and two more octave steps each; focal loss with alpha 0.25 and gamma 2, prior 0.01. The box loss is L1 on
encoded boxes, as in the detection of Swin and Focal. Both are sums over anchors by the number of matched anchors of the
image, mean over images. Where we differ: hidden convolutions narrower than the paper's 256 start by He's rule, since
0.01 would let 64 channels shrink the signal sixfold a layer, and the first hundreds of steps would learn nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ._pyramid import Pyramid, anchors, wide

STRIDES = (8, 16, 32, 64, 128)
SIZES = tuple(tuple(round(4 * stride * 2 ** (step / 3)) for step in range(3)) for stride in STRIDES)
RATIOS = (0.5, 1.0, 2.0)
WIDTH, NARROW = 256, 64
KEPT = 100  # detections of one image, as COCO counts them


class RetinaNetHead(nn.Module):
    """Pyramid, classification and regression subnets."""

    def __init__(self, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.retinanet import RetinaNet
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        width = WIDTH if wide(channels) else NARROW
        top = LastLevelP6P7(channels[-1], width)
        top.use_P5 = False  # the library guesses it from the widths, which may be equal
        pyramid = Pyramid(channels[1:], width, top)
        generator = AnchorGenerator(SIZES, (RATIOS,) * len(SIZES))
        # The whole model is made for its losses and its post-processing; its transform of images is never called.
        self.detector = RetinaNet(pyramid, num_classes, anchor_generator=generator, detections_per_img=KEPT)
        if width < WIDTH:
            self._start_narrow()

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (B, anchors, classes) and encoded boxes (B, anchors, 4): all the work but the sorting out."""
        outputs = self.detector.head(list(self.detector.backbone(maps).values()))
        return outputs["cls_logits"], outputs["bbox_regression"]

    def losses(self, maps: list[Tensor], sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]]) -> Tensor:
        """Return focal loss plus box loss, the mean over images, in float32.

        Args:
            maps: the four of the backbone.
            sizes: (h, w) of each image without its padding; not read, for anchors on padding are background.
            targets: ``boxes`` (N, 4) and ``labels`` (N,) of each image.
        """
        del sizes
        outputs, levels = self._outputs(maps)
        places = [torch.cat(levels)] * len(targets)
        parts: dict[str, Tensor] = self.detector.compute_loss(targets, outputs, places)
        return torch.stack(list(parts.values())).sum()

    def detections(self, maps: list[Tensor], sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Return ``boxes`` (N, 4) in pixels of the input, ``scores`` and ``labels`` of each image, at most 100."""
        outputs, levels = self._outputs(maps)
        counts = [len(level) for level in levels]
        split = {name: list(output.split(counts, dim=1)) for name, output in outputs.items()}
        found: list[dict[str, Tensor]] = self.detector.postprocess_detections(split, [levels] * len(sizes), sizes)
        return found

    def _outputs(self, maps: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the subnets' outputs, in float32, and the anchors of each level."""
        levels = list(self.detector.backbone(maps).values())
        outputs: dict[str, Any] = self.detector.head(levels)
        places = anchors(self.detector.anchor_generator, levels, STRIDES)
        return {name: output.float() for name, output in outputs.items()}, places

    def _start_narrow(self) -> None:
        for subnet in (self.detector.head.classification_head, self.detector.head.regression_head):
            for module in subnet.conv.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
