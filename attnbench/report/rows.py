"""One row per mechanism, resolution and task: the table that every output is made of.

Rows are kept apart by everything that differs. What differs and has no column is said in the mechanism's name:
settings that are not its defaults as ``swin(window=14)``; data, recipe, classes or timing, where rows of one task
differ in them, as ``swin [recipe.samples=256]``.
"""

import json
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Final

from attnbench.record import METRICS, Json, Measurement, Record
from attnbench.report.group import Group, Value, groups

Row = dict[str, object]
Identity = tuple[object, ...]

COLUMNS: Final = (
    "mechanism",
    "size",
    "task",
    "resolution",
    "status",
    "reason",
    "parameters",
    "macs",
    "latency_s",
    "throughput_img_per_s",
    "time_ratio",
    "time_ratio_low",
    "time_ratio_high",
    "reference",
    "peak_memory_inference_B",
    "peak_memory_training_B",
    "memory_kind",
    "batch_size",
    "precision",
    "device",
    "threads",
    "headline_metric",
    "headline_value",
    "train_resolution",
    "transfer",
    "seeds",
)
IDENTITY: Final = (
    *("mechanism", "size", "task", "resolution", "train_resolution"),
    *("batch_size", "precision", "device", "threads", "reference"),
)
WORST_FIRST: Final = ("failed", "timeout", "out_of_memory", "unsupported", "skipped", "ok")

_HIDDEN: Final = ("num_classes", "data", "recipe", "timing")  # decide numbers and have no column


def rows(records: Iterable[Record]) -> list[Row]:
    """Return one dictionary per row, with the keys of ``COLUMNS`` in their order; what is absent is None.

    Values come from cells that are ``ok``. ``status`` is the worst of the row's cells, trainings included.
    """
    return [row for row, _ in named(records)]


def identity(row: Row) -> Identity:
    """Return what tells a row from every other, hashable."""
    return tuple(tuple(value) if isinstance(value := row[name], list) else value for name in IDENTITY)


def named(records: Iterable[Record]) -> list[tuple[Row, Group]]:
    """Return each row with the records it was made of."""
    found = groups(records)
    differing = _differing(found)
    names = [_name(group, differing[group.task]) for group in found]
    called: dict[str, set[str]] = {}
    for name, group in zip(names, found, strict=True):
        called.setdefault(group.arm.mechanism, set()).add(name)
    return [(_row(group, name, called), group) for name, group in zip(names, found, strict=True)]


def measured(group: Group, metric: str) -> Measurement | None:
    """Return the group's measurement of ``metric`` from a cell that is ok, or None."""
    found = (record.measured(metric) for record in group.records if record.status == "ok")
    return next((item for item in found if item is not None), None)


def scores(group: Group) -> list[Measurement]:
    """Return the headline measurement of every seed: the first one of an accuracy cell that is better when higher.

    Where none is better when higher, the first one.
    """
    found = []
    for record in group.records:
        if record.cell.probe == "accuracy" and record.status == "ok" and record.measurements:
            higher = (item for item in record.measurements if METRICS[item.metric].better == "higher")
            found.append(next(higher, record.measurements[0]))
    return found


