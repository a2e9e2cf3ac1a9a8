"""Which tables there are, what they need measured, and how each is built."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attnbench.errors import UserError, unknown
from attnbench.tables import ablations, configs, counts, imagenet, throughput, transfer
from attnbench.tables.measured import Measured, Need, Selection
from attnbench.tables.model import Table

Builder = Callable[[Measured, Selection], Table]

BUILDERS: Final[Mapping[str, Builder]] = {
    "configs": configs.build,
    "imagenet": imagenet.build,
    "counts": counts.build,
    "throughput": throughput.build,
    "ablations": ablations.build,
    "coco": transfer.coco,
    "detectors": transfer.detectors,
    "ade20k": transfer.ade20k,
}
SCORECARD: Final = "scorecard"
ALL: Final = "all"
NAMES: Final = (*BUILDERS, SCORECARD, ALL)
EVERYTHING: Final = Selection()


def build(name: str, measured: Measured, selection: Selection = EVERYTHING) -> Table:
    """Return a table from reported and measured values; it measures nothing.

    Raises:
        UserError: no table has that name (the scorecard is made of all tables: see ``scorecard.page``).
    """
    if name not in BUILDERS:
        raise unknown("table", name, BUILDERS)
    return BUILDERS[name](measured, selection)


def check_name(name: str) -> None:
    """Refuse a name that ``attnbench table`` does not know."""
    if name not in NAMES:
        raise unknown("table", name, NAMES)


def needs(name: str, selection: Selection, buildable: Iterable[str]) -> tuple[Need, ...]:
    """Return every model whose cost the named table shows, each once."""
    found: list[Need] = []
    if name in ("imagenet", SCORECARD, ALL):
        found += imagenet.needs(selection, list(buildable))
    if name in ("counts", SCORECARD, ALL):
        found += counts.needs(selection, list(buildable))
    if name in ("ablations", SCORECARD, ALL):
        found += ablations.needs(selection)
    for table in ("coco", "ade20k"):
        if name in (table, SCORECARD, ALL):
            found += transfer.needs(table, selection)
    return tuple({(need.key, need.resolution): need for need in found}.values())


def printed_models() -> set[str]:
    """Return every model that a source prints something about."""
    return imagenet.models() | throughput.models() | configs.models() | transfer.models() | ablations.models()


def refuse_empty(table: Table, selection: Selection) -> None:
    """Refuse a table without rows, naming the models that it has."""
    if not table.rows:
        asked = ", ".join(selection.models or ()) or "the resolutions given"
        raise UserError(f"table {table.name} has no row for {asked}")
