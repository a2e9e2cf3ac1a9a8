"""Runs the cells of a plan in worker processes, records each as it ends, and skips what is done.

A failing cell is a record and the others go on. Costs other than time are measured in fresh processes; the contenders
of one resolution are timed in rounds, each in a process of its own, one active at a time while the parent waits.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attnbench import report, worker
from attnbench.config import RunConfig
from attnbench.errors import UserError
from attnbench.plan import Plan, plan, training_of
from attnbench.process import Template, Worker, WorkerError, built_in_modules, plugin_sources
from attnbench.record import Cell, Measurement, Record, Status
from attnbench.registry import MECHANISMS, TASKS
from attnbench.report.rows import rows as make_rows
from attnbench.store import Store, latest, load
from attnbench.timing import time_together

if TYPE_CHECKING:
    from pandas import DataFrame

WEIGHTS = "weights"
LOG = "workers.log"
FINAL: frozenset[Status] = frozenset({"ok", "unsupported", "skipped"})  # another attempt would end the same


class Listener(Protocol):
    """Who is told how a run goes on."""

    def planned(self, folder: Path, cells: list[Cell], done: int) -> None:
        """Take the cells to run, beside the ``done`` ones that are recorded already."""

    def note(self, text: str) -> None:
        """Take what a user should know."""

    def started(self, cells: list[Cell]) -> None:
        """Take the cells that run now (several, when they are timed together)."""

    def progress(self, share: float) -> None:
        """Take the share of the running cells that is done."""

    def finished(self, record: Record) -> None:
        """Take a record that is safely stored."""


class Silent:
    """A listener that does nothing."""

    def planned(self, folder: Path, cells: list[Cell], done: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def started(self, cells: list[Cell]) -> None:
        """Ignore."""

    def progress(self, share: float) -> None:
        """Ignore."""

    def finished(self, record: Record) -> None:
        """Ignore."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves: its folder, the latest record of each planned cell, and the table's rows."""

    folder: Path
    records: list[Record]
    rows: list[dict[str, Any]]

    @property
    def complete(self) -> bool:
        """Whether every cell is ok, or was planned to be skipped."""
        return all(record.status in ("ok", "skipped") for record in self.records)


def run(config: RunConfig) -> "DataFrame":
    """Run ``config`` and return its table, a row per mechanism, resolution and task; columns as in ``table.csv``.

    Raises:
        UserError: anything in ``config`` that cannot be run; nothing is written then.
    """
    from attnbench.report.table import to_frame

    return to_frame(run_cells(config, Silent()).rows)


def run_cells(config: RunConfig, listener: Listener) -> Outcome:
    """Run ``config``, telling ``listener``; see :func:`run`."""
    if worker.ACTIVE:
        raise UserError('a script that defines a mechanism and runs it must guard the run: if __name__ == "__main__":')
    planned = plan(config)
    named = ((MECHANISMS, list(planned.mechanisms)), (TASKS, planned.config.tasks))
    plugins = [source for registry, names in named for source in plugin_sources(registry, names)]
    preload = [module for registry, names in named for module in built_in_modules(registry, names)]
    folder = Path(planned.config.out) if planned.config.out is not None else default_folder(planned.config)
    with Store(folder) as store:
        text = config_text(planned.config)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        with Template(planned.config.threads or 1, preload, plugins, folder / LOG) as template:
            _Run(planned, folder, store, listener, template).all_cells()
        recorded = latest(load(folder))
        records = [recorded[cell.key] for cell in planned.cells]
        rows = make_rows(records)
        report.write(folder, records, text)
    return Outcome(folder, records, rows)


