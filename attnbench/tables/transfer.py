"""Detection on COCO and segmentation on ADE20K: reported values with their sources, parameters and MACs measured."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attnbench.published import reported
from attnbench.published.model_names import model_label, model_name
from attnbench.tables.dense import COCO_SIZE, need, network_of, segmented_size, why_not
from attnbench.tables.gather import Group, Subject, entries, gather
from attnbench.tables.measured import Measured, Need, Resolution, Selection
from attnbench.tables.model import Cell, Part, Quantity, Reported, Row, Table, part
from attnbench.tables.quantities import MACS, PARAMETERS, cost_here, score
from attnbench.tables.transfer_notes import DETECTION, SEGMENTATION, coverage
from attnbench.tables.verdict import RULE

_SILENT: Final = "not stated"
_COST: Final = {"params_M": PARAMETERS, "gflops": MACS}
_AP: Final = {
    f"{kind}_ap{which}": score(f"{kind}_ap{which}", f"{kind} AP{which}")
    for kind, whiches in (("box", ("", "50", "75", "s", "m", "l")), ("mask", ("", "50", "75")))
    for which in whiches
}
_FPS: Final = Quantity("fps", "img/s printed")
_SYSTEM_AP: Final = {
    f"{split}_{kind}_ap": score(f"{split}_{kind}_ap", f"{kind} AP {split}")
    for split in ("minival", "testdev")
    for kind in ("box", "mask")
}
_MIOU: Final = {"miou_ss": score("miou_ss", "mIoU ss"), "miou_ms": score("miou_ms", "mIoU ms")}
Entry = tuple[Subject, str, Reported | None]


def coco(measured: Measured, selection: Selection) -> Table:
    """Return RetinaNet and Mask R-CNN on COCO, one part per detector and schedule."""
    columns = {**_COST, **_AP}
    parts = _parts(("model", "multi-scale"), columns, _coco(columns), selection, measured)
    notes = (*coverage(parts), RULE, *DETECTION)
    return Table("coco", "COCO, RetinaNet and Mask R-CNN", parts, notes)


def detectors(measured: Measured, selection: Selection) -> Table:
    """Return the other detectors on COCO, one part each, then whole systems."""
    columns = {**_COST, "fps": _FPS, **{name: quantity for name, quantity in _AP.items() if name[-1] not in "sml"}}
    found = [
        entry
        for row in reported.detectors()
        for entry in _entries(
            row, columns, (row.multi_scale_train or _SILENT, row.schedule, row.detector), row.row_kind
        )
    ]
    parts = _parts(("model", "multi-scale", "schedule"), columns, found, selection, measured)
    columns = {**_COST, **_SYSTEM_AP}
    systems = [
        entry
        for row in reported.systems()
        for entry in _entries(row, columns, (row.framework or _SILENT, row.test_time_aug, "Whole systems"), "reported")
    ]
    parts += _parts(("model", "framework", "augmented test"), columns, systems, selection, measured)
    return Table("detectors", "COCO, other detectors and systems", parts, (*coverage(parts), DETECTION[0]))


def ade20k(measured: Measured, selection: Selection) -> Table:
    """Return UperNet and Semantic FPN on ADE20K, one part each."""
    columns = {**_COST, **_MIOU}
    parts = _parts(("model", "crop", "schedule"), columns, _ade20k(columns), selection, measured)
    return Table("ade20k", "ADE20K segmentation", parts, (*coverage(parts), RULE, *SEGMENTATION))


def needs(name: str, selection: Selection) -> list[Need]:
    """Return the models with their heads whose cost table ``coco`` or ``ade20k`` shows."""
    found = gather(_coco(_COST) if name == "coco" else _ade20k(_COST))
    wanted = (_need(group.subject) for group in found if selection.takes(group.subject.model))
    return list({(each.key, each.resolution): each for each in wanted if each is not None}.values())


def models() -> set[str]:
    """Return every model that a source prints."""
    return {model_name(row.model_key) for row in reported.tasks()}


def _coco(columns: dict[str, Quantity]) -> list[Entry]:
    return [
        entry
        for row in reported.coco()
        for entry in _entries(
            row, columns, (row.multi_scale_train or _SILENT, row.detector, row.schedule), row.row_kind, size=COCO_SIZE
        )
    ]


def _ade20k(columns: dict[str, Quantity]) -> list[Entry]:
    found: list[Entry] = []
    for row in reported.ade20k():
        schedule, _, stated = row.schedule.partition(" as stated")
        note = "; ".join(filter(None, [row.note, f"schedule as stated{stated}" if stated else None]))
        lead, size = (row.crop, schedule, row.framework), segmented_size(row.framework, row.crop, row.note)
        found += list(_entries(row, columns, lead, row.row_kind, note or None, size))
    return found


def _entries(
    row: Any,
    columns: dict[str, Quantity],
    lead: tuple[str, ...],
    kind: str,
    note: str | None = None,
    size: Resolution | None = None,
) -> Iterator[Entry]:
    label = model_label(row.model, row.model_key, pretrain=row.pretrain)
    subject = Subject(model_name(row.model_key), (label, *lead), size)
    values = {quantity.name: getattr(row, column) for column, quantity in columns.items()}
    yield from entries(subject, values, row.source, kind, note or row.note)


def _parts(
    leads: tuple[str, ...], columns: dict[str, Quantity], found: Iterable[Entry], selection: Selection, here: Measured
) -> tuple[Part, ...]:
    """Return one part per caption, which is what a subject leads with beyond ``leads``."""
    captions: dict[str, list[Row]] = {}
    for group in gather(found):
        if selection.takes(group.subject.model):
            cells = tuple(_cell(quantity, group, here) for quantity in columns.values())
            caption = " ".join(group.subject.lead[len(leads) :])
            captions.setdefault(caption, []).append(Row(group.subject.model, group.subject.lead, cells))
    return tuple(part(leads, tuple(columns.values()), tuple(rows), caption) for caption, rows in captions.items())


def _cell(quantity: Quantity, group: Group, measured: Measured) -> Cell:
    values = group.of(quantity.name)
    if quantity not in (PARAMETERS, MACS):
        return Cell(quantity, values)
    wanted = _need(group.subject)
    if wanted is None:
        return Cell(quantity, values, why=why_not(group.subject.model, network_of(group.subject.lead)))
    return Cell(quantity, values, cost_here(measured, quantity, (wanted.key, wanted.resolution)))


def _need(subject: Subject) -> Need | None:
    """Return how the cost of a row is counted; None where it is not."""
    return need(subject.model, network_of(subject.lead), subject.resolution or COCO_SIZE)
