"""The ordinal claims that the reported numbers support, as data: what is said, of which figures, when it holds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from attnbench.tables.figures import FASTER_SPEED, FOCAL, FOCAL_SPEED, Figure

Holds = Callable[[Sequence[float]], bool]

_SIZES: Final = ("tiny", "small", "base")
_LETTER: Final = {"tiny": "T", "small": "S", "base": "B"}
_PVT: Final = {"tiny": "small", "small": "medium", "base": "large"}  # listed beside Focal of that size
_SWIN_ADE: Final = "SwinTransformer/Swin-Transformer-Semantic-Segmentation README.md"
_TABLE_6: Final = "arXiv 2203.11926 Table 6"
_ABLATION: Final = "arXiv 2107.00641 ablation tables"
_DEIT_SMALL: Final = "timm:deit_small_patch16_224"
_DEIT_BASE: Final = "timm:deit_base_patch16_224"


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, the figures it is about in the order that ``holds`` takes them, and the ratio it states, if any.

    A stated ratio is that of the first figure to the second, to the digits given; it holds here within ``within``.
    """

    text: str
    figures: tuple[Figure, ...]
    holds: Holds
    stated: str | None = None
    within: float = 0.0


def claims() -> tuple[Claim, ...]:
    """Return every claim."""
    return (*_speed_ratios(), *_speed_orders(), *_overtaking(), *_costs(), *_accuracy(), *_coco(), *_ade20k())


def descending(values: Sequence[float]) -> bool:
    """Tell whether each value is greater than the next."""
    return all(left > right for left, right in pairwise(values))


def crossing(values: Sequence[float]) -> bool:
    """Tell of (a, b, later a, later b) whether a starts below b and ends above it."""
    return values[0] < values[1] and values[2] > values[3]


def closing(values: Sequence[float]) -> bool:
    """Tell of (a, b, later a, later b) whether a / b rises."""
    return values[0] / values[1] < values[2] / values[3]


def _stated(text: str, over: Figure, under: Figure, ratio: str, within: float) -> Claim:
    def near(values: Sequence[float]) -> bool:
        return abs(values[0] / values[1] - float(ratio)) <= within * float(ratio)

    return Claim(f"{text} {ratio}", (over, under), near, ratio, within)


def _speed(model: str, side: int = 224, source: str = FOCAL_SPEED) -> Figure:
    return Figure("throughput", model, source, side)


def _model(quantity: str, model: str, source: str = FOCAL_SPEED) -> Figure:
    return Figure(quantity, model, source)


def _speed_ratios() -> Iterator[Claim]:
    stated = {"tiny": ("0.42", "0.56", "0.56"), "small": ("0.44", "0.57", "0.61"), "base": ("0.47", "0.63", "0.65")}
    for size, ratios in stated.items():
        letter = _LETTER[size]
        for side, ratio in zip((224, 448, 896), ratios, strict=True):
            text = f"Throughput of Focal-{letter} over Swin-{letter} at {side}:"
            yield _stated(text, _speed(f"focal_{size}", side), _speed(f"swin_{size}", side), ratio, 0.1)
    for size, ratio in {"tiny": "1.51", "small": "1.53", "base": "1.47"}.items():
        letter = _LETTER[size]
        over, under = (
            _speed(f"focal_fast_{size}_conv_embed", 224, FASTER_SPEED),
            _speed(f"focal_{size}", 224, FASTER_SPEED),
        )
        yield _stated(
            f"Throughput of Focal-fast-{letter} (conv embed) over Focal-{letter} at 224:", over, under, ratio, 0.1
        )


def _speed_orders() -> Iterator[Claim]:
    for size in _SIZES:
        letter, pvt = _LETTER[size], _PVT[size]
        for side in (224, 448, 896):
            pair = (_speed(f"swin_{size}", side), _speed(f"focal_{size}", side))
            yield Claim(f"Swin-{letter} is faster than Focal-{letter} at {side}", pair, descending)
        pair = (_speed(f"pvt_{pvt}", 224), _speed(f"focal_{size}", 224))
        yield Claim(f"PVT-{pvt.title()} is faster than Focal-{letter} at 224", pair, descending)
        ends = tuple(_speed(f"{kind}_{size}", side) for side in (224, 896) for kind in ("focal", "swin"))
        yield Claim(f"Focal-{letter}'s throughput relative to Swin-{letter}'s rises from 224 to 896", ends, closing)
        pair = (_speed(f"focal_fast_{size}_conv_embed", 224, FASTER_SPEED), _speed(f"focal_{size}", 224, FASTER_SPEED))
        yield Claim(f"Focal-fast-{letter} is faster than Focal-{letter} at 224", pair, descending)


