"""What an outcome per validation image says: how far a score, or a difference, depends on which images there are."""

from collections.abc import Sequence

import numpy as np

from attnbench.measure.statistics import LEVEL, RESAMPLES
from attnbench.record import Measurement
from attnbench.report.bootstrap import TAILS, Floats

PER_IMAGE = "per image"  # kind of a measurement whose samples are outcomes, 0 to 1, in the order of the split

_EXACT = 1e-9  # how far a mean may be off by rounding
_AT_ONCE = 2**24  # numbers that a bootstrap holds in memory


def outcomes(item: Measurement | None) -> tuple[float, ...]:
    """Return the outcomes that a score was recorded with; none where they are missing."""
    return item.samples if item is not None and item.kind == PER_IMAGE else ()


def averages_to(item: Measurement) -> bool:
    """Whether the outcomes average to the score, as those of top-1 do; those of mIoU and AP do not."""
    found = outcomes(item)
    return bool(found) and abs(sum(found) / len(found) - item.value) < _EXACT


def is_binary(values: Sequence[float]) -> bool:
    """Whether every outcome is right or wrong, with nothing between."""
    return set(values) <= {0.0, 1.0}


def interval(item: Measurement, seed: int) -> tuple[float, float] | None:
    """Return the 95 % interval, over images, of a score that its outcomes average to; None for any other.

    Wilson's (1927) for outcomes that are right or wrong, else a bootstrap's percentiles.
    """
    found = outcomes(item)
    if len(found) < 2 or not averages_to(item):
        return None
    if not is_binary(found):
        return resampled_mean(np.asarray(found), seed)
    from scipy.stats import binomtest

    ends = binomtest(round(sum(found)), len(found)).proportion_ci(LEVEL, method="wilson")
    return float(ends.low), float(ends.high)


def resampled_mean(values: Floats, seed: int) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval, by percentiles, of the mean of two or more values.

    How often each distinct value is drawn is multinomial: the same draws as of single images, in much less time where
    50,000 images have a few outcomes.
    """
    distinct, counts = np.unique(values, return_counts=True)
    generator, count = np.random.default_rng(seed), len(values)
    at_once = max(1, _AT_ONCE // len(distinct))
    sizes = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    means = [generator.multinomial(count, counts / count, size) @ distinct / count for size in sizes]
    low, high = np.quantile(np.concatenate(means), TAILS)
    return float(low), float(high)
