"""Rounds of several launches: how long they last, who comes back, and what the interval makes of their difference."""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count, pairwise

import numpy as np
import pytest

from attnbench.config import Timing
from attnbench.measure.rounds import Contenders, GoneError, Rounds, Sample, run_launches
from attnbench.measure.statistics import half_width, median_interval, paired_ratio

SIMULATIONS = 200
TRUTH = 1.3


def ignore(_: int) -> None:
    pass


def timing(**more: float) -> Timing:
    defaults = {
        "min_rounds": 3,
        "max_rounds": 12,
        "min_launches": 1,
        "launch": 1e-9,
        "budget": 1000.0,
        "precision": -1.0,
    }
    return Timing(**{**defaults, **more})  # type: ignore[arg-type]


def always(**contenders: Callable[[], float]) -> Callable[[], AbstractContextManager[Contenders]]:
    return lambda: nullcontext(contenders)


def lengths(rounds: Rounds) -> list[int]:
    """Rounds of each launch."""
    ends = [*rounds.launches[1:], rounds.samples[-1].round + 1]
    return [end - first for first, end in zip(rounds.launches, ends, strict=True)]


def one() -> float:
    return 1.0


def test_a_contender_that_is_gone_is_back_in_the_next_launch_and_no_failure() -> None:
    calls = count()

    def killed_once() -> float:
        if next(calls) == 2:  # the first visit of the second round
            raise GoneError("ended by the system")
        return 2.0

    rounds = run_launches(always(A=one, B=killed_once), "A", timing(max_rounds=9), 0, ignore)
    assert rounds.failures == {}
    second = rounds.launches[1]
    assert sorted(rounds.times("B")) == [0, *range(second, 9)]
    assert sorted(rounds.times("A")) == list(range(9))
    ratio = rounds.ratio("B")
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0)


def test_rounds_end_at_the_deadline_though_the_budget_is_not_spent_and_not_before_three_rounds() -> None:
    def slow() -> float:
        time.sleep(0.01)
        return 1.0

    ends = timing(max_rounds=1000, launch=0.05)
    begin = time.monotonic()
    rounds = run_launches(always(A=slow), "A", ends, 0, ignore, deadline=begin + 0.3)
    assert 3 <= len(rounds.times("A")) <= 15  # 0.02 s each, at the least
    rounds = run_launches(always(A=slow), "A", ends, 0, ignore, deadline=begin)
    assert len(rounds.times("A")) == 3


def test_a_contender_that_is_gone_between_its_two_visits_has_no_time_in_that_round() -> None:
    calls = count()

    def killed_once() -> float:
        if next(calls) == 3:  # the second visit of the second round
            raise GoneError("ended by the system")
        return 2.0

    rounds = run_launches(always(A=one, B=killed_once), "A", timing(max_rounds=9), 0, ignore)
    assert rounds.failures == {}
    assert sorted(rounds.times("B")) == [0, *range(rounds.launches[1], 9)]


def test_contenders_that_are_always_gone_end_with_the_rounds() -> None:
    def gone() -> float:
        raise GoneError("ended by the system")

    rounds = run_launches(always(A=gone), "A", timing(), 0, ignore)
    assert (rounds.samples, rounds.failures, rounds.converged) == ([], {}, False)


def test_a_failure_lasts_over_launches() -> None:
    calls = count()

    def fails() -> float:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        return 1.0

    rounds = run_launches(always(A=one, B=fails, C=one), "A", timing(), 0, ignore)
    assert set(rounds.failures) == {"B"}
    assert next(calls) == 2
    assert len(rounds.launches) > 1


def test_a_launch_lasts_as_long_as_was_set() -> None:
    def sleeps() -> float:
        time.sleep(0.004)
        return 0.004

    begin = time.monotonic()
    rounds = run_launches(always(A=sleeps, B=sleeps), "A", timing(launch=0.1, budget=0.5, max_rounds=1000), 0, ignore)
    assert time.monotonic() - begin >= 0.5
    stamps = [next(item.time for item in rounds.samples if item.round == first) for first in rounds.launches]
    assert 2 <= len(rounds.launches) <= 6
    for first, second in pairwise(stamps):
        assert second - first >= 0.09


def test_a_launch_has_three_rounds_however_short() -> None:
    rounds = run_launches(always(A=one, B=one), "A", timing(max_rounds=30), 0, ignore)
    assert sum(lengths(rounds)) == 30
    assert len(rounds.launches) > 1
    assert min(lengths(rounds)[:-1]) >= 3


def test_a_launch_lasts_at_least_as_long_as_it_took_to_get_ready() -> None:
    @contextmanager
    def launch() -> Iterator[Contenders]:
        time.sleep(0.1)
        yield {"A": sleeps, "B": sleeps}

    def sleeps() -> float:
        time.sleep(0.002)
        return 0.002

    begin = time.monotonic()
    rounds = run_launches(launch, "A", timing(budget=0.35, max_rounds=1000), 0, ignore)
    assert len(rounds.launches) <= 3
    assert time.monotonic() - begin >= 0.45  # the budget begins when the first launch is ready


