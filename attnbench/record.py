"""What was measured, on what, and how it ended: the line of ``records.jsonl``.

A :class:`Cell` holds everything that decides the numbers, and its key is their hash; a :class:`Record` is one attempt
at a cell. Both go to JSON and back without loss. Standard library only.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from attnbench.errors import UserError

SCHEMA = 1

Probe = Literal[
    "macs",
    "latency",
    "latency_one",
    "training_step",
    "best_batch",
    "memory_inference",
    "memory_training",
    "training",
    "accuracy",
]
Status = Literal["ok", "out_of_memory", "timeout", "unsupported", "skipped", "failed"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity: its unit, which direction is better, and its definition."""

    unit: str
    better: Literal["lower", "higher", "neither"]
    definition: str


METRICS: Mapping[str, Metric] = {
    "parameters": Metric("1", "lower", "Learned numbers of the whole model, classifier included."),
    "macs": Metric(
        "MAC", "lower", "Multiply-accumulates of matmuls, convolutions and attention, one image; 1 MAC = 2 FLOPs."
    ),
    "macs_closed_form": Metric("MAC", "lower", "The same, by each mechanism's formula, without tracing."),
    "macs_fvcore": Metric("MAC", "lower", "The same, counted by fvcore with this project's handlers."),
    "macs_ideal": Metric("MAC", "lower", "The same without padding and masked pairs: what the outputs need."),
    "macs_attention": Metric("MAC", "lower", "The part of the MACs that attention modules do, projections included."),
    "macs_mlp": Metric("MAC", "lower", "The part of the MACs that the blocks' MLPs do."),
    "latency": Metric("s", "lower", "Seconds for one batch in inference; median over rounds."),
    "throughput": Metric("img/s", "higher", "Batch size divided by latency."),
    "time_ratio": Metric("1", "lower", "Time over the reference's, paired by round; median; 95 % interval."),
    "noise_floor": Metric("1", "lower", "How far the reference, timed against itself in the same rounds, is from 1."),
    "anchor_ratio": Metric(
        "1", "lower", "Time over that of a fixed piece of work in the same rounds: what two runs are compared by."
    ),
    "latency_one": Metric("s", "lower", "Seconds for one image in inference, where the batch has several."),
    "training_step": Metric("s", "lower", "Seconds for forward and backward of one batch; median over rounds."),
    "best_batch_size": Metric("1", "neither", "The batch size, found by doubling, with the highest throughput."),
    "largest_batch_size": Metric("1", "higher", "The largest batch size that fits, found by doubling and bisection."),
    "best_throughput": Metric("img/s", "higher", "Images per second at the best batch size."),
    "parameter_memory": Metric("B", "lower", "Bytes of parameters and buffers."),
    "optimizer_memory": Metric("B", "lower", "Bytes of AdamW's two moments, which a training holds besides."),
    "peak_memory_inference": Metric("B", "lower", "Peak bytes of one inference batch above parameters and input."),
    "peak_memory_training": Metric("B", "lower", "Peak bytes of one training step above parameters and input."),
    "peak_rss": Metric("B", "lower", "Growth of the peak resident set of a fresh process over the same step."),
    "peak_reserved": Metric("B", "lower", "Growth of what the CUDA allocator holds of the device over the same step."),
    "peak_device": Metric("B", "lower", "Growth of the memory in use on the whole CUDA device over the same step."),
    "predicted_memory_inference": Metric(
        "B", "lower", "Peak bytes of one inference batch, predicted by running it on fake tensors."
    ),
    "predicted_memory_training": Metric(
        "B", "lower", "Peak bytes of one training step, predicted by running it on fake tensors."
    ),
    "predicted_time": Metric(
        "s", "lower", "Seconds that a measurement takes at least, predicted from work and this machine's speed."
    ),
    "top1": Metric("1", "higher", "Share of validation images whose highest logit is the true class."),
    "top5": Metric("1", "higher", "Share of validation images whose true class is among the five highest logits."),
    "miou": Metric("1", "higher", "Mean over classes of intersection over union, all validation pixels together."),
    "class_iou": Metric("1", "higher", "Intersection over union of one class, which the measurement's kind names."),
    "pixel_accuracy": Metric("1", "higher", "Share of labelled validation pixels whose class is right."),
    "box_ap": Metric("1", "higher", "COCO's average precision of boxes, over IoU thresholds from 0.5 to 0.95."),
    "box_ap50": Metric("1", "higher", "Average precision of boxes at IoU 0.5."),
    "box_ap75": Metric("1", "higher", "Average precision of boxes at IoU 0.75."),
    "box_ap_small": Metric("1", "higher", "box_ap of objects under 32 x 32 pixels."),
    "box_ap_medium": Metric("1", "higher", "box_ap of objects from 32 x 32 to 96 x 96 pixels."),
    "box_ap_large": Metric("1", "higher", "box_ap of objects over 96 x 96 pixels."),
    "mask_ap": Metric("1", "higher", "COCO's average precision of masks, over IoU thresholds from 0.5 to 0.95."),
    "mask_ap50": Metric("1", "higher", "Average precision of masks at IoU 0.5."),
    "mask_ap75": Metric("1", "higher", "Average precision of masks at IoU 0.75."),
    "mask_ap_small": Metric("1", "higher", "mask_ap of objects under 32 x 32 pixels."),
    "mask_ap_medium": Metric("1", "higher", "mask_ap of objects from 32 x 32 to 96 x 96 pixels."),
    "mask_ap_large": Metric("1", "higher", "mask_ap of objects over 96 x 96 pixels."),
    "train_loss": Metric("1", "lower", "Mean training loss over the last tenth of the steps."),
    "train_time": Metric("s", "lower", "Seconds of training, data included, validation left out."),
    "train_throughput": Metric("img/s", "higher", "Training images per second of training."),
    "data_wait": Metric("1", "lower", "Share of the training's seconds in which it waited for data."),
    "loader_throughput": Metric("img/s", "higher", "Training images per second of the data loader alone."),
}


