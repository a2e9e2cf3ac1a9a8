"""Times the contenders of one resolution together: launched one by one, sampled in rounds, one active at a time."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, isfinite
from typing import Any

from attnbench.config import RunConfig, Timing
from attnbench.measure.conditions import Watch
from attnbench.measure.rounds import Contenders, GoneError, Rounds, run_launches
from attnbench.measure.statistics import Interval, median_interval, noise_floor
from attnbench.process import Template, Worker, WorkerError
from attnbench.record import Cell, Measurement

TWIN = "A/A twin"  # the reference a second time, in a process of its own: what the ratio of equal code looks like
ANCHOR = "anchor.v1"  # a fixed piece of work: what runs are compared by
ONCE = ("attention_kernel", "priority")  # told by every launch, and the same
MOST_KILLS = 3  # times that others may end a contender's worker before the contender is given up


@dataclass(slots=True)
class Result:
    """What became of one contender."""

    measurements: tuple[Measurement, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    error: WorkerError | None = None


def time_together(
    cells: Mapping[str, Cell],
    reference: str,
    template: Template,
    config: RunConfig,
    progress: Callable[[float], None],
    budget: float | None = None,
) -> dict[str, Result]:
    """Time ``cells`` (label to cell, all of one resolution) against ``reference``, its twin and the anchor.

    Where the reference is not among them there are times and no ratios to it, and the first serves for the noise floor.
    Every contender gets a result; one that fails leaves the others be. ``budget``, in seconds from now, replaces that
    of the configuration, which starts with the first round.
    """
    timing = config.timing if budget is None else replace(config.timing, budget=budget)
    base = reference if reference in cells else next(iter(cells))
    launcher = _Launcher({**cells, TWIN: cells[base]}, template, config.timeout, timing)
    watch = Watch(_gpu(cells[base].device))

    begin = time.monotonic()
    deadline = inf if budget is None else begin + budget

    def on_round(number: int) -> None:
        progress(min(max(number / timing.max_rounds, (time.monotonic() - begin) / timing.budget), 1.0))

    rounds = run_launches(
        launcher.launch, base, timing, seed=0, on_round=on_round, aside=frozenset({ANCHOR}), deadline=deadline
    )
    conditions = watch.report(launcher.cpu_seconds, frozenset(launcher.processes), list(rounds.times(base).values()))
    alone = base != reference or base in launcher.errors or base in rounds.failures
    return {name: _result(name, cell, launcher, rounds, conditions, alone=alone) for name, cell in cells.items()}


class _Launcher:
    """Starts a worker per contender, launch after launch, and remembers what became of each."""

    def __init__(
        self,
        cells: Mapping[str, Cell],
        template: Template,
        timeout: float,
        timing: Timing,
    ) -> None:
        self.cells, self.errors = cells, dict[str, WorkerError]()
        self.environments: dict[str, dict[str, Any]] = {}
        self.warm_ups: dict[str, list[dict[str, Any]]] = {}
        self.cpu_seconds = 0.0
        self.visited = 0.0  # seconds that contenders ran
        self.processes: set[int] = set()
        self._kills: dict[str, int] = {}
        self._template, self._timeout, self._timing = template, timeout, timing

    @contextmanager
    def launch(self) -> Iterator[Contenders]:
        """Yield what samples each contender that is ready; their workers end with the block."""
        with ExitStack() as stack:
            ready: dict[str, Worker] = {}
            names = [name for name in (*self.cells, ANCHOR) if name not in self.errors]
            for name in names:
                try:
                    worker = stack.enter_context(self._template.worker())
                    self._prepare(name, worker)
                except WorkerError as error:
                    self._lose(name, error)
                else:
                    ready[name] = worker
                    self.processes.add(worker.pid)
            yield {name: partial(self._sample, name, worker) for name, worker in ready.items()}
            for name, worker in ready.items():
                if worker.alive:
                    self._count(name, worker)

    def _prepare(self, name: str, worker: Worker) -> None:
        earlier = self.warm_ups.setdefault(name, [])
        repeats = earlier[0]["repeats"] if earlier else None
        if name == ANCHOR:
            device = next(iter(self.cells.values())).device
            request: tuple[Any, ...] = ("prepare_anchor", device, self._timing.sample, repeats, self._timing.priority)
        else:
            cell = self.cells[name]
            if name not in self.environments:
                self.environments[name] = worker.call("describe", cell.device, cell.threads, timeout=self._timeout)
            request = ("prepare", cell, repeats)
        earlier.append(worker.call(*request, timeout=self._timeout))

    def _sample(self, name: str, worker: Worker) -> float:
        seconds: float
        try:
            seconds, spent = worker.call("sample", timeout=self._timeout)
            self.visited += spent
        except WorkerError as error:
            self._lose(name, error)
            if name in self.errors:
                raise
            raise GoneError(str(error)) from error
        return seconds

    def _lose(self, name: str, error: WorkerError) -> None:
        """Give a contender up, unless others ended its worker: then it comes back with the next launch."""
        self._kills[name] = self._kills.get(name, 0) + error.killed
        if not error.killed or self._kills[name] > MOST_KILLS:
            self.errors[name] = error

    def _count(self, name: str, worker: Worker) -> None:
        try:
            self.cpu_seconds += worker.call("usage", timeout=self._timeout)
        except WorkerError as error:
            self._lose(name, error)


def _result(
    name: str, cell: Cell, launcher: _Launcher, rounds: Rounds, conditions: dict[str, Any], *, alone: bool
) -> Result:
    error = launcher.errors.get(name)
    failure = rounds.failures.get(name)
    if error is None and failure is not None:
        error = failure if isinstance(failure, WorkerError) else WorkerError("failed", str(failure), alive=True)
    if error is None and not rounds.times(name):
        error = WorkerError("failed", "its worker process was ended before a round was done", alive=False, killed=True)
    warm_ups = launcher.warm_ups.get(name, [])
    environment = {
        **launcher.environments.get(name, {}),
        **{key: warm_ups[0].get(key) if warm_ups else None for key in ONCE},
        "warm_up": [{key: item for key, item in one.items() if key not in ONCE} for one in warm_ups],
        "rounds": max((item.round for item in rounds.samples), default=-1) + 1,
        "launches": rounds.launches,
        "seconds_in_visits": round(launcher.visited, 3),
        "converged": rounds.converged and not alone,
        "conditions": conditions,
    }
    measured = () if error is not None else tuple(_measurements(name, cell, rounds, alone=alone))
    return Result(measured, environment, error)


def _measurements(name: str, cell: Cell, rounds: Rounds, *, alone: bool) -> Iterator[Measurement]:
    times = rounds.times(name)
    seconds = median_interval(list(times.values()), launches=len({rounds.launch_of(number) for number in times}))
    samples = _samples(rounds, name)
    speed = _inverse(seconds, 1 if cell.probe == "best_batch" else cell.batch_size or 1)
    if cell.probe == "best_batch":
        yield Measurement("best_throughput", speed.value, "img/s", speed.low, speed.high, **samples)
        yield Measurement("best_batch_size", float(cell.batch_size or 1), "1")
    else:
        yield Measurement(cell.probe, seconds.value, "s", seconds.low, seconds.high, **samples)
    if cell.probe == "latency":
        yield Measurement("throughput", speed.value, "img/s", speed.low, speed.high)
    ratio = None if alone else rounds.ratio(name)
    if ratio is not None:
        yield Measurement("time_ratio", ratio.value, "1", ratio.low, ratio.high)
    # What the two were taken from is kept once, by the one that the twin is a twin of.
    is_base = name == rounds.reference
    anchored, twin = rounds.ratio(name, to=ANCHOR), rounds.ratio(TWIN)
    if anchored is not None:
        kept = _samples(rounds, ANCHOR) if is_base else {}
        yield Measurement("anchor_ratio", anchored.value, "1", anchored.low, anchored.high, kind=ANCHOR, **kept)
    if twin is not None and isfinite(floor := noise_floor(twin)):
        yield Measurement("noise_floor", floor, "1", **(_samples(rounds, TWIN) if is_base else {}))


def _samples(rounds: Rounds, name: str) -> dict[str, Any]:
    own = [item for item in rounds.samples if item.contender == name]
    return {
        "samples": tuple(item.seconds for item in own),
        "rounds": tuple(item.round for item in own),
        "times": tuple(round(item.time, 3) for item in own),
    }


def _inverse(seconds: Interval, images: int) -> Interval:
    low, high = (images / bound if bound else None for bound in (seconds.high, seconds.low))
    return Interval(images / seconds.value, low, high)


def _gpu(device: str) -> str | None:
    """Return the index or id by which nvidia-smi knows a device that torch numbers; None for a CPU."""
    if not device.startswith("cuda"):
        return None
    index = int(device.partition(":")[2] or 0)
    visible = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    return visible[index] if index < len(visible) else str(index)
