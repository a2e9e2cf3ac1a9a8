"""One cell in, its measurements out: what a worker process does when it is asked."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.backbone import build_model
from attnbench.contenders import PUBLISHED, TIMM
from attnbench.errors import UnsupportedError
from attnbench.measure.anchor import anchor
from attnbench.measure.audit import audit
from attnbench.measure.clock import Clock, sample, synchronizer
from attnbench.measure.kernel import attention_kernel, with_kernel
from attnbench.measure.memory import (
    DEVICE_KIND,
    PROCESS_KIND,
    RESERVED_KIND,
    inference_step,
    peak_memory,
    stand_in_loss,
    training_step,
)
from attnbench.models import create_model
from attnbench.plan import training_of
from attnbench.recipe import Recipe
from attnbench.record import METRICS, Cell, Measurement
from attnbench.registry import MECHANISMS, TASKS
from attnbench.sizes import SIZES
from attnbench.train import evaluate, train

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Context:
    """What a cell needs and what does not decide its numbers."""

    data: str | None  # where the data lie
    weights: Path  # folder of trained weights
    workers: int


def measure(cell: Cell, context: Context, progress: Progress) -> tuple[Measurement, ...]:
    """Run the probe of ``cell``; a latency is not measured alone but in rounds, see :class:`TimedModel`."""
    bound = cell.size in SIZES and not MECHANISMS[cell.mechanism].any_resolution
    if bound and cell.train_resolution not in (None, cell.resolution):
        raise UnsupportedError(f"{cell.mechanism} works only at the resolution that it was built for")
    probes: dict[str, Callable[[], tuple[Measurement, ...]]] = {
        "macs": lambda: _macs(cell),
        "memory_inference": lambda: _memory(cell),
        "memory_training": lambda: _memory(cell),
        "training": lambda: _training(cell, context, progress),
        "accuracy": lambda: _accuracy(cell, context, progress),
    }
    return probes[cell.probe]()


class TimedModel:
    """A model ready to be timed: built and warmed up once, then sampled round by round."""

    def __init__(self, cell: Cell, repeats: int | None = None) -> None:
        self._images = (cell.batch_size or 1) if cell.probe == "best_batch" else 1
        step, kernel = timed_step(cell)
        self.clock = Clock(step, torch.device(cell.device), (cell.timing or {})["sample"], repeats)
        self.report = {**self.clock.report, "attention_kernel": kernel}

    def sample(self) -> float:
        """Return seconds per call; where each contender has a batch size of its own, seconds per image."""
        return self.clock.sample() / self._images


class TimedAnchor:
    """The fixed piece of work that runs are compared by, ready to be timed."""

    def __init__(self, device: str, least: float, repeats: int | None = None) -> None:
        self.clock = Clock(anchor(torch.device(device)), torch.device(device), least, repeats)
        self.report = self.clock.report

    def sample(self) -> float:
        """Return seconds per call."""
        return self.clock.sample()


def attempt(cell: Cell) -> float:
    """Run one inference batch twice; return the seconds of the faster call."""
    step, _ = timed_step(cell)  # which has called it once
    synchronize = synchronizer(torch.device(cell.device))
    return min(sample(step, 1, synchronize) for _ in range(2))


def timed_step(cell: Cell) -> tuple[Callable[[], object], str]:
    """Return what is called to time ``cell``, and the attention kernel it takes.

    It is one batch of inference, or forward and backward of one; the kernel is seen in an uncompiled call.
    """
    model, images = _cost_model(cell)
    make = _training_step if cell.probe == "training_step" else inference_step
    kernel = attention_kernel(with_kernel(make(model, images), cell.sdpa))
    if cell.compile:
        model.compile()
    return with_kernel(make(model, images), cell.sdpa), kernel


def quantity(metric: str, value: float, **more: Any) -> Measurement:
    """Return a measurement in the metric's own unit; what is no finite number is a ``ValueError``."""
    if not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{metric} is {value!r}, which is no finite number")
    return Measurement(metric, value, METRICS[metric].unit, **more)


def weights_file(cell: Cell, folder: Path) -> Path:
    """Return where the weights of the training behind ``cell`` lie."""
    return folder / f"{training_of(cell).key}.safetensors"


def _macs(cell: Cell) -> tuple[Measurement, ...]:
    with torch.device("meta"):
        model = cell_model(cell)
    found = audit(model, (3, *cell.resolution))
    counts = {
        "macs": (found.traced, "traced"),
        "macs_fvcore": (found.fvcore, "fvcore"),
        "macs_closed_form": (found.closed_form, "formula"),
        "macs_ideal": (found.ideal, "formula"),
        "macs_attention": (found.attention, "traced"),
        "macs_mlp": (found.mlp, "traced"),
    }
    numbers = tuple(quantity(name, count, kind=kind) for name, (count, kind) in counts.items() if count is not None)
    parameters = list(model.parameters())
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*parameters, *model.buffers()))
    moments = 2 * sum(item.numel() * item.element_size() for item in parameters if item.requires_grad)
    return (
        quantity("parameters", sum(parameter.numel() for parameter in parameters)),
        *numbers,
        quantity("parameter_memory", held),
        quantity("optimizer_memory", moments),
    )


