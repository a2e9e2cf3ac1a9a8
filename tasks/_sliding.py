"""Inference on images of any size: whole or in windows, at several sizes, mirrored, and back to each image's own size.

Windows overlap by a third and their logits are averaged where they do; sizes and mirror images are averaged as
probabilities, as in mmsegmentation.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._iou import IGNORE

Size = tuple[int, int]  # height, width
Network = Callable[[Tensor], Tensor]  # images (B, 3, H, W) to logits (B, C, ceil(H / 4), ceil(W / 4))

COARSEST = 32  # pixels of a token of the last stage
BAND = 2**25  # numbers (float32) that are upsampled at a time


def aligned(images: Tensor) -> Tensor:
    """Zero-pad (B, 3, H, W), at the bottom and right, so that each stage's tokens end where the image does.

    Decoders stretch each stage's map to the next one's; a map that reaches beyond the image would be moved by it.
    """
    bottom, right = -images.shape[2] % COARSEST, -images.shape[3] % COARSEST
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


def whole(network: Network, images: Tensor) -> Tensor:
    """Return the logits (B, C, ceil(H / 4), ceil(W / 4)) of images (B, 3, H, W), in float32."""
    height, width = (-(side // -4) for side in images.shape[2:])
    return network(aligned(images))[:, :, :height, :width].float()


def in_windows(network: Network, image: Tensor, window: Size, batch: int) -> Tensor:
    """Return the logits (C, H, W) of an image (3, H, W), averaged over windows; ``batch`` of them are run together."""
    height, width = (min(side, own) for side, own in zip(window, image.shape[1:], strict=True))
    corners = list(itertools.product(_starts(image.shape[1], height), _starts(image.shape[2], width)))
    total, covered = image.new_zeros(0), image.new_zeros(image.shape[1:], dtype=torch.float32)
    for group in (corners[start : start + batch] for start in range(0, len(corners), batch)):
        windows = torch.stack([image[:, top : top + height, left : left + width] for top, left in group])
        logits = F.interpolate(whole(network, windows), size=(height, width), mode="bilinear", align_corners=False)
        if not total.numel():
            total = logits.new_zeros(logits.shape[1], *image.shape[1:])
        for (top, left), one in zip(group, logits, strict=True):
            total[:, top : top + height, left : left + width] += one
            covered[top : top + height, left : left + width] += 1
    return total / covered


def most_likely(maps: Sequence[Tensor], size: Size) -> Tensor:
    """Return the class (h, w), int16, of each pixel: the highest mean probability over logits (C, H_i, W_i), upsampled.

    A pixel with NaN is of no class, -1.
    """
    bands = []
    rows = max(BAND // (len(maps[0]) * size[1]), 1)
    for start in range(0, size[0], rows):
        stop = min(start + rows, size[0])
        scores: Tensor | float = 0.0
        for logits in maps:
            band = _upsampled(logits, size, start, stop)
            scores = scores + band.softmax(0) if len(maps) > 1 else band
        best, classes = torch.as_tensor(scores).max(dim=0)
        bands.append(classes.to(torch.int16).masked_fill(best.isnan(), IGNORE))
    return torch.cat(bands)


def _upsampled(logits: Tensor, size: Size, start: int, stop: int) -> Tensor:
    """Return rows ``start`` to ``stop`` of logits (C, H, W) resized bilinearly to ``size``: (C, stop - start, w)."""
    own = logits.shape[1]
    places = (torch.arange(start, stop, device=logits.device, dtype=torch.float32) + 0.5) * (own / size[0]) - 0.5
    places = places.clamp(0, own - 1)
    above = places.floor().long()
    below = (above + 1).clamp(max=own - 1)
    rows = torch.lerp(logits[:, above], logits[:, below], (places - above)[:, None])
    columns = F.interpolate(rows[None], size=(stop - start, size[1]), mode="bilinear", align_corners=False)
    return columns[0]


def _starts(length: int, window: int) -> Iterator[int]:
    """Yield where windows start, two thirds of a window apart; the last ends with the image."""
    stride = max(window * 2 // 3, 1)
    for start in range(0, max(length - window + stride - 1, 0) // stride * stride + 1, stride):
        yield min(start, length - window)
