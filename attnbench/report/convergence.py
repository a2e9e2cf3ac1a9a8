"""How fast trainings converge: the training images seen until a mechanism first reaches a given score.

Levels are shares of two scores: of the highest that every compared training reaches (*common*), so that everyone
arrives, and of the best mechanism's last one, mean over seeds (*best*), which some may never reach. Between two
evaluations the score is taken to be linear. What is there at the first evaluation was reached by then, at the latest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Final, Literal

from attnbench.report.curves import Chart, Curve, Line
from attnbench.report.races import Race
from attnbench.report.seeds import Seeds

SHARES: Final = (0.5, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Level:
    """A score to be reached."""

    score: float
    share: float
    of: Literal["common", "best"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a curve first reaches a level: images seen, interpolated, or at most so many."""

    images: float
    at_most: bool


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One mechanism's way to one level: the crossings of the seeds that reach it."""

    line: Line
    level: Level
    crossings: Mapping[int, Crossing]  # by seed
    ratio: Seeds | None = None  # logarithms, of each seed's images over the reference's of the same seed

    @property
    def images(self) -> Seeds | None:
        """The images of each seed; None where a seed never arrives, for a mean of the others would flatter."""
        if len(self.crossings) < len(self.line.curves):
            return None
        return Seeds(tuple(one.images for one in self.crossings.values()))

    @property
    def at_most(self) -> bool:
        """Whether a seed was there at its first evaluation, so that its images are no more than a bound."""
        return any(one.at_most for one in self.crossings.values())

    @property
    def ratio_interval(self) -> tuple[float, float, float] | None:
        """The geometric mean of the ratios and the ends of Student's 95 % interval; of one seed, equal ends."""
        if self.ratio is None:
            return None
        low, high = self.ratio.interval or (self.ratio.mean,) * 2
        return exp(self.ratio.mean), exp(low), exp(high)


@dataclass(frozen=True, slots=True, eq=False)
class Convergence:
    """The arrivals of one chart, level by level."""

    race: Race
    metric: str
    reference: Line
    arrivals: tuple[Arrival, ...]


def convergence(chart: Chart) -> Convergence:
    """Return when each mechanism of a chart reaches each level."""
    reference = next((line for line in chart.lines if line.entrant is chart.race.reference), chart.lines[0])
    arrivals = []
    for level in levels(chart):
        target = _crossings(reference, level)
        for line in chart.lines:
            own = _crossings(line, level)
            arrivals.append(
                Arrival(line, level, own, None if line is reference else _ratio(line, reference, own, target))
            )
    return Convergence(chart.race, chart.metric, reference, tuple(arrivals))


def levels(chart: Chart) -> list[Level]:
    """Return the levels of a chart; of a single mechanism those of the common score alone, of scores of 0 none."""
    common = min(max(curve.scores) for line in chart.lines for curve in line.curves)
    best = max(line.final for line in chart.lines)
    found: list[Level] = []
    if common > 0:  # of nothing, every share is nothing
        found += [Level(share * common, share, "common") for share in SHARES]
    if best > 0 and len(chart.lines) > 1:
        found += [Level(share * best, share, "best") for share in SHARES]
    return found


def crossing(curve: Curve, level: float) -> Crossing | None:
    """Return where a curve first reaches a level; None where it never does."""
    points = list(zip(curve.images, curve.scores, strict=True))
    for index, (images, score) in enumerate(points):
        if score < level:
            continue
        if index == 0:
            return Crossing(float(images), at_most=True)
        before, lower = points[index - 1]
        return Crossing(before + (images - before) * (level - lower) / (score - lower), at_most=False)
    return None


def _crossings(line: Line, level: Level) -> dict[int, Crossing]:
    found = {curve.seed: crossing(curve, level.score) for curve in line.curves}
    return {seed: one for seed, one in found.items() if one is not None}


def _ratio(line: Line, reference: Line, ours: Mapping[int, Crossing], theirs: Mapping[int, Crossing]) -> Seeds | None:
    """Return the log ratios of the seeds that both have; None where one of these has no exact place."""
    shared = [curve.seed for curve in line.curves if curve.seed in {other.seed for other in reference.curves}]
    pairs = [(ours.get(seed), theirs.get(seed)) for seed in shared]
    found = [log(a.images / b.images) for a, b in pairs if a and b and not a.at_most and not b.at_most]
    return Seeds(tuple(found)) if found and len(found) == len(pairs) else None


def by_level(arrivals: Sequence[Arrival]) -> dict[Level, list[Arrival]]:
    """Return the arrivals at each level."""
    found: dict[Level, list[Arrival]] = {}
    for one in arrivals:
        found.setdefault(one.level, []).append(one)
    return found
