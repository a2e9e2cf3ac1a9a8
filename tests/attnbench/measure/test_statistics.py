import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnbench.measure.statistics import (
    Interval,
    half_width,
    median_interval,
    noise_floor,
    paired_ratio,
    verdict,
)

SIMULATIONS = 200
SECONDS = st.floats(1e-6, 1e3)


def autocorrelated(generator: np.random.Generator, count: int, memory: float) -> NDArray[np.float64]:
    """Return a stationary series of spread 1 whose neighbours correlate by ``memory``."""
    noise = generator.normal(size=count + 50) * math.sqrt(1 - memory**2)
    series = np.zeros(count + 50)
    for index in range(1, count + 50):
        series[index] = memory * series[index - 1] + noise[index]
    return series[50:]


def simulated_ratio(seed: int, rounds: int, memory: float, truth: float) -> Interval:
    """Return the ratio of two simulated contenders: 10 % of shared drift, 2 % of own noise, a stall now and then."""
    generator = np.random.default_rng(seed)
    drift = 0.1 * autocorrelated(generator, rounds, 0.9)
    own = [0.02 * autocorrelated(generator, rounds, memory) for _ in range(2)]
    stalls = [np.where(generator.random(rounds) < 0.05, generator.exponential(0.2, rounds), 0) for _ in range(2)]
    first, second = (np.exp(drift + own[index] + stalls[index]) for index in range(2))
    return paired_ratio(list(truth * first), list(second))


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


@pytest.mark.parametrize("rounds", [3, 8, 13, 20, 40])
@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_interval_covers_the_truth(rounds: int, memory: float) -> None:
    covered = 0
    for seed in range(SIMULATIONS):
        low, high = bounds(simulated_ratio(seed, rounds, memory, 1.3))
        covered += low <= 1.3 <= high
    assert covered >= 0.88 * SIMULATIONS


@pytest.mark.parametrize("rounds", [8, 20])
def test_equal_code_is_seldom_called_different(rounds: int) -> None:
    verdicts = [verdict(simulated_ratio(seed, rounds, 0.2, 1.0), 0.0) for seed in range(SIMULATIONS)]
    assert sum(item != "tie" for item in verdicts) <= 0.08 * SIMULATIONS


def test_difference_well_above_the_noise_is_found() -> None:
    verdicts = [verdict(simulated_ratio(seed, 20, 0.2, 1.1), 0.02) for seed in range(SIMULATIONS)]
    assert verdicts.count("slower") >= 0.95 * SIMULATIONS


def test_pairing_removes_what_rounds_share() -> None:
    drift = np.exp(np.random.default_rng(0).normal(0, 0.5, 12))
    ratio = paired_ratio(list(1.2 * drift), list(drift))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.2, 1.2, 1.2))
    assert half_width(ratio) == pytest.approx(0, abs=1e-12)


def test_value_is_the_median() -> None:
    assert median_interval([3.0, 1.0, 100.0]).value == 3.0
    assert paired_ratio([2.0, 8.0, 30.0], [1.0, 2.0, 10.0]).value == pytest.approx(3.0)


def test_one_or_two_rounds_have_no_bounds() -> None:
    assert median_interval([2.0]) == Interval(2.0, None, None)
    two = paired_ratio([2.0, 8.0], [1.0, 1.0])
    assert two == Interval(two.value, None, None)
    assert two.value == pytest.approx(4.0)
    assert half_width(Interval(2.0, None, None)) == math.inf
    assert noise_floor(Interval(1.0, None, None)) == math.inf
    assert verdict(Interval(9.0, None, None), 0.0) == "tie"


def test_interval_is_deterministic_and_narrows_with_rounds() -> None:
    values = list(np.exp(np.random.default_rng(0).normal(0, 0.1, 80)))
    assert median_interval(values) == median_interval(values)
    assert half_width(median_interval(values)) < half_width(median_interval(values[:10]))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=3, max_size=20))
def test_swapping_contender_and_reference_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    times, reference = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratio, swapped = paired_ratio(times, reference), paired_ratio(reference, times)
    assert ratio.value == pytest.approx(1 / swapped.value)
    low, high = bounds(ratio)
    assert (low, high) == pytest.approx((1 / bounds(swapped)[1], 1 / bounds(swapped)[0]), rel=1e-6)
    assert low <= ratio.value * (1 + 1e-9)
    assert high >= ratio.value * (1 - 1e-9)


@settings(deadline=None, max_examples=30)
@given(st.lists(SECONDS, min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_unit_of_time_does_not_matter(values: list[float], unit: float) -> None:
    interval, scaled = median_interval(values), median_interval([unit * value for value in values])
    assert scaled.value == pytest.approx(unit * interval.value)
    if interval.low is not None and interval.high is not None:
        assert bounds(scaled) == pytest.approx((unit * interval.low, unit * interval.high))


def test_noise_floor_is_the_farther_end_of_the_twins_interval() -> None:
    assert noise_floor(Interval(1.0, 0.99, 1.04)) == pytest.approx(0.04)
    assert noise_floor(Interval(1.0, 0.8, 1.04)) == pytest.approx(0.25)
    assert noise_floor(Interval(1.05, 1.03, 1.06)) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("ratio", "floor", "expected"),
    [
        (Interval(0.8, 0.75, 0.85), 0.03, "faster"),
        (Interval(1.25, 1.2, 1.3), 0.03, "slower"),
        (Interval(1.25, 0.99, 1.5), 0.03, "tie"),  # the interval holds 1
        (Interval(1.25, 1.0, 1.5), 0.0, "tie"),
        (Interval(1.02, 1.01, 1.03), 0.03, "tie"),  # inside the floor
        (Interval(0.98, 0.97, 0.99), 0.03, "tie"),
        (Interval(0.8, 0.75, 0.85), math.inf, "tie"),
    ],
)
def test_winner_is_outside_of_interval_and_floor(ratio: Interval, floor: float, expected: str) -> None:
    assert verdict(ratio, floor) == expected
    inverse = Interval(1 / ratio.value, 1 / bounds(ratio)[1], 1 / bounds(ratio)[0])
    opposite = {"faster": "slower", "slower": "faster", "tie": "tie"}
    assert verdict(inverse, floor) == opposite[expected]


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -2.0], [math.nan], [math.inf]])
def test_times_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="positive times"):
        median_interval(values)


def test_unpaired_times_are_refused() -> None:
    with pytest.raises(ValueError, match="2 times cannot be paired with 1"):
        paired_ratio([1.0, 2.0], [1.0])
