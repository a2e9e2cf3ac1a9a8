"""The scorecard: how many cells of each table reproduce, and the papers' ordinal claims one by one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attnbench.published.reported import disagreements
from attnbench.report.view import number
from attnbench.tables.claims import Claim, claims
from attnbench.tables.figures import Figure
from attnbench.tables.layout import FIELDS
from attnbench.tables.measured import Interval, Measured
from attnbench.tables.model import (
    DIFFERS,
    EQUAL,
    FAILED,
    INCONCLUSIVE,
    NOT_MEASURED,
    NOT_PRINTED,
    REFERENCE,
    REPRODUCES,
    Cell,
    Table,
)
from attnbench.tables.page import Column, Grid, Page
from attnbench.tables.verdict import WIDE, judge_setting

HOLDS: Final = "holds"
FAILS: Final = "does not hold here"
UNKNOWN: Final = "not measurable here"
SOME: Final = "some sources"
STATES: Final = (REPRODUCES, SOME, DIFFERS, INCONCLUSIVE, FAILED, NOT_MEASURED, NOT_PRINTED)
_TRIED: Final = (REPRODUCES, SOME, DIFFERS, INCONCLUSIVE, FAILED)
_HEADERS: Final = {SOME: "partly", NOT_MEASURED: "unmeasured", NOT_PRINTED: "unprinted"}
_SCALES: Final = {"parameters": 1e-6, "macs": 1e-9, "top1": 100.0, "throughput": 1.0}
_UNITS: Final = {"parameters": "M", "macs": "G", "top1": "%", "throughput": "x Swin-T"}
_NOTES: Final = (
    "A cell counts as 'reproduces' where every printed value does, as 'partly' where sources disagree and only some of "
    "their values do; settings count where they are equal; see each table for its rule.",
    "A claim holds here where its figures measured here are in the order claimed; a stated ratio where that measured "
    "is within 10 % (speed) or 2 % (MACs) of it, or its interval covers it. 'not measurable here': some figure was not "
    "measured. Throughput here is in units of Swin-Tiny's in the same run; its order is judged by the estimates, and "
    "'intervals overlap' marks an order within the noise.",
)

Record = dict[str, str | float | None]


def page(tables: Sequence[Table], measured: Measured) -> Page:
    """Return the scorecard of tables and of all claims."""
    counted = list(_counts(tables))
    judged = [(claim, judge(claim, measured)) for claim in claims()]
    sources = {source: str(position) for position, source in enumerate(_sources(), start=1)}
    grids = (_count_grid(counted), _claim_grid(judged, sources, measured), _disagreement_grid())
    totals = ", ".join(f"{verdict}: {sum(v == verdict for _, v in judged)}" for verdict in (HOLDS, FAILS, UNKNOWN))
    cited = (f"[{mark}] {source}" for source, mark in sources.items())
    notes = (f"Claims by verdict: {totals}.", *_NOTES, "Sources of the claims' figures:", *cited, *_comments())
    records = (*_count_records(counted), *_claim_records(judged, measured), *_disagreement_records())
    return Page("scorecard", "Scorecard", grids, notes, records, FIELDS)


def judge(claim: Claim, measured: Measured) -> str:
    """Return whether a claim holds here."""
    found = [figure.here(measured) for figure in claim.figures]
    values = [each for each in found if each is not None]
    if len(values) < len(found):
        return UNKNOWN
    if claim.holds([each.value for each in values]):
        return HOLDS
    return HOLDS if claim.stated is not None and _covers(values, float(claim.stated)) else FAILS


def state(cell: Cell) -> str | None:
    """Return what one cell counts as; None for what is no finding."""
    if cell.quantity.judge is None or not (cell.reported or cell.here):
        return None
    if not cell.reported:
        return NOT_PRINTED
    if cell.here is None:
        return NOT_MEASURED
    if cell.here.value is None:
        return FAILED
    verdicts = set(cell.verdicts())
    if verdicts == {REFERENCE}:
        return None
    agreeing = verdicts & {REPRODUCES, EQUAL}
    if not agreeing:
        return INCONCLUSIVE if INCONCLUSIVE in verdicts else DIFFERS
    return REPRODUCES if agreeing == verdicts else SOME


def _covers(values: Sequence[Interval], stated: float) -> bool:
    over, under = values
    low, high = over.low / under.high, over.high / under.low
    return low <= stated <= high <= WIDE**2 * low


def _counts(tables: Sequence[Table]) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    """Yield table, quantity and the number of cells in each state."""
    for table in tables:
        found: dict[str, dict[str, int]] = {}
        for row in table.rows:
            for cell in row.cells:
                counted = state(cell)
                if counted is not None:
                    name = "settings" if cell.quantity.judge is judge_setting else cell.quantity.header
                    found.setdefault(name, dict.fromkeys(STATES, 0))[counted] += 1
        tried = {name: states for name, states in found.items() if any(states[key] for key in _TRIED)}
        for name, states in tried.items():
            yield table.name, name, states
        others = [states for name, states in found.items() if name not in tried]
        if others:  # a line for each would tell nothing
            yield table.name, "all other" if tried else "all", {key: sum(s[key] for s in others) for key in STATES}


def _count_grid(counted: Sequence[tuple[str, str, Mapping[str, int]]]) -> Grid:
    total = {name: sum(states[name] for _, _, states in counted) for name in STATES}
    lines = [*counted, ("all", "cells", total)]
    used = [name for name in STATES if total[name] or name not in (FAILED, INCONCLUSIVE)]
    columns = (Column("table"), Column("quantity"), *(Column(_HEADERS.get(name, name), right=True) for name in used))
    rows = tuple(((table,), (name,), *((str(states[key]),) for key in used)) for table, name, states in lines)
    return Grid(columns, rows, "Cells")


def _claim_grid(judged: Sequence[tuple[Claim, str]], sources: Mapping[str, str], measured: Measured) -> Grid:
    columns = (
        Column("claim"),
        Column("reported", right=True, folds=True),
        Column("source"),
        Column("measured here", right=True, folds=True),
        Column("verdict", folds=True),
    )
    rows = []
    for claim, verdict in judged:
        marks = sorted({int(sources[figure.source]) for figure in claim.figures})
        source = f"[{','.join(map(str, marks))}]"
        rows.append(((claim.text,), (_printed(claim),), (source,), (_here(claim, measured),), (verdict,)))
    return Grid(columns, tuple(rows), "Claims")


def _disagreement_grid() -> Grid:
    columns = (
        Column("topic"),
        Column("quantity", folds=True),
        Column("value", folds=True),
        Column("source", folds=True),
    )
    rows = tuple(((topic,), (name,), (value,), (source,)) for topic, name, value, source in _disagreeing())
    return Grid(columns, rows, "Sources that disagree")


def _disagreeing() -> Iterator[tuple[str, str, str, str]]:
    for found in disagreements():
        yield found.topic, found.quantity, found.value_a, found.source_a
        yield found.topic, found.quantity, found.value_b, found.source_b


def _comments() -> Iterator[str]:
    yield from (f"{found.topic}: {found.comment}." for found in disagreements() if found.comment)


def _disagreement_records() -> Iterator[Record]:
    for topic, name, value, source in _disagreeing():
        found: Record = dict.fromkeys(FIELDS)
        known = {"table": "scorecard", "row": topic, "model": "-", "quantity": name, "unit": "as printed"}
        yield found | known | {"reported": value, "source": source, "kind": "disagreement", "verdict": "-"}


def _sources() -> dict[str, None]:
    return dict.fromkeys(figure.source for claim in claims() for figure in claim.figures)


def _printed(claim: Claim) -> str:
    values = [figure.printed() for figure in claim.figures]
    if claim.stated is None:
        return _joined(values)
    return f"{values[0]} / {values[1]} = {float(values[0]) / float(values[1]):.3f}"


def _here(claim: Claim, measured: Measured) -> str:
    found = [(figure, figure.here(measured)) for figure in claim.figures]
    values = [(figure, here) for figure, here in found if here is not None]
    if len(values) < len(found):
        return NOT_MEASURED
    texts = [_scaled(figure, here) for figure, here in values]
    unit = _UNITS.get(values[0][0].quantity, "")
    if claim.stated is not None:
        return f"{texts[0]} / {texts[1]} {unit} = {values[0][1].value / values[1][1].value:.3f}"
    overlap = any(_overlap(left, right) for (_, left), (_, right) in zip(values[::2], values[1::2], strict=False))
    return f"{_joined(texts)} {unit}{', intervals overlap' if overlap else ''}"


def _joined(texts: Sequence[str]) -> str:
    """Return figures as pairs: those at the second resolution after a semicolon."""
    if len(texts) == 4:
        return f"{texts[0]} : {texts[1]}; {texts[2]} : {texts[3]}"
    return " : ".join(texts)


def _scaled(figure: Figure, here: Interval) -> str:
    return number(here.value * _SCALES.get(figure.quantity, 1.0))


def _overlap(left: Interval, right: Interval) -> bool:
    return (left.low < left.high or right.low < right.high) and left.low <= right.high and right.low <= left.high


def _count_records(counted: Sequence[tuple[str, str, Mapping[str, int]]]) -> Iterator[Record]:
    for table, name, states in counted:
        for key, count in states.items():
            found: Record = dict.fromkeys(FIELDS)
            yield found | {
                "table": "scorecard",
                "row": f"{table}: {name}",
                "model": "-",
                "quantity": f"cells, {key}",
                "unit": "1",
                "kind": "count",
                "measured": float(count),
                "verdict": "-",
            }


def _claim_records(judged: Sequence[tuple[Claim, str]], measured: Measured) -> Iterator[Record]:
    for claim, verdict in judged:
        found: Record = dict.fromkeys(FIELDS)
        yield found | {
            "table": "scorecard",
            "row": claim.text,
            "model": ", ".join(dict.fromkeys(figure.model for figure in claim.figures)),
            "quantity": "claim",
            "unit": "1",
            "reported": _printed(claim),
            "source": "; ".join(dict.fromkeys(figure.source for figure in claim.figures)),
            "kind": "claim",
            "measured": _here(claim, measured),
            "verdict": verdict,
        }
