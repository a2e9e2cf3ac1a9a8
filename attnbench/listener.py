"""Who is told how a run goes on."""

from pathlib import Path
from typing import Protocol

from attnbench.record import Cell, Record


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
