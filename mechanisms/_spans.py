"""The regions of a map that windows attend: copied side by side, and added up again.

A region is a square of cells around a window: the window itself, the fine tokens about it, pooled cells farther away.
Where it reaches beyond the map there are zeros, or the map goes on around the edge. The map is never extended as a
whole; of a chunk of windows, the part of the map under their regions is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """The regions of one level: their side, and the step from one window's to the next's, in cells of the level.

    What a region has more than a step it has before and after its window alike.
    """

    side: int
    step: int
    around: bool = False  # beyond the map is the map again, and not zeros

    @property
    def margin(self) -> int:
        """Return how far the first region begins before the map."""
        return (self.side - self.step) // 2

    def reach(self, windows: slice) -> tuple[int, int]:
        """Return the first cell of some windows' regions along an axis, and the one after the last."""
        return windows.start * self.step - self.margin, (windows.stop - 1) * self.step - self.margin + self.side

    def tiles(self, level: Tensor, windows: tuple[int, int]) -> bool:
        """Tell whether the regions of ``windows`` (down, across) cover a map (B, H, W, C), each cell once."""
        sides = tuple(count * self.step for count in windows)
        return self.side == self.step and sides == tuple(level.shape[1:3])


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of windows: images, rows of windows and columns of windows."""

    images: slice
    rows: slice
    columns: slice


def gather(levels: list[Tensor], spans: tuple[Span, ...], chunk: Chunk) -> Tensor:
    """Copy the regions of the chunk's windows out of maps (B, H, W, C), level by level: (windows, cells, C)."""
    gathered = levels[0].new_empty(*_sizes(chunk), _cells(spans), levels[0].shape[3])
    _fill(gathered.unsqueeze(-2), levels, spans, chunk)
    return gathered.flatten(0, 2)


def gather_by_head(levels: list[Tensor], spans: tuple[Span, ...], chunk: Chunk, heads: int, room: Tensor) -> Tensor:
    """Copy the regions of keys and values (B, H, W, 2C) into flat memory, so that those of a head lie together.

    Returns:
        (2, heads, windows, cells, D), keys then values.
    """
    parts = 2 * heads
    shape = parts, *_sizes(chunk), _cells(spans), levels[0].shape[3] // parts
    gathered = room[: prod(shape)].view(shape)
    _fill(gathered.permute(1, 2, 3, 4, 0, 5), levels, spans, chunk)
    return gathered.flatten(1, 3).unflatten(0, (2, heads))


def _fill(gathered: Tensor, levels: list[Tensor], spans: tuple[Span, ...], chunk: Chunk) -> None:
    """Fill (images, rows, columns, cells, parts, channels of a part) level by level."""
    first = 0
    for level, span in zip(levels, spans, strict=True):
        regions = _regions(_under(level, span, chunk), span)  # (images, rows, columns, side, side, C)
        target = gathered[:, :, :, first : first + span.side**2].unflatten(3, (span.side, span.side))
        target.copy_(regions.unflatten(-1, target.shape[5:]))
        first += span.side**2


def _sizes(chunk: Chunk) -> list[int]:
    return [some.stop - some.start for some in (chunk.images, chunk.rows, chunk.columns)]


def _cells(spans: tuple[Span, ...]) -> int:
    return sum(span.side**2 for span in spans)


def scatter(regions: Tensor, sums: list[Tensor], spans: tuple[Span, ...], chunk: Chunk) -> None:
    """Give what the chunk's windows have, (images, rows, columns, cells, ...), to maps, level by level.

    Regions without a margin are all that their cells get, and are written into the map; others are added to a map
    extended by what regions reach (:func:`extended_zeros`), of the chunk's images alone.
    """
    first = 0
    for level, span in zip(sums, spans, strict=True):
        part = regions[:, :, :, first : first + span.side**2].unflatten(3, (span.side, span.side))
        first += span.side**2
        if span.side == span.step:
            tiles = level.unflatten(2, (-1, span.side)).unflatten(1, (-1, span.side)).unflatten(-1, part.shape[5:])
            tiles[chunk.images, chunk.rows, :, chunk.columns] = part.transpose(2, 3)
        else:
            _add_up(part, level.unflatten(-1, part.shape[5:]), span, chunk)


