"""What one mechanism costs over resolution, everything else held equal: the lines that growth and crossings are of.

A series is one row name, one setting and one kind of memory; its points differ in resolution alone. Pure; no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from statistics import median
from typing import Final

from attnbench.record import Measurement, Record
from attnbench.report.bootstrap import FEWEST, Floats, block_medians, median_half_width, normal_draws
from attnbench.report.group import Group
from attnbench.report.rows import Row, named
from attnbench.report.view import SETTING

QUANTITIES: Final = {
    "macs": "MACs",
    "latency": "inference time",
    "training_step": "training step time",
    "peak_memory_inference": "inference memory",
    "peak_memory_training": "training memory",
}
TIMED: Final = ("latency", "training_step")

_SCORED: Final = ("training", "accuracy")
_HELD: Final = ("task", "head", *SETTING)
_PAIR: Final = 2  # visits of one round

Resolution = tuple[int, int]


@dataclass(frozen=True, eq=False)  # without slots, so that draws are made once, and only where they are asked for
class Point:
    """A cost at one resolution."""

    resolution: Resolution  # (H, W)
    log_cost: float
    rounds: Mapping[int, float]  # log seconds by round; empty for what is not timed
    key: str  # of the record's cell
    started: str  # the same for what was timed in the same rounds
    floor: float | None  # noise floor of those rounds
    launches: int = 1  # of the processes, in the course of those rounds
    recorded: float | None = None  # half-width of the logarithm's 95 % interval, as it was recorded
    anchored: bool = False  # the cost is a ratio to the anchor, and so is its interval

    @property
    def side(self) -> float:
        """The side, in pixels, of the square that has as many pixels."""
        return sqrt(self.resolution[0] * self.resolution[1])

    @property
    def scatters(self) -> bool:
        """Whether it is known what else the cost might have been."""
        return self.anchored or len(self.rounds) >= FEWEST

    @cached_property
    def draws(self) -> Floats | None:
        """What the logarithm might have been; None where nothing is known of it."""
        seed = int(self.key, 16)
        if self.anchored and self.recorded is not None:
            return normal_draws(self.log_cost, self.recorded, seed)
        return block_medians(list(self.rounds.values()), seed, self.launches)

    @cached_property
    def half_width(self) -> float | None:
        """About half the width of the draws' 95 % interval, without drawing."""
        if self.scatters and self.recorded is not None:
            return self.recorded
        return median_half_width(list(self.rounds.values()), self.launches)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One quantity of one mechanism at two or more resolutions, by their size; ``row`` holds the setting."""

    metric: str
    mechanism: str
    row: Row
    kind: str | None  # of memory, or which counter
    reference: str | None  # whose rounds a time is of
    points: tuple[Point, ...]

    @property
    def setting(self) -> tuple[str, ...]:
        """What is held equal within a comparison: task, head, size, batch size, precision, device and threads."""
        return tuple(str(self.row[name]) for name in _HELD)

    @property
    def rivals(self) -> tuple[str, ...]:
        """What two series must share to be compared: quantity, setting, kind of memory and reference."""
        return (self.metric, *self.setting, str(self.kind), str(self.reference))


def series(records: Iterable[Record], known: Sequence[tuple[Row, Group]] | None = None) -> list[Series]:
    """Return every series of two or more resolutions, quantity by quantity, mechanisms in the order of the report.

    Of several resolutions with equal area the squarest counts: they are one place on the axis. ``known`` is what
    :func:`~attnbench.report.rows.named` returns for the records, where the caller has it already.
    """
    everything = list(records)
    priced = [record for record in everything if record.cell.probe not in _SCORED]
    costs = named(priced) if known is None or len(priced) < len(everything) else known
    found: dict[tuple[str, ...], tuple[Row, dict[str, tuple[Record, Measurement]]]] = {}
    for metric in QUANTITIES:
        for row, group in costs:
            if (metric, None) not in group.measurements:
                continue
            held = [str(row[name]) for name in ("mechanism", *_HELD)]
            for record in group.records:
                item = record.measured(metric) if record.status == "ok" else None
                if item is not None and item.value > 0:
                    line = (metric, *held, str(record.cell.reference), str(item.kind))
                    found.setdefault(line, (row, {}))[1][record.cell.key] = record, item
    # Rows that differ in something that this quantity does not depend on are made of the same cells.
    unique: dict[tuple[str, ...], tuple[str, Row, list[tuple[Record, Measurement]]]] = {}
    for (metric, *_), (row, measured) in found.items():
        unique.setdefault((metric, *measured), (metric, row, list(measured.values())))
    made = [_series(*one) for one in unique.values()]
    return [one for one in made if len(one.points) > 1]


def _series(metric: str, row: Row, measured: Sequence[tuple[Record, Measurement]]) -> Series:
    squarest = sorted(measured, key=lambda pair: max(pair[0].cell.resolution) / min(pair[0].cell.resolution))
    places: dict[int, tuple[Record, Measurement]] = {}
    for record, item in squarest:
        places.setdefault(record.cell.resolution[0] * record.cell.resolution[1], (record, item))
    kept = [places[area] for area in sorted(places)]
    anchors = [_interval(record.measured("anchor_ratio")) if metric in TIMED else None for record, _ in kept]
    if None in anchors:  # an anchored point cannot stand beside one that is not
        anchors = [None] * len(kept)
    points = [_point(record, item, anchor) for (record, item), anchor in zip(kept, anchors, strict=True)]
    first, item = kept[0]
    return Series(metric, str(row["mechanism"]), row, item.kind, first.cell.reference, tuple(points))


def _point(record: Record, item: Measurement, anchor: tuple[float, float] | None) -> Point:
    """Make a point. Resolutions are timed one after the other: a ratio to an anchor, if any, takes the load out."""
    rounds = log_rounds(item)
    value = median(rounds.values()) if rounds else log(item.value)
    own = _interval(item)
    floor = record.measured("noise_floor")
    return Point(
        record.cell.resolution,
        value if anchor is None else anchor[0],
        rounds,
        record.cell.key,
        record.started,
        None if floor is None else floor.value,
        launches=len(record.environment.get("launches", [0])),  # the first round of each
        recorded=anchor[1] if anchor is not None else own[1] if own is not None else None,
        anchored=anchor is not None,
    )


def log_rounds(item: Measurement) -> dict[int, float]:
    """Return the log seconds of each round that has both its visits: the mean of their logarithms."""
    visits: dict[int, list[float]] = {}
    for number, seconds in zip(item.rounds, item.samples, strict=False):
        visits.setdefault(number, []).append(log(seconds))
    return {number: sum(logs) / _PAIR for number, logs in visits.items() if len(logs) == _PAIR}


def _interval(item: Measurement | None) -> tuple[float, float] | None:
    """Return the logarithm and the half-width of its 95 % interval."""
    if item is None or item.low is None or item.high is None or item.low <= 0:
        return None
    return log(item.value), log(item.high / item.low) / 2
