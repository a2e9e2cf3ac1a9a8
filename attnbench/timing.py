"""Times the contenders of one resolution together: prepared one by one, sampled in rounds, one active at a time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

from attnbench.config import RunConfig
from attnbench.measure.rounds import Rounds, run_rounds
from attnbench.measure.statistics import median_interval, noise_floor
from attnbench.process import Worker, WorkerError
from attnbench.record import Cell, Measurement

TWIN = "A/A twin"  # the reference a second time, in a process of its own: what the ratio of equal code looks like


@dataclass(slots=True)
class Result:
    """What became of one contender."""

    measurements: tuple[Measurement, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    error: WorkerError | None = None
    rounds: Rounds | None = None
    has_reference: bool = False


def time_together(
    cells: dict[str, Cell],
    reference: str,
    process: Callable[[str], Worker],
    config: RunConfig,
    progress: Callable[[float], None],
) -> dict[str, Result]:
    """Time ``cells`` (contender name to latency cell, all of one resolution) against ``reference`` and its twin.

    ``process`` returns the worker of a contender. Every contender gets a result; one that fails leaves the others be.
    """
    contenders = {**cells, TWIN: cells[reference]}
    results = {name: Result() for name in contenders}
    prepared: dict[str, Worker] = {}
    for number, (name, cell) in enumerate(contenders.items()):
        try:
            prepared[name] = process(name)
            results[name].environment = {
                **prepared[name].call("describe", cell.device, cell.threads, timeout=config.timeout),
                "warm_up": prepared[name].call("prepare", cell, timeout=config.timeout),
            }
        except WorkerError as error:
            results[name].error = error
        progress(0.5 * (number + 1) / len(contenders))
    ready: dict[str, Callable[[], float]] = {
        name: partial(worker.call, "sample", timeout=config.timeout)
        for name, worker in prepared.items()
        if results[name].error is None
    }
    if ready:
        _sample(ready, results, reference, config, progress)
        for name, cell in cells.items():
            if results[name].error is None:
                results[name].measurements = tuple(_measurements(name, cell, results[name]))
    return results


def _sample(
    ready: dict[str, Callable[[], float]],
    results: dict[str, Result],
    reference: str,
    config: RunConfig,
    progress: Callable[[float], None],
) -> None:
    """Run the rounds and hand them to every result; without the reference there are times and no ratios."""
    timing = config.timing
    begin = time.monotonic()

    def on_round(number: int) -> None:
        spent = max(number / timing.max_rounds, (time.monotonic() - begin) / timing.budget)
        progress(0.5 + 0.5 * min(spent, 1.0))

    against = reference if reference in ready else next(iter(ready))
    rounds = run_rounds(ready, against, timing, seed=0, on_round=on_round)
    alone = reference not in ready or reference in rounds.failures
    for name, result in results.items():
        failure = rounds.failures.get(name)
        if failure is not None:
            known = failure if isinstance(failure, WorkerError) else None
            result.error = known or WorkerError("failed", str(failure), alive=True)
        result.rounds, result.has_reference = rounds, not alone
        result.environment |= {"rounds": max((item.round for item in rounds.samples), default=-1) + 1}
        result.environment |= {"converged": rounds.converged and not alone}


def _measurements(name: str, cell: Cell, result: Result) -> Iterator[Measurement]:
    rounds = result.rounds
    if rounds is None:
        return
    latency = median_interval(list(rounds.times(name).values()))
    own = [item for item in rounds.samples if item.contender == name]
    yield Measurement(
        "latency",
        latency.value,
        "s",
        latency.low,
        latency.high,
        samples=tuple(item.seconds for item in own),
        rounds=tuple(item.round for item in own),
        times=tuple(round(item.time, 3) for item in own),
    )
    batch = cell.batch_size or 1
    low, high = (batch / bound if bound else None for bound in (latency.high, latency.low))
    yield Measurement("throughput", batch / latency.value, "img/s", low, high)
    ratio = rounds.ratio(name) if result.has_reference else None
    if ratio is not None:
        yield Measurement("time_ratio", ratio.value, "1", ratio.low, ratio.high)
    twin = rounds.ratio(TWIN) if result.has_reference else None
    if twin is not None and isfinite(floor := noise_floor(twin)):
        yield Measurement("noise_floor", floor, "1")
