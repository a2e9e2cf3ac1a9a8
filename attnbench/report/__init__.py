"""From records to what people read: terminal, CSV, JSON, Markdown, figures. Pure but for :func:`write`; no torch."""

from collections.abc import Sequence
from pathlib import Path

from attnbench.record import Record

FIGURES = "figures"


def write(folder: Path, records: Sequence[Record], config_text: str) -> list[Path]:
    """Write ``figures/``, ``report.md``, ``table.csv`` and what else there is to say into ``folder``; return the paths.

    That is ``scores.csv``, ``classes.csv``, ``paired.csv``, ``convergence.csv`` and ``growth.csv``. Each file is there
    whole or not at all; one of an earlier report that has nothing to say any more goes.

    Raises:
        UserError: the folder cannot be written.
    """
    from attnbench.report import classes, convergence_text, growth_text, loading, paired_text, scores_text
    from attnbench.report.convergence import convergence
    from attnbench.report.curves import charts
    from attnbench.report.figures import draw
    from attnbench.report.files import remove, replace
    from attnbench.report.growth import growth
    from attnbench.report.markdown import report
    from attnbench.report.paired import compare
    from attnbench.report.races import races
    from attnbench.report.rows import named
    from attnbench.report.spread import spreads_of
    from attnbench.report.table import to_csv

    found = named(records)
    table, known = [row for row, _ in found], spreads_of(found)
    trained, scored = races(found, "training"), races(found, "accuracy")
    drawn_charts = [chart for race in trained for chart in charts(race)]
    paired, arrived = [compare(race) for race in scored], [convergence(chart) for chart in drawn_charts]
    grown = growth(records, found)
    drawn = draw(table, folder / FIGURES, known, drawn_charts)
    sections = [
        scores_text.section(scored),
        classes.section(scored),
        paired_text.section(paired),
        convergence_text.section(arrived),
        loading.section(trained),
        growth_text.section(grown),
    ]
    linked = [path.relative_to(folder) for path in drawn]
    texts = {
        "table.csv": to_csv(table),
        "report.md": report(records, table, config_text, linked, sections, known),
        "scores.csv": scores_text.to_csv(scored) if scored else None,
        "classes.csv": classes.to_csv(scored),
        "paired.csv": paired_text.to_csv(paired) if any(one.pairs for one in paired) else None,
        "convergence.csv": convergence_text.to_csv(arrived) if any(one.arrivals for one in arrived) else None,
        "growth.csv": growth_text.to_csv(grown) if grown.exponents else None,
    }
    for name, text in texts.items():
        if text is None:
            remove(folder / name)
        else:
            replace(folder / name, text.encode())
    return [*(folder / name for name, text in texts.items() if text is not None), *drawn]
