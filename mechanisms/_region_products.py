"""The products of windows and their regions, and what their backward pass adds up, box of windows after box.

Regions overlap, so a window's keys must be copied side by side before a product can read them. Copied for the whole map
they are many times the map; a box at a time they never leave the cache, and the backward pass, which copies them again
and takes the products a second time, has nothing to keep but the maps.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.devices import on_cpu
from attnbench.parts import parts

from ._boxes import Layout, Place, Room, held_in
from ._hidden import Hidden, Hiding
from ._spans import Box

# Queries of a window to each channel of a head, up to which products written out beat the fused kernel: where there are
# more, scores take so much more room than keys and values that they leave the cache.
FEW_QUERIES = 6
MANY_SCORES = 32_000  # of a head, which they take to be so
ALIGNED = 16  # keys from one row of a mask to the next, as CUDA's memory-efficient kernel takes it without a copy


def attend(qkv: Tensor, pooled: list[Tensor], layout: Layout, bias: Tensor, hidden: Hidden | None) -> Tensor:
    """Return (B, H, W, C); see :func:`._regions.attend_regions`. Autograd does not follow."""
    q, kv = _parted(qkv)
    # For a mask that learns torch takes the kernel that stores the scores, recording or not.
    bias = bias.detach().to(held_in(q))
    out = q.new_empty(q.shape)
    queries, target, most = layout.tokens(q), layout.tokens(out), layout.at_once(q)[0]
    written_out = _worth_writing_out(q, layout)
    hiding = Hiding(hidden, bias) if hidden else None
    room, levels = Room(q, layout, 1, int(written_out)), layout.levels([kv, *pooled], most)
    for images in parts(q.shape[0], most):
        regions = [level.regions(images) for level in levels]
        for box in layout.boxes(q):
            windows = (slice(None), images, *box)
            asked = queries[windows]
            place = room.place(asked.shape[1], box)
            place.tokens[0].copy_(asked)
            _gather(regions, box, place)
            if written_out:
                torch.bmm(_shares(place, bias, hiding, box), place.kv[1], out=place.queries[0])
                target[windows] = place.tokens[0]
            else:
                target[windows] = _fused(place, bias, hiding, box)
    return out


def _fused(place: Place, bias: Tensor, hiding: Hiding | None, box: Box) -> Tensor:
    """Attend by PyTorch's kernel: return (heads, images, rows, columns, w, w, D)."""
    mask, images = _mask(bias, hiding, box), place.tokens[0].shape[1]
    if len(mask) > 1:
        mask = mask.repeat(images, 1, 1, 1)
    q, k, v = (x.unflatten(0, (len(bias), -1)).transpose(0, 1) for x in (place.queries[0], *place.kv))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[..., : k.shape[2]])  # (n, heads, w², D)
    return attended.transpose(0, 1).view(place.tokens[0].shape)


def _worth_writing_out(q: Tensor, layout: Layout) -> bool:
    """Tell whether products written out are faster than the fused kernel, and nobody chose a kernel."""
    if not on_cpu(q) or held_in(q) != torch.float32 or layout.window**2 > FEW_QUERIES * q.shape[3] // layout.heads:
        return False
    if not torch.backends.cuda.flash_sdp_enabled() or not torch.backends.cuda.math_sdp_enabled():  # CPUs obey them too
        return False
    return math.prod(layout.at_once(q)) * layout.window**2 * layout.keys >= MANY_SCORES


def _shares(place: Place, bias: Tensor, hiding: Hiding | None, box: Box) -> Tensor:
    """Return which share of each query's attention a key of its window gets: (heads * n, w², keys)."""
    before = hiding.before(box) if hiding else None
    _score(place, bias, before)
    if hiding and before is None:
        hiding.weaken(place.by_image[0], box)
    elif hiding and hiding.doubted(place):
        _score(place, bias, hiding.by_box(box))
    return torch.softmax(place.scores[0], -1, out=place.scores[0])


