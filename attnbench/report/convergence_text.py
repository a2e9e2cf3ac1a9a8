"""Convergence as people read it: the section of ``report.md``, and ``convergence.csv``."""

from collections.abc import Iterator, Sequence
from typing import Final

from attnbench.report.convergence import Arrival, Convergence, by_level
from attnbench.report.markdown import escape, table
from attnbench.report.scores_text import HELD
from attnbench.report.separated import to_csv as separated
from attnbench.report.view import metric_name, pixels, score, score_header

_COLUMNS: Final = (
    *("mechanism", "reference", "train_resolution", *HELD),
    *("metric", "level", "share", "of", "images", "low", "high", "at_most", "seeds", "seeds_that_reach_it"),
    *("ratio", "ratio_low", "ratio_high"),
)
_READING: Final = """\
Training images seen until a mechanism's validation score first reaches a level, by linear interpolation between two
evaluations; \N{LESS-THAN OR EQUAL TO} where it was there at the first. Levels are shares of the highest score that
every training here reaches, and of the best mechanism's last score, which some may not reach. Brackets hold Student's
95 % intervals over seeds; one seed is indicative. The ratio is that of the images to the reference's, seed by seed
(geometric mean): below 1 is faster. It needs every seed to arrive after the first evaluation."""


def section(found: Sequence[Convergence]) -> str:
    """Return the section for ``report.md``; nothing where there are no curves."""
    told = [one for one in found if one.arrivals]
    shown = [one for index, one in enumerate(told) if index == 0 or told[index - 1].race is not one.race]
    if not shown:
        return ""
    parts = ["## Convergence", _READING, *(text for one in shown for text in _chart(one))]
    if len(shown) < len(told):
        parts.append("Other scores' levels are in convergence.csv.")
    return "\n\n".join(parts)


def to_csv(found: Sequence[Convergence]) -> str:
    """Return ``convergence.csv``: a line per mechanism and level."""
    return separated(_COLUMNS, (_csv_line(one, arrival) for one in found for arrival in one.arrivals))


def _csv_line(one: Convergence, arrival: Arrival) -> tuple[object, ...]:
    row, level, images = arrival.line.entrant.row, arrival.level, arrival.images
    low, high = (images and not arrival.at_most and images.interval) or (None, None)
    ratio = arrival.ratio_interval or (None,) * 3
    single = arrival.ratio is None or arrival.ratio.count == 1
    return (
        *(arrival.line.entrant.mechanism, one.reference.entrant.mechanism, pixels(row["train_resolution"])),
        *(row[name] for name in HELD),
        *(one.metric, level.score, level.share, level.of, images and images.mean, low, high, arrival.at_most),
        *(len(arrival.line.curves), len(arrival.crossings)),
        *(ratio[0], None if single else ratio[1], None if single else ratio[2]),
    )


def _chart(one: Convergence) -> Iterator[str]:
    reference = escape(one.reference.entrant.mechanism)
    yield f"### Convergence: {escape(one.race.title)}"
    yield f"Held equal: {escape(one.race.held)}."
    header = [
        *(f"{score_header([one.metric])} to reach", "level is", "mechanism", "images seen [95 %]"),
        *(f"ratio to {reference} [95 %]", "seeds"),
    ]
    yield table(header, [_line(one, arrival) for own in by_level(one.arrivals).values() for arrival in own])


def _line(one: Convergence, arrival: Arrival) -> list[str]:
    level, seeds = arrival.level, len(arrival.line.curves)
    is_reference = arrival.line is one.reference
    whose = "what all reach" if level.of == "common" else f"the best {metric_name(one.metric)}"
    return [
        score(level.score, one.metric),
        f"{100 * level.share:.0f} % of {whose}",
        escape(arrival.line.entrant.mechanism),
        _images(arrival),
        "reference" if is_reference else _ratio(arrival),
        "1, indicative" if seeds == 1 else str(seeds),
    ]


def _images(arrival: Arrival) -> str:
    images, seeds = arrival.images, len(arrival.line.curves)
    if images is None:
        reached = len(arrival.crossings)
        return f"reached by {reached} of {seeds} seeds" if reached else "not reached"
    text = ("\N{LESS-THAN OR EQUAL TO} " if arrival.at_most else "") + f"{images.mean:,.0f}"
    if images.interval is None or arrival.at_most:
        return text
    return f"{text} [{images.interval[0]:,.0f}, {images.interval[1]:,.0f}]"


def _ratio(arrival: Arrival) -> str:
    found = arrival.ratio_interval
    if found is None or arrival.ratio is None:
        return "-"
    if arrival.ratio.count == 1:
        return f"{found[0]:.2f}"
    return f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"
