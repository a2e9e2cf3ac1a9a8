"""Which records stand in one row: an arm at one resolution, one way to cost it, one way to score it.

An *arm* is what every probe of one row shares: mechanism, settings, size, device, precision and threads. Its cost
cells may come in several variants (batch sizes, references), its accuracy cells too (tasks, data, recipes, training
resolutions); a row is a pair of the two. A field that a cell leaves open fits every value, so the MACs, which no
batch size changes, stand in the row of each batch size.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from attnbench.record import Cell, Record
from attnbench.store import latest

COST = ("task", "num_classes", "batch_size", "reference", "timing")
SCORED = ("task", "num_classes", "data", "recipe", "train_resolution")

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


@dataclass(frozen=True, slots=True)
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


def groups(records: Iterable[Record]) -> list[Group]:
    """Return the groups in the order of the report; of several records of one cell the last counts.

    Mechanisms, settings, sizes, tasks and variants come in the order in which they first came, resolutions by area.
    """
    kept = list(latest(records).values())
    trainings: dict[Arm, list[Record]] = {}
    places: dict[tuple[Arm, tuple[int, int]], list[Record]] = {}
    for record in kept:
        if record.cell.probe == "training":
            trainings.setdefault(_arm(record.cell), []).append(record)
        else:
            places.setdefault((_arm(record.cell), record.cell.resolution), []).append(record)
    arms = {arm for arm, _ in places}
    for arm, failed in trainings.items():  # of an arm that has nothing else: it must not vanish
        for record in failed:
            if arm not in arms and record.status != "ok":
                places.setdefault((arm, record.cell.resolution), [])
    found = [
        group
        for (arm, resolution), here in places.items()
        for group in _pair(arm, resolution, here, trainings.get(arm, []))
    ]
    return _in_order(found, kept)


def _pair(arm: Arm, resolution: tuple[int, int], here: list[Record], trainings: list[Record]) -> list[Group]:
    scored = [record for record in here if record.cell.probe == "accuracy"]
    cost = [record for record in here if record.cell.probe != "accuracy"]
    costs = _most_specific([_variant(record.cell, COST) for record in cost])
    scores = list(dict.fromkeys(_variant(record.cell, SCORED) for record in scored))
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
            tuple(record for record in cost if one is not None and _fits(_variant(record.cell, COST), one))
            + tuple(record for record in trainings if _variant(record.cell, SCORED) == score)
            + tuple(record for record in scored if _variant(record.cell, SCORED) == score),
        )
        for one, score in pairs
    ]


def _of_failed_trainings(resolution: tuple[int, int], trainings: list[Record], done: set[Variant]) -> list[Variant]:
    """Return the variants that have no accuracy cell here because their training failed.

    Where trainings ran at this resolution they are the ones it waits for, elsewhere it waits for all. ``done`` holds
    the variants, less their training resolution, that were scored here.
    """
    waiting = [record for record in trainings if _variant(record.cell, SCORED)[:-1] not in done]
    own = [record for record in waiting if _variant(record.cell, SCORED)[-1] == resolution]
    return list(dict.fromkeys(_variant(record.cell, SCORED) for record in own or waiting if record.status != "ok"))


def _matching(score: Variant, costs: list[Variant]) -> list[Variant]:
    """Return the costs of the same task; with the same number of classes where there are such."""
    same = [one for one in costs if one[0] in (None, score[0])]
    return [one for one in same if one[1] == score[1]] or same


def _most_specific(variants: list[Variant]) -> list[Variant]:
    kept = list(dict.fromkeys(variants))
    return [one for one in kept if not any(one != other and _fits(one, other) for other in kept)]


def _fits(general: Variant, specific: Variant) -> bool:
    return all(mine in (None, theirs) for mine, theirs in zip(general, specific, strict=True))


def _arm(cell: Cell) -> Arm:
    settings = json.dumps(cell.settings, sort_keys=True)
    return Arm(cell.mechanism, settings, cell.size, cell.device, cell.precision, cell.threads)


def _variant(cell: Cell, names: tuple[str, ...]) -> Variant:
    trained = cell.train_resolution or cell.resolution
    values = {name: getattr(cell, name) for name in names} | {"train_resolution": trained}
    return tuple(json.dumps(values[n], sort_keys=True) if isinstance(values[n], dict) else values[n] for n in names)


def _in_order(found: list[Group], records: list[Record]) -> list[Group]:
    """Sort by what a reader looks for first; equal ones stay in the order in which they came."""
    seen: dict[str, dict[object, int]] = reduce(_see, records, {})

    def place(group: Group) -> tuple[int, ...]:
        height, width = group.resolution
        arm, task = group.arm, group.task
        trained = (group.scored or {}).get("train_resolution")
        area = trained[0] * trained[1] if isinstance(trained, tuple) else 0
        names = (seen["mechanism"][arm.mechanism], seen["settings"][arm.settings], seen["size"][arm.size])
        return (*names, height * width, height, seen["task"][task], area)

    return sorted(found, key=place)


def _see(seen: dict[str, dict[object, int]], record: Record) -> dict[str, dict[object, int]]:
    arm = _arm(record.cell)
    values = {"mechanism": arm.mechanism, "settings": arm.settings, "size": arm.size, "task": record.cell.task}
    for name, value in values.items():
        places = seen.setdefault(name, {})
        places.setdefault(value, len(places))
    return seen