def _overtaking() -> Iterator[Claim]:
    found = (
        ("Focal-T", "focal_tiny", "DeiT-S", _DEIT_SMALL, 224, 448),
        ("Focal-B", "focal_base", "DeiT-B", _DEIT_BASE, 448, 896),
        ("Swin-T", "swin_tiny", "DeiT-S", _DEIT_SMALL, 224, 448),
        ("Swin-T", "swin_tiny", "PVT-Small", "pvt_small", 224, 448),
        ("Focal-T", "focal_tiny", "CvT-13", "cvt_13", 448, 896),
        ("Focal-T", "focal_tiny", "ViL-Small", "vil_small", 224, 448),
        ("Focal-S", "focal_small", "ViL-Medium", "vil_medium", 224, 448),
        ("Focal-B", "focal_base", "ViL-Base", "vil_base", 224, 448),
    )
    for name, model, other_name, other, low, high in found:
        figures = tuple(_speed(which, side) for side in (low, high) for which in (model, other))
        yield Claim(f"{name} overtakes {other_name} in throughput between {low} and {high}", figures, crossing)


def _costs() -> Iterator[Claim]:
    for size, ratio in {"tiny": "1.09", "small": "1.08", "base": "1.06"}.items():
        letter = _LETTER[size]
        over, under = _model("macs", f"focal_{size}", FOCAL), _model("macs", f"swin_{size}")
        # Printed MACs have two or three digits, so their ratio is known to 2 % at best.
        yield _stated(f"MACs of Focal-{letter} over Swin-{letter}'s at 224:", over, under, ratio, 0.02)
        pair = (_model("parameters", f"focal_{size}", FOCAL), _model("parameters", f"swin_{size}"))
        yield Claim(f"Focal-{letter}'s parameters are within 5 % of Swin-{letter}'s", pair, _within_5_percent)
    for size in _SIZES:
        letter, conv, fast = _LETTER[size], f"focal_{size}_conv_embed", f"focal_fast_{size}_conv_embed"
        for word, quantity in (("parameters", "parameters"), ("MACs", "macs")):
            pair = (_model(quantity, conv, FOCAL), _model(quantity, f"focal_{size}", FOCAL))
            yield Claim(f"Focal-{letter} with conv embed has more {word} than without", pair, descending)
            pair = (_model(quantity, conv, FOCAL), _model(quantity, fast, FOCAL))
            yield Claim(
                f"Focal-fast-{letter} has fewer {word} than Focal-{letter}, both with conv embed", pair, descending
            )
        pair = (_model("macs", f"swin_{size}"), _model("macs", f"pvt_{_PVT[size]}"))
        yield Claim(f"PVT-{_PVT[size].title()} has fewer MACs than Swin-{letter}", pair, descending)
    for word, quantity in (("parameters", "parameters"), ("MACs", "macs")):
        b2 = tuple(_model(quantity, f"pvt_v2_{name}", "arXiv 2106.13797 Table 2") for name in ("b2", "b2_li"))
        yield Claim(f"PVTv2-B2-Li has fewer {word} than PVTv2-B2 at 224", b2, descending)


