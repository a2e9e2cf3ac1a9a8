"""From a configuration to the cells of a run, in a fixed order; a wrong value is refused here, before anything runs."""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from attnbench.config import RunConfig
from attnbench.contenders import Contender, contenders, label_of, named_mechanisms
from attnbench.environment import resolve_device, usable_cores
from attnbench.errors import UserError, unknown
from attnbench.record import Cell
from attnbench.registry import TASKS
from attnbench.sizes import SIZES
from attnbench.task_contract import Task

LEAST_SIDE = 32
PRECISIONS = ("fp32", "bf16")
COSTS = ("macs", "time", "memory")  # all of them: cost
MEASURES = ("cost", *COSTS, "accuracy")
IMAGENET = 1000  # classes
FEW_EPOCHS = 12


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells of one run and what a process needs besides them."""

    config: RunConfig  # checked, nothing left to default
    cells: tuple[Cell, ...]
    labels: dict[str, str]  # of the contender behind a cell, by the cell's key
    mechanisms: tuple[str, ...]  # registered ones that the contenders are made of
    notes: tuple[str, ...] = ()  # what a user should know before it runs


def parse_resolution(text: object) -> tuple[int, int]:
    """Return (H, W) of ``224``, ``"224"``, ``"224x336"`` or ``(224, 336)``; both at least 32."""
    words = "x".join(map(str, text)) if isinstance(text, list | tuple) else str(text)
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", words.strip())
    if not match:
        raise UserError(f"resolution {words!r} is neither N nor HxW in whole pixels, such as 224 or 448x672")
    height = int(match[1])
    width = int(match[2]) if match[2] else height
    if min(height, width) < LEAST_SIDE:
        raise UserError(f"resolution {words!r} is under {LEAST_SIDE} pixels, the least that four stages can take")
    return height, width


def plan(config: RunConfig) -> Plan:
    """Check ``config`` and list its cells.

    Raises:
        UserError: any value that cannot be run, named with what would be right.
    """
    resolutions = _unique("resolutions", [parse_resolution(item) for item in config.resolutions])
    _check_names(config)
    _check_numbers(config)
    device = resolve_device(config.device)
    threads = config.threads or usable_cores()
    found = contenders(config)
    config = replace(
        config,
        mechanisms=named_mechanisms(config),
        resolutions=["x".join(map(str, item)) for item in resolutions],
        device=device,
        threads=threads,
        reference=_reference(config, found),
    )
    tasks = {name: TASKS[name](config.data) for name in config.tasks}
    common: dict[str, Any] = {"device": device, "threads": threads}
    cells: list[tuple[str, Cell]] = []
    for name, task in tasks.items():
        if set(config.measure) & {"cost", *COSTS}:  # of the model with the task's head
            classes = config.num_classes or _classes(config, found, task)
            cells += _cost_cells(config, found, resolutions, common | {"task": name, "num_classes": classes})
        if "accuracy" in config.measure:
            data = {"task": name, "data": task.identity, "num_classes": task.num_classes}
            cells += _accuracy_cells(config, found, resolutions, common | data)
    labels = {cell.key: label for label, cell in cells}
    mechanisms = dict.fromkeys(module for item in found for module in item.modules)
    notes = tuple(_notes(config, tasks)) if "accuracy" in config.measure else ()
    return Plan(config, tuple(cell for _, cell in cells), labels, tuple(mechanisms), notes)


def training_of(cell: Cell) -> Cell:
    """Return the training that an accuracy cell stands on."""
    return replace(cell, probe="training", resolution=cell.train_resolution or cell.resolution)


def _classes(config: RunConfig, found: tuple[Contender, ...], task: Task) -> int:
    """Return the classes of cost cells: the data's, or those of ImageNet where published models meet no data."""
    data = config.data is not None or "accuracy" in config.measure
    return task.num_classes if data or not any(item.is_model for item in found) else IMAGENET


def _notes(config: RunConfig, tasks: dict[str, Task]) -> Iterable[str]:
    """Say where a training of the user's own data is too short to compare anything."""
    samples, size = config.recipe.samples, config.recipe.batch_size
    for task in tasks.values():
        if config.data is not None and samples < FEW_EPOCHS * task.train_images:
            steps = math.ceil(FEW_EPOCHS * task.train_images / size)
            yield (
                f"recipe.samples={samples} are {samples / task.train_images:.1f} epochs of {task.train_images} images: "
                f"enough to see it run, not to compare; --steps {steps} are {FEW_EPOCHS} epochs"
            )


def _reference(config: RunConfig, found: tuple[Contender, ...]) -> str:
    labels = [item.label for item in found]
    if config.reference is None:
        return labels[0]
    if config.reference in labels:
        return config.reference
    label = label_of(config.reference, config)
    if label not in labels:
        raise UserError(
            f"reference {config.reference!r} is not among the mechanisms and models of this run: {', '.join(labels)}"
        )
    return label


