"""What is asked of the scheduler, in processes of their own: it granted it when it says so, and was left as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench.measure.priority import may_raise

SCRIPT = """
import os, threading
from attnbench.measure.priority import may_raise, priority, raise_priority

def facts():
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority, os.getpriority(os.PRIO_PROCESS, 0)

ordinary = facts()
granted = may_raise()
assert facts() == ordinary, "asking changed something"
assert priority() == f"niceness {ordinary[2]}"
given = raise_priority()
started = []
thread = threading.Thread(target=lambda: started.append(facts()))
thread.start()
thread.join()
assert started == [facts()], "threads that come later have another priority"
print(granted, facts() != ordinary, facts()[0] == os.SCHED_RR, given, sep="|")
"""

WITHOUT = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-all")


def ask(*before: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run([*before, *command], capture_output=True, text=True, check=True).stdout.strip().split("|")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux grants and tells")
def test_what_is_said_to_be_granted_is_what_the_scheduler_says() -> None:
    granted, changed, real_time, given = ask()
    assert granted == changed == str(may_raise())
    assert (given == "real time") is (real_time == "True")


@pytest.mark.skipif(
    shutil.which("setpriv") is None or subprocess.run([*WITHOUT, "true"], capture_output=True).returncode != 0,
    reason="needs setpriv and the right to take rights away",
)
def test_without_the_right_to_it_nothing_changes() -> None:
    granted, changed, real_time, given = ask(*WITHOUT)
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    assert (granted, changed, real_time, given) == ("False", "False", "False", f"niceness {niceness}")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux grants and tells")
def test_where_real_time_has_no_bound_it_is_not_asked_for(tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    bound.write_text("-1\n", encoding="ascii")
    script = f"import pathlib, attnbench.measure.priority as p; p._BOUND = pathlib.Path({str(bound)!r})\n" + SCRIPT
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    _, _, real_time, given = run.stdout.strip().split("|")
    assert (real_time, given.startswith("niceness")) == ("False", True)
