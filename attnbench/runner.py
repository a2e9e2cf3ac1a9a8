"""Runs the cells of a plan in worker processes, records each as it ends, and skips what is done or cannot fit.

A failing cell is a record and the others go on. Costs other than time are measured in fresh processes; the contenders
of one resolution are timed in rounds, each in a process of its own, one active at a time while the parent waits.
"""

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

from attnbench.allowance import Allowance, Verdict
from attnbench.batch_search import search
from attnbench.environment import hardware
from attnbench.errors import UserError
from attnbench.hardware import hardware_difference
from attnbench.listener import Listener
from attnbench.plan import Plan, training_of
from attnbench.process import Template, Worker, WorkerError
from attnbench.record import METRICS, Cell, Measurement, Record, Status
from attnbench.store import Store, latest, load
from attnbench.timing import time_together

WEIGHTS = "weights"
LEAST = 60.0  # seconds that counting MACs may take whatever the budget: everything else is decided by them
FINAL: frozenset[Status] = frozenset({"ok", "unsupported"})  # another attempt would end the same
TIMED = ("latency", "latency_one", "training_step", "best_batch")
FRESH = ("memory_inference", "memory_training")  # each in a process that has done nothing else
ON_HARDWARE = (*TIMED, *FRESH)  # probes whose numbers are of one machine
TRAINED = ("training", "accuracy")


