"""The reported numbers: one frozen dataclass per file of ``reported/``, digits kept as printed.

Fields are text or None (not printed there): ``29`` and ``29.0`` claim different precision. Only the standard library.
"""

import csv
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageNetRow:
    """A model on ImageNet-1K as one source prints it."""

    model_key: str
    model: str
    variant: str
    params_M: str | None  # noqa: N815 (the column's name)
    gflops: str | None
    top1: str | None
    top5: str | None
    resolution: int
    pretrain: str
    row_kind: str
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class CountRow:
    """What the authors' code counts for one model at one input side: parameters, and MACs as it was run."""

    model_key: str
    resolution: int
    params: str
    traced_macs: str
    source: str


@dataclass(frozen=True, slots=True)
class ThroughputRow:
    """A model's images per second at one input side as one source prints it."""

    model_key: str
    model: str
    resolution: int
    throughput_img_per_s: str
    hardware: str
    batch_size: str | None
    precision: str | None
    row_kind: str
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class CocoRow:
    """A model with RetinaNet or Mask R-CNN on COCO as one source prints it."""

    model_key: str
    model: str
    detector: str
    schedule: str
    multi_scale_train: str | None
    params_M: str | None  # noqa: N815
    gflops: str | None
    box_ap: str | None
    box_ap50: str | None
    box_ap75: str | None
    box_aps: str | None
    box_apm: str | None
    box_apl: str | None
    mask_ap: str | None
    mask_ap50: str | None
    mask_ap75: str | None
    pretrain: str
    row_kind: str
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class DetectorRow:
    """A model with another detector on COCO as one source prints it."""

    model_key: str
    model: str
    detector: str
    schedule: str
    multi_scale_train: str | None
    params_M: str | None  # noqa: N815
    gflops: str | None
    fps: str | None
    box_ap: str | None
    box_ap50: str | None
    box_ap75: str | None
    mask_ap: str | None
    mask_ap50: str | None
    mask_ap75: str | None
    pretrain: str
    row_kind: str
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class SystemRow:
    """A large model in a whole detection system on COCO as one source prints it."""

    model_key: str
    model: str
    framework: str | None
    params_M: str | None  # noqa: N815
    gflops: str | None
    test_time_aug: str
    minival_box_ap: str | None
    minival_mask_ap: str | None
    testdev_box_ap: str | None
    testdev_mask_ap: str | None
    pretrain: str
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class Ade20kRow:
    """A model with a segmentation head on ADE20K as one source prints it."""

    model_key: str
    model: str
    framework: str
    params_M: str | None  # noqa: N815
    gflops: str | None
    miou_ss: str | None
    miou_ms: str | None
    crop: str
    schedule: str
    pretrain: str
    row_kind: str
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class AblationRow:
    """One metric of one variant as one source prints it."""

    study: str
    model_key: str
    model: str
    setting: str
    metric: str
    value: str
    resolution: int
    schedule: str
    params_M: str | None  # noqa: N815
    gflops: str | None
    source: str
    confidence: str
    note: str | None


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a published model's configuration."""

    model_key: str
    model: str
    stage: int
    feature_map_at_224: int
    embed_dim: str
    depth: str
    heads: str
    head_dim: str
    mlp_ratio: str
    window_partition_s_p: str | None
    focal_levels: str | None
    level0_s_w: str | None
    level0_s_r: str | None
    level1_s_w: str | None
    level1_s_r: str | None
    expand_size: str | None
    pooling: str | None
    conv_embed: str
    sr_ratio: str | None
    drop_path: str | None
    source: str
    note: str | None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A quantity that two sources print differently."""

    topic: str
    quantity: str
    value_a: str
    source_a: str
    value_b: str
    source_b: str
    comment: str | None


TaskRow = CocoRow | DetectorRow | SystemRow | Ade20kRow


@cache
def imagenet() -> tuple[ImageNetRow, ...]:
    """Return the rows of ``imagenet.csv``."""
    return _load("imagenet", ImageNetRow)


@cache
def counts() -> tuple[CountRow, ...]:
    """Return ``counts.csv``, whose models have the names under which they are built."""
    return _load("counts", CountRow)


@cache
def throughput() -> tuple[ThroughputRow, ...]:
    """Return the rows of ``throughput.csv``."""
    return _load("throughput", ThroughputRow)


@cache
def coco() -> tuple[CocoRow, ...]:
    """Return the rows of ``coco.csv``."""
    return _load("coco", CocoRow)


@cache
def detectors() -> tuple[DetectorRow, ...]:
    """Return the rows of ``detectors.csv``."""
    return _load("detectors", DetectorRow)


@cache
def systems() -> tuple[SystemRow, ...]:
    """Return the rows of ``systems.csv``."""
    return _load("systems", SystemRow)


@cache
def ade20k() -> tuple[Ade20kRow, ...]:
    """Return the rows of ``ade20k.csv``."""
    return _load("ade20k", Ade20kRow)


def tasks() -> tuple[TaskRow, ...]:
    """Return the rows of all detection and segmentation files."""
    return (*coco(), *detectors(), *systems(), *ade20k())


@cache
def ablations() -> tuple[AblationRow, ...]:
    """Return the rows of ``ablations.csv``."""
    return _load("ablations", AblationRow)


@cache
def configs() -> tuple[StageRow, ...]:
    """Return the rows of ``configs.csv``."""
    return _load("configs", StageRow)


@cache
def disagreements() -> tuple[Disagreement, ...]:
    """Return the rows of ``disagreements.csv``."""
    return _load("disagreements", Disagreement)


def _load(name: str, kind: type[T]) -> tuple[T, ...]:
    """Read one file.

    Raises:
        ValueError: the file's columns are not the fields of ``kind``, or an obligatory field is empty.
    """
    text = files("attnbench.published").joinpath("reported", f"{name}.csv").read_text(encoding="utf-8")
    reader = csv.DictReader(text.splitlines())
    expected: list[Any] = list(fields(kind))  # type: ignore[arg-type]
    if reader.fieldnames != [field.name for field in expected]:
        raise ValueError(f"{name}.csv has the columns {reader.fieldnames}, not those of {kind.__name__}")
    return tuple(kind(**{field.name: _typed(row, field, name) for field in expected}) for row in reader)


def _typed(row: dict[str, str], field: Any, name: str) -> str | int | None:
    value = row[field.name]
    optional = field.type == str | None
    if not value and not optional:
        raise ValueError(f"{name}.csv: {field.name} is empty in {row}")
    return int(value) if field.type is int else value or None
