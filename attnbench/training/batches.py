"""Iterators of batches, ended when the loop over them is."""

from collections.abc import Iterator
from contextlib import contextmanager

from attnbench.task_contract import Batch


@contextmanager
def ended(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Give ``batches`` to a block, and end them after it where they can be: so end the workers of a loader."""
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if callable(close):
            close()
