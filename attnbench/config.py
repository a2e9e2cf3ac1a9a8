"""The schema of a run and every default. Standard library only; Hydra composes presets and overrides on top of it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Timing:
    """When the rounds of a timing end."""

    min_rounds: int = 8
    max_rounds: int = 2000
    min_launches: int = 3  # of every worker, before rounds may end because their ratios are known well enough
    launch: float = 5.0  # seconds of rounds before the workers are launched anew
    budget: float = 90.0  # seconds for one resolution, all contenders together, first warm-up left out
    precision: float = 0.02  # half-width of the ratio's 95 % interval that is enough
    priority: bool = True  # ask the system to run what is timed before other work, where it lets us
    sample: float = 0.01  # least seconds of one sample: calls are repeated until it is reached


@dataclass
class RunConfig:
    """Everything that ``attnbench run`` can be told."""

    mechanisms: list[str] | None = None  # None: focal and swin, or none beside models
    models: list[str] = field(default_factory=list)  # published ones, uniform:<mechanism>_<size>, timm:<name>
    resolutions: list[str] = field(default_factory=lambda: ["224"])  # N or HxW, pixels
    size: str = "nano"
    settings: dict[str, Any] = field(default_factory=dict)  # settings.swin.window=14
    tasks: list[str] = field(default_factory=lambda: ["classification"])
    data: str | None = None  # None: the task's embedded data
    num_classes: int | None = None  # of cost cells; None: as many as the data have; without data, models have 1000
    heads: list[str] = field(default_factory=list)  # of tasks that have several; where none is named, the first
    seeds: int = 1  # how many
    batch_size: int = 1  # of cost cells
    threads: int | None = None  # None: every core this process may use
    workers: int = 0  # processes that load data
    processes: int = 1  # that train a model together, each with its share of the batch, threads or devices
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    precision: str = "fp32"  # fp32, bf16, or both: fp32,bf16
    compile: str = "off"  # of cost cells: off, on (torch.compile), or both: off,on
    channels_last: str = "off"  # of cost cells: off, on, or both
    sdpa: str = "auto"  # attention kernel of cost cells: auto, math, flash, efficient, cudnn, or several
    # cost (macs, time, training_time and memory, which can be asked for one by one), best_batch, accuracy
    measure: list[str] = field(default_factory=lambda: ["cost", "accuracy"])
    train_resolution: str | None = None  # None: the smallest requested; N, HxW, or "each"
    reference: str | None = None  # None: the first mechanism
    out: str | None = None
    rerun: bool = False
    timeout: float = 3600.0  # seconds for one cell; a training may take longer while it makes progress
    budget: str | None = None  # for the whole run: seconds, or such as 10m or 1h30m; what does not fit is skipped
    memory_limit: str | None = None  # for one cell: bytes, or such as 8GiB; None: what this machine has free
    checkpoint: float = 60.0  # seconds between the states of a training that it can go on from
    cell_limit: float = 40.0  # without a budget: seconds that one cost cell may need at least, as predicted
    recipe: dict[str, Any] = field(default_factory=dict)  # recipe.name, and changes such as recipe.mixup=0.8
    timing: Timing = field(default_factory=Timing)
