"""One cell in, its measurements out: what a worker process does when it is asked."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnbench import compiling
from attnbench.cell_model import DTYPES, cell_model
from attnbench.errors import UnsupportedError
from attnbench.learning import Context, Progress, accuracy, training
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
from attnbench.record import Cell, Measurement, quantity
from attnbench.registry import MECHANISMS
from attnbench.sizes import SIZES


def measure(cell: Cell, context: Context, progress: Progress) -> tuple[Measurement, ...]:
    """Run the probe of ``cell``; a latency is not measured alone but in rounds, see :class:`TimedModel`."""
    bound = cell.size in SIZES and not MECHANISMS[cell.mechanism].any_resolution
    if bound and cell.train_resolution not in (None, cell.resolution):
        raise UnsupportedError(f"{cell.mechanism} works only at the resolution that it was built for")
    probes: dict[str, Callable[[], tuple[Measurement, ...]]] = {
        "macs": lambda: _macs(cell),
        "memory_inference": lambda: _memory(cell),
        "memory_training": lambda: _memory(cell),
        "training": lambda: training(cell, context, progress),
        "accuracy": lambda: accuracy(cell, context, progress),
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
        model.compile(options=compiling.options(cell.device))
    return with_kernel(make(model, images), cell.sdpa), kernel


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
        model.compile(options=compiling.options(cell.device))
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


def _cost_model(cell: Cell) -> tuple[nn.Module, Tensor]:
    """Return the model of a cost cell and a random batch for it, on its device in its precision."""
    torch.manual_seed(0)
    device, dtype = torch.device(cell.device), DTYPES[cell.precision]
    images = torch.randn(cell.batch_size or 1, 3, *cell.resolution, device=device, dtype=dtype)
    model = cell_model(cell).to(device, dtype)
    if cell.channels_last:
        return model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return model, images
