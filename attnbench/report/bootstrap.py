"""Draws of the median of rounds, for what is computed from several medians: a slope, a place where two costs meet.

The blocks are those of :mod:`attnbench.measure.statistics`, and so is the widening: a quantity of a single median has
the same interval here and there.
"""

from collections.abc import Sequence
from functools import cache
from math import cbrt, ceil, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from attnbench.measure.statistics import FEWEST_LAUNCHES, LEVEL, RESAMPLES

FEWEST = 3  # values; fewer tell no interval
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

Floats = NDArray[np.float64]


def block_medians(values: Sequence[float], seed: int, launches: int = 1) -> Floats | None:
    """Return ``RESAMPLES`` medians of resampled ``values`` (in order of time); None for fewer than three values.

    Circular blocks of successive values are drawn (Künsch 1989; Politis and Romano 1992), as long as a launch of the
    processes where there were several. The medians are spread out about the middle by Student's quantile over the
    normal one, for as many degrees of freedom as blocks less one.
    """
    count = len(values)
    if count < FEWEST:
        return None
    length = block_length(count, launches)
    generator = np.random.default_rng(seed)
    starts = generator.integers(count, size=(RESAMPLES, -(-count // length), 1))
    drawn = (starts + np.arange(length)).reshape(RESAMPLES, -1)[:, :count]
    array = np.asarray(values, dtype=np.float64)
    found = np.concatenate((array, array)).take(drawn)  # blocks go round
    found.sort(axis=1)  # several times as fast as np.median
    medians = (found[:, (count - 1) // 2] + found[:, count // 2]) / 2
    middle = np.median(array)
    spread: Floats = middle + widening(count, launches) * (medians - middle)
    return spread


def median_half_width(values: Sequence[float], launches: int = 1) -> float | None:
    """Return about half the width of the interval that :func:`block_medians` would give, from the means of blocks."""
    count = len(values)
    if count < FEWEST:
        return None
    length = block_length(count, launches)
    blocks = count // length
    if blocks < 2:
        length, blocks = 1, count
    means = np.asarray(values)[: blocks * length].reshape(blocks, length).mean(axis=1)
    scatter = float(means.std(ddof=1)) / sqrt(blocks)
    return student(blocks - 1) * sqrt(pi / 2) * scatter  # of a median, where the values are normal


def normal_draws(middle: float, half_width: float, seed: int) -> Floats:
    """Return ``RESAMPLES`` normal draws whose 95 % interval is ``middle`` plus or minus ``half_width``."""
    return np.random.default_rng(seed).normal(middle, half_width / _normal(), RESAMPLES)


def block_length(count: int, launches: int) -> int:
    """Return how many successive values are drawn together."""
    return max(ceil(cbrt(count)), ceil(count / launches) if launches >= FEWEST_LAUNCHES else 1)


def widening(count: int, launches: int) -> float:
    """Return by what the medians are spread out."""
    return student(max(count / block_length(count, launches) - 1, 1)) / _normal()


@cache
def student(freedom: float) -> float:
    """Return Student's quantile for a two-sided 95 % interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, TAILS[1]))


def _normal() -> float:
    return student(np.inf)
