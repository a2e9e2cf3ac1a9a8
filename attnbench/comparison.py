"""What became better or worse from one run to another: the records of both, cell by cell.

Rounds of two runs cannot be paired, and the load of the machine differs between them. So a time is compared by its
ratio to a fixed piece of work timed in the same rounds, the anchor; the two ratios' errors are independent and add in
quadrature on the logarithmic scale. No verdict is given within that interval or within the noise floor, which is that
of the noisier run. Counts and ledgers are exact: any difference is one. Scores are told apart by several seeds only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import exp, hypot, inf, log, log1p, sqrt
from statistics import fmean, variance
from typing import Final, Literal

from attnbench.errors import UserError
from attnbench.matching import PROCESS, Match, differences, match
from attnbench.record import METRICS, Cell, Measurement, Record
from attnbench.report.bootstrap import student
from attnbench.store import latest

THRESHOLD: Final = 0.05
# The peak resident set of equal code differs from process to process: pages are kept or given back as it happens.
PROCESS_NOISE: Final = 0.15
TIMES: Final = ("latency", "latency_one", "training_step", "best_throughput")

_EXACT: Final = (
    *("parameters", "macs", "parameter_memory", "optimizer_memory"),
    *("peak_memory_inference", "peak_memory_training"),
)
_NOISY: Final = (*PROCESS, "largest_batch_size")
# Second opinions, parts and predictions: a change is told, but what they are about is judged by its own measurement.
_TOLD: Final = (
    *("macs_closed_form", "macs_fvcore", "macs_ideal", "macs_attention", "macs_mlp"),
    *("predicted_memory_inference", "predicted_memory_training"),
)

_Floors = tuple[float | None, float | None]  # of run A and of run B
Verdict = Literal["faster", "slower", "less", "more", "higher", "lower", "tie", "equal", "failed", "mended", "seen"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of one cell in both runs. ``seen`` is the verdict of what is told and not judged."""

    cell: Cell  # of B; of scores without a seed
    metric: str  # "status" where one of the runs has no value
    verdict: Verdict
    worse: float  # by what share B is worse, of scores by what difference; negative where it is better
    regression: bool = False
    a: float | None = None
    b: float | None = None
    change: float | None = None  # B / A of costs, of times anchored where that is possible; B - A of scores
    low: float | None = None  # 95 % interval of the change
    high: float | None = None
    raw: float | None = None  # of times: B / A as measured, whatever the machine did meanwhile
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """Two runs: what both have, worst first; what only one of them has; and under what different conditions."""

    rows: tuple[Comparison, ...]
    only_a: tuple[Cell, ...]
    only_b: tuple[Cell, ...]
    differences: Mapping[str, str]

    @property
    def regressions(self) -> int:
        """How many rows are regressions."""
        return sum(row.regression for row in self.rows)


def compare(
    records_a: Sequence[Record],
    records_b: Sequence[Record],
    threshold: float = THRESHOLD,
    *,
    any_hardware: bool = False,
) -> Compared:
    """Compare run B to run A; what is worse by more than the share ``threshold``, and no tie, is a regression.

    A cell that was ok and is not any more is one whatever the threshold. With ``any_hardware`` times and the memory of
    processes are left out, and runs of different machines may be compared.

    Raises:
        UserError: no cell is in both runs, or times of different hardware would be compared.
    """
    found = match(records_a, records_b, any_hardware=any_hardware)
    floors = (_greatest_floor(records_a), _greatest_floor(records_b))
    per_cell = chain.from_iterable(_rows(one, floors, any_hardware) for one in found.both)
    rows = [_judged(row, threshold) for row in (*per_cell, *_scores(records_a, records_b, any_hardware))]
    if not rows:
        raise UserError("no cell is in both runs, so there is nothing to compare")
    rows.sort(key=lambda row: (not row.regression, -row.worse))
    only_a, only_b = (tuple(record.cell for record in records) for records in (found.only_a, found.only_b))
    return Compared(tuple(rows), only_a, only_b, differences(found.both))