@dataclass(frozen=True)  # without slots, so that the key is computed once
class Cell:
    """One probe of one mechanism at one resolution, or one training."""

    probe: Probe
    mechanism: str
    size: str
    resolution: tuple[int, int]  # (H, W), pixels; for training: where it trains
    device: str
    precision: str
    threads: int
    num_classes: int
    batch_size: int | None = None  # of a cost probe; a recipe has its own
    settings: Json = field(default_factory=dict)  # of the mechanism, where they are not its defaults
    reference: str | None = None  # what is timed: the mechanism that ratios are taken to
    task: str | None = None
    head: str | None = None  # of the task, where it has several
    data: str | None = None  # identity of the data, not its path
    seed: int | None = None
    train_resolution: tuple[int, int] | None = None
    recipe: Json | None = None  # of the training that an accuracy stands on too
    timing: Json | None = None  # of what is timed in rounds
    compile: bool | None = None  # True: torch.compile
    channels_last: bool | None = None  # True: images and convolutions in channels-last memory format
    sdpa: str | None = None  # the only kernel that scaled_dot_product_attention may take; None: torch chooses

    @cached_property
    def key(self) -> str:
        """Hash of every field that is set: 16 hex digits. A field added later with default None keeps old keys."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}  # asdict would copy them, which is slow
        text = json.dumps(_set(own), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> Json:
        """Return the fields that are set."""
        return _set(asdict(self))

    @classmethod
    def from_json(cls, data: Json) -> "Cell":
        """Rebuild a cell; unknown fields are a :class:`UserError`."""
        _refuse_unknown(cls, data)
        pairs = {name: tuple(data[name]) for name in ("resolution", "train_resolution") if data.get(name)}
        return cls(**{**data, **pairs})


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its unit, interval and samples; ``kind`` says which kind of memory, or which counter."""

    metric: str
    value: float
    unit: str
    low: float | None = None  # 95 % interval
    high: float | None = None
    samples: tuple[float, ...] = ()
    rounds: tuple[int, ...] = ()  # round of each sample
    times: tuple[float, ...] = ()  # time stamp of each sample, seconds since the epoch
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS or METRICS[self.metric].unit != self.unit:
            raise ValueError(f"{self.metric} in {self.unit!r} is not in METRICS")

    def to_json(self) -> Json:
        """Return the six fixed fields, and the others where they are set."""
        always = {"metric", "value", "unit", "low", "high", "samples"}
        values = ((item.name, getattr(self, item.name)) for item in fields(self))  # asdict would copy every sample
        return {name: value for name, value in values if name in always or value not in (None, ())}

    @classmethod
    def from_json(cls, data: Json) -> "Measurement":
        """Rebuild a measurement; unknown fields are a :class:`UserError`."""
        _refuse_unknown(cls, data)
        lists = {name: tuple(data.get(name, ())) for name in ("samples", "rounds", "times")}
        return cls(**{**data, **lists})


def quantity(metric: str, value: float, **more: Any) -> Measurement:
    """Return a measurement in the metric's own unit; what is no finite number is a ``ValueError``."""
    if not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{metric} is {value!r}, which is no finite number")
    return Measurement(metric, value, METRICS[metric].unit, **more)


@dataclass(frozen=True, slots=True)
class Record:
    """One attempt at one cell."""

    cell: Cell
    status: Status
    measurements: tuple[Measurement, ...]
    environment: Json
    started: str  # UTC, ISO 8601
    error: str | None = None

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"status {self.status!r} is none of {get_args(Status)}")

    def to_json(self) -> Json:
        """Return the line of ``records.jsonl`` as an object."""
        return {
            "schema": SCHEMA,
            "key": self.cell.key,
            "cell": self.cell.to_json(),
            "status": self.status,
            "measurements": [measurement.to_json() for measurement in self.measurements],
            "environment": self.environment,
            "started": self.started,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: Json) -> "Record":
        """Rebuild a record; another schema version is a :class:`UserError`."""
        if data.get("schema") != SCHEMA:
            raise UserError(f"records of schema {data.get('schema')!r}; this version reads schema {SCHEMA}")
        return cls(
            cell=Cell.from_json(data["cell"]),
            status=data["status"],
            measurements=tuple(Measurement.from_json(item) for item in data["measurements"]),
            environment=data["environment"],
            started=data["started"],
            error=data["error"],
        )

    def measured(self, metric: str) -> Measurement | None:
        """Return the measurement of ``metric``, or None."""
        return next((item for item in self.measurements if item.metric == metric), None)


def _set(data: Json) -> Json:
    return {name: value for name, value in data.items() if value is not None and value != {}}


def _refuse_unknown(cls: type, data: Json) -> None:
    extra = set(data) - {item.name for item in fields(cls)}
    if extra:
        raise UserError(f"unknown field {sorted(extra)[0]!r} in a {cls.__name__.lower()}")
