"""What a run may take, and whether a cell fits into it: ``--budget``, ``--memory-limit``. Standard library only."""

import time
from dataclasses import dataclass

from attnbench.amounts import parse_bytes, parse_seconds
from attnbench.capacity import available_memory
from attnbench.config import RunConfig

MARGIN = 1.25  # by which the machine may be faster than its calibration said
RESERVE = 4.0  # seconds for a predicted one, since no model reaches the speed of square matrix products
REPORT = 8.0  # seconds for table, report and figures
LEAST_ROUNDS = 10.0  # seconds to launch and time a group, however little is left


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a cell does not fit."""

    reason: str
    seconds: float | None = None  # predicted
    memory: int | None = None  # predicted, B


class Allowance:
    """The time and memory that are left to a run; it begins when this is made."""

    def __init__(self, config: RunConfig, device_memory: int | None = None) -> None:
        self._begin = time.monotonic()
        self._text = config.budget
        self._budget = None if config.budget is None else parse_seconds(config.budget)
        self._cell_limit = config.cell_limit
        self._named = config.memory_limit is not None
        self.memory = (
            device_memory or available_memory() if config.memory_limit is None else parse_bytes(config.memory_limit)
        )
        self.speed: float | None = None  # MACs per second, from the calibration

    @property
    def left(self) -> float | None:
        """Seconds until the budget ends; None without one."""
        return None if self._budget is None else self._budget - (time.monotonic() - self._begin)

    def timeout(self, most: float, least: float = 0.1) -> float:
        """Return the seconds that a cell may take before it is ended: what is left, between ``least`` and ``most``."""
        return most if self.left is None else min(most, max(self.left, least))

    def for_rounds(self, groups: int, others: float) -> float | None:
        """Return the seconds for one of ``groups`` that are still to be timed, launches and all.

        None: what the configuration says. ``others`` are MACs of the cells that come besides.
        """
        if self.left is None:
            return None
        kept = REPORT + (RESERVE * others / self.speed if self.speed else 0.0)
        return max((self.left - kept) / max(groups, 1), LEAST_ROUNDS)

    def refuse(self, macs: float, memory: int | None) -> Verdict | None:
        """Return why a cell of so many MACs (all its calls) and bytes does not fit, or None."""
        seconds = None if self.speed is None else macs / (MARGIN * self.speed)
        if memory is not None and memory > self.memory:
            whose = "the limit is" if self._named else "this machine has"
            free = "" if self._named else " free"
            text = f"predicted to need {in_bytes(memory)} of memory; {whose} {in_bytes(self.memory)}{free}"
            return Verdict(text, seconds, memory)
        if self.left is not None:
            if self.left <= 0:
                return Verdict(f"the budget of {self._text} is spent", seconds, memory)
            if seconds is not None and seconds > self.left:
                text = f"predicted to take at least {in_time(seconds)}; {in_time(self.left)} of the budget are left"
                return Verdict(text, seconds, memory)
        elif seconds is not None and seconds > self._cell_limit:
            text = f"predicted to take at least {in_time(seconds)}; --budget TIME measures it all the same"
            return Verdict(text, seconds, memory)
        return None

    @property
    def is_strict(self) -> bool:
        """Whether the user named a budget: then trainings count too."""
        return self._budget is not None


def in_bytes(amount: float) -> str:
    """Return bytes as people read them."""
    return f"{amount / 2**30:.2f} GiB" if amount >= 2**29 else f"{amount / 2**20:.1f} MiB"


def in_time(seconds: float) -> str:
    """Return seconds as people read them."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
