"""Every score of every mechanism: over seeds or, of a single seed and where that is exact, over images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from attnbench.report import images
from attnbench.report.races import Entrant, Race
from attnbench.report.rows import headline
from attnbench.report.seeds import Seeds

BY_CLASS: Final = frozenset({"class_iou"})  # metrics that a record has several times, once a class


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one mechanism, its interval and what that is over; None where nothing tells one."""

    entrant: Entrant
    metric: str
    seeds: Seeds
    interval: tuple[float, float] | None
    over: Literal["seeds", "images"] | None


def scores(race: Race) -> list[Score]:
    """Return the scores of a race of accuracies, metric by metric, the headline first."""
    metrics = dict.fromkeys(
        item.metric
        for entrant in race.entrants
        for record in entrant.seeds.values()
        for item in sorted(record.measurements, key=lambda item: item is not headline(record))
        if item.metric not in BY_CLASS
    )
    found = [_score(entrant, metric) for metric in metrics for entrant in race.entrants]
    return [one for one in found if one is not None]


def metrics_of(found: Sequence[Score]) -> list[str]:
    """Return the metrics in their order."""
    return list(dict.fromkeys(one.metric for one in found))


def _score(entrant: Entrant, metric: str) -> Score | None:
    measured = [(record, item) for record in entrant.seeds.values() if (item := record.measured(metric)) is not None]
    if not measured:
        return None
    seeds = Seeds(tuple(item.value for _, item in measured))
    if seeds.count > 1:
        return Score(entrant, metric, seeds, seeds.interval, "seeds")
    record, item = measured[0]
    own = images.interval(item, int(record.cell.key, 16))
    return Score(entrant, metric, seeds, own, None if own is None else "images")
