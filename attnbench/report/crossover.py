"""Where the costs of two mechanisms meet: the side of a square image, in pixels, at which they are equal.

Between measured resolutions the logarithm of the ratio is taken to be linear in the logarithm of the side; beyond them
nothing is said. Times of the same rounds are paired by round, and the rounds are drawn again in blocks: the interval
holds the crossings of 95 % of the draws. The work is bounded: of many mechanisms only pairs with the reference are
compared, of still more none; and rounds are drawn for so many ratios at most, where they could change an order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, takewhile
from math import ceil, exp, floor, inf
from typing import Final

import numpy as np

from attnbench.measure.statistics import LEVEL
from attnbench.report import ratios
from attnbench.report.bootstrap import TAILS, Floats
from attnbench.report.ratios import Node
from attnbench.report.series import TIMED, Series

EVERY_PAIR: Final = 16  # mechanisms of which all pairs are compared
ANY_PAIR: Final = 64  # mechanisms of which those with the reference are
DRAWN: Final = 512  # ratios whose rounds are drawn again; eight mechanisms at eight resolutions have 224


@dataclass(frozen=True, slots=True)
class Crossing:
    """One change of order. ``low`` and ``high`` are None where the interval reaches beyond what was measured."""

    side: float  # pixels
    low: float | None
    high: float | None
    share: float | None  # of the draws that have such a crossing; None for what is exact, and without rounds
    certain: bool
    below: str  # the mechanism that costs less below it
    above: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two series of the same setting between the resolutions that both have; no crossing is a result too."""

    first: Series
    second: Series
    sides: tuple[float, ...]  # pixels, of the resolutions that both have
    crossings: tuple[Crossing, ...]
    cheaper: str | None  # without a crossing: who costs less; None where both cost the same
    certain: bool  # without a crossing: whether that order is told from noise at every resolution
    together: bool  # timed in the same rounds at every resolution; True for what is not timed


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Pairs that were not compared, since the mechanisms are many."""

    example: Series  # of the quantity and setting
    mechanisms: int
    reference: str | None  # the one whose pairs were compared


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every pair that was compared, and what was spared."""

    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    approximated: int  # ratios whose noise is taken to be normal


@dataclass(frozen=True, slots=True)
class _Change:
    x: float  # log side
    rising: bool  # the log ratio's sign goes from minus to plus
    before: int  # index of the node before it, and of the node behind it
    behind: int


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """The log sides at which each draw crosses upwards, (draws, segments); infinite where it does not."""

    x: Floats  # log side of each node
    signed: Floats  # (draws, nodes)
    here: Floats  # in the segment
    below: Floats  # the nearest in it or in those below it
    above: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Meeting:
    """Two series before anything is drawn."""

    first: Series
    second: Series
    nodes: list[Node]
    changes: list[_Change]
    wanted: list[int]  # indices of the nodes whose draws can matter


def compare(found: Sequence[Series]) -> Comparison:
    """Compare every two series of the same quantity and setting that share two or more resolutions."""
    chosen, left_out = _chosen(found)
    met = [one for first, second in chosen if len((one := _meet(first, second)).nodes) > 1]
    nearest = sorted((abs(one.nodes[i].ratio), place, i) for place, one in enumerate(met) for i in one.wanted)
    drawn: dict[int, set[int]] = {}
    for _, place, index in nearest[:DRAWN]:
        drawn.setdefault(place, set()).add(index)
    pairs = tuple(_pair(one, drawn.get(place, set())) for place, one in enumerate(met))
    return Comparison(pairs, left_out, len(nearest[DRAWN:]))


def _chosen(found: Sequence[Series]) -> tuple[list[tuple[Series, Series]], tuple[LeftOut, ...]]:
    """Return the pairs to compare, in the order of the series."""
    rivals: dict[tuple[str, ...], list[int]] = {}
    for index, one in enumerate(found):
        rivals.setdefault(one.rivals, []).append(index)
    chosen: list[tuple[int, int]] = []
    left_out = []
    for indices in rivals.values():
        couples = list(combinations(indices, 2)) if len(indices) <= EVERY_PAIR else []
        if len(indices) > EVERY_PAIR:
            reference = _reference(found, indices) if len(indices) <= ANY_PAIR else None
            couples = [(min(i, reference), max(i, reference)) for i in indices if reference not in (None, i)]
            name = None if reference is None else found[reference].mechanism
            left_out.append(LeftOut(found[indices[0]], len(indices), name))
        chosen += [(i, j) for i, j in couples if found[i].mechanism != found[j].mechanism]
    return [(found[i], found[j]) for i, j in sorted(chosen)], tuple(left_out)


def _reference(found: Sequence[Series], indices: Sequence[int]) -> int:
    """Return the mechanism that times are ratios to; the first, where it is not among them."""
    return next((i for i in indices if found[i].mechanism == found[i].row["reference"]), indices[0])


def _meet(first: Series, second: Series) -> _Meeting:
    nodes = ratios.nodes(first, second)
    changes = list(_changes(nodes))
    wanted = _wanted(nodes, changes) if first.metric in TIMED else []
    return _Meeting(first, second, nodes, changes, wanted)


