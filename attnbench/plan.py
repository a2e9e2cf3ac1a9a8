"""From a configuration to the cells of a run, in a fixed order; a wrong value is refused here, before anything runs."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from attnbench import recipes
from attnbench.axes import suffix, variants, words
from attnbench.config import RunConfig
from attnbench.contenders import TIMM, Contender, contenders, label_of, named_mechanisms
from attnbench.environment import resolve_device, usable_cores
from attnbench.errors import UserError, unknown
from attnbench.recipe import Recipe
from attnbench.record import Cell
from attnbench.registry import TASKS
from attnbench.task_contract import Task
from attnbench.validation import COSTS, check_names, check_numbers, check_types, parse_resolution, unique

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


def plan(config: RunConfig) -> Plan:
    """Check ``config`` and list its cells.

    Raises:
        UserError: any value that cannot be run, named with what would be right.
    """
    check_types(config)
    resolutions = unique("resolutions", [parse_resolution(item) for item in config.resolutions])
    check_names(config)
    check_numbers(config)
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
    cells: list[tuple[str, Cell]] = []
    notes: list[str] = []
    for name, head in _heads(config, found).items():
        task = TASKS[name](config.data, head)
        common: dict[str, Any] = {"device": device, "threads": threads, "task": name, "head": head}
        recipe = recipes.chosen(config.recipe, name, task.train_images)  # refused here, whatever is measured
        if set(config.measure) & {"cost", "best_batch", *COSTS}:  # of the model with the task's head
            classes = config.num_classes or _classes(config, found, task)
            cells += _cost_cells(config, found, resolutions, common | {"num_classes": classes})
        if "accuracy" in config.measure:
            _check_parts(config, recipe)
            data = {"data": task.identity, "num_classes": task.num_classes, "recipe": recipe.to_json()}
            cells += _accuracy_cells(config, found, resolutions, common | data)
            notes += _notes(config, task, recipe)
    labels = {cell.key: label for label, cell in cells}
    mechanisms = dict.fromkeys(module for item in found for module in item.modules)
    return Plan(config, tuple(cell for _, cell in cells), labels, tuple(mechanisms), tuple(notes))


def training_of(cell: Cell) -> Cell:
    """Return the training that an accuracy cell stands on."""
    return replace(cell, probe="training", resolution=cell.train_resolution or cell.resolution)


def _classes(config: RunConfig, found: tuple[Contender, ...], task: Task) -> int:
    """Return the classes of cost cells: the data's, or those of ImageNet where published models meet no data."""
    data = config.data is not None or "accuracy" in config.measure
    return task.num_classes if data or not any(item.is_model for item in found) else IMAGENET


def _heads(config: RunConfig, found: tuple[Contender, ...]) -> dict[str, str | None]:
    """Return the head of each task: the one that is named, or its first; None where it has only one.

    Raises:
        UserError: data for several tasks, heads that no task or only one of two can have, models without stage maps.
    """
    if config.data is not None and len(config.tasks) > 1:
        raise UserError(f"--data is for one task; run {' and '.join(config.tasks)} one after the other")
    known = {name: tuple(getattr(TASKS[name], "heads", ())) for name in config.tasks}
    for head in config.heads:
        if not any(head in heads for heads in known.values()):
            raise unknown(f"head of {', '.join(known)}", head, [item for heads in known.values() for item in heads])
    chosen: dict[str, str | None] = {}
    for name, heads in known.items():
        named = [head for head in config.heads if head in heads]
        if len(named) > 1:
            raise UserError(f"heads: {' and '.join(named)} are both of {name}; a run has one head for a task")
        chosen[name] = named[0] if named else next(iter(heads), None)
    foreign = next((item.label for item in found if item.size == TIMM), None)
    dense = next((name for name, head in chosen.items() if head is not None), None)
    if foreign is not None and dense is not None:
        raise UserError(f"{dense} needs the maps of four stages, which {foreign} does not give; compare it otherwise")
    return chosen


def _check_parts(config: RunConfig, recipe: Recipe) -> None:
    parts = config.processes * recipe.accumulate
    if recipe.batch_size % parts:
        raise UserError(
            f"recipe.batch_size ({recipe.batch_size}) does not divide into {config.processes} processes of "
            f"{recipe.accumulate} accumulated parts each"
        )


def _notes(config: RunConfig, task: Task, recipe: Recipe) -> Iterable[str]:
    """Say where a training of the user's own data is too short to compare anything."""
    samples, size = recipe.samples, recipe.batch_size
    if config.data is not None and samples < FEW_EPOCHS * task.train_images:
        steps = math.ceil(FEW_EPOCHS * task.train_images / size)
        yield (
            f"recipe.samples={samples} are {samples / task.train_images:.1f} epochs of {task.train_images} images: "
            f"enough to see it run, not to compare; --steps {steps} are {FEW_EPOCHS} epochs"
        )


def _reference(config: RunConfig, found: tuple[Contender, ...]) -> str:
    labels = [item.label + suffix(variant) for item in found for variant in variants(config)]
    if config.reference is None:
        return labels[0]
    if config.reference in labels:
        return config.reference
    label = label_of(config.reference, config) + suffix(variants(config)[0])
    if label not in labels:
        raise UserError(
            f"reference {config.reference!r} is not among the mechanisms and models of this run: {', '.join(labels)}"
        )
    return label


def _cost_cells(
    config: RunConfig, found: tuple[Contender, ...], resolutions: list[tuple[int, int]], common: dict[str, Any]
) -> Iterable[tuple[str, Cell]]:
    """Yield what each contender costs: a probe at a time, and within it what is timed together side by side."""
    wanted = {*config.measure, *(COSTS if "cost" in config.measure else ())}
    batch = {"batch_size": config.batch_size}
    timed = {"reference": config.reference, "timing": asdict(config.timing)}
    probes: dict[Any, tuple[bool, dict[str, Any]]] = {
        "macs": ("macs" in wanted, {}),
        "memory_inference": ("memory" in wanted, batch),
        "memory_training": ("memory" in wanted, batch),
        "latency": ("time" in wanted, timed | batch),
        "latency_one": ("time" in wanted and config.batch_size > 1, timed),
        "training_step": ("training_time" in wanted, timed | batch),
        "best_batch": ("best_batch" in wanted, timed),
    }
    for probe, (asked, more) in probes.items():
        for resolution, precision, (item, variant) in product(
            resolutions if asked else (), words(config.precision), product(found, variants(config))
        ):
            if probe.startswith("memory") and variant["compile"] and not str(common["device"]).startswith("cuda"):
                continue  # a ledger sees no operator of a compiled model, and the compiler drowns the process's figure
            own: dict[str, Any] = {"size": item.size, "settings": item.settings, "precision": precision}
            cell = Cell(probe, item.mechanism, resolution=resolution, **own, **variant, **more, **common)
            yield item.label + suffix(variant), cell


def _accuracy_cells(
    config: RunConfig, found: tuple[Contender, ...], resolutions: list[tuple[int, int]], common: dict[str, Any]
) -> Iterable[tuple[str, Cell]]:
    each = config.train_resolution == "each"
    smallest = min(resolutions, key=math.prod)
    chosen = smallest if each or config.train_resolution is None else parse_resolution(config.train_resolution)
    for contender in found:
        for precision, seed in product(words(config.precision), range(config.seeds)):
            cells = [
                Cell(
                    "accuracy",
                    contender.mechanism,
                    size=contender.size,
                    resolution=item,
                    settings=contender.settings,
                    seed=seed,
                    train_resolution=item if each else chosen,
                    precision=precision,
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
