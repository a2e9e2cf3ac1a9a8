"""Several seeds of one number."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attnbench.report.seeds import Seeds

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=9)


def test_one_seed_has_no_interval() -> None:
    assert Seeds((0.5,)).interval is None


def test_two_seeds_have_the_closed_form_of_students_interval() -> None:
    # One degree of freedom is Cauchy's distribution: its quantile is tan(0.475 pi). The standard error is 0.1 / 2.
    half = np.tan(0.475 * np.pi) * 0.05
    assert Seeds((0.5, 0.6)).interval == pytest.approx((0.55 - half, 0.55 + half))


@given(VALUES)
def test_the_interval_is_scipys(values: list[float]) -> None:
    error = float(np.std(values, ddof=1)) / sqrt(len(values))
    low, high = stats.t.interval(0.95, len(values) - 1) if error else (0.0, 0.0)
    mean = float(np.mean(values))
    assert Seeds(tuple(values)).interval == pytest.approx((mean + low * error, mean + high * error), abs=1e-12)


@given(VALUES)
def test_the_mean_lies_between_the_least_and_the_greatest(values: list[float]) -> None:
    seeds = Seeds(tuple(values))
    assert seeds.least - 1e-15 <= seeds.mean <= seeds.greatest + 1e-15
    assert seeds.count == len(values)
