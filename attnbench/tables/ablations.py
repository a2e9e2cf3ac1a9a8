"""Ablations: variants of one model as settings under the authors' argument names, and what is printed about them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from attnbench.published import reported
from attnbench.published.reported import AblationRow
from attnbench.tables.gather import Group, Subject, by_last, gather
from attnbench.tables.measured import Key, Measured, Need, Resolution, Selection, variant_key
from attnbench.tables.model import Cell, Quantity, Reported, Row, Table, part
from attnbench.tables.quantities import MACS, PARAMETERS, TOP1, TOP5, accuracy_here, cost_here, score
from attnbench.tables.verdict import RULE

_AT: Final[Resolution] = (224, 224)


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of a study: the settings that make it of a published model."""

    study: str
    model: str
    setting: str
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """The name that its measured values are looked up under."""
        return variant_key(self.model, dict(self.changes))


def _study(study: str, model: str, **settings: dict[str, Any]) -> tuple[Variant, ...]:
    return tuple(
        Variant(study, model, setting.replace("_", " "), tuple(changes.items()))
        for setting, changes in settings.items()
    )


def _same(value: Any) -> list[Any]:
    return [value] * 4


def _depths(model: str) -> tuple[Variant, ...]:
    third = {f"depths 2-2-{blocks}-2": (("depths", [2, 2, blocks, 2]),) for blocks in (2, 4)}
    return tuple(
        Variant("stage-3 depth", model, setting, third.get(setting, ())) for setting in (*third, "depths 2-2-6-2")
    )


_LOCAL: Final = "local and global interaction"
VARIANTS: Final = (
    *_study("window size", "swin_tiny", window_7={}, window_14={"window_size": 14}),
    *_study("window size", "focal_tiny", window_7={}, window_14={"window_size": 14}),
    *_study("window shift", "swin_tiny", no_shift={"use_shift": False}, shift={}),
    *_study("window shift", "focal_tiny", no_shift={}, shift={"use_shift": True}),
    Variant(_LOCAL, "focal_tiny", "window only", (("focal_levels", _same(1)), ("expand_sizes", _same(0)))),
    Variant(_LOCAL, "focal_tiny", "+local", (("focal_levels", _same(1)),)),
    Variant(_LOCAL, "focal_tiny", "+global", (("expand_sizes", _same(0)),)),
    Variant(_LOCAL, "focal_tiny", "both"),
    *_depths("swin_tiny"),
    *_depths("focal_tiny"),
    Variant("pooling", "focal_tiny", "fc"),
    *(Variant("pooling", "focal_tiny", pool, (("focal_pool", pool),)) for pool in ("mean", "max", "conv")),
    Variant("focal levels", "focal_tiny", "1", (("focal_levels", _same(1)),)),
    Variant("focal levels", "focal_tiny", "2"),
    Variant("focal levels", "focal_tiny", "3", (("focal_levels", [3, 3, 3, 2]),)),
)
_SCORES: Final = {
    "top1": TOP1,
    "top5": TOP5,
    "box_ap": score("box_ap", "box AP, Mask R-CNN 1x"),
    "mask_ap": score("mask_ap", "mask AP, Mask R-CNN 1x"),
    "cascade_box_ap": score("cascade_box_ap", "box AP, Cascade 3x"),
    "cascade_mask_ap": score("cascade_mask_ap", "mask AP, Cascade 3x"),
    "upernet_miou": score("upernet_miou", "mIoU, UperNet"),
}
QUANTITIES: Final = (PARAMETERS, MACS, *_SCORES.values())
_LABELS: Final = {"swin_tiny": "Swin-Tiny", "focal_tiny": "Focal-Tiny"}
_SWIN_PAPER: Final = " (Swin paper)"  # the same study, told apart by its source
_SECONDARY: Final = "secondary"
_THREE: Final = (
    "Three levels are 3, 3, 3, 2 over the stages: the last map is one window. Every variant is a published model with "
    "the named settings changed; numbers that no source at hand prints are 'not printed'."
)


def build(measured: Measured, selection: Selection) -> Table:
    """Return one part per study: its variants, and what is printed about them."""
    studies = by_last(_row(group, measured) for group in _groups(selection))
    parts = tuple(part(("model", "setting"), QUANTITIES, found, study) for study, found in studies.items())
    return Table("ablations", "Ablations, at 224x224", parts, (RULE, _THREE))


def needs(selection: Selection) -> list[Need]:
    """Return the variants whose cost the table shows."""
    chosen = [variant for variant in VARIANTS if selection.takes(variant.model)]
    return list({v.key: Need(v.key, v.model, _AT, v.changes) for v in chosen}.values())


def models() -> set[str]:
    """Return the models that have ablations."""
    return {variant.model for variant in VARIANTS}


def _groups(selection: Selection) -> list[Group]:
    printed = {group.subject: group for group in gather(_entries())}
    subjects = [_subject(v.study, v.model, v.setting) for v in VARIANTS]
    subjects += [subject for subject in printed if subject not in subjects]
    return [printed.get(subject, Group(subject)) for subject in subjects if selection.takes(subject.model)]


def _subject(study: str, model: str, setting: str) -> Subject:
    return Subject(model, (_LABELS[model], setting, study))


def _entries() -> Iterator[tuple[Subject, str, Reported | None]]:
    seen = set()
    for row in reported.ablations():
        subject = _subject(row.study.removesuffix(_SWIN_PAPER), row.model_key, row.setting)
        yield subject, row.metric, _reported(row, row.value)
        for quantity, printed in ((PARAMETERS, row.params_M), (MACS, row.gflops)):
            once = (subject, row.source, quantity.name)
            if printed is not None and once not in seen:  # repeated there for every metric of the variant
                seen.add(once)
                yield subject, quantity.name, _reported(row, printed)


def _reported(row: AblationRow, printed: str) -> Reported:
    kind = "secondary" if row.confidence == _SECONDARY else "reported"
    elsewhere = "read in another source" if row.confidence == "read elsewhere" else None
    note = "; ".join(filter(None, [elsewhere, row.note]))
    return Reported(printed, row.source, kind, note or None)


def _row(group: Group, measured: Measured) -> Row:
    keys = {_subject(v.study, v.model, v.setting): (v.key, _AT) for v in VARIANTS}
    key = keys.get(group.subject)
    return Row(group.subject.model, group.subject.lead, tuple(_cell(q, group, measured, key) for q in QUANTITIES))


def _cell(quantity: Quantity, group: Group, measured: Measured, key: Key | None) -> Cell:
    here = None
    if key is not None and quantity in (PARAMETERS, MACS):
        here = cost_here(measured, quantity, key)
    elif key is not None and quantity == TOP1:
        here = accuracy_here(measured, key)
    return Cell(quantity, group.of(quantity.name), here)