def default_folder(config: RunConfig) -> Path:
    """Return ``results/<UTC time>-<short hash of config>``."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:8]
    return Path("results") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}"


def config_text(config: RunConfig) -> str:
    """Return the resolved configuration as YAML."""
    import yaml

    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


class _Run:
    """One run in progress."""

    def __init__(self, planned: Plan, folder: Path, store: Store, listener: Listener, template: Template) -> None:
        from attnbench.execute import Context  # here, so that listing and reporting load no torch

        self.config, self.cells, self.labels, self.notes = planned.config, planned.cells, planned.labels, planned.notes
        self.store, self.listener, self.template = store, listener, template
        self.folder = folder
        self.weights = folder / WEIGHTS
        self.context = Context(planned.config.data, self.weights.resolve(), planned.config.workers)
        recorded = {} if planned.config.rerun else latest(load(folder))
        self.done = {key for key, record in recorded.items() if record.status in FINAL}
        self.failed: dict[str, Record] = {}

    def all_cells(self) -> None:
        todo = [cell for cell in self.cells if not self._is_done(cell)]
        self.listener.planned(self.folder, todo, len(self.cells) - len(todo))
        for text in self.notes if any(cell.probe == "training" for cell in todo) else ():
            self.listener.note(text)
        self._macs([cell for cell in todo if cell.probe == "macs"])
        self._latencies([cell for cell in todo if cell.probe == "latency"])
        for cell in todo:
            if cell.probe in ("memory_inference", "memory_training"):
                self.listener.started([cell])
                self._in_fresh_worker([cell])
        self._accuracies([cell for cell in todo if cell.probe in ("training", "accuracy")])

    def _is_done(self, cell: Cell) -> bool:
        if cell.probe != "training" or cell.key not in self.done:
            return cell.key in self.done
        scores = [other for other in self.cells if other.probe == "accuracy" and training_of(other) == cell]
        unscored = any(other.key not in self.done for other in scores)
        return not unscored or (self.weights / f"{cell.key}.safetensors").is_file()

    def _macs(self, cells: list[Cell]) -> None:
        for label in dict.fromkeys(self.labels[cell.key] for cell in cells):
            own = [cell for cell in cells if self.labels[cell.key] == label]
            self.listener.started(own)
            self._in_fresh_worker(own)

    def _accuracies(self, cells: list[Cell]) -> None:
        for training in dict.fromkeys(training_of(cell).key for cell in cells):
            own = [cell for cell in cells if training_of(cell).key == training]
            self._in_fresh_worker(own)

    def _in_fresh_worker(self, cells: list[Cell]) -> None:
        """Measure ``cells`` one after another in one new process; in another, if it dies."""
        with ExitStack() as stack:
            process: Worker | None = None
            for cell in cells:
                if cell.probe in ("training", "accuracy"):
                    self.listener.started([cell])
                started = _now()
                blocked = self.failed.get(training_of(cell).key) if cell.probe == "accuracy" else None
                if blocked:
                    self._record(cell, blocked.status, started, error=f"its training: {blocked.error}")
                    continue
                try:
                    process = process or stack.enter_context(self.template.worker())
                    measured, environment = self._measure(process, cell)
                    self._record(cell, "ok", started, measured, environment)
                except WorkerError as error:
                    process = process if error.alive else None
                    self._record(cell, error.status, started, error=str(error))

    def _measure(self, process: Worker, cell: Cell) -> tuple[tuple[Measurement, ...], dict[str, Any]]:
        timeout = self.config.timeout
        measured = process.call("measure", cell, self.context, timeout=timeout, progress=self.listener.progress)
        return measured, process.call("describe", cell.device, cell.threads, timeout=timeout)

    def _latencies(self, cells: list[Cell]) -> None:
        """Time the contenders of each resolution together; a reference that is done is timed again for its ratio."""
        with ExitStack() as stack:
            processes: dict[str, Worker] = {}

            def process(name: str) -> Worker:
                if name not in processes:
                    processes[name] = stack.enter_context(self.template.worker())
                return processes[name]

            for resolution, task in dict.fromkeys((cell.resolution, cell.task) for cell in cells):
                wanted = [cell for cell in cells if (cell.resolution, cell.task) == (resolution, task)]
                reference = next(
                    cell
                    for cell in self.cells
                    if (cell.probe, cell.resolution, cell.task) == ("latency", resolution, task)
                    and self.labels[cell.key] == cell.reference
                )
                if reference not in wanted:
                    label = self.labels[reference.key]
                    self.listener.note(f"{label} is timed again: ratios need it in the same rounds")
                self.listener.started(wanted)
                self._time(wanted, reference, process, processes)

    def _time(
        self, wanted: list[Cell], reference: Cell, process: Callable[[str], Worker], processes: dict[str, Worker]
    ) -> None:
        started = _now()
        cells = {self.labels[cell.key]: cell for cell in (reference, *wanted)}
        label = self.labels[reference.key]
        results = time_together(cells, label, process, self.config, self.listener.progress)
        for cell in wanted:
            result = results[self.labels[cell.key]]
            if result.error is None:
                self._record(cell, "ok", started, result.measurements, result.environment)
            else:
                self._record(cell, result.error.status, started, error=str(result.error))
        for name, result in results.items():
            if result.error is not None and not result.error.alive:
                processes.pop(name, None)

    def _record(
        self,
        cell: Cell,
        status: Status,
        started: str,
        measured: tuple[Measurement, ...] = (),
        environment: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        record = Record(cell, status, measured, environment or {}, started, error)
        self.store.append(record)
        if cell.probe == "training" and status != "ok":
            self.failed[cell.key] = record
        self.listener.finished(record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
