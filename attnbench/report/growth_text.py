"""Cost growth as people read it: the section of ``report.md``, and ``growth.csv`` with every pair."""

from collections.abc import Iterator, Sequence
from typing import Final

from attnbench.report import crossover, growth
from attnbench.report.crossover import Crossing, LeftOut, Pair
from attnbench.report.growth import Estimate, Exponent, Growth
from attnbench.report.markdown import escape, table
from attnbench.report.separated import to_csv as separated
from attnbench.report.series import QUANTITIES, TIMED, Series
from attnbench.report.view import SETTING, number, setting, task_name

_CROSSINGS: Final = 120  # shown per setting
_PAIRS: Final = 12  # without a crossing, named per quantity
_COLUMNS: Final = (
    *("what", "quantity", "mechanism", "other", "task", *SETTING, "kind"),
    *("resolutions", "smallest_px", "largest_px", "value", "low", "high", "basis", "head"),
)
_READING: Final = """\
Exponents p of cost = a N^p, by least squares on logarithms; N is the number of tokens, to which the pixels are
proportional. Resolutions are given as the side of the square with as many pixels.

- Brackets hold 95 % intervals: of the timing *rounds*, or of the *misfit* (Student's, of the fit's residuals: costs are
  sums of powers, and no single one fits everywhere). The wider is shown; of two points there is no misfit to see.
- Large images go by the exponent between the *last two* resolutions.
- Times are ratios to a fixed piece of work of the same rounds, where every resolution has that. Elsewhere a change of
  the machine's load between two resolutions is part of the exponent.
- Two costs cross where they are equal, by linear interpolation of the logarithm of their ratio. Nothing is said beyond
  the resolutions measured. What is *uncertain* does not happen in 95 % of the draws of the rounds, or stays within
  the noise floor."""


def section(found: Growth) -> str:
    """Return the section for ``report.md``; nothing where no series has two resolutions."""
    if not found.exponents:
        return ""
    parts = ["## Cost growth", _READING, *_bounds(found)]
    exponents: dict[tuple[str, ...], list[Exponent]] = {}
    for one in found.exponents:
        exponents.setdefault(one.series.setting, []).append(one)
    pairs: dict[tuple[str, ...], list[Pair]] = {}
    for pair in found.pairs:
        pairs.setdefault(pair.first.setting, []).append(pair)
    for held, own in exponents.items():
        parts.append(f"Held equal: {_held(own[0].series)}.")
        parts.append(_exponents(own))
        parts += _crossings(pairs.get(held, []))
        parts += _left_out([one for one in found.left_out if one.example.setting == held])
    return "\n\n".join(parts)


def to_csv(found: Growth) -> str:
    """Return ``growth.csv``: a line per exponent (over all resolutions, and over the last two), crossing and pair.

    A pair that does not cross has no value; ``basis`` then names the cheaper. An end of an interval that lies beyond
    what was measured is left out.
    """
    return separated(_COLUMNS, _csv_lines(found))


def _csv_lines(found: Growth) -> Iterator[tuple[object, ...]]:
    for one in found.exponents:
        sides = [point.side for point in one.series.points]
        fit, last, head = one.fit, one.last, one.series.row["head"]
        yield "exponent", *_line(one.series, None, sides), fit.value, fit.low, fit.high, one.basis, head
        if len(sides) > 2:
            line = _line(one.series, None, sides[-2:])
            yield "last_exponent", *line, last.value, last.low, last.high, "two points", head
    for pair in found.pairs:
        line, head = _line(pair.first, pair.second, pair.sides), pair.first.row["head"]
        for crossing in pair.crossings:
            basis = "certain" if crossing.certain else "uncertain"
            yield "crossing", *line, crossing.side, crossing.low, crossing.high, basis, head
        if not pair.crossings:
            basis = f"{pair.cheaper or 'equal'}{'' if pair.certain else ' (uncertain)'}"
            yield "no_crossing", *line, None, None, None, basis, head


def _line(first: Series, second: Series | None, sides: Sequence[float]) -> tuple[object, ...]:
    other = None if second is None else second.mechanism
    held = (first.row[name] for name in ("task", *SETTING))
    return (first.metric, first.mechanism, other, *held, first.kind, len(sides), sides[0], sides[-1])


def _bounds(found: Growth) -> Iterator[str]:
    """Yield what was taken to be normal instead of drawn, if anything was."""
    spared = []
    if found.normal_points:
        spared.append(f"of all {found.normal_points} times, as more than {growth.DRAWN}, in the intervals of exponents")
    if found.normal_ratios:
        spared.append(f"of the {found.normal_ratios} farthest from 1, beyond the first {crossover.DRAWN}, in crossings")
    if spared:
        yield f"To bound the work, noise is taken to be normal instead of drawn: {'; '.join(spared)}."


