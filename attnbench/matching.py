"""Which cells of two runs are the same question, and whether their answers may be compared at all."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from attnbench.errors import UserError
from attnbench.hardware import hardware_difference
from attnbench.record import Cell, Record
from attnbench.store import latest

TIMED: Final = ("latency", "latency_one", "training_step", "best_batch")
PROCESS: Final = ("peak_rss", "peak_reserved", "peak_device")  # memory of a process or a device, not of its tensors

_OF_ONE_TIMING: Final = ("converged",)
_COUNTED: Final = ("cores", "gpu_memory_B")  # numbers of an environment that were not measured
_ABSENT: Final = "none"


@dataclass(frozen=True, slots=True)
class Match:
    """The same cell in two runs."""

    a: Record
    b: Record


@dataclass(frozen=True, slots=True)
class Matching:
    """The cells that both runs have, in the order of the second, and those of only one."""

    both: tuple[Match, ...]
    only_a: tuple[Record, ...]
    only_b: tuple[Record, ...]


def match(records_a: Iterable[Record], records_b: Iterable[Record], *, any_hardware: bool) -> Matching:
    """Match the latest records of two runs: by key, else by all but what does not decide what is measured.

    That is the stopping rule and the reference of a timing. With ``any_hardware`` it is device and threads too, and
    what is timed is left out.

    Raises:
        UserError: times or process memory of different hardware.
    """
    kept_a, kept_b = (
        [r for r in latest(records).values() if not (any_hardware and r.cell.probe in TIMED)]
        for records in (records_a, records_b)
    )
    found: dict[str, Match] = {}
    for identity in (_key, _loose_on_any_hardware if any_hardware else _loose):
        left: dict[str, list[Record]] = {}
        for record in kept_a:
            left.setdefault(identity(record.cell), []).append(record)
        for record in kept_b:
            if record.cell.key not in found and left.get(identity(record.cell)):
                found[record.cell.key] = Match(left[identity(record.cell)].pop(0), record)
        kept_a = [record for records in left.values() for record in records]
    both = tuple(found[record.cell.key] for record in kept_b if record.cell.key in found)
    only_b = tuple(record for record in kept_b if record.cell.key not in found)
    if not any_hardware:
        _refuse_other_hardware(both, kept_a, only_b)
    return Matching(both, tuple(kept_a), only_b)


def differences(both: Sequence[Match]) -> dict[str, str]:
    """Return what differs between the runs beside the code that is compared: a name, and the values of A and B.

    It is told cell by cell, so that what one run changed on its way is seen too. Measured numbers are left out.
    """
    found: dict[str, dict[str, None]] = {}
    for one in both:
        if one.a.status == one.b.status == "ok":
            a, b = dict(_facts(one.a)), dict(_facts(one.b))
            for name in dict.fromkeys((*a, *b)):
                if a.get(name, _ABSENT) != b.get(name, _ABSENT):
                    found.setdefault(name, {})[f"{a.get(name, _ABSENT)} and {b.get(name, _ABSENT)}"] = None
    return {name: "; ".join(pairs) for name, pairs in found.items()}


def _refuse_other_hardware(both: Sequence[Match], only_a: Sequence[Record], only_b: Sequence[Record]) -> None:
    pairs = [(one.a, one.b) for one in both if _is_bound(one.a) and _is_bound(one.b)]
    if not pairs:  # the same work on another device, or with other threads, has another key
        there = {_loose_on_any_hardware(record.cell): record for record in only_b if _is_bound(record)}
        found = [(record, there.get(_loose_on_any_hardware(record.cell))) for record in only_a if _is_bound(record)]
        pairs = [(a, b) for a, b in found if b is not None]
    for a, b in pairs:
        difference = _difference(a, b)
        if difference is not None:
            raise UserError(
                f"the runs are of different hardware: {difference}; times of one say nothing about the other "
                "(--any-hardware compares the rest)"
            )


def _difference(a: Record, b: Record) -> str | None:
    for name in ("device", "threads"):
        values = (getattr(a.cell, name), getattr(b.cell, name))
        if values[0] != values[1]:
            return f"{name} {values[0]!r} and {values[1]!r}"
    return hardware_difference(a.environment, b.environment)


def _is_bound(record: Record) -> bool:
    """Whether a record says something about the hardware that it was measured on."""
    timed = record.cell.probe in TIMED
    return record.status == "ok" and (timed or any(item.metric in PROCESS for item in record.measurements))


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    versions = record.environment.get("versions")
    timing = record.cell.timing or {}
    facts: Mapping[str, Any] = {
        **{name: value for name, value in record.environment.items() if name not in _OF_ONE_TIMING},
        **(versions if isinstance(versions, dict) else {}),
        "device": record.cell.device,
        "threads": str(record.cell.threads),
        "reference": record.cell.reference,
        **{f"timing.{name}": json.dumps(value) for name, value in timing.items()},
    }
    for name, value in facts.items():
        if isinstance(value, str | bool) or (value is not None and name in _COUNTED):
            yield name, str(value)


def _key(cell: Cell) -> str:
    return cell.key


def _loose(cell: Cell) -> str:
    return replace(cell, timing=None, reference=None).key if cell.probe in TIMED else cell.key


def _loose_on_any_hardware(cell: Cell) -> str:
    loose = replace(cell, timing=None, reference=None) if cell.probe in TIMED else cell
    return replace(loose, device="", threads=0).key