def _accuracy() -> Iterator[Claim]:
    for size in _SIZES:
        letter, pvt = _LETTER[size], _PVT[size]
        chain = tuple(_model("top1", name) for name in (f"focal_{size}", f"swin_{size}", f"pvt_{pvt}"))
        yield Claim(f"Top-1 of Focal-{letter} > Swin-{letter} > PVT-{pvt.title()}", _own(chain), descending)
        pair = (_model("top1", f"focal_{size}_conv_embed", FOCAL), _model("top1", f"focal_{size}", FOCAL))
        yield Claim(f"Conv embed raises Focal-{letter}'s top-1", pair, descending)
    pairs = (
        ("Focal-T is more accurate than DeiT-S", "focal_tiny", _DEIT_SMALL),
        ("Focal-B is more accurate than DeiT-B", "focal_base", _DEIT_BASE),
        ("Focal-S is more accurate than Swin-B", "focal_small", "swin_base"),
    )
    for text, better, worse in pairs:
        yield Claim(text, _own((_model("top1", better), _model("top1", worse))), descending)
    source = "arXiv 2107.00641 (text or appendix)"
    where = ("faster convergence", "epoch 100 of training", "top1")
    early = tuple(Figure("ablation", model, source, where=where) for model in ("focal_tiny", "swin_tiny"))
    yield Claim("Focal-T converges faster: top-1 at epoch 100 above Swin-T's", early, descending)
    study, swin = "window shift (Swin paper)", "arXiv 2103.14030 Table 4"
    shift = tuple(Figure("ablation", "swin_tiny", swin, where=(study, word, "top1")) for word in ("shift", "no shift"))
    yield Claim("Shifting windows raises Swin-T's top-1", shift, descending)
    without = Figure("ablation", "focal_tiny", _ABLATION, where=("window shift", "no shift", "top1"))
    shifted = Figure("ablation", "swin_tiny", _ABLATION, where=("window shift", "shift", "top1"))
    yield Claim("Focal-T without shift is more accurate than Swin-T with it", (without, shifted), descending)


def _own(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
    """Return the figures with Focal's accuracy from the Focal table and the others as listed beside it."""
    return tuple(
        Figure(f.quantity, f.model, FOCAL if f.model.startswith("focal_") else f.source, f.side) for f in figures
    )


def _coco() -> Iterator[Claim]:
    mask = "microsoft/Focal-Transformer README.md; arXiv 2203.11926 Table 6"
    for size in _SIZES:
        letter = _LETTER[size]
        pair = (
            Figure(
                "box_ap",
                f"focal_{size}",
                "microsoft/Focal-Transformer README.md; arXiv 2107.00641",
                where=("RetinaNet", "1x"),
            ),
            Figure("box_ap", f"swin_{size}", "arXiv 2309.11523 Table 2", where=("RetinaNet", "1x")),
        )
        yield Claim(f"RetinaNet 1x box AP of Focal-{letter} above Swin-{letter}'s", pair, descending)
        for schedule in ("1x", "3x"):
            for kind in ("box", "mask"):
                pair = (
                    Figure(f"{kind}_ap", f"focal_{size}", mask, where=("Mask R-CNN", schedule)),
                    Figure(f"{kind}_ap", f"swin_{size}", _TABLE_6, where=("Mask R-CNN", schedule)),
                )
                yield Claim(
                    f"Mask R-CNN {schedule} {kind} AP of Focal-{letter} above Swin-{letter}'s", pair, descending
                )
    for detector in ("Cascade Mask R-CNN", "ATSS", "RepPointsV2", "Sparse R-CNN"):
        paper = "arXiv 2107.00641" if detector == "RepPointsV2" else "arXiv 2203.11926 Table 7"
        swin = "arXiv 2103.14030 Table 2(a)"
        sources = (f"microsoft/Focal-Transformer README.md; {paper}", swin, swin)
        chain = tuple(
            Figure("box_ap", model, source, where=(detector, "3x"))
            for model, source in zip(("focal_tiny", "swin_tiny", "timm:resnet50"), sources, strict=True)
        )
        yield Claim(f"{detector} 3x box AP of Focal-T > Swin-T > ResNet-50", chain, descending)
    dyhead = tuple(
        Figure("minival_box_ap", model, "arXiv 2203.11926 Table 11", where=("DyHead", "augmented test no"))
        for model in ("focal_large", "swin_large")
    )
    yield Claim("DyHead box AP of Focal-L above Swin-L's", dyhead, descending)


def _ade20k() -> Iterator[Claim]:
    where = ("UperNet", "160k iterations")
    for size in (*_SIZES, "large"):
        letter = _LETTER.get(size, "L")
        swin = "microsoft/Swin-Transformer README.md" if size == "large" else _SWIN_ADE
        pair = (
            Figure("miou_ms", f"focal_{size}", FOCAL, where=where),
            Figure("miou_ms", f"swin_{size}", swin, where=where),
        )
        yield Claim(f"UperNet mIoU (multi-scale) of Focal-{letter} above Swin-{letter}'s", pair, descending)


def _within_5_percent(values: Sequence[float]) -> bool:
    return abs(values[0] / values[1] - 1) <= 0.05
