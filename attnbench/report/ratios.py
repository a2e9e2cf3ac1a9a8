"""The logarithm of the ratio of two costs, resolution by resolution, and what noise could make of it.

To draw the rounds of every ratio of every pair again would take minutes. Most ratios keep their sign in every draw, and
that is seen without drawing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot, inf, log, log1p
from statistics import median
from typing import Final

from attnbench.report.bootstrap import FEWEST, Floats, block_medians, median_half_width, normal_draws, widening
from attnbench.report.series import TIMED, Point, Series

_ADVERSE: Final = 0.1  # share of the rounds: with fewer of the other sign, no draw's median has it
_FAR: Final = 4  # half-widths


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """The log ratio of two costs at one resolution."""

    one: Point
    other: Point
    ratio: float  # log
    rounds: tuple[float, ...]  # log ratios of the rounds that both were timed in, in order of time
    floor: float  # log: a ratio nearer to 0 is noise
    side: float  # pixels
    x: float  # log side
    together: bool

    @property
    def told(self) -> bool:
        """Whether the order of the two is told from noise."""
        return abs(self.ratio) > self.floor

    @property
    def scatters(self) -> bool:
        """Whether it is known what else the ratio might have been."""
        return len(self.rounds) >= FEWEST if self.together else self.one.scatters and self.other.scatters


def nodes(first: Series, second: Series) -> list[Node]:
    """Return the ratios at the resolutions that both have, by their size."""
    return list(_nodes(first, second))


def could_turn(node: Node) -> bool:
    """Whether a draw could have another sign than the ratio; for a node that scatters."""
    if not node.together:
        return abs(node.ratio) <= _FAR * _half_width(node)
    count = len(node.rounds)
    least = int(_ADVERSE * count)
    adverse = sorted(node.rounds)[least if node.ratio > 0 else -1 - least]
    farthest = node.ratio + widening(count, node.one.launches) * (adverse - node.ratio)
    return node.ratio * farthest <= 0


def draws(node: Node) -> Floats:
    """Return what the log ratio might have been, from rounds drawn again in blocks; for a node that scatters."""
    if node.together:
        found = block_medians(node.rounds, _seed(node), node.one.launches)
    else:
        ends = node.one.draws, node.other.draws
        found = None if ends[0] is None or ends[1] is None else ends[0] - ends[1]
    assert found is not None  # noqa: S101
    return found


def normal(node: Node) -> Floats:
    """Return the same by a normal approximation, which takes less time."""
    return normal_draws(node.ratio, _half_width(node), _seed(node))


def _nodes(first: Series, second: Series) -> Iterator[Node]:
    theirs = {point.resolution: point for point in second.points}
    for point in first.points:
        if point.resolution in theirs:
            yield _node(point, theirs[point.resolution], timed=first.metric in TIMED)


def _node(one: Point, other: Point, *, timed: bool) -> Node:
    apart, place = one.log_cost - other.log_cost, (one.side, log(one.side))
    if not timed:
        return Node(one, other, apart, (), 0.0, *place, together=True)
    # A record without a floor promises nothing, as in the statistics of rounds.
    floor = max(inf if point.floor is None else log1p(point.floor) for point in (one, other))
    shared = sorted(one.rounds.keys() & other.rounds.keys()) if one.started == other.started else []
    if not shared:
        return Node(one, other, apart, (), floor, *place, together=False)
    rounds = tuple(one.rounds[number] - other.rounds[number] for number in shared)
    return Node(one, other, median(rounds), rounds, floor, *place, together=True)


def _half_width(node: Node) -> float:
    if node.together:
        return median_half_width(node.rounds, node.one.launches) or 0.0
    return hypot(node.one.half_width or 0.0, node.other.half_width or 0.0)


def _seed(node: Node) -> int:
    # One seed for both orders of the two: which comes first must not move the interval.
    return int(node.one.key, 16) ^ int(node.other.key, 16)
