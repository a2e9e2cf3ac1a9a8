"""From records to what people read: terminal, CSV, JSON, Markdown, figures. Pure but for :func:`write`; no torch."""

from collections.abc import Sequence
from pathlib import Path

from attnbench.record import Record

FIGURES = "figures"


def write(folder: Path, records: Sequence[Record], config_text: str) -> list[Path]:
    """Write ``figures/``, ``table.csv`` and ``report.md`` into ``folder``, each whole or not at all; return the paths.

    Raises:
        UserError: the folder cannot be written.
    """
    from attnbench.report.figures import draw
    from attnbench.report.files import replace
    from attnbench.report.markdown import report
    from attnbench.report.rows import rows
    from attnbench.report.spread import spreads
    from attnbench.report.table import to_csv

    table = rows(records)
    drawn = draw(table, folder / FIGURES, spreads(records))
    csv, markdown = folder / "table.csv", folder / "report.md"
    replace(csv, to_csv(table).encode())
    linked = [path.relative_to(folder) for path in drawn]
    replace(markdown, report(records, table, config_text, linked).encode())
    return [csv, markdown, *drawn]
