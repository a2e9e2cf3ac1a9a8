"""Windows taken a box at a time, and the memory that box after box uses and finds in the cache."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attnbench.devices import on_cpu
from attnbench.parts import part

from ._spans import Box, Level, Span

CHUNK = 3 * 2**20  # bytes of gathered keys and values; below, calls take the time, and above, memory does
FAR_CHUNK = 2**29  # of them on anything but a CPU, where only memory is to be bounded
HALVES = (torch.bfloat16, torch.float16)
HAS_AMX = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def held_in(q: Tensor) -> torch.dtype:
    """Return the type of numbers that copies of queries, keys and values have, and scores.

    Scores in half precision are coarse. On a CPU the fused kernel keeps them in float32, but on one without AMX it took
    longer than products in float32 written out, so the copy that gathers keys makes float32 of them.
    """
    return torch.float32 if q.dtype in HALVES and on_cpu(q) and not HAS_AMX else q.dtype


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

    def tokens(self, x: Tensor) -> Tensor:
        """View a map (B, H, W, C) by head and window: (heads, B, down, across, w, w, D)."""
        tiles = x.unflatten(-1, (self.heads, -1)).unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return tiles.permute(5, 0, 1, 3, 2, 4, 6)

    def levels(self, maps: list[Tensor], images: int, dtype: torch.dtype | None = None) -> list[Level]:
        """Take keys and values of every level (B, H, W, 2C), of so many ``images`` at once; see :class:`Level`."""
        windows = self._windows(maps[0])
        pairs = zip(maps, self.spans, strict=True)
        return [Level.of(level, 2 * self.heads, span, windows, images, dtype) for level, span in pairs]

    def at_once(self, q: Tensor) -> tuple[int, int, int]:
        """Return how many images of queries (B, H, W, C), and rows and columns of their windows, are a box at most."""
        down, across = self._windows(q)
        most = (CHUNK if on_cpu(q) else FAR_CHUNK) // (self.keys * 2 * q.shape[3] * held_in(q).itemsize)
        return part(q.shape[0], most // (across * down)), part(down, most // across), part(across, most)

    def boxes(self, q: Tensor) -> Iterator[Box]:
        """Cut the windows of an image of queries (B, H, W, C) into boxes."""
        _, rows, columns = self.at_once(q)
        down, across = self._windows(q)
        for row in range(0, down, rows):
            for column in range(0, across, columns):
                yield slice(row, min(row + rows, down)), slice(column, min(column + columns, across))

    def _windows(self, x: Tensor) -> tuple[int, int]:
        """Return how many windows a map (B, H, W, C) is high and wide."""
        return x.shape[1] // self.window, x.shape[2] // self.window


class Place:
    """Memory of a box of n windows in ``images``, and how copies and products see it."""

    def __init__(self, room: "Room", images: int, rows: int, columns: int) -> None:
        self.layout = layout = room.layout
        dim = room.dim
        box, parts, square = (images, rows, columns), 2 * layout.heads, (layout.window,) * 2
        gathered = _taken(room.kv, parts, *box, layout.keys, dim)
        self.regions = []  # of every level (2 * heads, images, rows, columns, side, side, D), to be copied to
        first = 0
        for span in layout.spans:
            region = gathered[..., first : first + span.side**2, :]
            self.regions.append(region.unflatten(-2, (span.side, span.side)))
            first += span.side**2
        self.kv = gathered.unflatten(0, (2, -1)).flatten(1, 4)  # (2, heads * n, keys, D)
        self.tokens = [_taken(queries, layout.heads, *box, *square, dim) for queries in room.queries]
        self.queries = [tokens.flatten(4, 5).flatten(0, 3) for tokens in self.tokens]  # (heads * n, w², D)
        sizes = images, rows * columns, layout.window**2, layout.keys
        self.by_image = [_taken(scores, layout.heads, *sizes) for scores in room.scores]
        self.scores = [scores.flatten(0, 2) for scores in self.by_image]  # (heads * n, w², keys)

    def own(self) -> Tensor:
        """View the score that each query gives the key in its own place: (heads * n, w, w)."""
        scores, (span, *_) = self.scores[0], self.layout.spans
        strides = scores.stride(0), self.layout.window * self.layout.keys + span.side, self.layout.keys + 1
        first = scores.storage_offset() + span.margin * (span.side + 1)
        return scores.as_strided((len(scores), *(self.layout.window,) * 2), strides, first)


class Room:
    """Memory for the largest box of a map of queries (B, H, W, C)."""

    def __init__(self, q: Tensor, layout: Layout, queries: int, scores: int) -> None:
        """Make room for so many copies of queries and of scores."""
        self.layout, self.dim = layout, q.shape[3] // layout.heads
        windows, area = math.prod(layout.at_once(q)), layout.window**2
        take = partial(q.new_empty, dtype=held_in(q))
        self.kv = take(windows * 2 * layout.keys * q.shape[3])
        self.queries = [take(windows * area * q.shape[3]) for _ in range(queries)]
        self.scores = [take(windows * layout.heads * area * layout.keys) for _ in range(scores)]
        self._places: dict[tuple[int, int, int], Place] = {}

    def place(self, images: int, box: Box) -> Place:
        """Return the memory of a box of so many images; the next one's lies in the same place."""
        rows, columns = (some.stop - some.start for some in box)
        key = images, rows, columns
        if key not in self._places:
            self._places[key] = Place(self, *key)
        return self._places[key]


def _taken(room: Tensor, *shape: int) -> Tensor:
    return room[: math.prod(shape)].view(shape)
