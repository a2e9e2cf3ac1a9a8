"""The figures of a report: accuracy against throughput, latency and peak memory against resolution, learning curves.

Comparisons never mix sizes, batch sizes, precisions, devices, thread counts, tasks or kinds of memory: each
combination has its own panel. Drawing touches no state outside its own figures.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attnbench.report import panels
from attnbench.report.curves import Chart
from attnbench.report.curves_figure import learning_curves
from attnbench.report.files import remove, replace
from attnbench.report.labels import Point, Stroke, label_series
from attnbench.report.panels import Look, side
from attnbench.report.rows import Row, identity
from attnbench.report.spread import Spread, Spreads
from attnbench.report.view import MIB, SETTING, pixels, score_header, setting, task_name

NAMES: Final = ("accuracy_throughput", "latency_resolution", "memory_resolution", "curves")
FORMATS: Final = ("png", "svg")

_MEMORY: Final = {"inference": "peak_memory_inference_B", "training": "peak_memory_training_B"}


def draw(rows: Sequence[Row], folder: Path, known: Spreads | None = None, charts: Sequence[Chart] = ()) -> list[Path]:
    """Write each figure that has data as PNG and SVG; return their paths.

    A figure of an earlier report that has no data any more is removed. ``known``, from
    :func:`~attnbench.report.spread.spreads`, gives the error bars of scores and latencies; ``charts`` are
    those of :func:`attnbench.report.curves.charts`.
    """
    paths = []
    with panels.style():
        drawn = figures(rows, known, charts)
        for name in NAMES:
            for kind in FORMATS:
                path = folder / f"{name}.{kind}"
                if name in drawn:
                    replace(path, render(drawn[name], kind))
                    paths.append(path)
                else:
                    remove(path)
    return paths


def figures(rows: Sequence[Row], known: Spreads | None = None, charts: Sequence[Chart] = ()) -> dict[str, Figure]:
    """Return the figures that have data, by name."""
    with panels.style():
        look = panels.looks(rows)
        shown = [row for row in rows if row["mechanism"] in look]
        spared = panels.mechanisms_left_out(len(_names([rows])) - len(look))
        made = (
            accuracy_against_throughput(shown, known or {}, look, spared),
            latency_against_resolution(shown, known or {}, look, spared),
            memory_against_resolution(shown, look, spared),
            learning_curves(charts, look, spared),
        )
    return {name: figure for name, figure in zip(NAMES, made, strict=True) if figure is not None}


def render(figure: Figure, kind: str) -> bytes:
    """Return the figure as ``png`` or ``svg``: the same bytes for the same rows and the same matplotlib."""
    data = io.BytesIO()
    dots = figure.dpi
    try:  # savefig would draw twice, once for a layout that is settled
        if kind == "svg":
            FigureCanvasSVG(figure).print_svg(data, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
        else:
            FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})  # type: ignore[no-untyped-call]
    finally:
        figure.dpi = dots  # SVG takes its own
    return data.getvalue()


def accuracy_against_throughput(
    rows: Sequence[Row], known: Spreads, look: Mapping[str, Look], spared: str = ""
) -> Figure | None:
    """Draw scores over throughput: colour for the mechanism, marker for the resolution, hollow for transfer.

    ``spared`` is a note on what the rows lack, here and in the other figures.
    """
    complete = [
        row for row in rows if row["headline_value"] is not None and panels.positive(row["throughput_img_per_s"])
    ]
    missing = [row for row in rows if row not in complete]
    sizes = sorted({(side(row["resolution"]), pixels(row["resolution"])) for row in complete})
    markers = {name: marker for (_, name), marker in zip(sizes, panels.MARKERS, strict=False)}
    complete = [row for row in complete if pixels(row["resolution"]) in markers]
    split = _split(complete, ("task", "head", "headline_metric", *SETTING))
    if not split:
        return None
    figure, axes = panels.grid([f"{task_name(found[0])}, {setting(found[0])}" for found in split])
    series = [_scores(panel, found, known, look, markers) for panel, found in zip(axes, split, strict=False)]
    handles = [_grey(marker, name, hollow=False) for name, marker in markers.items()]
    if any(row["transfer"] for row in complete):
        handles.append(_grey("o", "transfer", hollow=True))
    seeds = any(len(known.get(identity(row), Spread()).scores) > 1 for row in complete)
    notes = [
        "Bars: least to greatest over seeds." if seeds else "One seed per point: indicative.",
        "Hollow: trained at another resolution, not to be ranked with the filled." if len(handles) > len(sizes) else "",
        panels.left_out([{**row, "headline_value": None} for row in missing], "headline_value"),
        panels.panels_left_out(len(split)),
        panels.resolutions_left_out(len(sizes) - len(markers)),
        spared,
    ]
    panels.finish(figure, handles, notes)
    colours = {panels.short(name): panels.readable(one.colour) for name, one in look.items()}
    for panel, (points, strokes) in zip(axes, series, strict=True):
        label_series(panel, points, colours, strokes)
    return figure


def latency_against_resolution(
    rows: Sequence[Row], known: Spreads, look: Mapping[str, Look], spared: str = ""
) -> Figure | None:
    """Draw the latency of a batch over resolution, with its 95 % interval."""
    split = _priced([row for row in rows if panels.positive(row["latency_s"])], SETTING, ["latency_s"])
    if not split:
        return None
    figure, axes = panels.grid([_title(found, rows) for found in split])
    bars = False
    for panel, found in zip(axes, split, strict=False):
        intervals = {identity(row): _latency_interval(row, known) for row in found}
        bars = bars or any(intervals.values())
        _lines(panel, found, "latency_s", 1e3, look)
        _bars(panel, [(row, ends) for row in found if (ends := intervals[identity(row)])], look)
        panel.set_ylabel("latency (ms per batch)")
    notes = [
        "Bars: 95 % interval." if bars else "",
        panels.left_out(rows, "latency_s"),
        panels.panels_left_out(len(split)),
        spared,
    ]
    panels.finish(figure, panels.legend_of(_names(split), look), notes)
    return figure


def memory_against_resolution(rows: Sequence[Row], look: Mapping[str, Look], spared: str = "") -> Figure | None:
    """Draw peak memory over resolution: inference and training in panels of their own."""
    split = [
        (step, found)
        for found in _priced(rows, (*SETTING, "memory_kind"), list(_MEMORY.values()))
        for step, column in _MEMORY.items()
        if any(panels.positive(row[column]) for row in found)
    ]
    if not split:
        return None
    titles = [", ".join(filter(None, (_title(found, rows), _plain(found[0]["memory_kind"])))) for _, found in split]
    figure, axes = panels.grid(titles)
    for panel, (step, found) in zip(axes, split, strict=False):
        _lines(panel, [row for row in found if panels.positive(row[_MEMORY[step]])], _MEMORY[step], 1 / MIB, look)
        panel.set_ylabel(f"peak memory, {step} (MiB)")
    missing = {step: panels.left_out(rows, column) for step, column in _MEMORY.items()}
    alike = len(set(missing.values())) == 1
    notes = [missing["inference"]] if alike else [f"{note} ({step})" for step, note in missing.items() if note]
    names = _names([found for _, found in split])
    panels.finish(figure, panels.legend_of(names, look), [*notes, panels.panels_left_out(len(split)), spared])
    return figure


def _split(rows: Sequence[Row], columns: Sequence[str]) -> list[list[Row]]:
    """Return the rows that agree in ``columns`` together, in the order in which they come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str([row[column] for column in columns]), []).append(row)
    return list(found.values())


