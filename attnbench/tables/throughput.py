"""Throughput: images per second as printed, and their ratio to Swin-Tiny's beside the ratio measured here."""

from collections.abc import Iterator, Sequence
from typing import Final

from attnbench.published import reported
from attnbench.published.model_names import REFERENCE, is_context, label_of, model_label, model_name
from attnbench.published.reported import ThroughputRow
from attnbench.tables.gather import Group, Subject, by_last, gather, pixels
from attnbench.tables.measured import Key, Measured, Resolution, Selection
from attnbench.tables.model import Cell, Part, Reported, Row, Table
from attnbench.tables.quantities import SPEED, SPEED_RATIO, speed_here
from attnbench.tables.verdict import RATIO_RULE

SIDES: Final[tuple[Resolution, ...]] = ((224, 224), (448, 448), (896, 896))  # the Focal authors' table
_DEFINITION: Final = "by definition: Swin-Tiny is what ratios are taken to"
_SECOND_VERSION: Final = (
    "Some tables print no Swin-Tiny at that resolution, so there is no ratio to it; for the faster Focal, whose table "
    "lists the first version instead, see the scorecard's claims."
)


def build(measured: Measured, selection: Selection) -> Table:
    """Return the table, one row per model and resolution, resolutions ascending."""
    groups = _groups(selection, measured)
    rows = tuple(_row(group, measured) for group in groups)
    timed = list(dict.fromkeys(group.subject.model for group in groups if _key(group) in measured.time_ratios))
    coverage = f"Timed here: {', '.join(timed) or 'none'}; every other ratio is reported only; --models times others."
    notes = (coverage, RATIO_RULE, _SECOND_VERSION)
    quantities = (SPEED, SPEED_RATIO)
    parts = tuple(Part(("model",), quantities, found, resolution) for resolution, found in by_last(rows).items())
    return Table("throughput", "Throughput", parts, notes)


def models() -> set[str]:
    """Return every model that a source prints."""
    return {model_name(row.model_key) for row in reported.throughput()}


def timeable(selection: Selection, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[Resolution, ...]]:
    """Return what to time in one run for this table: models that can be built, Swin-Tiny first, and resolutions.

    ``names`` are the published models that this project builds. Without a selection it is all that the table prints of
    them at the resolutions of the Focal authors' table.
    """
    printed = [group.subject.model for group in gather(_entries())]
    wanted = [name for name in selection.models or printed if name in names or is_context(name)]
    return tuple(dict.fromkeys([REFERENCE, *wanted])), selection.resolutions or SIDES


def printed_ratio(row: ThroughputRow) -> str | None:
    """Return "a / b": the row's images per second over Swin-Tiny's of its source and resolution; None without that."""
    for other in reported.throughput():
        same = (other.source, other.resolution) == (row.source, row.resolution)
        if same and model_name(other.model_key) == REFERENCE:
            return f"{row.throughput_img_per_s} / {other.throughput_img_per_s}"
    return None


def _groups(selection: Selection, measured: Measured) -> list[Group]:
    found = list(gather(_entries()))
    present = {_key(group) for group in found}
    labels = {group.subject.model: group.subject.lead[0] for group in found}
    asked = ((name, res) for name in selection.models or () for res in selection.resolutions or SIDES)
    for name, resolution in dict.fromkeys([*measured.time_ratios, *asked]):
        if (name, resolution) not in present:
            found.append(Group(Subject(name, (labels.get(name, label_of(name)), pixels(resolution)), resolution)))
    chosen = [group for group in found if selection.takes(*_key(group))]
    return sorted(chosen, key=lambda group: _key(group)[1])


def _entries() -> Iterator[tuple[Subject, str, Reported | None]]:
    for row in reported.throughput():
        name = model_name(row.model_key)
        label = model_label(row.model, row.model_key)
        label = f"{label}, conv embed" if name.endswith("_conv_embed") else label
        resolution = (row.resolution, row.resolution)
        subject = Subject(name, (label, pixels(resolution)), resolution)
        note = _note(row)
        yield subject, SPEED.name, Reported(row.throughput_img_per_s, row.source, row.row_kind, note)
        yield subject, SPEED_RATIO.name, _ratio(row, name, note)


def _ratio(row: ThroughputRow, name: str, note: str | None) -> Reported | None:
    behind = printed_ratio(row)
    if behind is None:
        return None
    if name == REFERENCE:
        return Reported("1", _DEFINITION)
    over, under = (float(part) for part in behind.split(" / "))
    return Reported(f"{over / under:.3f}", row.source, row.row_kind, note, behind)


def _note(row: ThroughputRow) -> str:
    batch = f"batch {row.batch_size}" if row.batch_size else None
    hardware = f"hardware {row.hardware}" if row.hardware.startswith("not ") else row.hardware
    note = row.note if row.note and "gflops" not in row.note else None
    return ", ".join(filter(None, [hardware, batch, row.precision, note]))


def _row(group: Group, measured: Measured) -> Row:
    cells = (
        Cell(SPEED, group.of(SPEED.name)),
        Cell(SPEED_RATIO, group.of(SPEED_RATIO.name), speed_here(measured, _key(group))),
    )
    return Row(group.subject.model, group.subject.lead, cells)


def _key(group: Group) -> Key:
    return group.subject.model, group.subject.resolution or (0, 0)
