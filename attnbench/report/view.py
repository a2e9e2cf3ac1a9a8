"""How a row is shown to people: units scaled, digits cut, and what holds for every row said once."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attnbench.record import METRICS
from attnbench.report.rows import Row

MIB: Final = 2**20
TRANSFER: Final = "\N{DAGGER}"
DOUBT: Final = "\N{NOT EQUAL TO}"  # counts of MACs that differ
VERDICTS: Final = {"time_ratio": "verdict", "training_ratio": "training_verdict"}  # columns of ratios, their verdicts
SETTING: Final = ("size", "batch_size", "precision", "device", "threads")  # never mixed in one comparison


@dataclass(frozen=True, slots=True)
class View:
    """A numeric column: its header, what it is multiplied by for display, and the metric that defines it."""

    column: str
    header: str
    factor: float
    metric: str


VIEWS: Final = (
    View("parameters", "params (M)", 1e-6, "parameters"),
    View("macs", "MACs (G)", 1e-9, "macs"),
    View("latency_s", "latency (ms)", 1e3, "latency"),
    View("throughput_img_per_s", "throughput (img/s)", 1, "throughput"),
    View("time_ratio", "time ratio", 1, "time_ratio"),
    View("latency_one_s", "latency, 1 image (ms)", 1e3, "latency_one"),
    View("training_step_s", "training step (ms)", 1e3, "training_step"),
    View("training_ratio", "training ratio", 1, "time_ratio"),
    View("best_throughput_img_per_s", "best throughput (img/s)", 1, "best_throughput"),
    View("best_batch_size", "at batch size", 1, "best_batch_size"),
    View("peak_memory_inference_B", "inference memory (MiB)", 1 / MIB, "peak_memory_inference"),
    View("peak_memory_training_B", "training memory (MiB)", 1 / MIB, "peak_memory_training"),
)


def number(value: object, digits: int = 4) -> str:
    """Return ``value`` with that many significant digits, never in powers of ten; "-" for what is no number."""
    if not isinstance(value, float | int):
        return "-"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else int(f"{value:e}".split("e")[1]) + 1 if value else 1
    return f"{value:.{max(digits - magnitude, 0)}f}"


def shown(row: Row, view: View) -> str:
    """Return the value of one column, scaled; a ratio with its interval, MACs with a mark if their counts differ."""
    value = row[view.column]
    text = number(value * view.factor if isinstance(value, float | int) else None)
    if view.column == "macs" and row["macs_agree"] is False:
        return f"{text} {DOUBT}"
    if view.column == "best_batch_size":
        return str(value) if value is not None else "-"
    if view.column in VERDICTS and isinstance(value, float | int):
        low, high = row[f"{view.column}_low"], row[f"{view.column}_high"]
        interval = f" [{low:.3f}, {high:.3f}]" if isinstance(low, float | int) and isinstance(high, float | int) else ""
        return f"{value:.3f}{interval}"
    return text


def score(value: object, metric: object) -> str:
    """Return a score: a fraction in per cent, anything else as it is."""
    if not isinstance(value, float | int):
        return "-"
    return f"{100 * value:.2f}" if is_fraction(metric) else number(value)


def score_header(metrics: Iterable[object]) -> str:
    """Return the header of a column of scores, its unit included."""
    names = sorted({str(metric) for metric in metrics if metric is not None})
    units = {"%" if is_fraction(name) else METRICS[name].unit for name in names}
    label = metric_name(names[0]) if len(names) == 1 else "score"
    return f"{label} ({units.pop()})" if len(units) == 1 else label


def metric_name(metric: str) -> str:
    """Return a metric's name as people write it: ``top-1``, ``box AP50``, ``mIoU``."""
    words = re.sub(r"^top(\d+)$", r"top-\1", metric).replace("_", " ")
    return re.sub(r"\bap(?=\d*\b)", "AP", words).replace("miou", "mIoU")


def task_name(row: Row) -> str:
    """Return the task and its head, if it has one with a name: ``detection (retinanet)``; a stranger's text."""
    return str(row["task"]) if row["head"] is None else f"{row['task']} ({row['head']})"


def pixels(resolution: object) -> str:
    """Return a resolution as ``HxW``; nothing for None."""
    return "x".join(str(side) for side in resolution) if isinstance(resolution, list) else ""


def setting(row: Row, names: Iterable[str] = SETTING) -> str:
    """Return in words what a comparison holds equal, as far as it is known."""
    words = {
        "size": f"size {row['size']}",
        "batch_size": f"batch size {row['batch_size']}",
        "precision": str(row["precision"]),
        "device": str(row["device"]),
        "threads": f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}",
    }
    return ", ".join(words[name] for name in names if row[name] is not None)


def is_fraction(metric: object) -> bool:
    """Whether a metric is a share, which people read in per cent."""
    return metric in METRICS and METRICS[str(metric)].unit == "1"
