"""How much memory this machine has left. Standard library only."""

import os
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/sys/fs/cgroup")  # of a container: its own limit


def available_memory() -> int:
    """Return the bytes that new work could take now: Linux' estimate, within a container's limit.

    Elsewhere, where nothing tells what is free, all the memory of the machine.
    """
    try:
        lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        most, used = ((_GROUP / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if most == "max" else max(min(free, int(most) - int(used)), 1)
