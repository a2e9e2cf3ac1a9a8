"""The products of windows and their regions, and what their backward pass adds up, chunk by chunk.

Regions overlap, so a window's keys must be copied side by side before a product can read them. Copied for the whole map
they are many times the map; a chunk at a time they never leave the cache, and the backward pass, which copies them
again and takes the products a second time, has nothing to keep but the maps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnbench.devices import on_cpu
from attnbench.parts import part, parts

from ._spans import Chunk, Span, extended_zeros, fold, gather, gather_by_head, scatter

FEW_KEYS = 64  # up to which products written out beat the fused kernel: seen at 49 keys, and not at 178
MANY_SCORES = 32_000  # of a head, which they take to be so
CHUNK = 4 * 2**20  # bytes of gathered keys and values; below, calls take the time, and above 6 MiB, memory does
FAR_CHUNK = 2**29  # of them on anything but a CPU, where only memory is to be bounded
ALIGNED = 16  # keys from one row of a mask to the next, as CUDA's memory-efficient kernel takes it without a copy


@dataclass(frozen=True, slots=True)
class Hidden:
    """Which keys are hidden from whom: windows of one kind hide the same ones."""

    scores: Tensor  # (kinds, 1 or w², keys), added to the bias: 0 where a key may be attended
    kinds: Tensor  # (windows down, windows across), of int64
    score: float  # of what is hidden: -inf, or as authors have it a number that other scores could make up for

    @classmethod
    def where_not(cls, visible: NDArray[np.bool_], score: float, across: int, device: torch.device) -> "Hidden | None":
        """Return ``score`` where not ``visible`` (windows, 1 or w², keys), ``across`` windows to a row, or None."""
        if visible.all():
            return None
        rows, kinds = np.unique(visible.reshape(len(visible), -1), axis=0, return_inverse=True)
        scores = np.where(rows, np.float32(0), np.float32(score)).reshape(-1, *visible.shape[1:])
        return cls(torch.tensor(scores, device=device), torch.tensor(kinds.reshape(-1, across), device=device), score)

    def of(self, rows: slice, columns: slice, dtype: torch.dtype) -> Tensor:
        """Return what hides keys from a box of windows of an image: (windows, 1 or w², keys)."""
        return self.scores.to(dtype)[self.kinds[rows, columns].flatten()]

    def add(self, found: Tensor, scores: Tensor) -> None:
        """Add ``found`` by :meth:`of` to scores (n, w², keys), in which windows of image after image follow each other.

        A share of e^-100 is no normal number, and products with such numbers take many times as long. Where scores lie
        so close that what is hidden would be lost in rounding, it gets no share at all: every query sees some key.
        """
        by_image = scores.unflatten(0, (-1, found.shape[0]))
        if self.score == -math.inf:
            by_image += found
            return
        least, most = torch.aminmax(scores)
        lost = most - least < -self.score - math.log(2 * found.shape[-1] / torch.finfo(scores.dtype).eps ** 2)
        by_image.addcmul_(found, torch.where(lost, 1e30, 1.0).to(scores.dtype))


@dataclass(frozen=True, slots=True)
class Layout:
    """How queries find their keys."""

    window: int
    spans: tuple[Span, ...]  # of every level
    heads: int

    @property
    def keys(self) -> int:
        """Return the keys of a window."""
        return sum(span.side**2 for span in self.spans)


def attend(qkv: Tensor, pooled: list[Tensor], layout: Layout, bias: Tensor, hidden: Hidden | None) -> Tensor:
    """Return (B, H, W, C); see :func:`._regions.attend_regions`. Autograd does not follow."""
    bias = bias.detach()  # for a mask that learns torch takes the kernel that stores the scores, recording or not
    q, kv = _parted(qkv)
    levels = [kv, *pooled]
    out = q.new_empty(q.shape)
    room = Room.of(q, layout, 1) if _worth_writing_out(q, layout) else None
    images = _box(q, layout)[0]
    for rows, columns in _boxes(q, layout):
        mask = None if room is not None else _mask(bias, hidden, rows, columns)
        for some in parts(q.shape[0], images):  # which share the mask
            chunk = Chunk(some, rows, columns)
            windows = _windows(q, layout.window, chunk)
            target = _windows(out, layout.window, chunk)
            if mask is not None:
                target.copy_(_fused(windows, levels, layout, mask, chunk))
            elif room is not None:
                _write(_written_out(windows, levels, layout, bias, hidden, chunk, room), target)
    return out


def _fused(windows: Tensor, levels: list[Tensor], layout: Layout, mask: Tensor, chunk: Chunk) -> Tensor:
    """Map windows (images, rows, columns, w, w, C) to the same shape by PyTorch's kernel."""
    images = windows.shape[0]
    if images > 1 and len(mask) > 1:
        mask = mask.expand(images, *mask.shape).flatten(0, 1)
    kv = gather(levels, layout.spans, chunk).unflatten(-1, (2, layout.heads, -1))
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (n, heads, keys, D)
    queries = windows.flatten(0, 2).flatten(1, 2).unflatten(-1, (layout.heads, -1)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(queries, k, v, attn_mask=mask[..., : layout.keys])
    return attended.transpose(1, 2).reshape(windows.shape)


def _worth_writing_out(q: Tensor, layout: Layout) -> bool:
    """Tell whether products written out are faster than the fused kernel, and nobody chose a kernel."""
    if not on_cpu(q) or q.dtype != torch.float32 or layout.keys > FEW_KEYS:
        return False
    if not torch.backends.cuda.flash_sdp_enabled() or not torch.backends.cuda.math_sdp_enabled():  # CPUs obey them too
        return False
    return math.prod(_box(q, layout)) * layout.window**2 * layout.keys >= MANY_SCORES


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that chunk after chunk uses, and finds in the cache: flat, and enough for the largest chunk of a map."""

    kv: Tensor
    queries: Tensor  # (copies, ...)
    scores: Tensor  # (copies, ...)

    @classmethod
    def of(cls, q: Tensor, layout: Layout, copies: int) -> "Room":
        """Return room for a map of queries (B, H, W, C)."""
        windows, queries = math.prod(_box(q, layout)), layout.window**2
        kv, tokens, scores = 2 * layout.keys * q.shape[3], queries * q.shape[3], layout.heads * queries * layout.keys
        return cls(q.new_empty(windows * kv), *(q.new_empty(copies, windows * each) for each in (tokens, scores)))


def _taken(room: Tensor, *shape: int) -> Tensor:
    return room[: math.prod(shape)].view(shape)


def _written_out(
    windows: Tensor,
    levels: list[Tensor],
    layout: Layout,
    bias: Tensor,
    hidden: Hidden | None,
    chunk: Chunk,
    room: Room,
) -> Tensor:
    """Map windows (images, rows, columns, w, w, C) to (heads, n, w², D), within the room."""
    k, v = gather_by_head(levels, layout.spans, chunk, layout.heads, room.kv).flatten(1, 2).unbind(0)
    queries = _by_head(windows, layout, room.queries[0])
    scores = _biased(bias, len(queries), room.scores[0])
    torch.baddbmm(scores, queries, k.mT, alpha=queries.shape[-1] ** -0.5, out=scores)
    if hidden is not None:
        hidden.add(hidden.of(chunk.rows, chunk.columns, bias.dtype), scores)
    torch.softmax(scores, -1, out=scores)
    return torch.bmm(scores, v, out=queries).unflatten(0, (layout.heads, -1))


def _biased(bias: Tensor, windows: int, room: Tensor) -> Tensor:
    """Repeat a bias (heads, w², keys) for all ``windows`` of heads, (heads * n, w², keys): neighbours share theirs."""
    scores = _taken(room, windows, *bias.shape[1:])
    scores.unflatten(0, (len(bias), -1)).copy_(bias[:, None])
    return scores


def differentiate(
    grad: Tensor, qkv: Tensor, pooled: list[Tensor], layout: Layout, bias: Tensor, hidden: Hidden | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the gradients of queries, keys and values, of the bias and of the pooled levels, given the output's."""
    q, kv = _parted(qkv)
    to_qkv, to_pooled = torch.empty_like(qkv), [torch.empty_like(level) for level in pooled]
    to_q, to_kv = _parted(to_qkv)
    sums = torch.promote_types(bias.dtype, torch.float32)  # many windows add up to the bias's gradient
    to_bias = torch.zeros_like(bias, dtype=sums)
    room = Room.of(q, layout, 2)
    for images in parts(q.shape[0], _box(q, layout)[0]):
        given = grad[images], q[images], [level[images] for level in (kv, *pooled)], bias
        wanted = to_q[images], [level[images] for level in (to_kv, *to_pooled)], to_bias
        _differentiate_images(given, wanted, layout, hidden, room)
    return to_qkv, to_bias.to(bias.dtype), to_pooled


Given = tuple[Tensor, Tensor, list[Tensor], Tensor]  # gradient of the output, queries, levels, bias
Wanted = tuple[Tensor, list[Tensor], Tensor]  # gradients of queries, levels, bias: the last to be added to


def _differentiate_images(given: Given, wanted: Wanted, layout: Layout, hidden: Hidden | None, room: Room) -> None:
    """Write the gradients of some images, chunk after chunk."""
    q, pairs = given[1], list(zip(wanted[1], layout.spans, strict=True))
    windows = _windows_of(q, layout)
    sums = [level if span.tiles(level, windows) else extended_zeros(level, span, windows) for level, span in pairs]
    for rows, columns in _boxes(q, layout):
        chunk = Chunk(slice(0, q.shape[0]), rows, columns)
        _differentiate_chunk(chunk, layout, hidden, given, (wanted[0], sums, wanted[2]), room)
    for found, (level, span) in zip(sums, pairs, strict=True):
        if found is not level:
            fold(found, span, level)


def _differentiate_chunk(
    chunk: Chunk, layout: Layout, hidden: Hidden | None, given: Given, wanted: Wanted, room: Room
) -> None:
    """Add up what the chunk's windows give to the gradients; its windows' own queries are in no other chunk."""
    grad, q, levels, bias = given
    to_q, to_levels, to_bias = wanted
    queries, outer = (
        _by_head(_windows(x, layout.window, chunk), layout, memory)
        for x, memory in zip((q, grad), room.queries, strict=True)
    )
    scale = queries.shape[-1] ** -0.5
    queries *= scale  # a copy of our own
    kv = gather_by_head(levels, layout.spans, chunk, layout.heads, room.kv)  # (2, heads, n, keys, D)
    k, v = kv.flatten(1, 2).unbind(0)
    shares = _biased(bias, len(queries), room.scores[0]).baddbmm_(queries, k.mT)
    if hidden is not None:
        hidden.add(hidden.of(chunk.rows, chunk.columns, bias.dtype), shares)
    torch.softmax(shares, -1, out=shares)
    to_shares = torch.bmm(outer, v.mT, out=_taken(room.scores[1], *shares.shape))
    torch.bmm(shares.mT, outer, out=v)  # gradients take the place of what is no longer needed
    # In place: a row is summed up before it is written.
    to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype, grad_input=to_shares)
    to_bias += to_scores.unflatten(0, kv.shape[1:3]).sum(1, dtype=to_bias.dtype)
    to_queries = torch.bmm(to_scores, k, out=outer).mul_(scale).unflatten(0, kv.shape[1:3])  # (heads, n, w², D)
    torch.bmm(to_scores.mT, queries, out=k)
    target = _windows(to_q, layout.window, chunk)
    _write(to_queries, target)
    parted = kv.unflatten(2, target.shape[:3])  # (2, heads, images, rows, columns, keys, D)
    scatter(parted.permute(2, 3, 4, 5, 0, 1, 6), to_levels, layout.spans, chunk)