def _wanted(nodes: Sequence[Node], changes: Sequence[_Change]) -> list[int]:
    """Return the nodes whose draws can matter: those that could turn and, of changes of order, their neighbours too.

    Between two that are next to each other here and not in ``nodes``, nothing crosses in any draw.
    """
    if not all(node.scatters for node in nodes) or not (changes or all(node.told for node in nodes)):
        return []
    turning = {index for index, node in enumerate(nodes) if ratios.could_turn(node)}
    if not changes:
        return sorted(turning)
    turning |= {index for change in changes for index in range(change.before, change.behind + 1)}
    near = {index + step for index in turning for step in (-1, 0, 1)}
    return sorted(near & set(range(len(nodes))))


def _pair(one: _Meeting, drawn: set[int]) -> Pair:
    names = (one.first.mechanism, one.second.mechanism)
    timed = one.first.metric in TIMED
    columns = [ratios.draws(one.nodes[i]) if i in drawn else ratios.normal(one.nodes[i]) for i in one.wanted]
    draws = np.stack(columns, axis=1) if columns else None
    total = sum(node.ratio for node in one.nodes)
    cheaper = None if one.changes or not any(node.ratio for node in one.nodes) else names[total > 0]
    return Pair(
        one.first,
        one.second,
        tuple(node.side for node in one.nodes),
        tuple(_crossings(one, draws, names, timed)),
        cheaper,
        not one.changes and (not timed or _keeps_order(one.nodes, draws)),
        all(node.together for node in one.nodes),
    )


def _changes(nodes: Sequence[Node]) -> Iterator[_Change]:
    """Yield each change of order; costs that are equal at a measured resolution between two orders cross there."""
    unequal = [index for index, node in enumerate(nodes) if node.ratio]
    for before, behind in pairwise(unequal):
        a, b = nodes[before], nodes[behind]
        if (a.ratio < 0) != (b.ratio < 0):
            equal = nodes[before + 1 : behind]
            linear = a.x + (b.x - a.x) * a.ratio / (a.ratio - b.ratio)
            x = sum(node.x for node in equal) / len(equal) if equal else linear
            yield _Change(x, a.ratio < 0, before, behind)


def _crossings(one: _Meeting, draws: Floats | None, names: tuple[str, str], timed: bool) -> Iterator[Crossing]:
    x = np.array([one.nodes[index].x for index in one.wanted])
    places: dict[bool, _Places] = {}  # by direction
    for change in one.changes:
        below, above = names if change.rising else names[::-1]
        side = exp(change.x)
        if draws is None:
            yield Crossing(side, None, None, None, certain=not timed, below=below, above=above)
            continue
        if change.rising not in places:
            places[change.rising] = _places(x, draws if change.rising else -draws)
        nearest = _nearest(places[change.rising], change)
        share = float(np.isfinite(nearest).mean())
        # Of places that may be infinite no two can be averaged.
        low, high = (
            float(nearest[turn(tail * (len(nearest) - 1))]) for turn, tail in zip((floor, ceil), TAILS, strict=True)
        )
        told = _is_told(reversed(one.nodes[: change.before + 1])) and _is_told(one.nodes[change.behind :])
        bounded = bool(np.isfinite(low) and np.isfinite(high))
        yield Crossing(
            side,
            exp(low) if np.isfinite(low) else None,
            exp(high) if np.isfinite(high) else None,
            share,
            certain=share >= LEVEL and bounded and told,
            below=below,
            above=above,
        )


def _is_told(nodes: Iterable[Node]) -> bool:
    """Whether the order of the first node is told from noise there, or at one of those that follow it in that order."""
    rest = list(nodes)
    return any(node.told for node in takewhile(lambda node: node.ratio * rest[0].ratio > 0, rest))


def _places(x: Floats, signed: Floats) -> _Places:
    """Return where each draw crosses upwards."""
    left, right = signed[:, :-1], signed[:, 1:]
    crosses = (left < 0) & (right >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = x[:-1] + (x[1:] - x[:-1]) * left / (left - right)
    here = np.where(crosses, places, inf)
    below = np.maximum.accumulate(np.where(crosses, places, -inf), axis=1)
    above = np.minimum.accumulate(here[:, ::-1], axis=1)[:, ::-1]
    return _Places(x, signed, here, below, above)


def _nearest(found: _Places, change: _Change) -> Floats:
    """Return, for each draw, the log side of its crossing in the same direction that is nearest to the observed one.

    A draw that does not cross so is infinite: above what was measured where its order at the observed crossing is
    still the one from below it, else below. They are in ascending order.
    """
    x, last = found.x, len(found.x) - 2
    segment = int(np.clip(np.searchsorted(x, change.x) - 1, 0, last))
    nearest = found.here[:, segment]
    for others in (found.below[:, max(segment - 1, 0)], found.above[:, min(segment + 1, last)]):
        nearest = np.where(np.abs(others - change.x) < np.abs(nearest - change.x), others, nearest)
    weight = (change.x - x[segment]) / (x[segment + 1] - x[segment])
    here = (1 - weight) * found.signed[:, segment] + weight * found.signed[:, segment + 1]
    missing = np.where(here < 0, inf, -inf)
    return np.sort(np.where(np.isfinite(nearest), nearest, missing))


def _keeps_order(nodes: Sequence[Node], draws: Floats | None) -> bool:
    """Whether 95 % of the draws have one order at every resolution, and no ratio is within the noise floor."""
    if not all(node.scatters and node.told for node in nodes):
        return False
    if draws is None:  # none could turn
        return True
    # Those that were drawn have the sign of the others: without a crossing there is only one.
    same = (draws < 0).all(axis=1) | (draws > 0).all(axis=1)
    return float(same.mean()) >= LEVEL