def test_rounds_are_numbered_on_over_launches_and_belong_to_one() -> None:
    told: list[int] = []
    rounds = run_launches(always(A=one, B=one), "A", timing(), 0, told.append)
    assert told == list(range(1, 13))
    assert rounds.launches[0] == 0
    found = [rounds.launch_of(number) for number in range(12)]
    assert found == [index for index, length in enumerate(lengths(rounds)) for _ in range(length)]


@pytest.mark.parametrize("launches", [1, 2, 4])
def test_rounds_do_not_converge_before_the_fewest_launches(launches: int) -> None:
    settings = timing(max_rounds=1000, precision=0.5, min_launches=launches)
    rounds = run_launches(always(A=one, B=one), "A", settings, 0, ignore)
    assert rounds.converged
    assert len(rounds.launches) == launches


def noisy(spread: float) -> Callable[[], float]:
    generator = random.Random(0)
    return lambda: math.exp(generator.gauss(0, spread))


def test_only_those_aside_do_not_hold_off_convergence() -> None:
    contenders = always(A=one, B=one, X=noisy(1.0))
    settings = timing(max_rounds=30, precision=0.01)
    without = run_launches(contenders, "A", settings, 0, ignore)
    aside = run_launches(contenders, "A", settings, 0, ignore, aside=frozenset({"X"}))
    assert (without.converged, aside.converged) == (False, True)
    assert aside.ratio("X") is not None
    assert aside.samples[-1].round < 29


def test_those_aside_are_not_timed_on_alone() -> None:
    def fails() -> float:
        raise RuntimeError("out of memory")

    rounds = run_launches(always(A=fails, B=fails, X=one), "A", timing(max_rounds=500), 0, ignore, aside=frozenset("X"))
    assert set(rounds.failures) == {"A", "B"}
    assert len(rounds.samples) <= 2 * 3


def test_a_launch_in_which_nobody_got_ready_is_not_the_end() -> None:
    launches = count()

    def launch() -> AbstractContextManager[Contenders]:
        return nullcontext({} if next(launches) == 1 else {"A": one, "B": one})

    rounds = run_launches(launch, "A", timing(), 0, ignore)
    assert len(rounds.times("A")) >= 9


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_every_launch_is_closed_before_the_next_also_when_interrupted(error: type[BaseException] | None) -> None:
    events: list[str] = []
    calls = count()

    def contender() -> float:
        events.append("call")
        if error is not None and next(calls) == 15:
            raise error
        return 1.0

    @contextmanager
    def launch() -> Iterator[Contenders]:
        events.append("open")
        try:
            yield {"A": contender, "B": one}
        finally:
            events.append("close")

    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            run_launches(launch, "A", timing(max_rounds=30), 0, ignore)
    else:
        run_launches(launch, "A", timing(max_rounds=30), 0, ignore)
    borders = [event for event in events if event != "call"]
    assert len(borders) >= 4
    assert borders == ["open", "close"] * (len(borders) // 2)
    assert events[-1] == "close"


def simulated(seed: int, launches: int, each: int) -> tuple[Rounds, Rounds]:
    """The same rounds with launches and as if of one: 2 % between launches, 1 % between rounds."""
    generator = np.random.default_rng(seed)
    total = launches * each
    offsets = np.repeat(generator.normal(0, 0.02, launches), each) + generator.normal(0, 0.01, total)
    samples = [
        Sample(name, number, 0.0, seconds)
        for number, offset in enumerate(offsets)
        for name, seconds in (("A", 1.0), ("B", TRUTH * math.exp(offset)))
        for _ in range(2)
    ]
    return Rounds("A", samples, launches=list(range(0, total, each))), Rounds("A", samples, launches=[0])


def covered(rounds: Rounds) -> bool:
    ratio = rounds.ratio("B")
    assert ratio is not None
    assert ratio.low is not None
    assert ratio.high is not None
    return ratio.low <= TRUTH <= ratio.high


@pytest.mark.parametrize(("launches", "each"), [(3, 10), (5, 10)])
def test_the_interval_covers_the_truth_where_launches_differ(launches: int, each: int) -> None:
    pairs = [simulated(seed, launches, each) for seed in range(SIMULATIONS)]
    within = sum(covered(with_launches) for with_launches, _ in pairs)
    without = sum(covered(as_one) for _, as_one in pairs[: SIMULATIONS // 2])
    assert 2 * without <= 0.8 * SIMULATIONS
    assert within >= 0.9 * SIMULATIONS


def test_launches_that_differ_widen_the_interval_and_two_do_not_tell() -> None:
    generator = np.random.default_rng(0)
    values = list(np.exp(np.repeat(generator.normal(0, 0.02, 4), 8) + generator.normal(0, 0.002, 32)))
    ones = [1.0] * 32
    plain = paired_ratio(values, ones)
    assert half_width(paired_ratio(values, ones, launches=4)) > 1.3 * half_width(plain)
    assert paired_ratio(values, ones, launches=2) == plain
    assert half_width(median_interval(values, launches=4)) == half_width(paired_ratio(values, ones, launches=4))
    assert median_interval(values, launches=4).value == median_interval(values).value
