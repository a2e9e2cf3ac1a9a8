"""Validation scores in the course of trainings: a curve per seed, their mean, and the band from least to greatest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

from attnbench.record import METRICS, Measurement
from attnbench.report.races import Entrant, Race
from attnbench.report.seeds import Seeds

CURVE: Final = "curve"  # kind of a measurement whose samples are scores, and whose rounds are training images seen


@dataclass(frozen=True, slots=True)
class Curve:
    """The scores of one training, at the training images seen until then; both as long, the images increasing."""

    seed: int
    images: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One mechanism's curves, in the order of the seeds: one or more."""

    entrant: Entrant
    curves: tuple[Curve, ...]

    def band(self) -> list[tuple[int, Seeds]]:
        """Return the scores of all seeds wherever every seed was scored."""
        scores = [dict(zip(curve.images, curve.scores, strict=True)) for curve in self.curves]
        shared = sorted(set.intersection(*(set(one) for one in scores)))
        return [(images, Seeds(tuple(one[images] for one in scores))) for images in shared]

    @property
    def final(self) -> float:
        """The mean over seeds of the last score."""
        return Seeds(tuple(curve.scores[-1] for curve in self.curves)).mean


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """The lines of one metric in one race."""

    race: Race
    metric: str
    lines: tuple[Line, ...]


def charts(race: Race) -> list[Chart]:
    """Return a chart for each score of a race of trainings that has curves, the headline first.

    A metric that refines another one, as ``box_ap50`` does ``box_ap``, has none.
    """
    found = dict.fromkeys(
        item.metric
        for entrant in race.entrants
        for record in entrant.seeds.values()
        for item in record.measurements
        if METRICS[item.metric].better == "higher" and _is_curve(item)
    )
    headline = race.entrants[0].row["headline_metric"]
    own = sorted(_unrefined(found), key=lambda metric: metric != headline)
    return [Chart(race, metric, tuple(_lines(race, metric))) for metric in own]


def _lines(race: Race, metric: str) -> Iterable[Line]:
    for entrant in race.entrants:
        found = [
            Curve(seed, item.rounds, item.samples)
            for seed, record in entrant.seeds.items()
            for item in record.measurements
            if item.metric == metric and _is_curve(item)
        ]
        if found:
            yield Line(entrant, tuple(found))


def _is_curve(item: Measurement) -> bool:
    """Whether a measurement is a curve, and one that can be drawn."""
    increasing = all(one < other for one, other in zip(item.rounds, item.rounds[1:], strict=False))
    whole = len(item.samples) == len(item.rounds) > 0 and all(isfinite(score) for score in item.samples)
    return item.kind == CURVE and whole and increasing and item.rounds[0] > 0


def _unrefined(metrics: Iterable[str]) -> Sequence[str]:
    names = list(metrics)
    return [name for name in names if not any(name != other and name.startswith(other) for other in names)]
