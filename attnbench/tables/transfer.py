"""Detection on COCO and segmentation on ADE20K: reported values with their sources; measured ones where given."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from attnbench.published import reported
from attnbench.published.model_names import model_label, model_name
from attnbench.tables.gather import Subject, entries, gather
from attnbench.tables.measured import Measured, Selection
from attnbench.tables.model import Cell, Part, Quantity, Reported, Row, Table, part
from attnbench.tables.quantities import MACS, PARAMETERS, score

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
_UNMEASURED: Final = "Nothing in this table was measured here: every number is as its source prints it."
_DETECTION: Final = (
    _UNMEASURED,
    "Parameters and MACs are of the whole detector, MACs at 800x1280. Multi-scale: whether training was; 'not stated' "
    "where the source does not say.",
)
_SEGMENTATION: Final = (
    _UNMEASURED,
    "Parameters and MACs are of the whole network. ss, ms: single-scale and multi-scale testing. UperNet's MACs are at "
    "512x2048 for crops of 512; Semantic FPN's are at what the remarks say.",
)

Entry = tuple[Subject, str, Reported | None]


def coco(_measured: Measured, selection: Selection) -> Table:
    """Return RetinaNet and Mask R-CNN on COCO, one part per detector and schedule."""
    columns = {**_COST, **_AP}
    found = [
        entry
        for row in reported.coco()
        for entry in _entries(
            row, columns, (row.multi_scale_train or _SILENT, row.detector, row.schedule), row.row_kind
        )
    ]
    parts = _parts(("model", "multi-scale"), columns, found, selection)
    return Table("coco", "COCO, RetinaNet and Mask R-CNN", parts, _DETECTION)


def detectors(_measured: Measured, selection: Selection) -> Table:
    """Return the other detectors on COCO, one part each, then whole systems."""
    columns = {**_COST, "fps": _FPS, **{name: quantity for name, quantity in _AP.items() if name[-1] not in "sml"}}
    found = [
        entry
        for row in reported.detectors()
        for entry in _entries(
            row, columns, (row.multi_scale_train or _SILENT, row.schedule, row.detector), row.row_kind
        )
    ]
    parts = _parts(("model", "multi-scale", "schedule"), columns, found, selection)
    columns = {**_COST, **_SYSTEM_AP}
    systems = [
        entry
        for row in reported.systems()
        for entry in _entries(row, columns, (row.framework or _SILENT, row.test_time_aug, "Whole systems"), "reported")
    ]
    parts += _parts(("model", "framework", "augmented test"), columns, systems, selection)
    return Table("detectors", "COCO, other detectors and systems", parts, _DETECTION)


def ade20k(_measured: Measured, selection: Selection) -> Table:
    """Return UperNet and Semantic FPN on ADE20K, one part each."""
    columns = {**_COST, **_MIOU}
    found = []
    for row in reported.ade20k():
        schedule, _, stated = row.schedule.partition(" as stated")
        note = "; ".join(filter(None, [row.note, f"schedule as stated{stated}" if stated else None]))
        lead = (row.crop, schedule, row.framework)
        found += list(_entries(row, columns, lead, row.row_kind, note or None))
    parts = _parts(("model", "crop", "schedule"), columns, found, selection)
    return Table("ade20k", "ADE20K segmentation", parts, _SEGMENTATION)


def models() -> set[str]:
    """Return every model that a source prints."""
    return {model_name(row.model_key) for row in reported.tasks()}


def _entries(
    row: Any, columns: dict[str, Quantity], lead: tuple[str, ...], kind: str, note: str | None = None
) -> Iterator[Entry]:
    label = model_label(row.model, row.model_key, pretrain=row.pretrain)
    subject = Subject(model_name(row.model_key), (label, *lead))
    values = {quantity.name: getattr(row, column) for column, quantity in columns.items()}
    yield from entries(subject, values, row.source, kind, note or row.note)


def _parts(
    leads: tuple[str, ...], columns: dict[str, Quantity], found: Iterable[Entry], selection: Selection
) -> tuple[Part, ...]:
    """Return one part per caption, which is what a subject leads with beyond ``leads``."""
    quantities = tuple(columns.values())
    captions: dict[str, list[Row]] = {}
    for group in gather(found):
        if selection.takes(group.subject.model):
            cells = tuple(Cell(quantity, group.of(quantity.name)) for quantity in quantities)
            caption = " ".join(group.subject.lead[len(leads) :])
            captions.setdefault(caption, []).append(Row(group.subject.model, group.subject.lead, cells))
    return tuple(part(leads, quantities, tuple(rows), caption) for caption, rows in captions.items())
