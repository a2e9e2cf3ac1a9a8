"""The regions of a map that windows attend: copied side by side, and added up again.

A region is a square of cells around a window: the window itself, the fine tokens about it, pooled cells farther away.
Where it reaches beyond the map there are zeros, or the map goes on around the edge. Keys and values lie by head, as
products want them, so that the cells of a region's row lie together, and are copied as one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Self

import torch
from torch import Tensor

Box = tuple[slice, slice]  # rows and columns of windows
Piece = tuple[slice, slice]  # places of an extended axis, and those of the axis that they repeat


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

    def reached(self, windows: int) -> int:
        """Return how many cells the regions of a row of windows reach along it."""
        return (windows - 1) * self.step + self.side


@dataclass(frozen=True, slots=True)
class Level:
    """A map by head, and memory for some of its images as far as regions reach.

    Where regions cover the map, each cell once, they are views of the map itself.
    """

    map: Tensor  # (parts, B, H, W, D), a view
    span: Span
    extended: Tensor | None  # (parts, images, H', W', D)

    @classmethod
    def of(
        cls,
        level: Tensor,
        parts: int,
        span: Span,
        windows: tuple[int, int],
        images: int,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Take a map (B, H, W, parts * D) of ``windows`` (down, across), of which ``images`` are extended at once.

        What is extended has a ``dtype`` of its own, if given, as sums want it.
        """
        by_head = level.unflatten(-1, (parts, -1)).permute(3, 0, 1, 2, 4)
        sides = [span.reached(count) for count in windows]
        if not span.margin and sides == list(level.shape[1:3]):
            return cls(by_head, span, None)
        extended = level.new_empty(parts, images, *sides, by_head.shape[-1], dtype=dtype)
        for axis, side in () if span.around else ((2, level.shape[1]), (3, level.shape[2])):
            inside = min(side, extended.shape[axis] - span.margin)  # written to for every image, and the rest never
            extended.narrow(axis, 0, span.margin).zero_()
            extended.narrow(axis, span.margin + inside, extended.shape[axis] - span.margin - inside).zero_()
        return cls(by_head, span, extended)

    def regions(self, images: slice) -> Tensor:
        """View the regions of some images: (parts, images, down, across, side, side, D); until the next call."""
        some = self.map[:, images]
        if self.extended is None:
            return _regions(some, self.span)
        extended = self.extended[:, : some.shape[1]]
        for (to_rows, from_rows), (to_columns, from_columns) in self._pieces(extended):
            extended[:, :, to_rows, to_columns] = some[:, :, from_rows, from_columns]
        return _regions(extended, self.span)

    def clear(self) -> None:
        """Begin sums with none added up."""
        if self.extended is not None:
            self.extended.zero_()

    def add(self, regions: Tensor, images: slice, box: Box) -> None:
        """Give what the box's windows have, (parts, images, rows, columns, side, side, D), to their cells."""
        rows, columns = box
        if self.extended is None:
            _regions(self.map[:, images], self.span)[:, :, rows, columns] = regions
            return
        side, step = self.span.side, self.span.step
        extended = self.extended[:, : regions.shape[1], :, columns.start * step :]
        for begin in range(0, side, step):  # of every region as many columns as do not overlap the next one's
            width = min(step, side - begin)
            bands = extended[:, :, :, begin:].unfold(3, width, step)[:, :, :, : regions.shape[3]].transpose(-1, -2)
            given = regions[..., begin : begin + width, :].transpose(3, 4)  # (parts, images, rows, side, columns, ...)
            for row in range(regions.shape[2]):
                top = (rows.start + row) * step
                band = bands[:, :, top : top + side]
                band += given[:, :, row]

    def fold(self, images: slice) -> None:
        """Write what was added up to the map; what is around the edge is added where it comes from."""
        out = self.map[:, images]
        if self.extended is None:
            return
        extended = self.extended[:, : out.shape[1]]
        first, (height, width) = self.span.margin, out.shape[2:4]
        own = extended[:, :, first : first + height, first : first + width]
        if own.shape != out.shape:
            out.zero_()  # where no region reaches
        out[:, :, : own.shape[2], : own.shape[3]] = own
        for (to_rows, from_rows), (to_columns, from_columns) in self._pieces(extended):
            if (to_rows.start, to_columns.start) != (first, first):
                inside = out[:, :, from_rows, from_columns]
                inside += extended[:, :, to_rows, to_columns]

    def _pieces(self, extended: Tensor) -> Iterator[tuple[Piece, Piece]]:
        first, around = -self.span.margin, self.span.around
        rows, columns = (
            list(_pieces(first, reached + first, side, around))
            for reached, side in zip(extended.shape[2:4], self.map.shape[2:4], strict=True)
        )
        return product(rows, columns)


def _regions(x: Tensor, span: Span) -> Tensor:
    """View the regions of (parts, images, H, W, D): (parts, images, down, across, side, side, D)."""
    return x.unfold(2, span.side, span.step).unfold(3, span.side, span.step).permute(0, 1, 2, 3, 5, 6, 4)


def _pieces(first: int, stop: int, side: int, around: bool) -> Iterator[Piece]:
    """Cut the places from ``first`` to ``stop`` where an axis of ``side`` cells begins anew or ends.

    Of each piece, tell where it is counted from ``first``, and where on the axis.
    """
    place = first if around else max(first, 0)
    while place < (stop if around else min(stop, side)):
        cell = place % side
        length = min(stop - place, side - cell)
        yield slice(place - first, place - first + length), slice(cell, cell + length)
        place += length
