"""What stands under the tables of detection and segmentation: which rows were measured, how, and what differs why."""

from collections.abc import Iterator
from typing import Final

from attnbench.tables.dense import NO_MODEL, NO_NETWORK, TOO_NARROW, network_of
from attnbench.tables.model import Part, Row
from attnbench.tables.quantities import MACS, PARAMETERS

DETECTION: Final = (
    "Parameters and MACs are of the whole detector, MACs at 800x1280. Multi-scale: whether training was; 'not stated' "
    "where the source does not say.",
    "MACs here are of everything but choosing boxes: dense outputs of all levels, and with Mask R-CNN the box head on "
    "1,000 regions and the mask head on 100, of 80 classes. PVT has the position embeddings of pre-training at 224, "
    "resized.",
    "Focal is measured with pooled regions of 15, 13, 9 and 7 (focal_windows) in place of classification's 7, 5, 3 and "
    "1. This is inferred: so counted, RetinaNet's MACs are those printed for T, S and B to 1 %; with classification's "
    "regions they are 256, 353 and 501 G.",
    "Focal's MACs with Mask R-CNN cannot be met for all sizes: T and S have the same channels, so the same head, but "
    "printed, Mask R-CNN costs 26 G more than RetinaNet with T, 34 G with S and 19 G with B; here 19 G with each.",
    "PVT's MACs with Mask R-CNN of 245, 302 and 364 G are those here without the products of queries with keys and of "
    "attention with values; 304.4 G for PVT-Small, in its Table 10, has them.",
)
SEGMENTATION: Final = (
    "Parameters and MACs are of the whole network, of 150 classes. ss, ms: single-scale and multi-scale testing. "
    "UperNet's MACs are at 512x2048 for crops of 512 and at 640x2560 for crops of 640; its auxiliary head counts in "
    "parameters, not in MACs. Semantic FPN's are at what the remarks say, else at the crop's size.",
    "Swin-Large's 3230 G with UperNet are not those of 640x2560, where the decoder costs about 1.35 T and stages of "
    "34.5 G at 224 about 1.13 T.",
    "Focal with UperNet is measured with classification's regions, below what is printed; with those of detection (see "
    "table coco) it has 962, 1063 and 1221 G, still below. The reason was not found.",
)
_MEASURED: Final = "Parameters and MACs measured here:"
_REASONS: Final = (NO_MODEL, NO_NETWORK, TOO_NARROW)


def coverage(parts: tuple[Part, ...]) -> Iterator[str]:
    """Yield which models were measured, and which are reported only, and why."""
    rows = [row for part in parts for row in part.rows]
    measured = list(dict.fromkeys(row.lead[0] for row in rows if _measured(row)))
    yield f"{_MEASURED} {', '.join(measured)}." if measured else "Nothing in this table was measured here."
    for reason in _REASONS:
        named = [network_of(row.lead) if reason == NO_NETWORK else row.lead[0] for row in rows if reason in _why(row)]
        if named:
            yield f"Reported only, since {reason}: {'; '.join(dict.fromkeys(named))}."


def _measured(row: Row) -> bool:
    return any(cell.here is not None and cell.here.value is not None for cell in row.cells)


def _why(row: Row) -> set[str | None]:
    return {cell.why for cell in row.cells if cell.quantity in (PARAMETERS, MACS)}
