"""From a split to batches, the same way for every task: what is drawn, in which order, by whom, and its randomness.

The random numbers of an image derive from (seed, epoch, index), so neither the number of workers nor that of processes
changes anything, a training can go on in the middle, and no generator of the caller is touched. Workers start in
Python's default way and end with the iterator.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from attnbench.errors import UserError
from attnbench.task_contract import Batch, Loading, Split

ORDER, IMAGE, MIXTURE = 0, 1, 2  # what a stream of random numbers is for: the first word of its seed


@dataclass(frozen=True, slots=True)
class Draw:
    """One image of one epoch; ``copy`` counts the times that repeated augmentation has taken it before."""

    epoch: int
    index: int
    copy: int = 0

    def random(self, seed: int) -> np.random.Generator:
        """Return the generator of all that is random about this draw."""
        return np.random.default_rng([IMAGE, seed, self.epoch, self.index, *([self.copy] if self.copy else [])])


def load_batches(
    split: Split,
    count: int,
    loading: Loading,
    example: Callable[[Draw], Any],
    collate: Callable[[list[Any]], Batch],
    repeats: int = 1,
) -> Iterator[Batch]:
    """Yield the batches of ``count`` images that ``loading`` describes.

    ``example`` makes what ``collate`` joins; both go to the loader's workers, so they must be picklable where those
    are spawned. A ``UserError`` of an example ends the iteration.

    Raises:
        UserError: fewer training samples than one batch of every process together.
    """
    if split == "val":
        groups = _cut([Draw(0, index) for index in range(count)], loading.batch_size)
        groups = itertools.islice(groups, loading.skip, None)
    else:
        together = loading.batch_size * loading.ranks
        samples = count if loading.samples is None else loading.samples
        if samples < together:
            raise UserError(f"{samples} training samples are fewer than one batch of {together}")
        groups = _training(count, loading, samples // together, repeats)
    loader = DataLoader(
        _Examples(example),
        batch_sampler=_Groups(groups),
        num_workers=loading.workers,
        collate_fn=_Collate(collate),
        generator=torch.Generator().manual_seed(loading.seed),  # the loader's own draw, else from the caller's
    )
    return _delivered(loader)


@contextmanager
def seeded(source: np.random.Generator) -> Iterator[None]:
    """Let libraries that draw from Python's, numpy's and torch's global generators draw from ``source`` for once."""
    states = random.getstate(), np.random.get_state()
    word = int(source.integers(2**63))
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(word)
        random.seed(word)
        np.random.seed(word % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _training(count: int, loading: Loading, batches: int, repeats: int) -> Iterator[list[Draw]]:
    """Yield this process's share of ``batches`` batches, epochs one behind the other."""
    together = loading.batch_size * loading.ranks
    for number in range(loading.skip, batches):
        start = number * together + loading.rank * loading.batch_size
        yield [_draw(place, count, loading.seed, repeats) for place in range(start, start + loading.batch_size)]


def _draw(place: int, count: int, seed: int, repeats: int) -> Draw:
    epoch, within = divmod(place, count)
    image, copy = divmod(within, repeats)
    return Draw(epoch, _order(count, seed, epoch)[image], copy)


class _Orders:
    """The order of the epoch that was asked for last: one at a time is enough, and computing it takes a while."""

    def __init__(self) -> None:
        self.key: tuple[int, int, int] | None = None
        self.order: list[int] = []

    def __call__(self, count: int, seed: int, epoch: int) -> Sequence[int]:
        if self.key != (count, seed, epoch):
            self.key = (count, seed, epoch)
            self.order = np.random.default_rng([ORDER, seed, epoch]).random(count).argsort(kind="stable").tolist()
        return self.order


_order = _Orders()


def _cut(draws: Sequence[Draw], size: int) -> Iterator[list[Draw]]:
    for start in range(0, len(draws), size):
        yield list(draws[start : start + size])


class _Groups:
    """Makes an iterator a batch sampler, which is iterated once."""

    def __init__(self, groups: Iterator[list[Draw]]) -> None:
        self.groups = groups

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.groups


class _Examples(Dataset[Any]):
    """Examples by draw; an error travels as a value, for the loader would bury it in a traceback."""

    def __init__(self, example: Callable[[Draw], Any]) -> None:
        self.example = example

    def __getitem__(self, draw: Draw) -> Any:
        try:
            return self.example(draw)
        except UserError as error:
            return error


class _Collate:
    """Joins examples, or hands the first error on."""

    def __init__(self, collate: Callable[[list[Any]], Batch]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Batch | UserError:
        error = next((item for item in items if isinstance(item, UserError)), None)
        return error or self.collate(items)


def _delivered(loader: "DataLoader[Any]") -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