def _judged(row: Comparison, threshold: float) -> Comparison:
    lost = row.verdict == "failed"
    worse = row.worse > threshold and row.verdict not in ("tie", "equal", "seen")
    return replace(row, regression=lost or worse)


def _rows(one: Match, floors: _Floors, any_hardware: bool) -> Iterator[Comparison]:
    if "ok" not in (one.a.status, one.b.status) or one.a.status != one.b.status:
        yield _status(one)
        return
    yield from _times(one, floors)
    for metric in (*_EXACT, *_NOISY, *_TOLD):
        a, b = one.a.measured(metric), one.b.measured(metric)
        if a is not None and b is not None and not (any_hardware and metric in _NOISY):
            yield _quantity(one.b.cell, a, b)


def _status(one: Match) -> Comparison:
    a, b = one.a.status, one.b.status
    notes = (f"{a} -> {b}", *filter(None, [one.b.error or one.a.error]))
    if a == "ok":
        return Comparison(one.b.cell, "status", "failed", inf, notes=notes)
    if b == "ok":
        return Comparison(one.b.cell, "status", "mended", -inf, notes=notes)
    return Comparison(one.b.cell, "status", "equal" if a == b else "seen", 0.0, notes=notes)


def _times(one: Match, floors: _Floors) -> Iterator[Comparison]:
    """Yield the comparison of a timing: by its anchors, else as measured and with a warning."""
    for metric in TIMES:
        a, b = one.a.measured(metric), one.b.measured(metric)
        if a is None or b is None:
            continue
        power = 1 if METRICS[metric].better == "lower" else -1  # time per image is the inverse of throughput
        raw = (b.value / a.value) ** power
        anchors = _anchors(one)
        notes = () if anchors else ("not corrected for the machine's state",)
        ratio = anchors[1].value / anchors[0].value if anchors else raw
        half, floor = _quadrature(*(anchors or (a, b))), _floor(one, floors)
        if half is None or floor is None:
            missing = "no interval" if half is None else "no noise floor"
            yield _time(one, a, b, ratio, None, "tie", raw, (*notes, f"{missing}: no verdict"))
            return
        told = abs(log(ratio)) > max(half, log1p(floor))
        verdict: Verdict = "tie" if not told else "slower" if ratio > 1 else "faster"
        yield _time(one, a, b, ratio, half, verdict, raw, notes)
        return


def _time(
    one: Match,
    a: Measurement,
    b: Measurement,
    ratio: float,
    half: float | None,
    verdict: Verdict,
    raw: float,
    notes: tuple[str, ...],
) -> Comparison:
    low, high = (None, None) if half is None else (ratio * exp(-half), ratio * exp(half))
    worse = _excess(ratio)
    return Comparison(
        one.b.cell, a.metric, verdict, worse, False, a.value, b.value, ratio, low, high, raw=raw, notes=notes
    )


def _anchors(one: Match) -> tuple[Measurement, Measurement] | None:
    """Return the anchored ratios of both, if they are to the same anchor and of as many images."""
    a, b = one.a.measured("anchor_ratio"), one.b.measured("anchor_ratio")
    if a is None or b is None or a.kind != b.kind:
        return None
    batches = (one.a.measured("best_batch_size"), one.b.measured("best_batch_size"))
    return (a, b) if len({item and item.value for item in batches}) == 1 else None


def _quadrature(a: Measurement, b: Measurement) -> float | None:
    """Return the half-width of the log ratio's 95 % interval: two independent errors, added in quadrature."""
    if not (a.low and a.high and b.low and b.high):
        return None
    return hypot(log(a.high / a.low) / 2, log(b.high / b.low) / 2)


def _floor(one: Match, greatest: _Floors) -> float | None:
    """Return the noise floor of the noisier timing; None where one has none: then nothing can be told apart.

    A timing without a floor of its own has the greatest of its run.
    """
    own = (one.a.measured("noise_floor"), one.b.measured("noise_floor"))
    known = [other if item is None else item.value for item, other in zip(own, greatest, strict=True)]
    return None if None in known else max(floor for floor in known if floor is not None)


