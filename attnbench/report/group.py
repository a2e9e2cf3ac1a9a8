"""Which records stand in one row: an arm at one resolution, one way to cost it, one way to score it.

An *arm* is what every probe of one row shares: mechanism, settings, size, device, precision, threads and axes. Its cost
cells may come in several variants (batch sizes, references), its accuracy cells too (tasks, data, recipes, training
resolutions); a row is a pair of the two. A field that a cell leaves open fits every value, so the MACs, which no
batch size changes, stand in the row of each batch size.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

from attnbench.axes import AXES, suffix
from attnbench.record import Cell, Measurement, Record
from attnbench.store import latest

COST = ("task", "num_classes", "head", "batch_size", "reference", "timing")
SCORED = ("task", "num_classes", "head", "data", "recipe", "train_resolution")

_sorted_json = json.JSONEncoder(sort_keys=True).encode

Value = str | int | tuple[int, int] | None
Variant = tuple[Value, ...]  # the fields of COST or SCORED; dictionaries as JSON


@dataclass(frozen=True, slots=True)
class Arm:
    """What every probe of a row shares."""

    mechanism: str
    settings: str  # JSON
    size: str
    device: str
    precision: str
    threads: int
    axes: str = ""  # as a label shows them: +compile+sdpa=math


@dataclass(frozen=True)  # without slots, so that its measurements are sought once
class Group:
    """The records of one row. ``cost`` or ``scored`` is None where there are no such cells."""

    arm: Arm
    resolution: tuple[int, int]
    cost: dict[str, Value] | None
    scored: dict[str, Value] | None
    records: tuple[Record, ...]

    @property
    def task(self) -> Value:
        """The task of the accuracy cells, or of the cost cells."""
        return (self.scored or self.cost or {}).get("task")

    @cached_property
    def measurements(self) -> Mapping[tuple[str, str | None], Measurement]:
        """The first measurement of a metric from a cell that is ok, by metric and probe; None for any probe."""
        found: dict[tuple[str, str | None], Measurement] = {}
        for record in self.records:
            for item in record.measurements if record.status == "ok" else ():
                found.setdefault((item.metric, None), item)
                found.setdefault((item.metric, record.cell.probe), item)
        return found


@dataclass(frozen=True, slots=True)
class _Placed:
    """A record with what decides its rows, worked out once."""

    record: Record
    arm: Arm
    cost: Variant
    scored: Variant


def groups(records: Iterable[Record]) -> list[Group]:
    """Return the groups in the order of the report; of several records of one cell the last counts.

    Mechanisms, settings, sizes, tasks and variants come in the order in which they first came, resolutions by area.
    """
    kept = [_place(record) for record in latest(records).values()]
    trainings: dict[Arm, list[_Placed]] = {}
    places: dict[tuple[Arm, tuple[int, int]], list[_Placed]] = {}
    for one in kept:
        if one.record.cell.probe == "training":
            trainings.setdefault(one.arm, []).append(one)
        else:
            places.setdefault((one.arm, one.record.cell.resolution), []).append(one)
    arms = {arm for arm, _ in places}
    for arm, failed in trainings.items():  # of an arm that has nothing else: it must not vanish
        for one in failed:
            if arm not in arms and one.record.status != "ok":
                places.setdefault((arm, one.record.cell.resolution), [])
    found = [
        group
        for (arm, resolution), here in places.items()
        for group in _pair(arm, resolution, here, trainings.get(arm, []))
    ]
    return _in_order(found, kept)


def _place(record: Record) -> _Placed:
    return _Placed(record, _arm(record.cell), _variant(record.cell, COST), _variant(record.cell, SCORED))


def _pair(arm: Arm, resolution: tuple[int, int], here: list[_Placed], trainings: list[_Placed]) -> list[Group]:
    scored = [one for one in here if one.record.cell.probe == "accuracy"]
    cost = [one for one in here if one.record.cell.probe != "accuracy"]
    costs = _most_specific([one.cost for one in cost])
    scores = list(dict.fromkeys(one.scored for one in scored))
    scores += _of_failed_trainings(resolution, trainings, {score[:-1] for score in scores})
    pairs: list[tuple[Variant | None, Variant | None]] = []
    for score in scores:
        pairs += [(one, score) for one in _matching(score, costs)] or [(None, score)]
    used = {one for one, _ in pairs}
    pairs += [(one, None) for one in costs if one not in used]
    return [
        Group(
            arm,
            resolution,
            None if one is None else dict(zip(COST, one, strict=True)),
            None if score is None else dict(zip(SCORED, score, strict=True)),
            tuple(item.record for item in cost if one is not None and _fits(item.cost, one))
            + tuple(item.record for item in (*trainings, *scored) if item.scored == score),
        )
        for one, score in pairs
    ]


def _of_failed_trainings(resolution: tuple[int, int], trainings: list[_Placed], done: set[Variant]) -> list[Variant]:
    """Return the variants that have no accuracy cell here because their training failed.

    Where trainings ran at this resolution they are the ones it waits for, elsewhere it waits for all. ``done`` holds
    the variants, less their training resolution, that were scored here.
    """
    waiting = [one for one in trainings if one.scored[:-1] not in done]
    own = [one for one in waiting if one.scored[-1] == resolution]
    return list(dict.fromkeys(one.scored for one in own or waiting if one.record.status != "ok"))


def _matching(score: Variant, costs: list[Variant]) -> list[Variant]:
    """Return the costs of the same task and head; with the same number of classes where there are such."""
    same = [one for one in costs if one[0] in (None, score[0]) and one[2] in (None, score[2])]
    return [one for one in same if one[1] == score[1]] or same


def _most_specific(variants: list[Variant]) -> list[Variant]:
    kept = list(dict.fromkeys(variants))
    return [one for one in kept if not any(one != other and _fits(one, other) for other in kept)]


def _fits(general: Variant, specific: Variant) -> bool:
    return all(mine in (None, theirs) for mine, theirs in zip(general, specific, strict=True))


def _arm(cell: Cell) -> Arm:
    settings = _sorted_json(cell.settings) if cell.settings else "{}"
    axes = suffix({name: getattr(cell, name) for name in AXES})
    return Arm(cell.mechanism, settings, cell.size, cell.device, cell.precision, cell.threads, axes)


def _variant(cell: Cell, names: tuple[str, ...]) -> Variant:
    trained = cell.train_resolution or cell.resolution
    values = {name: getattr(cell, name) for name in names} | {"train_resolution": trained}
    return tuple(_sorted_json(values[n]) if isinstance(values[n], dict) else values[n] for n in names)


def _in_order(found: list[Group], kept: list[_Placed]) -> list[Group]:
    """Sort by what a reader looks for first; equal ones stay in the order in which they came."""
    seen: dict[str, dict[object, int]] = reduce(_see, kept, {})

    def place(group: Group) -> tuple[int, ...]:
        height, width = group.resolution
        arm, task = group.arm, group.task
        trained = (group.scored or {}).get("train_resolution")
        area = trained[0] * trained[1] if isinstance(trained, tuple) else 0
        names = (seen["mechanism"][arm.mechanism], seen["settings"][arm.settings], seen["size"][arm.size])
        variant = (seen["precision"][arm.precision], seen["axes"][arm.axes])
        return (*names, *variant, height * width, height, seen["task"][task], area)

    return sorted(found, key=place)


def _see(seen: dict[str, dict[object, int]], one: _Placed) -> dict[str, dict[object, int]]:
    arm = one.arm
    values = {"mechanism": arm.mechanism, "settings": arm.settings, "size": arm.size, "task": one.record.cell.task}
    values |= {"precision": arm.precision, "axes": arm.axes}
    for name, value in values.items():
        places = seen.setdefault(name, {})
        places.setdefault(value, len(places))
    return seen
