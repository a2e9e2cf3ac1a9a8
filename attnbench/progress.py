"""A run's progress on stderr: a live bar with time left on a terminal, a line per cell elsewhere."""

import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from attnbench.axes import AXES, suffix
from attnbench.config import RunConfig
from attnbench.record import Cell, Record
from attnbench.sizes import SIZES

MACS_PER_SECOND = 2e10  # a first guess, corrected by the run itself as it goes
START = 4.0  # seconds to start a worker
VALIDATION = 200  # images, a guess
TRUST = 60.0  # seconds after which what was seen outweighs the guess


class Progress:
    """A listener that shows what runs, what ended how, and how long the rest will take."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self.bar = Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.line = self.bar.add_task("starting", total=1.0, left="")
        self.cells: dict[str, Cell] = {}  # not yet finished
        self.macs: dict[tuple[str, tuple[int, int]], float] = {}
        self.spent = 0.0  # estimated seconds of what is finished
        self.running: list[Cell] = []
        self.begin = time.monotonic()
        self.count = 0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def planned(self, folder: Path, cells: list[Cell], done: int) -> None:
        """Show the run folder and how much there is to do."""
        self.cells = {cell.key: cell for cell in cells}
        self.count = len(cells)
        already = f", {done} done before" if done else ""
        self._print(f"attnbench: {len(cells)} cells{already}; records go to {folder}")

    def note(self, text: str) -> None:
        """Show what a user should know."""
        self._print(f"note: {text}")

    def started(self, cells: list[Cell]) -> None:
        """Show what runs now."""
        self.running = cells
        self.bar.update(self.line, description=_title(cells))
        self.progress(0.0)

    def progress(self, share: float) -> None:
        """Move the bar within the running cells."""
        running = sum(self._seconds(cell) for cell in self.running) * min(share, 1.0)
        rest = sum(self._seconds(cell) for cell in self.cells.values())
        done = self.spent + running
        left = f"{_clock((rest - running) * self._slowness(done))} left"
        self.bar.update(self.line, completed=done, total=max(self.spent + rest, 1e-9), left=left)

    def finished(self, record: Record) -> None:
        """Show how a cell ended, and learn its MACs for the estimate of the others."""
        cell = self.cells.pop(record.cell.key, record.cell)
        macs = record.measured("macs")
        if macs:
            self.macs[cell.mechanism, cell.resolution] = macs.value
        self.spent += 0.0 if record.status == "skipped" else self._seconds(cell)
        self.running = [other for other in self.running if other.key != cell.key]
        rest = sum(self._seconds(other) for other in self.cells.values())
        left = rest * self._slowness(self.spent)
        number = self.count - len(self.cells)
        ending = "" if record.status == "ok" else f": {record.status}: {record.error}"
        self._print(f"[{number}/{self.count}] {_title([cell])}{ending} ({_clock(left)} left)")
        self.progress(0.0)

    def _slowness(self, done: float) -> float:
        """Return real seconds for a guessed one: 1 at first, then what this run has shown."""
        return (time.monotonic() - self.begin + TRUST) / (done + TRUST)

    def _seconds(self, cell: Cell) -> float:
        """Guess how long ``cell`` takes; only the proportions matter once something is finished."""
        size = SIZES.get(cell.size, SIZES["tiny"])  # most models by name are about as large
        linear = 0.75 * size.dim**2 * sum(size.depths) * math.prod(cell.resolution)  # 12 C² a token, stage by stage
        forward = self.macs.get((cell.mechanism, cell.resolution), 1.3 * linear) / MACS_PER_SECOND
        batch = cell.batch_size or 1
        if cell.probe == "training":
            return START + 3 * forward * float((cell.recipe or {}).get("samples", 0))
        contenders = len(self.config.mechanisms or ()) + len(self.config.models) + 2  # the twin and the anchor
        rounds = START + self.config.timing.budget / (2 * contenders)
        return {
            "macs": START / 2,
            "latency": rounds + 8 * forward * batch,
            "latency_one": rounds + 8 * forward,
            "training_step": rounds + 24 * forward * batch,
            "best_batch": rounds + 200 * forward,
            "memory_inference": START + 2 * forward * batch,
            "memory_training": START + 6 * forward * batch,
        }.get(cell.probe, VALIDATION * forward)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
        sys.stderr.flush()


def _title(cells: list[Cell]) -> str:
    names = ", ".join(dict.fromkeys(map(_name, cells)))
    sizes = ", ".join(dict.fromkeys("x".join(map(str, cell.resolution)) for cell in cells))
    return f"{cells[0].probe.replace('_', ' ')} of {names} at {sizes}"


def _name(cell: Cell) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in cell.settings.items())
    variant = suffix({name: getattr(cell, name) for name in AXES})
    precision = "" if cell.precision == "fp32" else f" in {cell.precision}"
    return f"{cell.mechanism}({settings}){variant}{precision}" if settings else f"{cell.mechanism}{variant}{precision}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
