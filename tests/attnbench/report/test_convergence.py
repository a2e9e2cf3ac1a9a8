"""Images seen until a score is reached."""

from collections.abc import Callable, Sequence
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.record import Record
from attnbench.report.convergence import Arrival, Convergence, Crossing, convergence, crossing, levels
from attnbench.report.curves import Chart, Curve, charts
from attnbench.report.races import races
from attnbench.report.rows import named

Trained = Callable[..., list[Record]]


def chart_of(records: list[Record]) -> Chart:
    (race,) = races(named(records), "training")
    (chart,) = charts(race)
    return chart


def curve(scores: Sequence[float], every: int = 100) -> Curve:
    return Curve(0, tuple(every * (index + 1) for index in range(len(scores))), tuple(scores))


def place(scores: Sequence[float], level: float) -> float:
    """Return where a curve crosses a level, and not before its first evaluation."""
    found = crossing(curve(scores), level)
    assert found is not None
    assert not found.at_most
    return found.images


def at(found: Convergence, mechanism: str, share: float, of: str = "common") -> Arrival:
    (one,) = (
        arrival
        for arrival in found.arrivals
        if (arrival.line.entrant.mechanism, arrival.level.share, arrival.level.of) == (mechanism, share, of)
    )
    return one


def test_between_two_evaluations_the_score_is_a_straight_line() -> None:
    assert place([0.2, 0.6, 0.8], 0.5) == pytest.approx(175)
    assert place([0.2, 0.6, 0.8], 0.6) == pytest.approx(200)


def test_the_first_time_counts() -> None:
    assert place([0.2, 0.6, 0.1, 0.7], 0.5) == pytest.approx(175)


def test_what_is_there_at_the_first_evaluation_was_reached_by_then() -> None:
    assert crossing(curve([0.5, 0.6]), 0.5) == Crossing(100, at_most=True)


def test_what_is_never_there_is_not_reached() -> None:
    assert crossing(curve([0.2, 0.49]), 0.5) is None


RISING = st.lists(st.floats(0.01, 1), min_size=2, max_size=12).map(lambda steps: np.cumsum(steps).tolist())


@given(RISING, st.floats(0, 1))
def test_a_rising_curve_is_inverted_as_by_numpy(scores: list[float], share: float) -> None:
    level = min(scores[0] + share * (scores[-1] - scores[0]), scores[-1])  # a sum that is rounded up is beyond
    found = crossing(curve(scores), level)
    assert found is not None
    assert found.images == pytest.approx(np.interp(level, scores, curve(scores).images), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_is_never_reached_earlier(scores: list[float], one: float, other: float) -> None:
    low, high = (crossing(curve(scores), level) for level in sorted((one, other)))
    assert high is None or (low is not None and low.images <= high.images)


def test_levels_are_shares_of_what_all_reach_and_of_the_best_last_score(trained: Trained) -> None:
    chart = chart_of(trained({"focal": [[0.2, 0.9, 0.8], [0.1, 0.7, 0.6]], "swin": [[0.1, 0.2, 0.4]]}))
    assert [(level.of, level.share) for level in levels(chart)] == [
        (of, share) for of in ("common", "best") for share in (0.5, 0.9, 0.95)
    ]
    assert [level.score for level in levels(chart)] == pytest.approx([0.2, 0.36, 0.38, 0.35, 0.63, 0.665])


def test_of_one_mechanism_only_what_it_reaches_is_a_level_and_of_zero_nothing(trained: Trained) -> None:
    assert [level.of for level in levels(chart_of(trained({"focal": [[0.2, 0.8]]})))] == ["common"] * 3
    assert levels(chart_of(trained({"focal": [[0.0, 0.0]], "swin": [[0.0, 0.0]]}))) == []
    mixed = levels(chart_of(trained({"focal": [[0.0, 0.0]], "swin": [[0.0, 0.4]]})))
    assert [level.of for level in mixed] == ["best"] * 3


def test_images_have_students_interval_and_ratios_are_geometric_means_seed_by_seed(trained: Trained) -> None:
    def half_at(place: int) -> list[float]:
        return [0.5 if place == index else float(index > place) for index in range(6)]

    curves = {"focal": [half_at(1), half_at(3)], "swin": [half_at(2), half_at(4)]}  # at 200, 400 and 300, 500 images
    found = convergence(chart_of(trained(curves)))
    quantile = np.tan(0.475 * np.pi)  # Student's of one degree of freedom
    images = at(found, "focal", 0.5).images
    assert images is not None
    assert images.interval == pytest.approx((300 - 100 * quantile, 300 + 100 * quantile))
    mean, half = log(300 / 200 * 500 / 400) / 2, quantile * abs(log(300 / 200) - log(500 / 400)) / 2
    expected = (exp(mean), exp(mean - half), exp(mean + half))
    assert at(found, "swin", 0.5).ratio_interval == pytest.approx(expected)
    assert at(found, "focal", 0.5).ratio is None  # to itself


def test_twice_as_slow_is_a_ratio_of_two(trained: Trained) -> None:
    focal = [[0.0, 0.5, 1.0, 1.0, 1.0, 1.0]]
    swin = [[0.0, 1 / 6, 2 / 6, 0.5, 1.0, 1.0]]
    arrival = at(convergence(chart_of(trained({"focal": focal, "swin": swin}))), "swin", 0.5)
    assert arrival.ratio_interval == pytest.approx((2, 2, 2))
    assert arrival.images is not None
    assert arrival.images.interval is None


def test_a_seed_that_never_arrives_leaves_no_mean_and_no_ratio(trained: Trained) -> None:
    found = convergence(chart_of(trained({"focal": [[0.1, 0.9]] * 2, "swin": [[0.1, 0.9], [0.1, 0.5]]})))
    arrival = at(found, "swin", 0.9, "best")
    assert list(arrival.crossings) == [0]
    assert (arrival.images, arrival.ratio) == (None, None)


def test_a_bound_has_no_ratio(trained: Trained) -> None:
    found = convergence(chart_of(trained({"focal": [[0.6, 0.9]], "swin": [[0.1, 0.8]]})))
    assert at(found, "focal", 0.5).at_most
    assert at(found, "swin", 0.5).ratio is None
    assert at(found, "swin", 0.95).ratio is not None