def _greatest_floor(records: Iterable[Record]) -> float | None:
    items = [record.measured("noise_floor") for record in latest(records).values() if record.status == "ok"]
    return max((item.value for item in items if item is not None), default=None)


def _quantity(cell: Cell, a: Measurement, b: Measurement) -> Comparison:
    metric = a.metric
    if a.kind != b.kind:
        kinds = f"{a.kind} and {b.kind} cannot be compared"
        return Comparison(cell, metric, "seen", 0.0, a=a.value, b=b.value, notes=(kinds,))
    if a.value == b.value:
        return Comparison(cell, metric, "equal", 0.0, False, a.value, b.value, 1.0)
    change = b.value / a.value if a.value > 0 and b.value > 0 else None
    excess = _excess(change) if change is not None else inf if b.value > a.value else -inf
    worse = excess if METRICS[metric].better == "lower" else -excess
    verdict: Verdict = "more" if b.value > a.value else "less"
    notes: tuple[str, ...] = ()
    if metric in _TOLD:
        verdict = "seen"
    elif metric in _NOISY and abs(worse) <= PROCESS_NOISE:
        verdict, notes = "tie", (f"noisy: within {PROCESS_NOISE:.0%}",)
    return Comparison(cell, metric, verdict, worse, False, a.value, b.value, change, notes=notes)


def _excess(ratio: float) -> float:
    """Return by what share a ratio is above 1; below it, the negative of its inverse's: swapping the runs negates."""
    return ratio - 1 if ratio >= 1 else 1 - 1 / ratio


def _scores(records_a: Iterable[Record], records_b: Iterable[Record], any_hardware: bool) -> Iterator[Comparison]:
    """Yield the headline scores of the trainings that both runs have, whatever their seeds."""
    ours, theirs = (_by_training(records, any_hardware) for records in (records_b, records_a))
    for identity, items in ours.items():
        if identity in theirs:
            yield _score(items[0][0], [item for _, item in theirs[identity]], [item for _, item in items])


def _by_training(records: Iterable[Record], any_hardware: bool) -> dict[str, list[tuple[Cell, Measurement]]]:
    found: dict[str, list[tuple[Cell, Measurement]]] = {}
    for record in latest(records).values():
        if record.cell.probe == "accuracy" and record.status == "ok" and record.measurements:
            higher = (item for item in record.measurements if METRICS[item.metric].better == "higher")
            headline = next(higher, record.measurements[0])
            cell = replace(record.cell, seed=None)
            identity = replace(cell, device="", threads=0).key if any_hardware else cell.key
            found.setdefault(f"{identity} {headline.metric}", []).append((cell, headline))
    return found


def _score(cell: Cell, items_a: Sequence[Measurement], items_b: Sequence[Measurement]) -> Comparison:
    a, b = ([item.value for item in items] for items in (items_a, items_b))
    metric, change = items_a[0].metric, fmean(b) - fmean(a)
    worse = change if METRICS[metric].better == "lower" else -change
    both = (fmean(a), fmean(b), change)
    if min(len(a), len(b)) == 1:
        single: Verdict = "equal" if a == b else "seen"
        return Comparison(cell, metric, single, worse, False, *both, notes=("one seed: indicative",))
    half = _welch(a, b)
    verdict: Verdict = "tie" if abs(change) <= half else "higher" if change > 0 else "lower"
    notes = (f"{len(a)} and {len(b)} seeds",)
    return Comparison(cell, metric, verdict, worse, False, *both, change - half, change + half, notes=notes)


def _welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Return half of the 95 % interval of the difference of two means of unequal spread (Welch 1947)."""
    one, other = variance(a) / len(a), variance(b) / len(b)
    if one + other == 0:
        return 0.0
    share = one / (one + other)  # and not the squares of both, which are 0 for spreads that are tiny
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    return student(freedom) * sqrt(one + other)
