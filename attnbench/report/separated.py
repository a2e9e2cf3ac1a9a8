"""Lines as CSV: numbers in full, nothing for None."""

import csv
import io
from collections.abc import Iterable


def to_csv(header: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """Return the text of a file of comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
