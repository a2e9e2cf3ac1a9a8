"""Seconds per call of one step: warmed up until it is steady, then sampled in batches of calls. Worker's side."""

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil, inf
from statistics import median
from typing import Any

import torch

BLOCK = 3  # calls to a median: the least that a stray call cannot move
TOLERANCE = 0.02  # between two successive medians
MOST_CALLS = 60
MOST_SECONDS = 10.0
MARGIN = 1.2  # a later sample may run faster than those that set the number of calls
MOST_REPEATS = 1_000_000
# A process that was idle finds its caches taken and its threads asleep: 3 to 5 ms, whatever the call (seen). Where they
# are more than 2 % of a call, one call before the samples takes them.
WAKES = 0.25

Step = Callable[[], object]
Synchronize = Callable[[], None]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What a warm-up did: calls, their seconds in all, the last median of seconds per call, and whether it settled."""

    calls: int
    seconds: float
    median: float
    settled: bool  # False: capped before two successive medians agreed


class Clock:
    """A step that is warm and calibrated; ``report`` says how, as JSON.

    ``least``: seconds that one sample lasts at least. ``repeats``: calls to a sample, where another process found them;
    then three calls are enough to warm up.
    """

    def __init__(self, step: Step, device: torch.device, least: float = 0.01, repeats: int | None = None) -> None:
        self._step = step
        self._synchronize = synchronizer(device)
        warmed = warm_up(step, self._synchronize, *(() if repeats is None else (BLOCK,)))
        self._repeats = repeats or calibrate(step, self._synchronize, least)
        self._wakes = warmed.median < WAKES
        self.report: dict[str, Any] = {**asdict(warmed), "repeats": self._repeats}
        if repeats is not None:
            del self.report["settled"]  # nobody looked

    def sample(self) -> float:
        """Return seconds per call, the mean of one sample."""
        if self._wakes:
            self._step()
        return sample(self._step, self._repeats, self._synchronize)


def synchronizer(device: torch.device) -> Synchronize:
    """Return what blocks until ``device`` has finished its work; on CPU there is nothing to wait for."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def warm_up(
    step: Step,
    synchronize: Synchronize,
    most_calls: int = MOST_CALLS,
    most_seconds: float = MOST_SECONDS,
) -> WarmUp:
    """Call ``step`` until the medians of two successive blocks of three calls agree within 2 %, or a cap is reached.

    Blocks do not overlap: overlapping ones share calls, and agree before the step is steady. Three calls are made
    whatever the caps, so a step of a minute is called three times.
    """
    seconds: list[float] = []
    earlier, latest = inf, inf
    while True:
        seconds.append(sample(step, 1, synchronize))
        if len(seconds) < BLOCK:
            continue
        if len(seconds) % BLOCK == 0:
            earlier, latest = latest, median(seconds[-BLOCK:])
            if abs(latest - earlier) <= TOLERANCE * earlier < inf:
                return WarmUp(len(seconds), sum(seconds), latest, settled=True)
        if len(seconds) >= most_calls or sum(seconds) >= most_seconds:
            return WarmUp(len(seconds), sum(seconds), median(seconds[-BLOCK:]), settled=False)


def calibrate(step: Step, synchronize: Synchronize, least: float = 0.01) -> int:
    """Return how many calls of a warm ``step`` last ``least`` seconds, with a margin of a fifth."""
    repeats = 1
    while True:
        seconds = repeats * sample(step, repeats, synchronize)
        if seconds >= least * MARGIN or repeats >= MOST_REPEATS:
            return repeats
        # The first guesses are far too small to be trusted: grow at most tenfold, and at least by one.
        wanted = ceil(repeats * least * MARGIN / seconds) if seconds > 0 else inf
        repeats = min(max(repeats + 1, int(min(wanted, 10 * repeats))), MOST_REPEATS)


def sample(step: Step, repeats: int, synchronize: Synchronize) -> float:
    """Return seconds per call over ``repeats`` calls; the device is idle before and has finished after.

    Garbage collection waits, as in ``timeit``: a full one takes as long as many calls, and would fall on some sample.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        synchronize()
        return (time.perf_counter() - begin) / repeats
    finally:
        if collecting:
            gc.enable()
