import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count

import pytest

from attnbench.config import Timing
from attnbench.measure.rounds import Rounds, Sample, run_rounds


def ignore(_: int) -> None:
    pass


def names(rounds: Rounds, number: int) -> list[str]:
    return [sample.contender for sample in rounds.samples if sample.round == number]


def noisy(seed: int, spread: float) -> Callable[[], float]:
    generator = random.Random(seed)
    return lambda: math.exp(generator.gauss(0, spread))


def timing(**more: float) -> Timing:
    return Timing(**{"min_rounds": 4, "max_rounds": 6, "min_launches": 1, "budget": 1000.0, **more})  # type: ignore[arg-type]


def test_each_round_visits_all_and_returns_in_reverse() -> None:
    rounds = run_rounds(dict.fromkeys("ABCD", lambda: 1.0), "A", timing(precision=-1.0), 0, ignore)
    for number in range(6):
        order = names(rounds, number)
        assert sorted(order) == sorted("ABCDABCD")
        assert order == order[::-1]
    assert len({tuple(names(rounds, number)) for number in range(6)}) > 1


def test_one_contender_is_active_at_a_time() -> None:
    events: list[tuple[str, str]] = []

    def contender(name: str) -> Callable[[], float]:
        def call() -> float:
            events.append(("begin", name))
            time.sleep(0.001)
            events.append(("end", name))
            return 0.001

        return call

    run_rounds({name: contender(name) for name in "AB"}, "A", timing(), 0, ignore)
    for begin, end in zip(events[::2], events[1::2], strict=True):
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1] == end[1]


def test_seed_fixes_the_order() -> None:
    def orders(seed: int) -> list[str]:
        contenders = dict.fromkeys("ABCD", lambda: 1.0)
        return [sample.contender for sample in run_rounds(contenders, "A", timing(), seed, ignore).samples]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)


def test_samples_carry_round_time_and_seconds() -> None:
    begin = time.time()
    rounds = run_rounds({"A": lambda: 0.5}, "A", timing(), 0, ignore)
    assert [(sample.contender, sample.round, sample.seconds) for sample in rounds.samples[:3]] == [
        ("A", 0, 0.5),
        ("A", 0, 0.5),
        ("A", 1, 0.5),
    ]
    stamps = [sample.time for sample in rounds.samples]
    assert begin - 1 <= stamps[0]
    assert stamps[-1] <= time.time() + 1


def test_steady_times_converge_after_the_fewest_rounds() -> None:
    done: list[int] = []
    rounds = run_rounds({"A": lambda: 1.0, "B": lambda: 3.0}, "A", timing(), 0, done.append)
    assert rounds.converged
    assert done == [1, 2, 3, 4]
    ratio = rounds.ratio("B")
    assert ratio is not None
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((3.0, 3.0, 3.0))


def test_noisy_times_go_on_to_the_most_rounds() -> None:
    rounds = run_rounds({"A": noisy(0, 0.3), "B": noisy(1, 0.3), "C": lambda: 1.0}, "A", timing(), 0, ignore)
    assert not rounds.converged
    assert rounds.samples[-1].round == 5


def test_more_rounds_reach_a_precision_that_few_do_not() -> None:
    contenders = {"A": noisy(0, 0.02), "B": noisy(1, 0.02)}
    rounds = run_rounds(contenders, "A", timing(max_rounds=400, precision=0.01), 0, ignore)
    assert rounds.converged
    assert 5 < rounds.samples[-1].round < 200


def test_spent_budget_ends_the_rounds_but_not_before_three() -> None:
    def slow() -> float:
        time.sleep(0.01)
        return 0.01

    def rounds_within(budget: float) -> int:
        settings = timing(max_rounds=100, precision=-1.0, budget=budget)
        return run_rounds({"A": slow, "B": slow}, "A", settings, 0, ignore).samples[-1].round + 1

    assert rounds_within(0.0) == 3
    assert 3 <= rounds_within(0.2) <= 5  # a round sleeps for 0.04 s at least


def test_failing_contender_is_dropped_and_its_error_returned() -> None:
    calls = count()
    error = RuntimeError("out of memory")

    def fails_on_the_fourth_call() -> float:
        if next(calls) == 3:
            raise error
        return 1.0

    contenders = {"A": lambda: 1.0, "B": fails_on_the_fourth_call, "C": lambda: 2.0}
    rounds = run_rounds(contenders, "A", timing(), 0, ignore)
    assert rounds.failures == {"B": error}
    assert next(calls) == 4
    assert set(rounds.times("B")) == {0}  # the second round has one visit of two
    assert set(rounds.times("C")) == {0, 1, 2, 3}
    assert rounds.converged


@pytest.mark.parametrize("nonsense", [0.0, -1.0, math.nan, math.inf])
def test_time_that_is_none_is_a_failure(nonsense: float) -> None:
    rounds = run_rounds({"A": lambda: 1.0, "B": lambda: nonsense}, "A", timing(), 0, ignore)
    assert isinstance(rounds.failures["B"], ValueError)


def test_without_a_reference_absolute_times_go_on_without_ratios() -> None:
    def fails() -> float:
        raise OSError("gone")

    for contenders in ({"A": fails, "B": lambda: 2.0}, {"B": lambda: 2.0}):
        rounds = run_rounds(contenders, "A", timing(), 0, ignore)
        assert not rounds.converged
        assert rounds.times("B") == pytest.approx(dict.fromkeys(range(6), 2.0))
        assert rounds.ratio("B") is None


def test_rounds_end_when_all_have_failed() -> None:
    def fails() -> float:
        raise OSError("gone")

    rounds = run_rounds({"A": fails, "B": fails}, "A", timing(), 0, ignore)
    assert set(rounds.failures) == {"A", "B"}
    assert rounds.samples == []


def test_interrupt_is_no_failure_of_a_contender() -> None:
    def interrupted() -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rounds({"A": interrupted}, "A", timing(), 0, ignore)


def test_round_value_is_the_geometric_mean_of_two_visits() -> None:
    rounds = Rounds("A", [Sample("B", 0, 0.0, 2.0), Sample("A", 0, 0.0, 1.0), Sample("B", 0, 0.0, 8.0)])
    assert rounds.times("B") == {0: pytest.approx(4.0)}


def test_steady_drift_of_the_machine_cancels() -> None:
    visit = count()

    def contender(seconds: float) -> Callable[[], float]:
        return lambda: seconds * math.exp(0.05 * next(visit))  # 5 % slower with every visit

    contenders = {"A": contender(1.0), "B": contender(1.1), "C": contender(0.9)}
    rounds = run_rounds(contenders, "A", timing(), 0, ignore)
    for name, expected in (("B", 1.1), ("C", 0.9)):
        ratio = rounds.ratio(name)
        assert ratio is not None
        assert (ratio.low, ratio.high) == pytest.approx((expected, expected))


def test_parent_side_does_not_import_torch() -> None:
    code = "import sys, attnbench.measure.rounds; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
