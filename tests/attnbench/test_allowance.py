"""What a run refuses, at the very bound: a clock that the test moves stands for the machine's."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench import allowance
from attnbench.allowance import LEAST_ROUNDS, MARGIN, REPORT, Allowance, in_bytes, in_time
from attnbench.capacity import available_memory
from attnbench.config import RunConfig
from attnbench.errors import UserError

SPEED = 1e9  # MACs per second
GIB = 2**30


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(allowance, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def allowed(**values: Any) -> Allowance:
    made = Allowance(RunConfig(**values), device_memory=2 * GIB)
    made.speed = SPEED
    return made


def work(seconds: float) -> float:
    """MACs that take so long on a machine that is as much faster than its calibration as is allowed for."""
    return seconds * SPEED * MARGIN


def test_memory_up_to_the_limit_fits_and_a_byte_more_does_not() -> None:
    for config, limit in ((RunConfig(memory_limit="1GiB"), GIB), (RunConfig(), 2 * GIB)):
        made = Allowance(config, device_memory=2 * GIB)
        assert made.memory == limit
        assert made.refuse(0.0, limit) is None
        refused = made.refuse(0.0, limit + 1)
        assert refused is not None
        assert refused.memory == limit + 1


def test_a_limit_that_was_named_is_told_from_what_the_machine_has() -> None:
    named = allowed(memory_limit="512MiB").refuse(0.0, 3 * GIB)
    found = allowed().refuse(0.0, 3 * GIB)
    assert named is not None
    assert found is not None
    assert named.reason == "predicted to need 3.00 GiB of memory; the limit is 0.50 GiB"
    assert found.reason == "predicted to need 3.00 GiB of memory; this machine has 2.00 GiB free"


def test_without_a_limit_or_a_device_the_free_memory_of_the_machine_counts() -> None:
    assert Allowance(RunConfig()).memory == pytest.approx(available_memory(), rel=0.5)


def test_memory_that_was_not_predicted_is_never_refused() -> None:
    assert allowed(memory_limit="1").refuse(0.0, None) is None


@pytest.mark.parametrize("limit", ["", "0", "much"])
def test_a_memory_limit_that_is_none_is_refused_and_not_taken_for_no_limit(limit: str) -> None:
    with pytest.raises(UserError, match="memory"):
        Allowance(RunConfig(memory_limit=limit))


def test_without_a_budget_a_cell_may_take_the_cell_limit_and_no_more() -> None:
    made = allowed(cell_limit=40.0)
    assert made.left is None
    assert made.refuse(work(40.0), None) is None
    refused = made.refuse(work(40.1), None)
    assert refused is not None
    assert refused.seconds == pytest.approx(40.1)
    assert refused.reason == "predicted to take at least 40 s; --budget TIME measures it all the same"


def test_with_a_budget_what_is_left_of_it_counts_and_the_cell_limit_does_not(clock: Clock) -> None:
    made = allowed(budget="10m", cell_limit=40.0)
    assert made.left == 600.0
    assert made.refuse(work(600.0), None) is None
    refused = made.refuse(work(720.0), None)
    assert refused is not None
    assert refused.reason == "predicted to take at least 12 min; 10 min of the budget are left"
    clock.now += 540.0
    assert made.left == 60.0
    assert made.refuse(work(60.0), None) is None
    assert made.refuse(work(60.1), None) is not None


def test_a_spent_budget_refuses_everything_by_its_own_words(clock: Clock) -> None:
    made = allowed(budget="1m30s")
    clock.now += 90.0
    for seconds in (0.0, 1.0, 1e6):
        refused = made.refuse(work(seconds), None)
        assert refused is not None
        assert refused.reason == "the budget of 1m30s is spent"


def test_a_machine_that_was_not_calibrated_refuses_no_work_for_its_time() -> None:
    made = Allowance(RunConfig(budget="1s"), device_memory=GIB)
    assert made.refuse(1e30, 0) is None


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e6), st.integers(1, 2**50), st.floats(0.0, 0.8), st.booleans())
def test_a_need_under_four_fifths_of_a_limit_is_never_refused(
    seconds: float, memory: int, share: float, has_budget: bool
) -> None:
    limits: dict[str, Any] = {"budget": f"{seconds + 60:.6f}"} if has_budget else {"cell_limit": seconds}
    made = Allowance(RunConfig(memory_limit=str(memory), **limits))
    made.speed = SPEED
    assert made.refuse(share * seconds * SPEED, int(share * memory)) is None


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e6), st.floats(1.26, 1e3))
def test_a_need_beyond_the_margin_is_always_refused(seconds: float, times: float) -> None:
    for limits in ({"cell_limit": seconds}, {"budget": f"{seconds:.6f}"}):
        made = allowed(**limits)
        refused = made.refuse(times * seconds * SPEED, None)
        assert refused is not None
        assert refused.seconds == pytest.approx(times * seconds / 1.25)


def test_two_amounts_that_differ_do_not_read_the_same(clock: Clock) -> None:
    clock.now = 0.0
    refused = allowed(budget="0.3").refuse(work(0.4), None)
    assert refused is not None
    first, second = (text.split(" of the budget")[0].split("at least ")[-1] for text in refused.reason.split("; "))
    assert first != second


def test_a_cell_is_ended_with_the_budget_or_at_its_own_timeout(clock: Clock) -> None:
    assert allowed().timeout(3600.0) == 3600.0
    made = allowed(budget="100")
    assert made.timeout(3600.0) == 100.0
    assert made.timeout(30.0) == 30.0
    clock.now += 200.0
    assert 0 < made.timeout(30.0) <= 0.1  # a timeout of nothing is none


def test_groups_share_what_is_left_after_the_report_and_later_work(clock: Clock) -> None:
    assert allowed().for_rounds(3, 1e12) is None
    made = allowed(budget="203")
    assert made.for_rounds(4, 0.0) == pytest.approx((203 - REPORT) / 4)
    shares = [made.for_rounds(4, others * SPEED) for others in (0.0, 5.0, 10.0, 1000.0)]
    assert shares == sorted(shares, reverse=True)  # type: ignore[type-var]
    assert shares[-1] == LEAST_ROUNDS
    assert made.for_rounds(0, 0.0) == made.for_rounds(1, 0.0)
    clock.now += 500.0
    assert made.for_rounds(4, 0.0) == LEAST_ROUNDS


def test_groups_that_take_their_share_leave_the_last_one_as_much_as_the_first(clock: Clock) -> None:
    made = allowed(budget="10m")
    shares = []
    for groups in range(5, 0, -1):
        share = made.for_rounds(groups, 0.0)
        assert share is not None
        shares.append(share)
        clock.now += share
    assert shares == pytest.approx([shares[0]] * 5)
    assert made.left == pytest.approx(REPORT)


def test_only_a_budget_makes_it_strict() -> None:
    assert allowed(budget="1h").is_strict
    assert not allowed(memory_limit="1GiB").is_strict


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5999, "100 min"), (9000, "2.5 h")]
)
def test_seconds_as_people_read_them(seconds: float, text: str) -> None:
    assert in_time(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0.0 MiB"), (2**29 - 2**20, "511.0 MiB"), (2**29, "0.50 GiB"), (80 * GIB, "80.00 GiB")]
)
def test_bytes_as_people_read_them(amount: int, text: str) -> None:
    assert in_bytes(amount) == text
