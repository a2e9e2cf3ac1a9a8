"""From records to what people read: terminal, CSV, JSON, Markdown, figures. Pure but for :func:`write`; no torch."""

from collections.abc import Sequence
from pathlib import Path

from attnbench.record import Record

FIGURES = "figures"


def write(folder: Path, records: Sequence[Record], config_text: str) -> list[Path]:
    """Write ``figures/``, ``table.csv``, ``growth.csv`` and ``report.md`` into ``folder``; return the paths.

    Each is there whole or not at all; a ``growth.csv`` of an earlier report that has nothing to say any more goes.

    Raises:
        UserError: the folder cannot be written.
    """
    from attnbench.report import growth_text
    from attnbench.report.figures import draw
    from attnbench.report.files import remove, replace
    from attnbench.report.growth import growth
    from attnbench.report.markdown import report
    from attnbench.report.rows import named
    from attnbench.report.spread import spreads_of
    from attnbench.report.table import to_csv

    found = named(records)
    table, known = [row for row, _ in found], spreads_of(found)
    drawn = draw(table, folder / FIGURES, known)
    grown = growth(records, found)
    csv, markdown, growth_csv = (folder / name for name in ("table.csv", "report.md", "growth.csv"))
    replace(csv, to_csv(table).encode())
    if grown.exponents:
        replace(growth_csv, growth_text.to_csv(grown).encode())
    else:
        remove(growth_csv)
    linked = [path.relative_to(folder) for path in drawn]
    text = report(records, table, config_text, linked, growth_text.section(grown), known)
    replace(markdown, text.encode())
    return [csv, markdown, *([growth_csv] if grown.exponents else []), *drawn]
