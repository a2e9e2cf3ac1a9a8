"""ImageNet-1K: parameters, MACs and accuracy of every model, one row per model and resolution."""

from collections.abc import Iterator
from itertools import product
from typing import Final

from attnbench.published import reported
from attnbench.published.model_names import TIMM_PREFIX, changes_at, is_context, label_of, model_label, model_name
from attnbench.tables.gather import Group, Subject, by_last, entries, gather, pixels
from attnbench.tables.measured import Key, Measured, Need, Resolution, Selection, variant_key
from attnbench.tables.model import Cell, Part, Quantity, Reported, Row, Table
from attnbench.tables.quantities import MACS, PARAMETERS, TOP1, TOP5, accuracy_here, cost_here
from attnbench.tables.verdict import RULE

QUANTITIES: Final = (PARAMETERS, MACS, TOP1, TOP5)
SIDE: Final = 224  # where every published model is shown
_FOCAL_MACS: Final = (
    "Focal's MACs at 224: the authors' own formula gives 4.92, 9.43 and 16.37 G for T, S and B, the products that "
    "their code runs sum to 4.95, 9.48 and 16.44 G; for Focal-fast with conv embed 5.32, 9.88 and 17.03 G, and 5.39, "
    "9.95 and 17.12 G, more than they print. Ours leave out products that cannot change the output; table counts "
    "itemises them."
)
# The order of the rows; the first prefix that fits decides.
_FAMILIES: Final = {
    "focal_": 0,
    "swin_": 1,
    "pvt_v2_": 3,
    "pvt_": 2,
    f"{TIMM_PREFIX}deit": 4,
    f"{TIMM_PREFIX}vit": 5,
    TIMM_PREFIX: 6,
    "": 7,
}


def build(measured: Measured, selection: Selection) -> Table:
    """Return the table; a model that this project builds has a row even where no source prints it."""
    groups = _groups(selection, list(measured.configurations))
    rows = tuple(_row(group, measured) for group in groups)
    parts = tuple(Part(("model",), QUANTITIES, found, resolution) for resolution, found in by_last(rows).items())
    return Table("imagenet", "ImageNet-1K classification", parts, (*_coverage(groups, measured), RULE))


def needs(selection: Selection, names: list[str]) -> list[Need]:
    """Return the models whose cost the table shows, as far as they can be built: ``names`` and context models."""
    found = {}
    for group in _groups(selection, names):
        name = group.subject.model
        if name in names or is_context(name):
            key, resolution = _key(group.subject)
            changes = changes_at(name, resolution[0])
            found[key, resolution] = Need(key, name, resolution, tuple(changes.items()))
    return list(found.values())


def models() -> set[str]:
    """Return every model that a source prints."""
    return {model_name(row.model_key, row.variant) for row in reported.imagenet()}


def _groups(selection: Selection, names: list[str]) -> list[Group]:
    found = list(gather(_entries()))
    labels = {group.subject.model: group.subject.lead[0] for group in reversed(found)}
    present = {(group.subject.model, group.subject.resolution) for group in found}
    listed = labels if selection.resolutions and selection.models is None else ()
    wanted = product(dict.fromkeys([*(selection.models or names), *listed]), selection.resolutions or ((SIDE, SIDE),))
    found += [
        Group(Subject(name, (labels.get(name, label_of(name)), pixels(resolution)), resolution))
        for name, resolution in wanted
        if (name, resolution) not in present
    ]
    chosen = [group for group in found if selection.takes(group.subject.model, group.subject.resolution)]
    order = {name: position for position, name in enumerate(names)}

    def rank(group: Group) -> tuple[Resolution, int, int]:
        name, resolution = group.subject.model, group.subject.resolution or (SIDE, SIDE)
        return resolution, _family(name), order.get(name, len(order))

    return sorted(chosen, key=rank)


def _entries() -> Iterator[tuple[Subject, str, Reported | None]]:
    for row in reported.imagenet():
        label = model_label(row.model, row.model_key, row.variant, row.pretrain)
        resolution = (row.resolution, row.resolution)
        subject = Subject(model_name(row.model_key, row.variant), (label, pixels(resolution)), resolution)
        printed = (row.params_M, row.gflops, row.top1, row.top5)
        columns = {quantity.name: value for quantity, value in zip(QUANTITIES, printed, strict=True)}
        yield from entries(subject, columns, row.source, row.row_kind, row.note)


def _row(group: Group, measured: Measured) -> Row:
    cells = tuple(_cell(quantity, group, measured) for quantity in QUANTITIES)
    return Row(group.subject.model, group.subject.lead, cells)


def _cell(quantity: Quantity, group: Group, measured: Measured) -> Cell:
    key = _key(group.subject)
    if quantity in (PARAMETERS, MACS):
        here = cost_here(measured, quantity, key)
    else:
        here = accuracy_here(measured, key) if quantity == TOP1 else None
    return Cell(quantity, group.of(quantity.name), here)


def _key(subject: Subject) -> Key:
    resolution = subject.resolution or (SIDE, SIDE)
    return variant_key(subject.model, changes_at(subject.model, resolution[0])), resolution


def _family(name: str) -> int:
    return next(rank for prefix, rank in _FAMILIES.items() if name.startswith(prefix))


def _coverage(groups: list[Group], measured: Measured) -> Iterator[str]:
    here = list(dict.fromkeys(_key(g.subject)[0] for g in groups if _key(g.subject) in measured.costs))
    other = list(dict.fromkeys(g.subject.lead[0] for g in groups if _key(g.subject) not in measured.costs))
    yield f"Parameters and MACs measured here: {', '.join(here) or 'none'}."
    yield f"Reported only: {'; '.join(other) or 'none'}."
    if any(group.subject.model.startswith("focal_") for group in groups):
        yield _FOCAL_MACS
    if any(_key(group.subject)[0].startswith("swin_base[") for group in groups):
        yield "Swin-Base at 384 has windows of 12 tokens a side, as its authors' model has."
