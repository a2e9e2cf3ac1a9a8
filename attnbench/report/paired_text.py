"""Paired comparisons as people read them: the section of ``report.md``, and ``paired.csv``."""

from collections.abc import Iterator, Sequence
from typing import Final

from attnbench.report.markdown import escape, table
from attnbench.report.paired import Compared, Pair
from attnbench.report.scores_text import HELD
from attnbench.report.separated import to_csv as separated
from attnbench.report.view import metric_name, pixels

_COLUMNS: Final = (
    *("mechanism", "reference", "resolution", "train_resolution", *HELD),
    *("metric", "averages_to_metric", "images", "better_images", "worse_images", "seeds"),
    *("difference", "low_images", "high_images", "low_seeds", "high_seeds"),
    *("test", "p_images", "p_seeds", "p_holm", "verdict"),
)
_READING: Final = """\
Each mechanism less the reference, in percentage points, on the same validation images. The first interval is *over
images* (a paired bootstrap, of outcomes averaged over the seeds that both have), the second *over seeds* (Student's, of
the difference of each seed). Either holds the other fixed, so a difference is told only where both tests tell it: p is
the greater of McNemar's exact test over images (Student's for pairs where outcomes are no longer right or wrong) and
Student's over seeds, corrected for the number of mechanisms (Holm). Under 0.05 it is *better* or *worse*, else a *tie*.
Of one seed it is indicative: over images alone, and another seed may turn it."""


def section(found: Sequence[Compared]) -> str:
    """Return the section for ``report.md``; nothing where no outcomes can be paired."""
    parts = [text for one in found if one.pairs or one.left_out for text in _race(one)]
    return "\n\n".join(["## Paired comparisons", _READING, *parts]) if parts else ""


def to_csv(found: Sequence[Compared]) -> str:
    """Return ``paired.csv``: a line per mechanism that could be paired."""
    return separated(_COLUMNS, (_csv_line(pair) for one in found for pair in one.pairs))


def _csv_line(pair: Pair) -> tuple[object, ...]:
    row = pair.entrant.row
    return (
        *(pair.entrant.mechanism, pair.reference.mechanism),
        *(pixels(row["resolution"]), pixels(row["train_resolution"]), *(row[name] for name in HELD)),
        *(pair.metric, pair.averages, pair.images, pair.better_images, pair.worse_images, pair.seeds.count),
        *(pair.seeds.mean, pair.low, pair.high, *(pair.seeds.interval or (None, None))),
        *(pair.test, pair.p_images, pair.p_seeds, pair.p, pair.verdict),
    )


def _race(found: Compared) -> Iterator[str]:
    race, pairs = found.race, found.pairs
    yield f"### Paired: {escape(race.title)}, less {escape(race.reference.mechanism)}"
    yield f"Held equal: {escape(race.held)}."
    if pairs:
        what = metric_name(pairs[0].metric)
        exact = all(pair.averages for pair in pairs)
        count = " to ".join(map(str, sorted({pair.images for pair in pairs})))
        if not exact:
            yield f"It is a difference of outcomes per image, which do not average to {what}, and not one of {what}."
        header = [
            *("mechanism", f"{what if exact else 'outcome'} difference", "[95 %] over images", "[95 %] over seeds"),
            *(f"images better / worse, of {count}", "seeds", "p", "verdict"),
        ]
        yield table(header, map(_line, pairs))
    for one in found.left_out:
        yield f"Not compared: {escape(one.entrant.mechanism)} ({one.why})."


def _line(pair: Pair) -> list[str]:
    single = pair.seeds.count == 1
    over_seeds = pair.seeds.interval
    return [
        escape(pair.entrant.mechanism),
        _points(pair.seeds.mean),
        f"[{_points(pair.low)}, {_points(pair.high)}]",
        "-" if over_seeds is None else f"[{', '.join(map(_points, over_seeds))}]",
        f"{pair.better_images} / {pair.worse_images}",
        str(pair.seeds.count),
        "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}",
        f"{pair.verdict} (indicative)" if single else pair.verdict,
    ]


def _points(difference: float) -> str:
    text = f"{100 * difference:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text
