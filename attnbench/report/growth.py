"""How fast costs grow: the exponent p of cost = a N^p, with N the tokens, by least squares on logarithms.

Tokens are pixels divided by a constant, so the exponent is against H W. What is uncertain about it has two sources.
Measured times scatter: their rounds are drawn again in blocks. And a cost is a sum of powers, so that no exponent fits
it everywhere: with three or more resolutions, Student's interval of the regression's slope says how badly (Draper and
Smith, *Applied Regression Analysis*, 1.4). The wider counts. Counts and ledgers have the second source alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Final, Literal

import numpy as np

from attnbench.record import Record
from attnbench.report.bootstrap import TAILS, Floats, student
from attnbench.report.crossover import LeftOut, Pair, compare
from attnbench.report.group import Group
from attnbench.report.rows import Row
from attnbench.report.series import TIMED, Point, Series, series

DRAWN: Final = 256  # timed points whose rounds are drawn again; of more, none are

Basis = Literal["misfit", "rounds", "two points"]
Interval = Callable[[float, Floats, Sequence[Point]], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An exponent with its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Exponent:
    """The growth of one series: over all its resolutions, and between the last two, where large costs are decided."""

    series: Series
    fit: Estimate
    basis: Basis  # what the interval of ``fit`` is about; "two points": of the rounds alone, if of anything
    last: Estimate


@dataclass(frozen=True, slots=True)
class Growth:
    """All that a run says about growth."""

    exponents: tuple[Exponent, ...]
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...] = ()  # pairs that were not compared
    normal_points: int = 0  # points and ratios whose noise is taken to be normal
    normal_ratios: int = 0


def growth(records: Iterable[Record], known: Sequence[tuple[Row, Group]] | None = None) -> Growth:
    """Return the exponent of every series of two or more resolutions, and where each two of them cross.

    ``known`` is what :func:`~attnbench.report.rows.named` returns for the records, where the caller has it already.
    """
    found = series(records, known)
    timed = sum(len(one.points) for one in found if one.metric in TIMED)
    interval = drawn_interval if timed <= DRAWN else normal_interval
    compared = compare(found)
    return Growth(
        tuple(exponent(one, interval) for one in found),
        compared.pairs,
        compared.left_out,
        timed if timed > DRAWN else 0,
        compared.approximated,
    )


def exponent(one: Series, interval: Interval) -> Exponent:
    """Return the exponent of one series, which has two or more points; ``interval`` is how that of rounds is made."""
    fit, last = slope(one.points, interval), slope(one.points[-2:], interval)
    if len(one.points) == 2:  # the line goes through both, whatever they are
        return Exponent(one, fit, "two points", last)
    misfit = student_interval(one.points)
    if fit.low is None or fit.high is None or misfit[1] - misfit[0] > fit.high - fit.low:
        return Exponent(one, Estimate(fit.value, *misfit), "misfit", last)
    return Exponent(one, fit, "rounds", last)


def slope(points: Sequence[Point], interval: Interval) -> Estimate:
    """Return the slope of log cost over log pixels; its interval is that of the rounds, none without them."""
    weights = _weights(points)
    value = sum(weight * point.log_cost for weight, point in zip(weights.tolist(), points, strict=True))
    if not all(point.scatters for point in points):
        return Estimate(value)
    return Estimate(value, *interval(value, weights, points))


def drawn_interval(_: float, weights: Floats, points: Sequence[Point]) -> tuple[float, float]:
    """Return the 95 % interval of a slope whose points have draws."""
    low, high = np.quantile(weights @ np.stack([point.draws for point in points if point.draws is not None]), TAILS)
    return float(low), float(high)


def normal_interval(value: float, weights: Floats, points: Sequence[Point]) -> tuple[float, float]:
    """Return the same, where the points' noise is normal and as wide as their intervals."""
    half = float(np.linalg.norm(weights * np.array([point.half_width or 0.0 for point in points])))
    return value - half, value + half


def student_interval(points: Sequence[Point]) -> tuple[float, float]:
    """Return Student's 95 % interval of the slope, from the residuals of three or more points."""
    weights = _weights(points)
    x = np.array([log(point.side) for point in points]) * 2  # log pixels
    y = np.array([point.log_cost for point in points])
    value = float(weights @ y)
    residuals = (y - y.mean()) - value * (x - x.mean())
    freedom = len(points) - 2
    half = student(freedom) * sqrt(float(residuals @ residuals) / freedom * float(weights @ weights))
    return value - half, value + half


def _weights(points: Sequence[Point]) -> Floats:
    """Return what each log cost counts in the slope: (x - mean x) / sum of squares."""
    x = np.array([log(point.resolution[0] * point.resolution[1]) for point in points])
    centred: Floats = x - x.mean()
    return centred / float(centred @ centred)
