"""Ask the system to run a timed process before others, where it lets us: the cheapest remedy against a loaded machine.

A process that is interrupted in every second slice of time takes several times as long, and never twice the same.
Nothing is asked of the system that it refuses; what it granted is recorded, and the rounds do without.

Real-time scheduling is asked for first. It lets a thread run the moment that it wakes up, where even the best niceness
waits for the end of others' slices: beside two busy processes on two cores, nine of ten calls took 27 to 45 ms instead
of 35 to 56. Linux keeps 5 % of the time for everybody else, unless that was switched off: then a
step that hangs would stop the machine, and niceness has to do.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

HIGHEST = -20

_BOUND = Path("/proc/sys/kernel/sched_rt_runtime_us")  # of each second, microseconds for real-time threads; -1: all
_GROUP = Path("/proc/self/autogroup")  # Linux schedules sessions against each other first, then processes within one


def raise_priority() -> str:
    """Raise the priority of this thread, and of those it starts from now on; return the one that they have.

    Without the right to it, nothing changes.
    """
    if _go_real_time():
        return "real time"
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, HIGHEST)
        with suppress(OSError):
            _GROUP.write_text(str(HIGHEST), encoding="ascii")
    return priority()


def priority() -> str:
    """Return the priority of this thread: a niceness, where it is an ordinary one."""
    return f"niceness {os.getpriority(os.PRIO_PROCESS, 0)}" if hasattr(os, "getpriority") else "unknown"


def may_raise() -> bool:
    """Tell whether Linux would raise our priority: it is asked, and what it granted is given back."""
    if sys.platform != "linux":
        return False
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if _go_real_time():
        os.sched_setscheduler(0, policy, parameters)
        return True
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, HIGHEST)
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        return True
    return False


def _go_real_time() -> bool:
    """Schedule this thread in real time, if others keep a share; return whether it is."""
    with suppress(OSError, AttributeError, ValueError):
        if int(_BOUND.read_text(encoding="ascii")) > 0:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
            return True
    return False