def _add_up(part: Tensor, extended: Tensor, span: Span, chunk: Chunk) -> None:
    """Add regions (images, rows, columns, side, side, ...) to an extended map (images, H, W, ...)."""
    left = chunk.columns.start * span.step
    for begin in range(0, span.side, span.step):  # of every region as many columns as do not overlap the next one's
        width = min(span.step, span.side - begin)
        bands = extended[:, :, left + begin :].unfold(2, width, span.step)[:, :, : part.shape[2]].movedim(-1, 3)
        rows = part[:, :, :, :, begin : begin + width].transpose(2, 3)  # (images, rows, side, columns, width, ...)
        for row in range(part.shape[1]):
            top = (chunk.rows.start + row) * span.step
            band = bands[:, top : top + span.side]
            band += rows[:, row]


def extended_zeros(level: Tensor, span: Span, windows: tuple[int, int]) -> Tensor:
    """Return zeros for a map (B, H, W, C) extended by all that the regions of ``windows`` (down, across) reach."""
    sides = [stop - first for first, stop in (span.reach(slice(0, count)) for count in windows)]
    return level.new_zeros(level.shape[0], *sides, level.shape[3])


def fold(extended: Tensor, span: Span, out: Tensor) -> None:
    """Bring an extended map back to ``out`` (B, H, W, C): what is around the edge is added where it comes from."""
    first = span.margin
    height, width = out.shape[1:3]
    own = extended[:, first : first + height, first : first + width]
    if own.shape != out.shape:
        out.zero_()  # where no region reaches
    out[:, : own.shape[1], : own.shape[2]] = own
    if not span.around:
        return
    rows, columns = (
        list(_pieces(-first, size - first, side, around=True))
        for size, side in zip(extended.shape[1:3], (height, width), strict=True)
    )
    for (to_rows, from_rows), (to_columns, from_columns) in product(rows, columns):
        if (to_rows.start, to_columns.start) != (first, first):
            inside = out[:, from_rows, from_columns]
            inside += extended[:, to_rows, to_columns]


def _under(level: Tensor, span: Span, chunk: Chunk) -> Tensor:
    """Return the part of the map under the regions of the chunk's windows; a view, if the map has it all."""
    (top, bottom), (left, right) = span.reach(chunk.rows), span.reach(chunk.columns)
    height, width = level.shape[1:3]
    images = level[chunk.images]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return images[:, top:bottom, left:right]
    shape = images.shape[0], bottom - top, right - left, level.shape[3]
    under = images.new_empty(shape) if span.around else images.new_zeros(shape)
    for to_rows, from_rows in _pieces(top, bottom, height, span.around):
        for to_columns, from_columns in _pieces(left, right, width, span.around):
            under[:, to_rows, to_columns] = images[:, from_rows, from_columns]
    return under


def _regions(under: Tensor, span: Span) -> Tensor:
    """View the regions: (images, rows, columns, side, side, C)."""
    return under.unfold(1, span.side, span.step).unfold(2, span.side, span.step).permute(0, 1, 2, 4, 5, 3)


def _pieces(first: int, stop: int, side: int, around: bool) -> Iterator[tuple[slice, slice]]:
    """Cut the places from ``first`` to ``stop`` where an axis of ``side`` cells begins anew or ends.

    Of each piece, tell where it is counted from ``first``, and where on the axis.
    """
    place = first if around else max(first, 0)
    while place < (stop if around else min(stop, side)):
        cell = place % side
        length = min(stop - place, side - cell)
        yield slice(place - first, place - first + length), slice(cell, cell + length)
        place += length
