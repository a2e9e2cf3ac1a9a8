"""The batch size with the highest throughput: by doubling, and by bisection where memory ends it. Standard library."""

from collections.abc import Callable
from dataclasses import dataclass

GAIN = 1.02  # in throughput, that a doubling must bring
PATIENCE = 2  # doublings without such a gain
SLOW = 10.0  # s: a call that takes longer ends the doubling
MOST = 4096  # images
FINE = 8  # bisection ends when an eighth more does not fit


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a search."""

    best: int  # batch size of the highest throughput
    largest: int | None  # the largest that fits, to an eighth; None where nothing failed to fit


def search(attempt: Callable[[int], float | None]) -> Found | None:
    """Return the best batch size; None if not even one image fits.

    Args:
        attempt: seconds of one call with that batch size, or None where it does not fit.
    """
    speeds: dict[int, float] = {}

    def try_it(size: int) -> bool:
        seconds = attempt(size)
        if seconds is not None:
            speeds[size] = size / seconds
        return seconds is not None

    size, flat, failed = 1, 0, None
    while size <= MOST and flat < PATIENCE:
        best = max(speeds.values(), default=0.0)
        if not try_it(size):
            failed = size
            break
        flat = flat + 1 if speeds[size] < GAIN * best else 0
        if size / speeds[size] > SLOW:
            break
        size *= 2
    if not speeds:
        return None
    largest = _bisect(try_it, max(speeds), failed) if failed is not None else None
    return Found(max(speeds, key=lambda tried: speeds[tried]), largest)


def _bisect(fits: Callable[[int], bool], low: int, high: int) -> int:
    while high - low > max(1, low // FINE):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
