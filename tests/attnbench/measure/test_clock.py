import gc
import time

import pytest
import torch

from attnbench.measure.clock import Clock, calibrate, sample, synchronizer, warm_up


def nothing() -> None:
    pass


def test_sample_synchronises_before_and_after_all_calls() -> None:
    events: list[str] = []
    sample(lambda: events.append("step"), 3, lambda: events.append("synchronize"))
    assert events == ["synchronize", "step", "step", "step", "synchronize"]


def test_sample_is_seconds_of_one_call() -> None:
    begin = time.perf_counter()
    seconds = sample(lambda: time.sleep(0.01), 4, nothing)
    assert 0.01 <= seconds <= (time.perf_counter() - begin) / 4


def test_waiting_for_the_device_is_part_of_a_sample() -> None:
    assert sample(nothing, 1, lambda: time.sleep(0.01)) >= 0.01


def test_sample_keeps_garbage_collection_out_and_restores_it() -> None:
    enabled: list[bool] = []
    sample(lambda: enabled.append(gc.isenabled()), 1, nothing)
    assert enabled == [False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        sample(lambda: 1 / 0, 1, nothing)
    assert gc.isenabled()


def test_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    assert calibrate(lambda: time.sleep(0.02), nothing, least=0.01) == 1
    assert 1 <= calibrate(lambda: time.sleep(0.001), nothing, least=0.01) <= 12
    stamps: list[float] = []
    calls: list[None] = []
    repeats = calibrate(lambda: calls.append(None), lambda: stamps.append(time.perf_counter()), least=0.001)
    assert len(calls) >= repeats
    assert time.perf_counter() - stamps[-2] >= 0.001  # the last sample, from the synchronisation before it


def test_warm_up_counts_its_calls_and_says_whether_it_settled() -> None:
    calls: list[None] = []
    done = warm_up(lambda: calls.append(time.sleep(0.002)), nothing, most_calls=30)  # type: ignore[func-returns-value]
    assert done.calls == len(calls)
    assert done.seconds >= 0.002 * len(calls)
    assert done.median >= 0.002
    assert (done.settled and done.calls >= 6 and done.calls % 3 == 0) or (not done.settled and done.calls == 30)


def test_warm_up_makes_three_calls_whatever_the_caps() -> None:
    done = warm_up(nothing, nothing, most_calls=1, most_seconds=0.0)
    assert (done.calls, done.settled) == (3, False)


def test_warm_up_of_a_step_that_never_settles_is_capped() -> None:
    pauses = iter([0.003 * 2**number for number in range(7)])
    done = warm_up(lambda: time.sleep(next(pauses)), nothing, most_calls=7)
    assert (done.calls, done.settled) == (7, False)


def test_clock_reports_warm_up_and_repeats() -> None:
    clock = Clock(lambda: time.sleep(0.001), torch.device("cpu"), least=0.005)
    assert set(clock.report) == {"calls", "seconds", "median", "settled", "repeats"}
    assert 1 <= clock.report["repeats"] <= 6
    assert clock.sample() >= 0.001


def test_a_clock_that_is_told_the_repeats_makes_three_calls_and_claims_nothing_of_their_steadiness() -> None:
    calls: list[None] = []
    clock = Clock(lambda: calls.append(None), torch.device("cpu"), least=0.005, repeats=7)
    assert clock.report["calls"] == len(calls) == 3
    assert clock.report["repeats"] == 7
    assert "settled" not in clock.report


def test_a_short_step_is_called_once_before_its_sample_and_a_long_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def step() -> None:  # slow when it has slept, as a process whose caches were taken
        time.sleep(pauses.pop() if pauses else 0.002)

    clock = Clock(step, torch.device("cpu"), repeats=2)
    pauses.append(0.1)
    assert clock.sample() < 0.05  # the slow call is not in it
    monkeypatch.setattr("attnbench.measure.clock.WAKES", 0.001)
    clock = Clock(step, torch.device("cpu"), repeats=2)
    pauses.append(0.1)
    assert clock.sample() >= 0.05


def test_cpu_needs_no_synchronisation() -> None:
    synchronizer(torch.device("cpu"))()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_work_has_finished_when_a_sample_ends() -> None:
    device = torch.device("cuda")
    big = torch.ones(4096, 4096, device=device)
    last = torch.cuda.Event()

    def step() -> None:
        big @ big
        last.record()

    sample(step, 3, synchronizer(device))
    assert last.query()
