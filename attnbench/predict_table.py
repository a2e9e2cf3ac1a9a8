"""Forecasts as a table with notes, and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from attnbench.forecast import STEPS, Forecast, Question, intensity, runs_out

if TYPE_CHECKING:
    from rich.table import Table

    from attnbench.forecast import StepForecast
    from attnbench.measure.prediction import Step

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP_HEADERS: Final = ("peak", "total", "max\nbatch", "process", "kernel")
_DEFINITIONS: Final = (
    "peak: the most that is alive at once above parameters and images, one batch; total: with parameters and images, "
    "in training with AdamW's moments too; * does not fit.",
    "max batch: the largest whose total fits. FLOP/B: 2 x MACs x batch over the bytes that operators read and write, "
    "inference, no caches.",
    "Predicted by running on fake CPU tensors, for cuda without what is done on CPUs alone; workspaces of operators "
    "and reserves of an allocator are not in it.",
    "process: by how much the resident set of a fresh Linux process grows: a model of glibc's heap, of workspaces, of "
    "code.",
)


def table(found: Sequence[Forecast], batch_size: int, step: "Step") -> "Table":
    """Return one step's table for rich's console: a row per forecast, dashes for what could not be had."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, title=step, title_justify="left")
    shown.add_column("contender", overflow="fold")
    for header in ("pixels", *(("MACs\n(G)", "FLOP\n/B") if step == "inference" else ()), *_STEP_HEADERS):
        shown.add_column(header, justify="right", no_wrap=True)
    for index, item in enumerate(found):
        first = index == 0 or found[index - 1].contender != item.contender
        ends = index + 1 < len(found) and found[index + 1].contender != item.contender
        # Text, not str: settings in square brackets would be taken for markup.
        shown.add_row(Text(item.contender if first else ""), *_cells(item, batch_size, step), end_section=ends)
    return shown


def notes(found: Sequence[Forecast], question: Question, here: bool) -> Iterator[str]:
    """Yield what the table cannot say: where each contender runs out, reasons, the setting, definitions."""
    size, limit = question.batch_size, amount(question.memory_limit)
    for contender in dict.fromkeys(item.contender for item in found):
        own = [item for item in found if item.contender == contender]
        yield f"{contender}: {'; '.join(_end(own, step, size) for step in STEPS)}."
    for item in found:
        if item.reason is not None:
            yield f"{item.contender} at {pixels(item)}: not predicted: {item.reason}"
    yield ""
    batch = "1 image" if size == 1 else f"{size} images"
    where = ", what this machine has available now" if here else ""
    classes = f"{question.num_classes} classes"
    yield f"Batches of {batch}, {question.precision}, {classes}, on {question.device}; memory limit {limit}{where}."
    yield _kernel_note(question)
    yield from _DEFINITIONS


def as_json(found: Sequence[Forecast], question: Question, here: bool) -> dict[str, Any]:
    """Return everything in base units: bytes, MACs, FLOP/B."""
    contenders = dict.fromkeys(item.contender for item in found)
    setting = asdict(question)
    del setting["resolutions"]
    return {
        **setting,
        "memory_limit_is_available_memory": here,
        "kernel": question.kernel or "as torch chooses on a CPU",
        "forecasts": [_row(item, question.batch_size) for item in found],
        "runs_out_at": {
            name: {step: runs_out([item for item in found if item.contender == name], step) for step in STEPS}
            for name in contenders
        },
    }


def amount(number: int) -> str:
    """Return bytes in the unit that leaves one to four digits before the point."""
    scaled, unit = float(number), 0
    while scaled >= 1024 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1024, unit + 1
    return f"{scaled:.0f} {_UNITS[unit]}" if unit == 0 or scaled >= 100 else f"{scaled:.1f} {_UNITS[unit]}"


def pixels(item: Forecast) -> str:
    """Return a forecast's resolution as HxW."""
    return "x".join(map(str, item.resolution))


def _cells(item: Forecast, batch_size: int, step: "Step") -> list[str]:
    macs, per_byte = item.macs, _intensity(item, batch_size)
    cells = [pixels(item)]
    if step == "inference":
        cells += ["-" if macs is None else f"{macs / 1e9:.2f}", "-" if per_byte is None else f"{per_byte:.1f}"]
    return cells + _step_cells(item.step(step))


def _step_cells(result: "StepForecast | None") -> list[str]:
    if result is None:
        return ["-"] * len(_STEP_HEADERS)
    found = result.prediction
    process = "-" if result.resident is None else amount(result.resident)
    total = f"{amount(found.total)}{'' if result.fits else ' *'}"
    return [amount(found.peak), total, str(result.largest_batch), process, found.kernel]


def _intensity(item: Forecast, batch_size: int) -> float | None:
    if item.macs is None or item.inference is None:
        return None
    return intensity(item.macs, batch_size, item.inference.prediction)


def _end(own: Sequence[Forecast], step: "Step", batch_size: int) -> str:
    if all(item.step(step) is None for item in own):
        return f"{step} not predicted"
    sides = runs_out(own, step)
    if sides is None:
        return f"{step} of {batch_size} fits at every resolution predicted"
    return f"{step} of {batch_size} runs out at {'x'.join(map(str, sides))}"


def _kernel_note(question: Question) -> str:
    if question.kernel is not None:
        return f"Attention kernel assumed: {question.kernel}, and no other."
    return (
        "Attention kernel assumed: what torch chooses on a CPU, in the column kernel; a GPU may choose another. math "
        "keeps the scores of all pairs, flash does not."
    )


def _row(item: Forecast, batch_size: int) -> dict[str, Any]:
    row: dict[str, Any] = {"contender": item.contender, "resolution": list(item.resolution), "reason": item.reason}
    row |= {"macs": item.macs, "arithmetic_intensity_FLOP_per_B": _intensity(item, batch_size)}
    for step in STEPS:
        result = item.step(step)
        row[step] = result and {
            **{f"{name}_B": value for name, value in asdict(result.prediction).items() if name != "kernel"},
            "kernel": result.prediction.kernel,
            "total_B": result.prediction.total,
            "process_rss_B": result.resident,
            "fits": result.fits,
            "largest_batch_size": result.largest_batch,
        }
    return row
