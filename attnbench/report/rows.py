"""One row per mechanism, resolution, task and head: the table that every output is made of.

Rows are kept apart by everything that differs. What differs and has no column is said in the mechanism's name:
settings that are not its defaults as ``swin(window=14)``; data, recipe, classes or timing, where rows of one task
differ in them, as ``swin [recipe.samples=256]``.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from statistics import fmean
from typing import Final

from attnbench.measure.statistics import Interval, verdict
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
    "verdict",
    "latency_one_s",
    "training_step_s",
    "training_ratio",
    "training_ratio_low",
    "training_ratio_high",
    "training_verdict",
    "best_batch_size",
    "best_throughput_img_per_s",
    "best_ratio",
    "best_ratio_low",
    "best_ratio_high",
    "best_verdict",
    "largest_batch_size",
    "macs_closed_form",
    "macs_fvcore",
    "macs_ideal",
    "macs_agree",
    "attention_share",
    "mlp_share",
    "parameter_memory_B",
    "optimizer_memory_B",
    "peak_rss_inference_B",
    "peak_rss_training_B",
    "peak_reserved_inference_B",
    "peak_reserved_training_B",
    "peak_device_inference_B",
    "peak_device_training_B",
    "predicted_memory_inference_B",
    "predicted_memory_training_B",
    "attention_kernel",
    "noise_floor",
    "conditions",
    "head",
)
RATIOS: Final = {"latency": "time", "training_step": "training", "best_batch": "best"}  # probe -> name of its columns
MACS_AGREEMENT: Final = 0.005  # counts that differ by more are shown, and the row is not ranked
IDENTITY: Final = (
    *("mechanism", "size", "task", "head", "resolution", "train_resolution"),
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
        called.setdefault(group.arm.mechanism + group.arm.axes, set()).add(name)
    return [(_row(group, name, called), group) for name, group in zip(names, found, strict=True)]


def measured(group: Group, metric: str, probe: str | None = None) -> Measurement | None:
    """Return the group's measurement of ``metric`` from a cell that is ok (of that probe, if one is named), or None."""
    return group.measurements.get((metric, probe))


def agreed(counts: Iterable[float]) -> bool | None:
    """Return whether MACs counted in several ways agree within half a per cent; None for a single count."""
    found = list(counts)
    return None if len(found) < 2 else max(found) - min(found) <= MACS_AGREEMENT * max(found)


def scores(group: Group) -> list[Measurement]:
    """Return the headline measurement of every seed."""
    scored = [record for record in group.records if record.cell.probe == "accuracy" and record.status == "ok"]
    return [item for record in scored if (item := headline(record)) is not None]


def headline(record: Record) -> Measurement | None:
    """Return the first measurement that is better when higher; where there is none, the first one, if any."""
    higher = (item for item in record.measurements if METRICS[item.metric].better == "higher")
    return next(higher, next(iter(record.measurements), None))


