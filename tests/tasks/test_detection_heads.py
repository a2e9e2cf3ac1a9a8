"""The heads of detection without data: shapes, MACs by hand, the papers' widths, anchors and prior."""

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from attnbench.backbone import build_model
from attnbench.measure.macs import count_macs

Detection: Any = importlib.import_module("attnbench.tasks.detection").Detection
HEADS = Detection.heads
SIDE = 96  # pixels


def build(head: str, size: str = "nano") -> Any:
    torch.manual_seed(0)
    side = (SIDE, SIDE)
    return build_model("identity", size, resolution=side, head=lambda channels: Detection.head(channels, 2, head))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_a_head_runs_on_meta_at_any_resolution_and_returns_tensors(head: str, size: str) -> None:
    with torch.device("meta"):
        model = build(head, size)
    for height, width in ((96, 128), (33, 70)):
        outputs = model(torch.empty(2, 3, height, width, device="meta"))
        assert all(output.device.type == "meta" for output in outputs)
        assert not head.endswith("rcnn") or outputs[10].shape == (2000, 3)


def convolution(kernel: int, source: int, target: int, places: int) -> int:
    return kernel**2 * source * target * places


def test_macs_of_the_heads_are_those_of_their_layers() -> None:
    """At 128 x 128 pixels, by hand: maps of 32, 16, 8 and 4 tokens a side, nano's widths."""
    model, widths = build("retinanet"), (32, 64, 128, 256)
    backbone = model.macs(128, 128)
    sides, up = [16, 8, 4, 2, 1], [1024, 256, 64, 16, 4]
    places = sum(side**2 for side in sides)
    pyramid = sum(convolution(1, width, 64, side**2) for width, side in zip(widths[1:], sides[:3], strict=True))
    pyramid += convolution(3, 64, 64, 16**2 + 8**2 + 4**2)
    pyramid += convolution(3, 256, 64, 2**2) + convolution(3, 64, 64, 1)
    dense = convolution(3, 64, 8 * 64 + 9 * (2 + 4), places)
    assert count_macs(model, (3, 128, 128)) - backbone == pyramid + dense

    pyramid = sum(convolution(1, width, 64, count) for width, count in zip(widths, up, strict=False))
    pyramid += convolution(3, 64, 64, sum(up[:4]))
    proposer = convolution(3, 64, 64, sum(up)) + convolution(1, 64, 3 * 5, sum(up))
    boxes = 1000 * (64 * 49 * 256 + 256 * 256 + 256 * 3 * 5)
    assert count_macs(build("faster_rcnn"), (3, 128, 128)) - backbone == pyramid + proposer + boxes

    masks = 100 * (convolution(3, 64, 4 * 64, 14**2) + convolution(2, 64, 64, 14**2) + convolution(1, 64, 3, 28**2))
    assert count_macs(build("mask_rcnn"), (3, 128, 128)) - backbone == pyramid + proposer + boxes + masks


def test_heads_of_tiny_and_larger_have_the_papers_widths() -> None:
    channels = (96, 192, 384, 768)
    for head in HEADS:
        module = Detection.head(channels, 80, head)
        pyramid = next(item for item in module.modules() if type(item).__name__ == "Pyramid")
        assert pyramid.out_channels == 256
    assert module.regions.box_head.fc6.out_features == 1024


def test_retinanets_anchors_and_prior_are_the_papers() -> None:
    model = build("retinanet")
    detector = model.head.detector
    areas = [
        float(((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])).mean().sqrt())
        for corners in detector.anchor_generator.cell_anchors
    ]
    expected = np.array([32, 64, 128, 256, 512]) * np.sqrt(np.mean([2 ** (2 * step / 3) for step in range(3)]))
    assert areas == pytest.approx(expected.tolist(), rel=0.03)  # whole pixels
    scores = detector.head.classification_head.cls_logits.bias.sigmoid()
    assert torch.allclose(scores, torch.full_like(scores, 0.01))
    with torch.no_grad():
        logits, _ = model(torch.randn(2, 3, SIDE, SIDE))
    assert float(logits.sigmoid().mean()) == pytest.approx(0.01, rel=0.2)


def test_anchors_are_a_stride_apart_though_the_maps_are_rounded_up() -> None:
    pyramid: Any = importlib.import_module("attnbench.tasks._pyramid")
    retinanet: Any = importlib.import_module("attnbench.tasks._retinanet")
    levels = [torch.empty(1, 1, side, side) for side in (20, 10, 5, 3, 2)]  # of 160 pixels
    generator = build("retinanet").head.detector.anchor_generator
    for places, stride, side in zip(
        pyramid.anchors(generator, levels, retinanet.STRIDES), retinanet.STRIDES, (20, 10, 5, 3, 2), strict=True
    ):
        centres = (places[:, :2] + places[:, 2:]).view(side, side, 9, 2) / 2
        assert centres[0, 0].abs().max() <= 0.5
        assert torch.equal((centres[1:] - centres[:-1]).unique(), torch.tensor([0.0, stride]))
