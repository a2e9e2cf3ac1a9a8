"""What spoils a timing: closed forms, bounds, this machine's own counters, and a stand-in for the driver's program."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from math import exp
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.measure.conditions import Gpu, Watch, cpu_seconds, drift, flags, gpu_state

SECONDS = st.floats(1e-6, 1e3)
Driver = Callable[..., None]

# Answers as the driver's program does with --format=csv,noheader,nounits, and refuses any other question.
PROGRAM = """#!/bin/sh
case "$*" in
"--id=1 --query-gpu=clocks.sm,temperature.gpu,clocks_throttle_reasons.active --format=csv,noheader,nounits")
    cat '{folder}/card';;
"--id=1 --query-compute-apps=pid --format=csv,noheader,nounits")
    cat '{folder}/users';;
*) echo "No devices were found"; exit 6;;
esac
exit {code}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Put a program on PATH that says ``card`` of GPU 1 and lists its ``users``."""

    def install(card: str, users: str = "", code: int = 0) -> None:
        (tmp_path / "card").write_text(card)
        (tmp_path / "users").write_text(users)
        program = tmp_path / "nvidia-smi"
        program.write_text(PROGRAM.format(folder=tmp_path, code=code))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_a_step_between_first_and_last_third_is_the_drift() -> None:
    assert drift([1.0] * 3 + [7.0] * 3 + [1.2] * 3) == pytest.approx(0.2)
    assert drift([2.0] * 4 + [9.0] * 3 + [1.0] * 4) == pytest.approx(-0.5)


@settings(max_examples=50, deadline=None)
@given(st.integers(9, 40), st.floats(-0.05, 0.05))
def test_drift_of_a_steady_growth_is_a_closed_form(count: int, growth: float) -> None:
    # The medians lie in the middles of the thirds: count - count // 3 rounds apart. Even thirds average two neighbours.
    times = [exp(growth * number) for number in range(count)]
    assert drift(times) == pytest.approx(exp(growth * (count - count // 3)) - 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(SECONDS, min_size=9, max_size=20), st.floats(1e-3, 1e3))
def test_drift_has_no_unit_and_the_way_back_inverts_it(times: list[float], unit: float) -> None:
    there, back = drift(times), drift(times[::-1])
    assert there is not None
    assert back is not None
    assert (1 + there) * (1 + back) == pytest.approx(1)
    assert drift([unit * item for item in times]) == pytest.approx(there)


@settings(max_examples=50, deadline=None)
@given(st.lists(SECONDS, max_size=8))
def test_a_few_rounds_tell_no_drift(times: list[float]) -> None:
    assert drift(times) is None


def test_one_slow_round_is_no_drift() -> None:
    assert drift([1.0] * 8 + [50.0]) == pytest.approx(0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, []),
        ({"others_cpu": 0.10, "stolen_cpu": 0.02, "drift": 0.05, "gpu_throttle": 0, "gpu_others": 0}, []),
        ({"others_cpu": 0.11}, ["other processes took 11 % of the CPU"]),
        ({"stolen_cpu": 0.03}, ["3 % of the CPU time was stolen by other virtual machines"]),
        ({"drift": 0.06}, ["the reference became 6 % slower during the rounds"]),
        ({"drift": -0.06}, ["the reference became 6 % faster during the rounds"]),
        ({"drift": -0.05}, []),
        ({"gpu_throttle": 0x4}, ["the GPU lowered its clock (reasons 0x4)"]),
        ({"gpu_others": 2}, ["2 other process(es) computed on the GPU"]),
        ({"gpu_clock_MHz": [1800.0, 2000.0]}, []),
        ({"gpu_clock_MHz": [2000.0, 1799.0]}, ["the GPU's clock changed from 2000 to 1799 MHz"]),
        ({"gpu_clock_MHz": [345.0, 1980.0]}, ["the GPU's clock changed from 345 to 1980 MHz"]),
    ],
)
def test_a_condition_is_flagged_beyond_its_bound_and_not_at_it(found: dict[str, Any], expected: list[str]) -> None:
    assert flags(found) == expected


def test_flags_come_together() -> None:
    assert len(flags({"others_cpu": 0.5, "stolen_cpu": 0.5, "drift": 0.5, "gpu_throttle": 1, "gpu_others": 1})) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/stat")
def test_cpu_seconds_grow_by_what_a_busy_loop_takes_and_by_all_cores_in_sum() -> None:
    before, begin, own = cpu_seconds(), time.monotonic(), time.process_time()
    while time.process_time() - own < 0.4:
        pass
    after, wall, own = cpu_seconds(), time.monotonic() - begin, time.process_time() - own
    assert before is not None
    assert after is not None
    busy, stolen, total = (late - early for late, early in zip(after, before, strict=True))
    assert 0.8 * own <= busy <= total + 0.05
    assert 0 <= stolen <= total
    assert total == pytest.approx(wall * (os.cpu_count() or 1), rel=0.25)


def test_a_report_takes_what_others_used_and_leaves_what_was_measured() -> None:
    code = "import time\nwhile time.process_time() < 0.4: pass"
    watch = Watch()
    subprocess.run([sys.executable, "-c", code], check=True)
    theirs, own = watch.report(0.0, frozenset(), []), watch.report(1e6, frozenset(), [])
    assert own["others_cpu"] == 0.0
    if sys.platform == "linux":
        used = theirs["others_cpu"] * theirs["seconds"] * (os.cpu_count() or 1)
        assert used >= 0.6 * 0.4
    assert not any("other processes" in text for text in own["flags"])


def test_a_report_has_drift_only_with_rounds_enough_and_nothing_of_a_gpu_without_one() -> None:
    watch = Watch()
    assert "drift" not in watch.report(0.0, frozenset(), [1.0] * 8)
    found = watch.report(0.0, frozenset(), [1.0] * 6 + [1.2] * 6)
    assert found["drift"] == pytest.approx(0.2, abs=1e-3)
    assert "the reference became 20 % slower during the rounds" in found["flags"]
    assert not any(name.startswith("gpu") for name in found)


def test_a_gpu_is_read_from_what_the_driver_says(driver: Driver) -> None:
    driver("1980, 34, 0x0000000000000004\n", "17\n4242\n")
    assert gpu_state("1") == Gpu(1980.0, 34.0, 0x4, frozenset({17, 4242}))
    assert gpu_state("0") is None  # there is no such GPU


@pytest.mark.parametrize(
    ("card", "users", "expected"),
    [
        ("1980, 34, 0x0000000000000001", "", Gpu(1980.0, 34.0, 0, frozenset())),  # idle is harmless
        ("1410, 70, 0x0000000000000021", "9", Gpu(1410.0, 70.0, 0x20, frozenset({9}))),
        ("[N/A], [Not Supported], [N/A]", "[N/A]\n12\n", Gpu(None, None, 0, frozenset({12}))),
    ],
)
def test_idleness_is_harmless_and_what_a_driver_does_not_know_is_none(
    driver: Driver, card: str, users: str, expected: Gpu
) -> None:
    driver(card, users)
    assert gpu_state("1") == expected


@pytest.mark.parametrize(
    ("card", "code"), [("1980, 34, 0x0", 9), ("", 0), ("No devices were found\n", 0), ("Insufficient Permissions\n", 0)]
)
def test_a_driver_that_does_not_answer_the_question_is_no_error(driver: Driver, card: str, code: int) -> None:
    driver(card, code=code)
    assert gpu_state("1") is None


def test_without_the_program_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_state("0") is None
    assert not any(name.startswith("gpu") for name in Watch("0").report(0.0, frozenset(), []))


def test_a_report_compares_the_gpu_before_and_after(driver: Driver) -> None:
    driver("1980, 34, 0x4", "17\n18")
    watch = Watch("1")
    driver("1200, 80, 0x20", "18\n19")
    found = watch.report(0.0, frozenset({18}), [])
    assert found["gpu_throttle"] == 0x24
    assert found["gpu_others"] == 1  # of those that computed before any of ours did
    assert found["gpu_temperature_C"] == 80.0
    assert found["gpu_clock_MHz"] == [1980.0, 1200.0]
    assert [text for text in found["flags"] if "GPU" in text] == [
        "the GPU lowered its clock (reasons 0x24)",
        "1 other process(es) computed on the GPU",
        "the GPU's clock changed from 1980 to 1200 MHz",
    ]