def one_line(text: str) -> str:
    """Return ``text`` on one line, without control characters: names and errors are strangers' text."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())


def _row(group: Group, name: str, called: Mapping[str, set[str]]) -> Row:
    cost, scored, arm = group.cost or {}, group.scored or {}, group.arm
    trained = scored.get("train_resolution")
    seeds = scores(group)
    ratio = measured(group, "time_ratio", "latency")
    found: Row = {
        "mechanism": name,
        "size": one_line(arm.size),
        "task": _text(group.task),
        "head": _text((group.scored or group.cost or {}).get("head")),
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
        **_more_times(group),
        **_audit(group),
        **_more_memory(group),
        **_conditions(group),
    }
    reference = found["mechanism"] == found["reference"]
    found |= {_verdict_column(probe): None if reference else _verdict(group, probe) for probe in RATIOS}
    return {column: found[column] for column in COLUMNS}


def _more_times(group: Group) -> Row:
    found: Row = {
        "latency_one_s": _value(measured(group, "latency_one")),
        "training_step_s": _value(measured(group, "training_step")),
        "best_batch_size": _count(measured(group, "best_batch_size")),
        "best_throughput_img_per_s": _value(measured(group, "best_throughput")),
        "largest_batch_size": _count(measured(group, "largest_batch_size")),
        "noise_floor": _value(measured(group, "noise_floor", "latency")),
    }
    for probe in ("training_step", "best_batch"):
        ratio, name = measured(group, "time_ratio", probe), RATIOS[probe]
        found |= {f"{name}_ratio": _value(ratio)}
        found |= {f"{name}_ratio_{end}": getattr(ratio, end) if ratio else None for end in ("low", "high")}
    return found


def _audit(group: Group) -> Row:
    counts = {name: measured(group, name) for name in ("macs", "macs_closed_form", "macs_fvcore")}
    total = counts["macs"]
    found: Row = {name: _count(item) for name, item in counts.items() if name != "macs"}
    found |= {"macs_ideal": _count(measured(group, "macs_ideal"))}
    found |= {"macs_agree": agreed(item.value for item in counts.values() if item is not None)}
    for column, metric in (("attention_share", "macs_attention"), ("mlp_share", "macs_mlp")):
        part = measured(group, metric)
        found[column] = part.value / total.value if part and total and total.value else None
    return found


def _more_memory(group: Group) -> Row:
    predicted = {
        item.metric: item
        for record in group.records
        for item in record.measurements
        if item.metric.startswith("predicted_memory") and record.status == "skipped"
    }
    return {
        "parameter_memory_B": _count(measured(group, "parameter_memory")),
        "optimizer_memory_B": _count(measured(group, "optimizer_memory")),
        **{
            f"{metric}_{step}_B": _count(measured(group, metric, f"memory_{step}"))
            for metric in ("peak_rss", "peak_reserved", "peak_device")
            for step in ("inference", "training")
        },
        "predicted_memory_inference_B": _count(predicted.get("predicted_memory_inference")),
        "predicted_memory_training_B": _count(predicted.get("predicted_memory_training")),
    }


def _conditions(group: Group) -> Row:
    """Return the kernel of inference, and what spoilt a timing of this row."""
    timed = [record for record in group.records if record.status == "ok" and record.cell.probe in RATIOS]
    kernels = [record.environment.get("attention_kernel") for record in timed if record.cell.probe != "training_step"]
    said = [
        f"{record.cell.probe}: {one_line(str(flag))}"
        for record in timed
        if isinstance(conditions := record.environment.get("conditions"), dict)
        for flag in conditions.get("flags") or ()
    ]
    kernel = next((item for item in kernels if isinstance(item, str)), None)
    return {"attention_kernel": kernel and one_line(kernel), "conditions": "; ".join(said) or None}


def _verdict(group: Group, probe: str) -> str | None:
    """Return faster, slower or tie; None without an interval, or where counts of MACs disagree."""
    ratio, floor = measured(group, "time_ratio", probe), measured(group, "noise_floor", probe)
    if ratio is None or ratio.low is None or ratio.high is None or _audit(group)["macs_agree"] is False:
        return None
    return verdict(Interval(ratio.value, ratio.low, ratio.high), 0.0 if floor is None else floor.value)


def _verdict_column(probe: str) -> str:
    return "verdict" if probe == "latency" else f"{RATIOS[probe]}_verdict"


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
    others = ", ".join(f"{name}={hidden[name]}" for name in differing if name in hidden)
    name = group.arm.mechanism + (f"({shown})" if shown else "") + group.arm.axes
    return one_line(name + (f" [{others}]" if others else ""))


def _differing(found: Iterable[Group]) -> dict[Value, list[str]]:
    """Return, per task, the hidden fields in which its rows differ."""
    values: dict[Value, dict[str, set[str]]] = {}
    for group in found:
        task = values.setdefault(group.task, {})
        for name, value in _hidden(group).items():
            task.setdefault(name, set()).add(value)
    return {task: [name for name, seen in names.items() if len(seen) > 1] for task, names in values.items()}


def _hidden(group: Group) -> dict[str, str]:
    """Return the hidden fields that are set, those of the recipe and of the timing by their own names."""
    cost, scored = group.cost or {}, group.scored or {}
    found: dict[str, str] = {}
    for name in _HIDDEN:
        value = cost.get(name) if scored.get(name) is None else scored[name]
        if name in ("recipe", "timing") and value is not None:
            found |= _members(name, str(value))
        elif value is not None:
            found[name] = _plain(value)
    if scored and cost.get("num_classes") not in (None, scored["num_classes"]):
        found["cost.num_classes"] = _plain(cost["num_classes"])
    return found


@lru_cache(maxsize=256)
def _members(name: str, text: str) -> dict[str, str]:
    return {f"{name}.{key}": _plain(item) for key, item in json.loads(text).items()}


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: Value) -> str | None:
    return None if value is None else one_line(str(value))


def _value(item: Measurement | None) -> float | None:
    return None if item is None else item.value


def _count(item: Measurement | None) -> float | int | None:
    """Return a count as an integer, so that no reader rounds it."""
    return int(item.value) if item is not None and float(item.value).is_integer() else _value(item)
