"""What a row has no column for: how far its numbers stray, and who may be called better than whom."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.record import METRICS, Measurement, Record
from attnbench.report.group import Group
from attnbench.report.rows import Identity, Row, identity, measured, named, scores
from attnbench.report.seeds import Seeds


@dataclass(frozen=True, slots=True)
class Spread:
    """The intervals, the noise and the conditions of one row."""

    scores: tuple[float, ...] = ()  # headline value of each seed
    score_interval: tuple[float, float] | None = None  # 95 %: of the mean over seeds, or as a single score came
    latency_interval: tuple[float, float] | None = None  # s, 95 %
    noise_floor: float = 0.0  # of the rounds that the time ratio stands on
    converged: bool | None = None  # whether the ratio's interval is as narrow as its timing asked for
    conditions: str = ""  # head, data, recipe and classes, as JSON: scores that differ here are not ranked together


Spreads = Mapping[Identity, Spread]


def spreads(records: Iterable[Record]) -> dict[Identity, Spread]:
    """Return the spread of each row of :func:`~attnbench.report.rows.rows`, by its identity."""
    return spreads_of(named(records))


def spreads_of(found: Sequence[tuple[Row, Group]]) -> dict[Identity, Spread]:
    """Return the spread of each row, from what :func:`~attnbench.report.rows.named` returns."""
    floors: dict[str, float] = {}
    for row, group in found:
        floor = measured(group, "noise_floor", "latency")
        if floor is not None:
            rounds = _rounds(row, group)
            floors[rounds] = max(floor.value, floors.get(rounds, 0.0))
    return {identity(row): _spread(group, floors.get(_rounds(row, group), 0.0)) for row, group in found}


def winners(table: Iterable[Row], known: Spreads) -> set[Identity]:
    """Return the rows with the best score among those trained at the same resolution under the same conditions.

    A transfer score does not compete, nor a model whose MACs are in doubt; a single seed does not win, and nobody wins
    without a rival.
    """
    races: dict[tuple[str, ...], list[tuple[float, Row]]] = {}
    for row in table:
        value = row["headline_value"]
        if row["transfer"] is False and row["macs_agree"] is not False and isinstance(value, float | int):
            shared = [str(row[name]) for name in ("size", "task", "head", "resolution", "precision")]
            shared.append(str(row["headline_metric"]))
            race = (*shared, known.get(identity(row), Spread()).conditions)
            races.setdefault(race, []).append((value, row))
    won: set[Identity] = set()
    for race, entries in races.items():
        lower = METRICS[race[5]].better == "lower"
        best = min(value for value, _ in entries) if lower else max(value for value, _ in entries)
        if len({row["mechanism"] for _, row in entries}) > 1:
            won |= {identity(row) for value, row in entries if value == best and row["seeds"] != 1}
    return won


def _rounds(row: Row, group: Group) -> str:
    """Return what is shared by all that were timed in the same rounds."""
    shared = ("size", "resolution", "batch_size", "precision", "device", "threads", "reference")
    cost = group.cost or {}
    return str([*(row[name] for name in shared), cost.get("task"), cost.get("head")])


def _spread(group: Group, floor: float) -> Spread:
    latency = measured(group, "latency")
    seeds = scores(group)
    values = tuple(seed.value for seed in seeds)
    scored = group.scored or {}
    return Spread(
        scores=values,
        score_interval=_interval(seeds[0]) if len(seeds) == 1 else Seeds(values).interval,
        latency_interval=_interval(latency),
        noise_floor=floor,
        converged=_converged(group),
        conditions=json.dumps([scored.get(name) for name in ("head", "data", "recipe", "num_classes")]),
    )


def _interval(item: Measurement | None) -> tuple[float, float] | None:
    return None if item is None or item.low is None or item.high is None else (item.low, item.high)


def _converged(group: Group) -> bool | None:
    """Return what the timing recorded of itself or, where it recorded nothing, what its interval says."""
    timed = next((record for record in group.records if record.cell.probe == "latency" and record.status == "ok"), None)
    said = timed.environment.get("converged") if timed else None
    if isinstance(said, bool):
        return said
    timing = timed.cell.timing if timed else None
    ratio = measured(group, "time_ratio", "latency")
    interval = _interval(ratio)
    if ratio is None or interval is None or timing is None or "precision" not in timing:
        return None
    return (interval[1] - interval[0]) / 2 <= float(timing["precision"]) * ratio.value
