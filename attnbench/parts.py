"""Work on a batch cut into parts, so that little memory is in use at a time. Standard library."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_times: ContextVar[int | None] = ContextVar("_times", default=None)


def parts(whole: int, most: int, unit: int = 1) -> Iterator[slice]:
    """Yield slices of ``range(whole)`` in order, all of one length but the last; see :func:`part`.

    The body of the loop must free what it allocates, and leave nothing that the next turn needs: see :func:`alike`.
    """
    length = part(whole, most, unit)
    times = _times.get()
    if times is None:
        for first in range(0, whole, length):
            yield slice(first, min(first + length, whole))
        return
    count, rest = divmod(whole, length)
    for stop, size, turns in ((count * length, length, count), (whole, rest, 1)):
        if size and turns:
            _times.set(times * turns)
            yield slice(stop - size, stop)
            _times.set(times)


def part(whole: int, most: int, unit: int = 1) -> int:
    """Return the length of equal parts of ``whole``: a multiple of ``unit``, at most ``most`` if it is one or more."""
    units = -(-whole // unit)
    count = -(-units // max(1, most // unit))
    return unit * -(-units // count) if whole else unit


@contextmanager
def alike() -> Iterator[None]:
    """Within it, of parts of one length only one is yielded, for the sake of who watches operators without numbers.

    One that stands for many allocates what each of them would; :func:`times` tells how many it stands for.
    """
    token = _times.set(1)
    try:
        yield
    finally:
        _times.reset(token)


def are_alike() -> bool:
    """Tell whether who watches has no numbers, on which nothing may depend then."""
    return _times.get() is not None


def times() -> int:
    """Return how often what runs now would run."""
    return _times.get() or 1
