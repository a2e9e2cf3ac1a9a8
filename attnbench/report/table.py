"""Rows as CSV, as JSON, as a pandas frame; on the terminal, see :mod:`attnbench.report.terminal`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.report.rows import COLUMNS, Row
from attnbench.report.separated import to_csv as separated
from attnbench.report.terminal import terminal
from attnbench.report.view import pixels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["terminal", "to_csv", "to_frame", "to_json"]


def to_csv(rows: Sequence[Row]) -> str:
    """Return ``table.csv``: numbers in full, resolutions as HxW, nothing for None."""
    return separated(COLUMNS, ([_flat(row[column]) for column in COLUMNS] for row in rows))


def to_json(rows: Sequence[Row]) -> str:
    """Return one JSON array of objects with the keys of ``COLUMNS``."""
    return json.dumps([{column: row[column] for column in COLUMNS} for row in rows], allow_nan=False, indent=1) + "\n"


def to_frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """Return a frame with the columns of the CSV, in pandas' types that know missing values."""
    import pandas as pd

    flat = [[_flat(row[column]) for column in COLUMNS] for row in rows]
    return pd.DataFrame(flat, columns=list(COLUMNS)).convert_dtypes()


def _flat(value: object) -> object:
    return pixels(value) if isinstance(value, list) else value