def one_line(text: str) -> str:
    """Return ``text`` on one line, without control characters: names and errors are strangers' text."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _row(group: Group, name: str, called: Mapping[str, set[str]]) -> Row:
    cost, scored, arm = group.cost or {}, group.scored or {}, group.arm
    trained = scored.get("train_resolution")
    seeds = scores(group)
    ratio = measured(group, "time_ratio")
    found: Row = {
        "mechanism": name,
        "size": one_line(arm.size),
        "task": _text(group.task),
        "resolution": list(group.resolution),
        "status": min((record.status for record in group.records), key=WORST_FIRST.index),
        "reason": _reason(group.records),
        "parameters": _count(measured(group, "parameters")),
        "macs": _count(measured(group, "macs")),
        "latency_s": _value(measured(group, "latency")),
        "throughput_img_per_s": _value(measured(group, "throughput")),
        "time_ratio": _value(ratio),
        "time_ratio_low": ratio.low if ratio else None,
        "time_ratio_high": ratio.high if ratio else None,
        "reference": _reference(cost.get("reference"), called),
        "peak_memory_inference_B": _count(measured(group, "peak_memory_inference")),
        "peak_memory_training_B": _count(measured(group, "peak_memory_training")),
        "memory_kind": _memory_kind(group),
        "batch_size": cost.get("batch_size"),
        "precision": one_line(arm.precision),
        "device": one_line(arm.device),
        "threads": arm.threads,
        "headline_metric": seeds[0].metric if seeds else None,
        "headline_value": fmean(seed.value for seed in seeds) if seeds else None,
        "train_resolution": list(trained) if isinstance(trained, tuple) else None,
        "transfer": None if group.scored is None else trained != group.resolution,
        "seeds": None if group.scored is None else len(seeds),
    }
    return {column: found[column] for column in COLUMNS}


def _reason(records: Iterable[Record]) -> str | None:
    """Name the probe, and the seed if it has one, of every cell that is not ok."""
    found = []
    for record in records:
        if record.status != "ok":
            seed = "" if record.cell.seed is None else f" (seed {record.cell.seed})"
            found.append(f"{record.cell.probe}{seed}: {one_line(record.error or '') or record.status}")
    return "; ".join(dict.fromkeys(found)) or None


def _memory_kind(group: Group) -> str | None:
    """Return the kind of memory that was measured; both kinds, where inference and training differ."""
    found = {
        probe: one_line(item.kind)
        for probe in ("inference", "training")
        if (item := measured(group, f"peak_memory_{probe}")) and item.kind
    }
    if len(set(found.values())) > 1:
        return ", ".join(f"{probe}: {kind}" for probe, kind in found.items())
    return next(iter(found.values()), None)


def _reference(name: Value, called: Mapping[str, set[str]]) -> str | None:
    """Return the reference as its own rows name it, if that is one name."""
    names = called.get(str(name), set())
    return next(iter(names)) if len(names) == 1 else _text(name)


def _name(group: Group, differing: list[str]) -> str:
    settings: Json = json.loads(group.arm.settings)
    shown = ", ".join(f"{name}={_plain(value)}" for name, value in settings.items())
    hidden = _hidden(group)
    others = ", ".join(f"{name}={_plain(hidden[name])}" for name in differing if name in hidden)
    return one_line(group.arm.mechanism + (f"({shown})" if shown else "") + (f" [{others}]" if others else ""))


def _differing(found: Iterable[Group]) -> dict[Value, list[str]]:
    """Return, per task, the hidden fields in which its rows differ."""
    values: dict[Value, dict[str, set[str]]] = {}
    for group in found:
        task = values.setdefault(group.task, {})
        for name, value in _hidden(group).items():
            task.setdefault(name, set()).add(_plain(value))
    return {task: [name for name, seen in names.items() if len(seen) > 1] for task, names in values.items()}


def _hidden(group: Group) -> Json:
    """Return the hidden fields that are set, those of the recipe and of the timing by their own names."""
    cost, scored = group.cost or {}, group.scored or {}
    found: Json = {}
    for name in _HIDDEN:
        value = cost.get(name) if scored.get(name) is None else scored[name]
        if name in ("recipe", "timing") and value is not None:
            found |= {f"{name}.{key}": item for key, item in json.loads(str(value)).items()}
        elif value is not None:
            found[name] = value
    if scored and cost.get("num_classes") not in (None, scored["num_classes"]):
        found["cost.num_classes"] = cost["num_classes"]
    return found


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: Value) -> str | None:
    return None if value is None else one_line(str(value))


def _value(item: Measurement | None) -> float | None:
    return None if item is None else item.value


def _count(item: Measurement | None) -> float | int | None:
    """Return a count as an integer, so that no reader rounds it."""
    return int(item.value) if item is not None and float(item.value).is_integer() else _value(item)
