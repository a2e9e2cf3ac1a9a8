"""Ask the system to run a timed process before others, where it lets us: the cheapest remedy against a loaded machine.

A process that is interrupted in every second slice of time takes several times as long, and never twice the same. With
the highest priority the same calls were seen to spread over 30 % instead of a factor of two. Nothing is asked of the
system that it refuses; what it granted is recorded, and the rounds do without.
"""

import os
from contextlib import suppress
from pathlib import Path

HIGHEST = -20

_GROUP = Path("/proc/self/autogroup")  # Linux schedules sessions against each other first, then processes within one


def raise_priority() -> int:
    """Raise the priority of this thread, and of those it starts from now on; return the niceness that they have.

    Without the right to it, nothing changes.
    """
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, HIGHEST)
        with suppress(OSError):
            _GROUP.write_text(str(HIGHEST), encoding="ascii")
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0
