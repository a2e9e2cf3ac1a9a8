"""Draws against numpy's medians, and what is computed instead of them against the draws."""

import numpy as np
import pytest

from attnbench.measure.statistics import RESAMPLES
from attnbench.report.bootstrap import TAILS, block_length, block_medians, median_half_width, widening


def test_medians_of_blocks_are_those_that_numpy_takes() -> None:
    for count, launches in ((5, 1), (12, 1), (40, 4)):
        values = np.random.default_rng(count).normal(0, 1, count)
        length = block_length(count, launches)
        starts = np.random.default_rng(3).integers(count, size=(RESAMPLES, -(-count // length), 1))
        drawn = (starts + np.arange(length)).reshape(RESAMPLES, -1)[:, :count] % count
        middle = np.median(values)
        known = middle + widening(count, launches) * (np.median(values[drawn], axis=1) - middle)
        assert block_medians(list(values), 3, launches) == pytest.approx(known)


def test_the_normal_approximation_is_about_as_wide_as_the_draws() -> None:
    shares = []
    for seed in range(40):
        values = list(np.random.default_rng(seed).normal(0, 1, 40))
        draws, half = block_medians(values, seed), median_half_width(values)
        assert draws is not None
        assert half is not None
        shares.append(2 * half / np.ptp(np.quantile(draws, TAILS)))
    assert 0.8 < np.median(shares) < 1.25