def _priced(rows: Sequence[Row], columns: Sequence[str], costs: Sequence[str]) -> list[list[Row]]:
    """Return the same, by task and head too where these give a mechanism several costs at one resolution."""
    split = []
    for found in _split(rows, columns):
        values: dict[tuple[str, str], set[str]] = {}
        for row in found:
            place = (str(row["mechanism"]), pixels(row["resolution"]))
            values.setdefault(place, set()).add(str([row[cost] for cost in costs]))
        several = any(len(seen) > 1 for seen in values.values())
        split += _split(found, ("task", "head")) if several else [found]
    return split


def _title(found: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return what a panel of costs holds equal: of several tasks or heads also its own, where it has but one."""
    own, all_of_them = ({task_name(row) for row in part} for part in (found, rows))
    named = len(own) == 1 < len(all_of_them) and found[0]["task"] is not None
    return ", ".join([*([task_name(found[0])] if named else []), setting(found[0])])


def _names(split: Sequence[Sequence[Row]]) -> list[str]:
    return list(dict.fromkeys(str(row["mechanism"]) for found in split for row in found))


def _number(value: object) -> float:
    assert isinstance(value, float | int)  # noqa: S101
    return value


def _plain(value: object) -> str:
    return "" if value is None else str(value)


def _grey(marker: str, name: str, *, hollow: bool) -> Line2D:
    face = "white" if hollow else panels.GREY
    return Line2D([], [], color=panels.GREY, marker=marker, linestyle="", markerfacecolor=face, label=name)


def _scores(
    axes: Axes, rows: Sequence[Row], known: Spreads, look: Mapping[str, Look], markers: Mapping[str, str]
) -> tuple[dict[str, list[Point]], list[Stroke]]:
    """Draw the points of one panel; return them by mechanism, and the lines that a label should not cover."""
    metric = rows[0]["headline_metric"]
    header = score_header([metric])
    factor = 100 if header.endswith("(%)") else 1
    series: dict[str, list[Point]] = {}
    strokes: list[Stroke] = []
    for name in _names([rows]):
        own = [row for row in rows if row["mechanism"] == name]
        points = [(_number(r["throughput_img_per_s"]), factor * _number(r["headline_value"])) for r in own]
        colour = look[name].colour
        joined = sorted(points)
        axes.plot(*zip(*joined, strict=True), color=colour, linestyle=look[name].dash, linewidth=1, alpha=0.35)
        strokes += pairwise(joined)
        alike: dict[tuple[str, bool, bool], list[tuple[float, float, float, float]]] = {}
        for row, (x, y) in zip(own, points, strict=True):
            seeds = [factor * value for value in known.get(identity(row), Spread()).scores] or [y]
            strokes += [((x, min(seeds)), (x, max(seeds)))] if len(seeds) > 1 else []
            drawn_as = (markers[pixels(row["resolution"])], bool(row["transfer"]), len(seeds) > 1)
            alike.setdefault(drawn_as, []).append((x, y, y - min(seeds), max(seeds) - y))
        for (marker, hollow, several), places in alike.items():
            xs, ys, below, above = zip(*places, strict=True)
            axes.errorbar(
                xs,
                ys,
                yerr=(below, above) if several else None,
                color=colour,
                marker=marker,
                markerfacecolor="white" if hollow else colour,
                markersize=7,
                capsize=3,
                linestyle="",
            )
        series.setdefault(panels.short(name), []).extend(points)
    axes.margins(0.16)
    panels.log_axis(axes, "x", [x for points in series.values() for x, _ in points])
    axes.set_xlabel("throughput (img/s)")
    axes.set_ylabel(header)
    if factor == 100:  # the margin may reach beyond what a share can be: it has no ticks there
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if max(low, 0) <= tick <= min(high, 100)])
    return series, strokes


def _lines(axes: Axes, rows: Sequence[Row], column: str, factor: float, look: Mapping[str, Look]) -> None:
    """Draw one line per mechanism over resolution, both axes logarithmic."""
    values: list[float] = []
    for name in _names([rows]):
        # Rows of several tasks share their cost: each point once.
        points = sorted({(side(r["resolution"]), factor * _number(r[column])) for r in rows if r["mechanism"] == name})
        x, y = zip(*points, strict=True)
        own = look[name]
        axes.plot(x, y, color=own.colour, marker=own.marker, linestyle=own.dash, ms=7, mec="w", mew=0.75)
        values += y
    panels.log_axis(axes, "y", values)
    panels.resolution_axis(axes, rows)


def _latency_interval(row: Row, known: Spreads) -> tuple[float, float] | None:
    """Return the latency's own interval or, where it has none, the ratio's, scaled to seconds."""
    own = known.get(identity(row), Spread()).latency_interval
    ratio, low, high = row["time_ratio"], row["time_ratio_low"], row["time_ratio_high"]
    if own is not None or ratio is None or low is None or high is None:
        return own
    second = _number(row["latency_s"]) / _number(ratio)
    return _number(low) * second, _number(high) * second


def _bars(axes: Axes, found: Sequence[tuple[Row, tuple[float, float]]], look: Mapping[str, Look]) -> None:
    """Draw the intervals of latencies, a mechanism's together."""
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for row, (low, high) in found:
        value = _number(row["latency_s"])
        place = (side(row["resolution"]), 1e3 * value, 1e3 * max(value - low, 0), 1e3 * max(high - value, 0))
        series.setdefault(str(row["mechanism"]), []).append(place)
    for name, places in series.items():
        x, y, below, above = zip(*places, strict=True)
        axes.errorbar(x, y, yerr=(below, above), color=look[name].colour, capsize=3, linestyle="")
