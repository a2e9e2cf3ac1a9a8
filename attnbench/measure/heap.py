"""glibc's heap as a model: what a process keeps resident of the blocks that it allocates and frees, in their order."""

import bisect

Chunk = tuple[int, int]

PAGE = 4096  # B
# Of malloc.c on 64 bits, in bytes where nothing is said.
WORD = 16  # what chunks are aligned to
SMALLEST = 32  # of a chunk
LARGE = 1024  # least of the requests that merge the fast bins
# Of a cached chunk, and how many of a size. The cache has room for 7, but a process that has built a model has filled
# most of it; with 2, what breaks up of the heap is nearest to what was seen, in inference above all.
MOST_CACHED, CACHED = 1040, 2
MOST_FAST = 128
PAD = 2**17  # what the heap grows by, and keeps at its top, beyond the need
LEAST_THRESHOLD, MOST_THRESHOLD = 2**17, 2**25
ALIGNMENT = 64  # B, of a tensor's data (c10::gAlignment)


class Heap:
    """glibc's main arena as it starts: what is free, what is mapped, how far its pages were used (malloc.c, 2.36).

    A request above the threshold that no free chunk holds is mapped and is given back when it is freed; then, up to 32
    MiB, the threshold rises to its size, and requests like it come from the heap from then on. The best fit is taken.
    An aligned request takes its alignment more than its size, so a chunk does not fit what was freed from it, and the
    slivers it gives back wait in caches for small requests. A small object that takes one outlives the tensors beside
    it and keeps their chunks from merging. Pages that were used below the top stay resident.
    """

    def __init__(self) -> None:
        self.peak = 0  # bytes, the most that was resident
        self._threshold, self._trim = LEAST_THRESHOLD, LEAST_THRESHOLD
        self._mapped = 0  # bytes of live mappings
        self._top, self._end, self._used = 0, 0, 0  # begin and end of the last chunk, and how far pages were used
        self._ends: dict[int, int] = {}  # begin of a free chunk -> end
        self._begins: dict[int, int] = {}  # the reverse
        self._sizes: list[tuple[int, int]] = []  # (size, begin) of the free chunks, sorted
        self._cache: dict[int, list[int]] = {}  # size -> begins of chunks that merge with none: the thread's cache
        self._fast: dict[int, list[int]] = {}  # the same of those that merge at the next large request: the fast bins

    @property
    def resident(self) -> int:
        """Return the bytes that are resident now."""
        return self._used + self._mapped

    def allocate(self, size: int, alignment: int = ALIGNMENT) -> Chunk:
        """Place ``size`` bytes; return begin and end of the chunk, of which the first is below 0 for a mapping."""
        need = _rounded(size)
        asked = need if alignment <= WORD else _rounded(need + alignment + SMALLEST)
        waiting = self._cache.get(need) or self._fast.get(need)
        if waiting and alignment <= WORD:
            begin = waiting.pop()
            return begin, begin + need
        if asked >= LARGE:
            self._merge_fast()
        place = self._take(asked)
        if place is None:
            pages = -(-(asked + WORD // 2) // PAGE) * PAGE
            self._mapped += pages
            chunk = (-pages, 0)
        else:
            chunk = place if alignment <= WORD else self._aligned(*place, need, alignment)
        self.peak = max(self.peak, self.resident)
        return chunk

    def release(self, chunk: Chunk) -> None:
        """Free what :meth:`allocate` returned."""
        begin, end = chunk
        if begin < 0:
            self._mapped += begin
            if self._threshold < -begin <= MOST_THRESHOLD:
                self._threshold, self._trim = -begin, -2 * begin
            return
        size = end - begin
        cached = self._cache.setdefault(size, [])
        if size <= MOST_CACHED and len(cached) < CACHED:
            cached.append(begin)
        elif size <= MOST_FAST:
            self._fast.setdefault(size, []).append(begin)
        else:
            self._put_back(begin, end)

    def _take(self, size: int) -> Chunk | None:
        """Return a chunk of ``size`` bytes or a little more; None if it is to be mapped."""
        best = bisect.bisect_left(self._sizes, (size, 0))
        if best < len(self._sizes):
            begin = self._sizes[best][1]
            end = self._forget(begin)
            if end - begin - size >= SMALLEST:
                self._remember(begin + size, end)
                end = begin + size
            return begin, end
        if self._end - self._top < size + SMALLEST:
            if size >= self._threshold:
                return None
            self._end += -(-(size + PAD + SMALLEST - (self._end - self._top)) // PAGE) * PAGE
        begin, self._top = self._top, self._top + size
        self._used = max(self._used, self._top)
        return begin, self._top

    def _aligned(self, begin: int, end: int, need: int, alignment: int) -> Chunk:
        """Give back what lies before and behind ``need`` aligned bytes of a chunk; return what stays."""
        start = begin + -(begin + WORD) % alignment
        if 0 < start - begin < SMALLEST:
            start += alignment
        if start > begin:
            self.release((begin, start))
        if end - start - need >= SMALLEST:
            self.release((start + need, end))
            end = start + need
        return start, end

    def _put_back(self, begin: int, end: int) -> None:
        """Merge a chunk with its free neighbours; a top that grew beyond its limit goes back to the system."""
        if begin in self._begins:
            begin = self._begins[begin]
            self._forget(begin)
        if end != self._top:
            if end in self._ends:
                end = self._forget(end)
            self._remember(begin, end)
            return
        self._top = begin
        if self._end - begin >= self._trim:
            self._end -= max(0, self._end - begin - SMALLEST - 1 - PAD) // PAGE * PAGE
            self._used = min(self._used, self._end)

    def _merge_fast(self) -> None:
        waiting, self._fast = self._fast, {}
        for size, begins in waiting.items():
            for begin in begins:
                self._put_back(begin, begin + size)

    def _remember(self, begin: int, end: int) -> None:
        self._ends[begin], self._begins[end] = end, begin
        bisect.insort(self._sizes, (end - begin, begin))

    def _forget(self, begin: int) -> int:
        end = self._ends.pop(begin)
        del self._begins[end]
        del self._sizes[bisect.bisect_left(self._sizes, (end - begin, begin))]
        return end


def _rounded(size: int) -> int:
    return max(SMALLEST, -(-(size + WORD // 2) // WORD) * WORD)