def _cost_cells(
    config: RunConfig, found: tuple[Contender, ...], resolutions: list[tuple[int, int]], common: dict[str, Any]
) -> Iterable[tuple[str, Cell]]:
    def cell(probe: Any, item: Contender, resolution: tuple[int, int], **more: Any) -> tuple[str, Cell]:
        own: dict[str, Any] = {"size": item.size, "settings": item.settings}
        return item.label, Cell(probe, item.mechanism, resolution=resolution, **own, **common, **more)

    batch = {"batch_size": config.batch_size, "precision": config.precision}
    timing = asdict(config.timing)
    wanted = set(COSTS) if "cost" in config.measure else set(config.measure)
    for item in found if "macs" in wanted else ():
        yield from (cell("macs", item, resolution, precision=config.precision) for resolution in resolutions)
    for resolution in resolutions if "time" in wanted else ():
        for item in found:
            yield cell("latency", item, resolution, reference=config.reference, timing=timing, **batch)
    for resolution in resolutions if "memory" in wanted else ():
        for item in found:
            yield cell("memory_inference", item, resolution, **batch)
            yield cell("memory_training", item, resolution, **batch)


def _accuracy_cells(
    config: RunConfig, found: tuple[Contender, ...], resolutions: list[tuple[int, int]], common: dict[str, Any]
) -> Iterable[tuple[str, Cell]]:
    recipe = asdict(config.recipe)
    each = config.train_resolution == "each"
    smallest = min(resolutions, key=math.prod)
    chosen = smallest if each or config.train_resolution is None else parse_resolution(config.train_resolution)
    for contender in found:
        for seed in range(config.seeds):
            cells = [
                Cell(
                    "accuracy",
                    contender.mechanism,
                    size=contender.size,
                    resolution=item,
                    settings=contender.settings,
                    seed=seed,
                    train_resolution=item if each else chosen,
                    recipe=recipe,
                    precision=config.precision,
                    **common,
                )
                for item in resolutions
            ]
            # The training resolution first: its score tells soonest whether anything was learnt.
            cells.sort(key=lambda cell: cell.resolution != cell.train_resolution)
            trained = []
            for cell in cells:
                if training_of(cell) not in trained:
                    trained.append(training_of(cell))
                    yield contender.label, trained[-1]
                yield contender.label, cell


def _check_names(config: RunConfig) -> None:
    for title, given, known in (
        ("size", [config.size], SIZES),
        ("precision", [config.precision], PRECISIONS),
        ("measure", config.measure, MEASURES),
    ):
        for name in given:
            if name not in known:
                raise unknown(title, str(name), known)
    for title, names in (("tasks", config.tasks), ("measure", config.measure)):
        if not names:
            raise UserError(f"{title}: at least one is needed")
        _unique(title, names)
    for name in config.tasks:
        TASKS[name]
    if config.train_resolution not in (None, "each"):
        parse_resolution(config.train_resolution)


def _check_numbers(config: RunConfig) -> None:
    recipe, timing = config.recipe, config.timing
    at_least_one = {
        "seeds": config.seeds,
        "batch_size": config.batch_size,
        "threads": 1 if config.threads is None else config.threads,
        "num_classes": 1 if config.num_classes is None else config.num_classes,
        "recipe.batch_size": recipe.batch_size,
        "timing.min_rounds": timing.min_rounds,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
    if config.workers < 0:
        raise UserError(f"workers must be 0 or more, not {config.workers}")
    if recipe.samples < recipe.batch_size:
        raise UserError(f"recipe.samples ({recipe.samples}) must cover one batch of {recipe.batch_size}")
    if timing.max_rounds < timing.min_rounds:
        raise UserError(f"timing.max_rounds ({timing.max_rounds}) is below timing.min_rounds ({timing.min_rounds})")
    positive: dict[str, float] = {
        "timeout": config.timeout,
        "recipe.learning_rate": recipe.learning_rate,
        "recipe.clip": recipe.clip,
        "timing.budget": timing.budget,
        "timing.precision": timing.precision,
        "timing.sample": timing.sample,
    }
    shares = {
        "recipe.scale": (recipe.scale, recipe.scale > 0),
        "recipe.warmup": (recipe.warmup, True),
        "recipe.drop_path": (recipe.drop_path, recipe.drop_path < 1),
        "recipe.label_smoothing": (recipe.label_smoothing, recipe.label_smoothing < 1),
        "recipe.weight_decay": (recipe.weight_decay, True),
    }
    for name, number in positive.items():
        if not (number > 0 and math.isfinite(number)):
            raise UserError(f"{name} must be a positive number, not {number}")
    for name, (share, allowed) in shares.items():
        if not (allowed and 0 <= share <= 1):
            raise UserError(f"{name} must lie between 0 and 1, not {share}")


def _unique(title: str, items: list[Any]) -> list[Any]:
    twice = next((item for index, item in enumerate(items) if item in items[:index]), None)
    if twice is not None:
        raise UserError(f"{title}: {'x'.join(map(str, twice)) if isinstance(twice, tuple) else twice} is given twice")
    return items