def _write(by_head: Tensor, windows: Tensor) -> None:
    """Write (heads, n, w², D) into windows (images, rows, columns, w, w, C)."""
    tokens = by_head.unflatten(2, windows.shape[3:5]).unflatten(1, windows.shape[:3])
    windows.unflatten(-1, (len(by_head), -1)).copy_(tokens.permute(1, 2, 3, 4, 5, 0, 6))


def _by_head(windows: Tensor, layout: Layout, room: Tensor) -> Tensor:
    """Turn (images, rows, columns, w, w, C) into (heads * n, w², D), a copy."""
    heads = windows.unflatten(-1, (layout.heads, -1)).permute(5, 0, 1, 2, 3, 4, 6)
    return _taken(room, *heads.shape).copy_(heads).flatten(0, 3).flatten(1, 2)


def _parted(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """View the queries of a map (B, H, W, 3C), and its keys and values together."""
    dim = qkv.shape[-1] // 3
    return qkv[..., :dim], qkv[..., dim:]


def _windows_of(q: Tensor, layout: Layout) -> tuple[int, int]:
    """Return how many windows a map is high and wide."""
    return q.shape[1] // layout.window, q.shape[2] // layout.window


def _box(q: Tensor, layout: Layout) -> tuple[int, int, int]:
    """Return of how many images, rows and columns of windows a chunk is."""
    down, across = _windows_of(q, layout)
    most = (CHUNK if on_cpu(q) else FAR_CHUNK) // (layout.keys * 2 * q.shape[3] * q.element_size())
    return part(q.shape[0], most // (across * down)), part(down, most // across), part(across, most)


def _boxes(q: Tensor, layout: Layout) -> Iterator[tuple[slice, slice]]:
    """Cut the windows of an image into boxes: rows and columns of windows."""
    _, rows, columns = _box(q, layout)
    down, across = _windows_of(q, layout)
    for row in range(0, down, rows):
        for column in range(0, across, columns):
            yield slice(row, min(row + rows, down)), slice(column, min(column + columns, across))


def _windows(x: Tensor, window: int, chunk: Chunk) -> Tensor:
    """View the chunk's windows of a map (B, H, W, C): (images, rows, columns, w, w, C)."""
    tiles = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, nH, w, nW, w, C)
    return tiles[chunk.images, chunk.rows, :, chunk.columns].transpose(2, 3)


def _mask(bias: Tensor, hidden: Hidden | None, rows: slice, columns: slice) -> Tensor:
    """Return what is added to the scores of a box of windows of any image: (windows or 1, heads, w², keys or more)."""
    rest = -bias.shape[-1] % ALIGNED if bias.is_cuda else 0
    padded = F.pad(bias, (0, rest)) if rest else bias
    if hidden is None:
        return padded[None]
    scores = hidden.of(rows, columns, bias.dtype)
    return padded + (F.pad(scores, (0, rest)) if rest else scores)[:, None]
