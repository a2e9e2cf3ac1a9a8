"""How data loading went: what each training waited for, in ``report.md``."""

from collections.abc import Sequence
from typing import Final

from attnbench.report.markdown import escape, table
from attnbench.report.races import Entrant, Race
from attnbench.report.view import number

_READING: Final = """\
Waiting is the share of the training's seconds in which it stood still for data; the loader's speed is that of the data
alone, the training's that of both together. All three depend on the machine's load."""
_METRICS: Final = ("data_wait", "loader_throughput", "train_throughput")


def section(races: Sequence[Race]) -> str:
    """Return the section for ``report.md``, a line per training; nothing where none says how it loaded."""
    parts = []
    for race in races:
        lines = [line for entrant in race.entrants for line in _lines(entrant)]
        if lines:
            header = ["mechanism", "seed", "waiting for data (%)", "loader (img/s)", "training (img/s)"]
            parts += [f"### Loading: {escape(race.title)}", f"Held equal: {escape(race.held)}.", table(header, lines)]
    return "\n\n".join(["## Data loading", _READING, *parts]) if parts else ""


def _lines(entrant: Entrant) -> list[list[str]]:
    found = []
    for seed, record in entrant.seeds.items():
        waited, loader, training = (
            None if (item := record.measured(metric)) is None else item.value for metric in _METRICS
        )
        if (waited, loader, training) != (None, None, None):
            share = "-" if waited is None else f"{100 * waited:.1f}"
            found.append([escape(entrant.mechanism), str(seed), share, number(loader), number(training)])
    return found
