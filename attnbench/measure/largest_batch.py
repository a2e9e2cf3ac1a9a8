"""The largest batch size that fits, in few evaluations, because bytes are convex in the batch size.

At every moment of a step the bytes alive are those of tensors that grow with the batch and of others that do not; the
peak is the greatest of these straight lines, so it lies under each of its chords and over their extensions.
"""

from collections.abc import Callable
from typing import Final

MOST: Final = 10**6
_SECANTS: Final = 8  # after these, bisection: a function that is not convex must end too


def largest_batch(total: Callable[[int], int], limit: int, first: int = 1, fixed: int = 0) -> int:
    """Return the greatest B with ``total(B)`` <= ``limit``, at most a million; 0 if not even one image fits.

    Args:
        total: bytes of a step with B images, rising and convex in B. It is called for that B + 1, and for B too where
            a chord does not show that it fits; both are checked so, unless the million is reached.
        limit: bytes.
        first: where to begin, best a batch size that was evaluated before.
        fixed: bytes that do not depend on B, about: the better the guess, the fewer calls.
    """
    known: dict[int, int] = {}
    fits, fails, guess = 0, MOST + 1, min(max(first, 1), MOST)
    while fails - fits > 1:
        known[guess] = total(guess)
        if known[guess] <= limit:
            fits = guess
        else:
            fails = guess
            if fits and _chord(known, fits, fails, fails - 1) <= limit:
                return fails - 1
        guess = _guess(known, limit, fixed) if len(known) < _SECANTS else (fits + fails) // 2
        guess = min(max(guess, fits + 1), fails - 1)
    return fits


def _guess(known: dict[int, int], limit: int, fixed: int) -> int:
    """Return the first size over ``limit`` on a line: through points on both sides, or on from the nearest two."""
    below = sorted(size for size in known if known[size] <= limit)
    above = sorted(size for size in known if known[size] > limit)
    if below and above:
        low, high = below[-1], above[0]
    else:
        low, high = [0, *below][-2:] if below else [0, *above][-2:] if len(above) == 1 else above[:2]
    base = known.get(low, min(fixed, known[high]))
    rise = known[high] - base
    return MOST if rise <= 0 else low + (limit - base) * (high - low) // rise + 1


def _chord(known: dict[int, int], low: int, high: int, between: int) -> float:
    return known[low] + (known[high] - known[low]) * (between - low) / (high - low)