def _score(place: Place, bias: Tensor, hides: Tensor | None) -> None:
    by_image, scores, queries = place.by_image[0], place.scores[0], place.queries[0]
    everywhere = bias[:, None, None].expand_as(by_image)
    if hides is None:
        by_image.copy_(everywhere)
    else:
        torch.add(everywhere, hides, out=by_image)
    torch.baddbmm(scores, queries, place.kv[0].mT, alpha=queries.shape[-1] ** -0.5, out=scores)


def differentiate(
    grad: Tensor, qkv: Tensor, pooled: list[Tensor], layout: Layout, bias: Tensor, hidden: Hidden | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the gradients of queries, keys and values, of the bias and of the pooled levels, given the output's."""
    q, kv = _parted(qkv)
    learning, bias = bias.dtype, bias.to(held_in(q))
    to_qkv, to_pooled = torch.empty_like(qkv), [torch.empty_like(level) for level in pooled]
    to_q, to_kv = _parted(to_qkv)
    # Many windows add up to the bias's gradient.
    to_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
    queries, outer, to_queries, most = *(layout.tokens(x) for x in (q, grad, to_q)), layout.at_once(q)[0]
    levels, sums = layout.levels([kv, *pooled], most), layout.levels([to_kv, *to_pooled], most, bias.dtype)
    room, hiding = Room(q, layout, 2, 2), Hiding(hidden, bias) if hidden else None
    for images in parts(q.shape[0], most):
        regions = [level.regions(images) for level in levels]
        for level in sums:
            level.clear()
        for box in layout.boxes(q):
            windows = (slice(None), images, *box)
            asked = queries[windows]
            place = room.place(asked.shape[1], box)
            place.tokens[0].copy_(asked)
            place.tokens[1].copy_(outer[windows])
            _gather(regions, box, place)
            _differentiate(place, to_bias, bias, hiding, box)
            to_queries[windows] = place.tokens[1]
            for level, found in zip(sums, place.regions, strict=True):
                level.add(found, images, box)
        for level in sums:
            level.fold(images)
    return to_qkv, to_bias.to(learning), to_pooled


def _differentiate(place: Place, to_bias: Tensor, bias: Tensor, hiding: Hiding | None, box: Box) -> None:
    """Put the gradient of queries in the place of the output's, and those of keys and values in the place of these.

    The bias's is added to ``to_bias``.
    """
    (queries, outer), (k, v) = place.queries, place.kv
    scale = queries.shape[-1] ** -0.5
    shares = _shares(place, bias, hiding, box)
    to_shares = torch.bmm(outer, v.mT, out=place.scores[1])
    torch.bmm(shares.mT, outer, out=v)
    # In place: a row is summed up before it is written.
    to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype, grad_input=to_shares)
    to_bias += place.by_image[1].sum((1, 2), dtype=to_bias.dtype)
    torch.bmm(to_scores, k, out=outer).mul_(scale)
    torch.bmm(to_scores.mT, queries.mul_(scale), out=k)


def _gather(regions: list[Tensor], box: Box, place: Place) -> None:
    """Copy the regions of the box's windows side by side, level by level."""
    for level, target in zip(regions, place.regions, strict=True):
        target.copy_(level[:, :, box[0], box[1]])


def _parted(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """View the queries of a map (B, H, W, 3C), and its keys and values together."""
    dim = qkv.shape[-1] // 3
    return qkv[..., :dim], qkv[..., dim:]


def _mask(bias: Tensor, hiding: Hiding | None, box: Box) -> Tensor:
    """Return what is added to the scores of a box of windows of any image: (windows or 1, heads, w², keys or more)."""
    rest = -bias.shape[-1] % ALIGNED if bias.is_cuda else 0
    padded = F.pad(bias, (0, rest)) if rest else bias
    if hiding is None:
        return padded[None]
    scores = hiding.by_box(box)
    return padded + (F.pad(scores, (0, rest)) if rest else scores)[:, None]
