"""Intervals over images."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from attnbench.record import Measurement
from attnbench.report.images import averages_to, interval, resampled_mean


def top1(outcomes: list[float], value: float | None = None, kind: str | None = "per image") -> Measurement:
    mean = sum(outcomes) / len(outcomes) if value is None else value
    return Measurement("top1", mean, "1", samples=tuple(outcomes), kind=kind)


@pytest.mark.parametrize(("right", "count"), [(0, 8), (3, 8), (170, 180), (180, 180)])
def test_right_and_wrong_have_wilsons_interval(right: int, count: int) -> None:
    z = stats.norm.ppf(0.975)
    share, centre = right / count, 1 + z**2 / count
    half = z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    expected = ((share + z**2 / (2 * count) - half) / centre, (share + z**2 / (2 * count) + half) / centre)
    assert interval(top1([1.0] * right + [0.0] * (count - right)), 0) == pytest.approx(expected, abs=1e-12)


def test_a_score_that_its_outcomes_do_not_average_to_has_none() -> None:
    assert averages_to(top1([0.0, 1.0]))
    assert not averages_to(top1([0.0, 1.0], 0.51))
    assert interval(top1([0.0, 1.0], 0.51), 0) is None
    assert interval(top1([0.0, 1.0], kind=None), 0) is None
    assert interval(top1([1.0]), 0) is None
    assert interval(Measurement("top1", 0.5, "1"), 0) is None


def test_outcomes_that_are_fractions_have_a_bootstraps_interval() -> None:
    values = np.random.default_rng(0).random(400).tolist()
    low, high = interval(top1(values), 1) or (0.0, 0.0)
    half = 1.96 * float(np.std(values)) / 20
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.1 * half)


def test_the_same_seed_gives_the_same_interval_and_equal_values_one_of_no_width() -> None:
    values = np.random.default_rng(0).random(50)
    assert resampled_mean(values, 7) == resampled_mean(values, 7) != resampled_mean(values, 8)
    assert resampled_mean(np.full(5, 0.25), 0) == (0.25, 0.25)


def test_the_bootstrap_is_scipys_in_one_piece_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).choice([-1, -0.5, 0, 0, 0.5], 300)
    found = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    expected = (found.confidence_interval.low, found.confidence_interval.high)
    width = expected[1] - expected[0]
    assert resampled_mean(values, 0) == pytest.approx(expected, abs=0.05 * width)  # 2,000 draws place an end that well
    monkeypatch.setattr("attnbench.report.images._AT_ONCE", 4 * 300)
    assert resampled_mean(values, 0) == pytest.approx(expected, abs=0.05 * width)


def test_nineteen_intervals_of_twenty_cover_the_true_mean() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = resampled_mean(generator.beta(0.5, 1.5, size=150), seed)
        covered += low <= 0.25 <= high
    assert 0.915 <= covered / 300 <= 0.98  # of 300 draws at 95 %, all but 1 in 100 lie here