def _memory(cell: Cell) -> tuple[Measurement, ...]:
    model, images = _cost_model(cell)
    if cell.compile:
        model.compile()
    if cell.probe == "memory_inference":
        metric, step = "peak_memory_inference", inference_step(model, images)
    else:
        metric, step = "peak_memory_training", _training_step(model, images)
    named = {PROCESS_KIND: "peak_rss", RESERVED_KIND: "peak_reserved", DEVICE_KIND: "peak_device"}
    peaks = peak_memory(with_kernel(step, cell.sdpa), torch.device(cell.device))
    return tuple(quantity(named.get(kind, metric), peak, kind=kind) for peak, kind in peaks)


def _training_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    return training_step(model, images, stand_in_loss(targets))


def _training(cell: Cell, context: Context, progress: Progress) -> tuple[Measurement, ...]:
    from safetensors.torch import save_file

    model = _trainable(cell)
    recipe = Recipe.from_json(cell.recipe or {})
    device = torch.device(cell.device)
    begin = time.perf_counter()
    task = TASKS[cell.task or ""](context.data, cell.head)
    autocast = _autocast(cell)
    losses = train(model, task, recipe, cell.resolution, cell.seed or 0, device, autocast, context.workers, progress)
    seconds = time.perf_counter() - begin
    context.weights.mkdir(exist_ok=True)
    final = weights_file(cell, context.weights)
    partial = final.with_suffix(".partial")
    save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, partial)
    partial.replace(final)
    tail = losses[-max(1, len(losses) // 10) :]
    return (
        quantity("train_loss", sum(tail) / len(tail), samples=tuple(losses)),
        quantity("train_time", seconds),
    )


def _accuracy(cell: Cell, context: Context, progress: Progress) -> tuple[Measurement, ...]:
    from safetensors.torch import load_file

    model = _trainable(cell)
    model.load_state_dict(load_file(weights_file(cell, context.weights), device=cell.device))
    task = TASKS[cell.task or ""](context.data, cell.head)
    recipe = Recipe.from_json(cell.recipe or {})
    try:
        scores = evaluate(
            model, task, recipe, cell.resolution, torch.device(cell.device), _autocast(cell), context.workers, progress
        )
    except AssertionError as error:  # so timm's models say that they are bound to a resolution
        if cell.size != TIMM:
            raise
        raise UnsupportedError(f"{cell.mechanism} at {cell.resolution}: {error}") from error
    return tuple(quantity(name, value) for name, value in scores.items())


def cell_model(cell: Cell, drop_path: float = 0.0) -> nn.Module:
    """Return the model of a cell: one by name with its own classifier, or the uniform backbone with the task's head."""
    resolution = cell.train_resolution or cell.resolution
    task_head = TASKS[cell.task or ""].head

    def head(channels: tuple[int, ...]) -> nn.Module:
        return task_head(channels, cell.num_classes, cell.head)

    if cell.size in (PUBLISHED, TIMM):
        more: dict[str, Any] = {} if cell.head is None else {"head": head}  # else its own classifier
        if drop_path:
            more["drop_path" if cell.size == PUBLISHED else "drop_path_rate"] = drop_path
        return create_model(cell.mechanism, resolution, cell.num_classes, **{**more, **cell.settings})
    return build_model(
        cell.mechanism,
        cell.size,
        resolution=resolution,
        drop_path=drop_path,
        head=head,
        **cell.settings,
    )


def _cost_model(cell: Cell) -> tuple[nn.Module, Tensor]:
    """Return the model of a cost cell and a random batch for it, on its device in its precision."""
    torch.manual_seed(0)
    device, dtype = torch.device(cell.device), DTYPES[cell.precision]
    images = torch.randn(cell.batch_size or 1, 3, *cell.resolution, device=device, dtype=dtype)
    model = cell_model(cell).to(device, dtype)
    if cell.channels_last:
        return model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return model, images


def _trainable(cell: Cell) -> nn.Module:
    """Return the model of a training, its weights drawn by the cell's seed alone."""
    torch.manual_seed(cell.seed or 0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return cell_model(cell, drop_path=(cell.recipe or {})["drop_path"]).to(cell.device)


def _autocast(cell: Cell) -> torch.dtype | None:
    return None if cell.precision == "fp32" else DTYPES[cell.precision]
