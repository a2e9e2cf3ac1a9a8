"""``report.md``: what was run, one table per task and resolution, what failed, and what every column means."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Final
from urllib.parse import quote

from attnbench.record import METRICS, Record
from attnbench.report.rows import Identity, Row, identity, one_line
from attnbench.report.spread import Spread, Spreads, spreads, winners
from attnbench.report.view import (
    DOUBT,
    SETTING,
    TRANSFER,
    VERDICTS,
    VIEWS,
    pixels,
    score,
    score_header,
    setting,
    shown,
    task_name,
)
from attnbench.store import latest

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()#|~$!])")
_SHOWN: Final = 4  # values of one fact about the run, at most
_UNSHOWN: Final = ("train_loss", "train_time")  # measured, but in no table of the report
_ALT: Final = {
    "curves": "Validation score against training images seen, one colour per mechanism, a band over seeds",
    "accuracy_throughput": "Scatter plot of the score against throughput, one colour per mechanism",
    "latency_resolution": "Latency against resolution on logarithmic axes, one line per mechanism",
    "memory_resolution": "Peak memory against resolution on logarithmic axes, one line per mechanism",
}


def report(
    records: Sequence[Record],
    rows: Sequence[Row],
    config_text: str,
    figures: Sequence[PurePath],
    sections: Sequence[str] = (),
    known: Spreads | None = None,
) -> str:
    """Return the text of ``report.md``.

    ``figures`` are paths relative to the folder of the report; of each figure the PNG is shown and the SVG linked.
    ``sections`` are Markdown that stands before the figures, empty ones left out; ``known`` are the spreads of the
    records, where the caller has them already.
    """
    known = spreads(records) if known is None else known
    parts = [
        "# attnbench report",
        *_run(records, rows, config_text, known),
        "## Results",
        _READING,
        *_tables(rows, known),
        *_failures(rows),
        *filter(None, sections),
        *_figures(figures),
        "## Columns",
        *_definitions(records, rows),
    ]
    return "\n\n".join(parts) + "\n"


def escape(value: object) -> str:
    """Return a stranger's text as one line that Markdown and HTML show as it is, in a table cell too."""
    text = one_line(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


_READING: Final = f"""\
In each table every mechanism sits in the same backbone, at the same size, batch size, precision, device and threads;
those timed together share their rounds. Parameters and MACs are not held equal: they are shown. {TRANSFER} marks a
transfer score, of a model that was trained at another resolution: it is not ranked. A score of one seed is indicative
and never bold; bold is the best mean of those trained there, and no more than that. Brackets hold 95 % intervals,
parentheses the least and greatest seed. A time ratio is a tie where its 95 % interval covers 1, or where it is no
farther from 1 than the noise floor. MACs marked {DOUBT} are in doubt, since ways to count them differ: their rows are
not ranked."""


def _run(records: Sequence[Record], rows: Sequence[Row], config_text: str, known: Spreads) -> Iterator[str]:
    yield "## Run"
    facts = dict(_environment([record.environment for record in latest(records).values()]))
    started = sorted(record.started for record in records)
    if started:
        facts["started"] = escape(" to ".join(dict.fromkeys((started[0], started[-1]))))
    floors = [known[identity(row)].noise_floor for row in rows if row["time_ratio"] is not None]
    if floors:
        facts["noise floor"] = f"{100 * max(floors):.2f} % at most: the reference timed against itself"
    converged = [known[identity(row)].converged for row in rows]
    wide = [row for row, narrow in zip(rows, converged, strict=True) if narrow is False]
    if wide:
        named = dict.fromkeys(f"{escape(row['mechanism'])} {pixels(row['resolution'])}" for row in wide)
        facts["timing"] = f"not converged, ended with a wider interval than asked for: {_first(list(named))}"
    elif True in converged:
        facts["timing"] = "converged"
    facts |= dict(_timings(records, rows))
    yield table(["fact", "value"], [[name, value] for name, value in facts.items()])
    if config_text.strip():
        fence = "`" * (max((len(run) for run in re.findall("`+", config_text)), default=0) + 3)
        yield f"{fence}yaml\n{config_text.strip()}\n{fence}"


def _timings(records: Sequence[Record], rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield how long it was timed, with which kernels, and what disturbed it."""
    timed = [record.environment for record in latest(records).values() if "launches" in record.environment]
    for name, counts in (
        ("rounds", [item.get("rounds") for item in timed]),
        ("launches of every worker", [len(item["launches"]) for item in timed if isinstance(item["launches"], list)]),
    ):
        numbers = sorted({count for count in counts if isinstance(count, int)})
        if numbers:
            yield name, " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    kernels = {escape(row["attention_kernel"]) for row in rows if row["attention_kernel"] is not None}
    if kernels:
        yield "attention kernel, inference", ", ".join(sorted(kernels))
    said = [part for row in rows if row["conditions"] for part in str(row["conditions"]).split("; ")]
    if said:
        yield "disturbed", _first([escape(part) for part in dict.fromkeys(said)])


def _environment(found: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """Yield each fact with its values over all records: more than one means that cells ran under different ones."""
    values: dict[str, dict[str, object]] = {}
    for environment in found:
        for name, value in environment.items():
            if name in (
                "converged",
                "warm_up",
                "rounds",
                "launches",
                "seconds_in_visits",
                "conditions",
                "attention_kernel",
            ):  # of one timing, not of the machine
                continue
            if isinstance(value, dict):
                text = ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
            else:
                text = value if isinstance(value, str) else json.dumps(value)
            values.setdefault(name, {})[text] = value
    for name, seen in values.items():
        numbers = [value for value in seen.values() if isinstance(value, float | int) and not isinstance(value, bool)]
        if len(numbers) == len(seen) > 1:
            yield escape(name), f"{min(numbers)} to {max(numbers)}"
        else:
            yield escape(name), _first([escape(text) for text in seen])


def _first(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


def _tables(rows: Sequence[Row], known: Spreads) -> Iterator[str]:
    won = winners(rows, known)
    sections: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        held = [str(row[name]) for name in SETTING]
        sections.setdefault((str(row["task"]), str(row["head"]), pixels(row["resolution"]), *held), []).append(row)
    for found in sections.values():
        task = "Cost" if found[0]["task"] is None else escape(task_name(found[0]))
        yield f"### {task} at {pixels(found[0]['resolution'])}"
        yield f"Held equal: {escape(setting(found[0]))}."
        yield _section(found, known, won)


def _section(rows: Sequence[Row], known: Spreads, won: set[Identity]) -> str:
    views = [view for view in VIEWS if any(row[view.column] is not None for row in rows)]
    scored = any(row["transfer"] is not None for row in rows)
    references = sorted({escape(row["reference"]) for row in rows if row["reference"] is not None})
    header = ["mechanism"]
    for view in views:
        ratio = view.column in VERDICTS and references
        header.append(f"{view.header} to {', '.join(references)} [95 %]" if ratio else view.header)
    header += [f"{score_header(row['headline_metric'] for row in rows)}", "trained at"] if scored else []
    lines = []
    for row in rows:
        spread = known.get(identity(row), Spread())
        cells = [escape(row["mechanism"])]
        for view in views:
            tie = " tie" if row.get(VERDICTS.get(view.column, "")) == "tie" else ""
            cells.append(shown(row, view) + tie)
        if scored:
            cells += [_score(row, spread, identity(row) in won), pixels(row["train_resolution"]) or "-"]
        lines.append([*cells, escape(row["status"])])
    return table([*header, "status"], lines)


def _score(row: Row, spread: Spread, bold: bool) -> str:
    metric = row["headline_metric"]
    text = score(row["headline_value"], metric)
    if text == "-":
        return text
    text = f"**{text}**" if bold else text
    text += TRANSFER if row["transfer"] else ""
    if spread.score_interval:
        text += f" [{', '.join(score(end, metric) for end in spread.score_interval)}]"
    if len(spread.scores) < 2:
        return f"{text} (1 seed, indicative)"
    ends = f"{score(min(spread.scores), metric)} to {score(max(spread.scores), metric)}"
    return f"{text} ({ends}, {len(spread.scores)} seeds)"


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    lines = [
        [escape(row[name]) if name != "resolution" else pixels(row[name]) for name in _FAILURE]
        for row in rows
        if row["status"] != "ok"
    ]
    if lines:
        yield "## Failures"
        yield "The worst of the row's cells, and the probe that each reason comes from; other values stand."
        yield table(list(_FAILURE), lines)


_FAILURE: Final = ("mechanism", "task", "resolution", "status", "reason")


def _figures(figures: Sequence[PurePath]) -> Iterator[str]:
    shown_ones = [path for path in figures if path.suffix == ".png"]
    if shown_ones:
        yield "## Figures"
    for path in shown_ones:
        alt = _ALT.get(path.stem, path.stem.replace("_", " "))
        text = f"![{escape(alt)}]({quote(path.as_posix())})"
        vector = path.with_suffix(".svg")
        yield f"{text}\n\n[The same as SVG]({quote(vector.as_posix())})" if vector in figures else text


def _definitions(records: Sequence[Record], rows: Sequence[Row]) -> Iterator[str]:
    metrics = [view.metric for view in VIEWS if any(row[view.column] is not None for row in rows)]
    metrics += ["noise_floor"] if "time_ratio" in metrics else []
    metrics += _learned(records)
    lines = []
    for name in metrics:
        metric = METRICS[name]
        better = "-" if metric.better == "neither" else metric.better
        lines.append([escape(name), escape(metric.unit), better, escape(metric.definition)])
    yield table(["metric", "unit in CSV files", "better", "definition"], lines)
    kinds = sorted({escape(row["memory_kind"]) for row in rows if row["memory_kind"] is not None})
    if kinds:
        yield f"Kind of memory: {'; '.join(kinds)}."
    yield "MiB = 1,048,576 B; G = 10⁹; M = 10⁶."


def _learned(records: Sequence[Record]) -> list[str]:
    """Return the metrics of trainings and scores, in the order of ``METRICS``."""
    probes = ("training", "accuracy")
    found = {item.metric for record in records if record.cell.probe in probes for item in record.measurements}
    return [metric for metric in METRICS if metric in found and metric not in _UNSHOWN]


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown; its cells are Markdown already."""
    head = list(header)
    body = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in body)