def _left_out(found: Sequence[LeftOut]) -> Iterator[str]:
    """Yield which pairs were not compared, and why."""
    quantities: dict[tuple[int, str | None], list[str]] = {}
    for one in found:
        quantities.setdefault((one.mechanisms, one.reference), []).append(QUANTITIES[one.example.metric])
    for (count, reference), names in quantities.items():
        kept = "no pair is compared" if reference is None else f"only pairs with {escape(reference)} are compared"
        bounds = f"all pairs of up to {crossover.EVERY_PAIR}, those with the reference of up to {crossover.ANY_PAIR}"
        yield f"Left out: of {count} mechanisms {kept} ({', '.join(names)}), to bound the work: {bounds}."


def _held(one: Series) -> str:
    task = "" if one.row["task"] is None else f"task {task_name(one.row)}"
    return escape(", ".join(filter(None, (task, setting(one.row)))))


def _exponents(found: Sequence[Exponent]) -> str:
    header = ["quantity", "mechanism", "resolutions", "exponent [95 %]", "interval of"]
    curved = any(len(one.series.points) > 2 for one in found)  # else the last two are all there are
    lines = []
    for one in found:
        sides = [point.side for point in one.series.points]
        name, places = escape(one.series.mechanism), f"{_side(sides[0])} to {_side(sides[-1])} ({len(sides)})"
        line = [QUANTITIES[one.series.metric], name, places, _estimate(one.fit), _basis(one)]
        lines.append([*line, _estimate(one.last)] if curved else line)
    return table([*header, "last two"] if curved else header, lines)


def _basis(one: Exponent) -> str:
    return "rounds (two points)" if one.basis == "two points" and one.fit.low is not None else one.basis


def _crossings(pairs: Sequence[Pair]) -> Iterator[str]:
    lines = [
        [
            QUANTITIES[pair.first.metric],
            escape(crossing.below),
            escape(crossing.above),
            _place(crossing, pair),
            _remark(crossing, pair),
        ]
        for pair in pairs
        for crossing in pair.crossings
    ]
    if lines:
        header = ["quantity", "cheaper below", "cheaper above", "equal at (px) [95 %]", "remark"]
        yield table(header, lines[:_CROSSINGS])
    if len(lines) > _CROSSINGS:
        yield f"And {len(lines) - _CROSSINGS} more crossings: all are in growth.csv."
    never = [pair for pair in pairs if not pair.crossings]
    if never:
        yield "No crossing, the cheaper first:"
        yield "\n".join(_never(never))


def _never(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield an item per quantity and range; where nothing crosses, who is cheaper is still told."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        where = f"none between {_side(pair.sides[0])} and {_side(pair.sides[-1])}"
        found.setdefault(f"{QUANTITIES[pair.first.metric]}, {where}", []).append(_order(pair))
    for what, orders in found.items():
        more = f"; and {len(orders) - _PAIRS} more" if len(orders) > _PAIRS else ""
        yield f"- {what}: {'; '.join(orders[:_PAIRS])}{more}"


def _order(pair: Pair) -> str:
    first, second = escape(pair.first.mechanism), escape(pair.second.mechanism)
    if pair.cheaper is None:
        return f"{first} as {second}"
    ordered = f"{first}, {second}" if pair.cheaper == pair.first.mechanism else f"{second}, {first}"
    return ordered + ("" if pair.certain else " (uncertain)") + _apart(pair)


def _place(crossing: Crossing, pair: Pair) -> str:
    text = _side(crossing.side)
    if crossing.share is None:
        return text
    low = f"under {_side(pair.sides[0])}" if crossing.low is None else _side(crossing.low)
    high = f"over {_side(pair.sides[-1])}" if crossing.high is None else _side(crossing.high)
    return f"{text} [{low}, {high}]"


def _remark(crossing: Crossing, pair: Pair) -> str:
    if pair.first.metric not in TIMED:
        return "exact"
    if crossing.share is None:
        return f"uncertain: no rounds{_apart(pair)}"
    share = f"{100 * crossing.share:.0f} % of the draws cross"
    if crossing.certain:
        return share + _apart(pair)
    open_ended = crossing.low is None or crossing.high is None
    return f"uncertain: {share if open_ended else 'within the noise floor'}{_apart(pair)}"


def _apart(pair: Pair) -> str:
    return "" if pair.together else ", not timed together"


def _estimate(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _side(side: float) -> str:
    return f"{side:.0f}" if abs(side - round(side)) < 1e-6 else number(side)
