"""Scores as people read them: the section of ``report.md``, and ``scores.csv`` with every one."""

from collections.abc import Iterator, Sequence
from typing import Final

from attnbench.report.markdown import escape, table
from attnbench.report.races import Race
from attnbench.report.scores import Score, metrics_of, scores
from attnbench.report.separated import to_csv as separated
from attnbench.report.view import metric_name, pixels, score, score_header

HELD: Final = ("task", "head", "size", "precision", "device", "threads")  # columns of every file about scores

_COLUMNS: Final = (
    *("mechanism", "resolution", "train_resolution", *HELD),
    *("metric", "mean", "low", "high", "over", "least", "greatest", "seeds"),
)
_WIDE: Final = 3  # metrics from which on their means get a table of their own
_READING: Final = """\
Means over seeds; all seeds of all mechanisms saw the same images in the same order, seed by seed. Brackets hold 95 %
intervals. *Over seeds* (Student's) they say how far another training might be, on the same validation images. Of a
single seed, which is indicative, they say *over images* how far another validation set might be: only of a headline
that is the mean of an outcome per image (Wilson's; a bootstrap's where outcomes are fractions), as top-1 is and mIoU
and AP are not."""


def section(races: Sequence[Race]) -> str:
    """Return the section for ``report.md``, of races of accuracies; nothing where there are none."""
    if not races:
        return ""
    return "\n\n".join(["## Scores", _READING, *(text for race in races for text in _race(race))])


def to_csv(races: Sequence[Race]) -> str:
    """Return ``scores.csv``: a line per mechanism, resolution, task, head and metric."""
    return separated(_COLUMNS, (_csv_line(one) for race in races for one in scores(race)))


def _csv_line(one: Score) -> tuple[object, ...]:
    row, seeds = one.entrant.row, one.seeds
    low, high = one.interval or (None, None)
    where = (one.entrant.mechanism, pixels(row["resolution"]), pixels(row["train_resolution"]))
    return (
        *(*where, *(row[name] for name in HELD), one.metric, seeds.mean, low, high),
        *(one.over, seeds.least, seeds.greatest, seeds.count),
    )


def _race(race: Race) -> Iterator[str]:
    found = scores(race)
    metrics = metrics_of(found)
    yield f"### Scores: {escape(race.title)}"
    yield f"Held equal: {escape(race.held)}."
    if len(metrics) >= _WIDE:
        means = {(one.entrant.mechanism, one.metric): one.seeds.mean for one in found}
        names = [one.mechanism for one in race.entrants]
        yield table(
            ["mechanism", *(score_header([metric]) for metric in metrics)],
            [[escape(name), *(score(means.get((name, metric)), metric) for metric in metrics)] for name in names],
        )
    yield table(["score", "mechanism", "mean [95 %]", "least to greatest", "seeds"], map(_line, found))


def _line(one: Score) -> list[str]:
    seeds, metric = one.seeds, one.metric
    text = score(seeds.mean, metric)
    if one.interval:
        text += f" [{', '.join(score(end, metric) for end in one.interval)}] over {one.over}"
    ends = "-" if seeds.count == 1 else f"{score(seeds.least, metric)} to {score(seeds.greatest, metric)}"
    count = "1, indicative" if seeds.count == 1 else str(seeds.count)
    unit = score_header([metric])
    return [unit if unit != "score" else metric_name(metric), escape(one.entrant.mechanism), text, ends, count]