class Runner:
    """One run in progress."""

    def __init__(
        self,
        planned: Plan,
        folder: Path,
        store: Store,
        listener: Listener,
        templates: tuple[Template, Template],
        allowance: Allowance,
    ) -> None:
        from attnbench.learning import Context  # here, so that listing and reporting load no torch

        self.config, self.cells, self.labels, self.notes = planned.config, planned.cells, planned.labels, planned.notes
        self.store, self.listener, self.allowance = store, listener, allowance
        self.template, self.timing_template = templates
        self.folder = folder
        self.weights = folder / WEIGHTS
        self.context = Context(
            data=planned.config.data,
            weights=self.weights.resolve(),
            workers=planned.config.workers,
            processes=planned.config.processes,
            every=planned.config.checkpoint,
        )
        self.recorded = {} if planned.config.rerun else latest(load(folder))
        self.done = {key for key, record in self.recorded.items() if record.status in FINAL}
        self.failed: dict[str, Record] = {}
        self.needs: dict[str, Any] = {}  # Need of a cell, by its key
        self.skips: set[str] = set()  # keys of cells that were skipped in this run
        self.largest: dict[str, int | None] = {}  # batch size that fits, by the key of a best_batch cell
        self.exhausted: dict[tuple[object, ...], Cell] = {}  # smallest cell of its kind that ran out of memory

    def all_cells(self) -> None:
        """Run what is not done."""
        todo = [cell for cell in self.cells if not self._is_done(cell)]
        self._refuse_other_hardware(todo)
        self.listener.planned(self.folder, todo, len(self.cells) - len(todo))
        for text in self.notes if any(cell.probe == "training" for cell in todo) else ():
            self.listener.note(text)
        self._macs([cell for cell in todo if cell.probe == "macs"])
        self._foresee(todo)
        todo = [cell for cell in todo if cell.probe not in ON_HARDWARE or not self._skipped(cell)]
        for cell in todo:
            if cell.probe in FRESH and not self._skipped(cell):
                self.listener.started([cell])
                self._in_fresh_worker([cell])
        groups = _groups([cell for cell in todo if cell.probe in TIMED])
        later = sum(self._macs_of(cell) for cell in todo if cell.probe in TRAINED)
        for number, group in enumerate(groups):
            self._timed(group, self.allowance.for_rounds(len(groups) - number, later))
        self._accuracies([cell for cell in todo if cell.probe in TRAINED])

    def _is_done(self, cell: Cell) -> bool:
        if cell.probe != "training" or cell.key not in self.done:
            return cell.key in self.done
        scores = [other for other in self.cells if other.probe == "accuracy" and training_of(other) == cell]
        unscored = any(other.key not in self.done for other in scores)
        return not unscored or (self.weights / f"{cell.key}.safetensors").is_file()

    def _refuse_other_hardware(self, todo: list[Cell]) -> None:
        """Refuse to add numbers of this machine to a folder that holds those of another."""
        if not any(cell.probe in ON_HARDWARE for cell in todo):
            return
        here = hardware(self.config.device)
        for record in self.recorded.values():
            if record.cell.probe in ON_HARDWARE and record.status == "ok":
                difference = hardware_difference(record.environment, here)
                if difference is not None:
                    raise UserError(
                        f"{str(self.folder)!r} holds numbers of other hardware: {difference}; choose another folder"
                    )

    def _foresee(self, todo: list[Cell]) -> None:
        """Ask what cells will need, model by model, before anything large is run."""
        costly = [cell for cell in todo if cell.probe in ON_HARDWARE or cell.probe == "training"]
        models: dict[tuple[object, ...], list[Cell]] = {}
        for cell in costly:
            models.setdefault((*_model_of(cell), cell.resolution, cell.num_classes), []).append(cell)
        if not models:
            return
        with ExitStack() as stack:
            process: Worker | None = None
            for cells in models.values():
                try:
                    if (self.allowance.left or 1.0) <= 0:
                        return
                    process = process or stack.enter_context(self.template.worker(capped=False))
                    timeout = self.allowance.timeout(self.config.timeout)
                    if self.allowance.speed is None:
                        self.allowance.speed = process.call("calibrate", cells[0].device, timeout=timeout)
                    needs = process.call("foresee", cells, self.allowance.memory, timeout=timeout)
                except WorkerError as error:  # what cannot be foreseen is run: its own record tells why it fails
                    process = process if error.alive else None
                else:
                    self.needs |= {cell.key: need for cell, need in zip(cells, needs, strict=True)}

    def _macs_of(self, cell: Cell) -> float:
        need = self.needs.get(cell.key)
        return 0.0 if need is None else need.macs

    def _skipped(self, cell: Cell) -> bool:
        """Record a cell that cannot fit, and return whether it was."""
        smaller = self.exhausted.get(_kind(cell))
        if smaller is not None and prod(smaller.resolution) < prod(cell.resolution):
            height, width = smaller.resolution
            return self._skip(cell, Verdict(f"it ran out of memory already at {height}x{width}"))
        need = self.needs.get(cell.key)
        if need is None and (self.allowance.left or 1.0) > 0:
            return False
        verdict = self.allowance.refuse(*((0.0, None) if need is None else (need.macs, need.memory)))
        return verdict is not None and self._skip(cell, verdict)

    def _skip(self, cell: Cell, verdict: Verdict) -> bool:
        self.skips.add(cell.key)
        earlier = self.recorded.get(cell.key)
        if earlier is not None and earlier.status == "skipped":  # once is enough
            self.listener.finished(earlier)
            return True
        need = self.needs.get(cell.key)
        found = []
        if verdict.seconds is not None:
            found.append(Measurement("predicted_time", verdict.seconds, METRICS["predicted_time"].unit))
        if verdict.memory is not None and need is not None:
            metric = f"predicted_memory_{need.step}"
            kind = f"fake_tensor_ledger, attention kernel {need.kernel}"
            found.append(Measurement(metric, float(verdict.memory), METRICS[metric].unit, kind=kind))
        self._record(cell, "skipped", _now(), tuple(found), error=verdict.reason)
        return True

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
                if cell.probe in TRAINED:
                    self.listener.started([cell])
                    if self._blocked(cell) or (self._is_limited() and self._skipped(cell)):
                        continue
                for last in (False, True):
                    started = _now()
                    try:
                        process = process or stack.enter_context(self.template.worker())
                        self._record(cell, "ok", started, *self._measure(process, cell))
                        break
                    except WorkerError as error:
                        process = process if error.alive else None
                        if last or not error.killed:
                            self._record(cell, error.status, started, error=str(error))
                            break
                        self.listener.note(f"{cell.probe} of {self.labels[cell.key]}: {error}; once more")

    def _is_limited(self) -> bool:
        """Tell whether a training or a score may be refused: only by what the user set."""
        return self.allowance.is_strict or self.config.memory_limit is not None

    def _blocked(self, cell: Cell) -> bool:
        blocked = self.failed.get(training_of(cell).key) if cell.probe == "accuracy" else None
        if blocked is not None:
            self._record(cell, blocked.status, _now(), error=f"its training: {blocked.error}")
        return blocked is not None

    def _measure(self, process: Worker, cell: Cell) -> tuple[tuple[Measurement, ...], dict[str, Any]]:
        timeout = self.allowance.timeout(self.config.timeout, LEAST if cell.probe == "macs" else 0.1)
        patient = cell.probe in TRAINED and self.allowance.left is None  # it may take days, and goes on if ended
        progress = self.listener.progress
        measured = process.call("measure", cell, self.context, timeout=timeout, progress=progress, patient=patient)
        return measured, process.call("describe", cell.device, cell.threads, timeout=self.config.timeout)

    def _timed(self, wanted: list[Cell], budget: float | None) -> None:
        """Time what is timed together; a reference that is done is timed again for its ratio."""
        wanted = [cell for cell in wanted if not self._skipped(cell)]
        if not wanted:
            return
        reference = self._reference(wanted[0])
        cells = {self.labels[cell.key]: cell for cell in (reference, *wanted) if cell is not None}
        if reference is not None and reference not in wanted:
            self.listener.note(f"{self.labels[reference.key]} is timed again: ratios need it in the same rounds")
        self.listener.started(wanted)
        if wanted[0].probe == "best_batch":
            cells = self._with_batches(cells, wanted)
        if cells:
            self._time(cells, wanted, budget)

    def _reference(self, wanted: Cell) -> Cell | None:
        """Return the cell that ratios are taken to; None if it cannot run here."""
        group = (cell for cell in self.cells if _group_of(cell) == _group_of(wanted))
        reference = next((cell for cell in group if self.labels[cell.key] == cell.reference), None)
        if reference is None or reference.key in self.skips:
            return None
        earlier = self.recorded.get(reference.key)
        return None if earlier is not None and earlier.status == "unsupported" else reference

    def _time(self, cells: dict[str, Cell], wanted: list[Cell], budget: float | None) -> None:
        started = _now()
        config = replace(self.config, timeout=self.allowance.timeout(self.config.timeout))
        reference = str(wanted[0].reference)
        results = time_together(cells, reference, self.timing_template, config, self.listener.progress, budget)
        records = []
        for cell in wanted:
            result = results.get(self.labels[cell.key])
            if result is None:  # its batch size was not found, and its record says so
                continue
            if result.error is not None:
                records.append(Record(cell, result.error.status, (), {}, started, str(result.error)))
                continue
            largest = self.largest.get(cell.key)
            unit = METRICS["largest_batch_size"].unit
            more = () if largest is None else (Measurement("largest_batch_size", float(largest), unit),)
            records.append(Record(cell, "ok", (*result.measurements, *more), result.environment, started))
        self._store(*records)

    def _with_batches(self, cells: dict[str, Cell], wanted: list[Cell]) -> dict[str, Cell]:
        """Return the cells with the batch size of the highest throughput each, searched in processes of their own."""
        found = {}
        for label, cell in cells.items():
            started = _now()
            failure: tuple[Status, str] | None = None
            with ExitStack() as stack:
                attempts = _Attempts(self.template, stack, cell, self.allowance.timeout(self.config.timeout))
                try:
                    best = search(attempts)
                    if best is None:
                        failure = "out_of_memory", f"not even one image fits: {attempts.error}"
                except WorkerError as error:
                    best, failure = None, (error.status, str(error))
            if best is None or failure is not None:
                if cell in wanted and failure is not None:  # not a reference that was measured before
                    self._record(cell, failure[0], started, error=failure[1])
                continue
            found[label] = replace(cell, batch_size=best.best)
            self.largest[cell.key] = best.largest
        return found

    def _record(
        self,
        cell: Cell,
        status: Status,
        started: str,
        measured: tuple[Measurement, ...] = (),
        environment: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        self._store(Record(cell, status, measured, environment or {}, started, error))

    def _store(self, *records: Record) -> None:
        """Keep records, with one sync; only then is anyone told of them."""
        self.store.append(*records)
        for record in records:
            self._remember(record)
            if record.cell.probe == "training":
                if record.status != "ok":
                    self.failed[record.cell.key] = record
                else:  # nothing goes on from it any more
                    (self.weights / f"{record.cell.key}.checkpoint").unlink(missing_ok=True)
            self.listener.finished(record)

    def _remember(self, record: Record) -> None:
        if record.status == "out_of_memory":
            kind = _kind(record.cell)
            known = self.exhausted.get(kind)
            if known is None or prod(record.cell.resolution) < prod(known.resolution):
                self.exhausted[kind] = record.cell


class _Attempts:
    """Runs one batch of a size in a worker process; a process that ends for lack of memory is replaced."""

    def __init__(self, template: Template, stack: ExitStack, cell: Cell, timeout: float) -> None:
        self.error: WorkerError | None = None  # the last lack of memory
        self._template, self._stack, self._cell, self._timeout = template, stack, cell, timeout
        self._process: Worker | None = None
        self._again = False  # whether a worker that others ended was replaced

    def __call__(self, size: int) -> float | None:
        """Return the seconds of a batch of ``size``; None if it does not fit. Any other failure is raised."""
        try:
            self._process = self._process or self._stack.enter_context(self._template.worker())
            cell = replace(self._cell, batch_size=size)
            seconds: float = self._process.call("attempt", cell, timeout=self._timeout)
        except WorkerError as error:
            if not error.alive:
                self._process = None
            if error.killed and not self._again:
                self._again = True
                return self(size)
            if error.status != "out_of_memory":
                raise
            self.error = error
            return None
        return seconds


def _groups(cells: list[Cell]) -> list[list[Cell]]:
    """Return what is timed together side by side, in the order of the plan."""
    found: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        found.setdefault(_group_of(cell), []).append(cell)
    return list(found.values())


def _group_of(cell: Cell) -> tuple[object, ...]:
    return cell.probe, cell.resolution, cell.task, cell.batch_size, cell.precision


def _model_of(cell: Cell) -> tuple[object, ...]:
    variant = (cell.precision, cell.compile, cell.channels_last, cell.sdpa)
    return cell.mechanism, cell.size, str(cell.settings), *variant, cell.task


def _kind(cell: Cell) -> tuple[object, ...]:
    """Return what cells share whose memory grows with the resolution alone."""
    return cell.probe, *_model_of(cell), cell.batch_size, cell.device, str(cell.recipe), cell.train_resolution


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
