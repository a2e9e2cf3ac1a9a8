"""The figure of learning curves: validation scores over training images seen, a panel per task, head and score."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from attnbench.report import panels
from attnbench.report.curves import Chart, Line
from attnbench.report.panels import Look
from attnbench.report.view import is_fraction, score_header

_MARKED = 25  # evaluations, with more of which the points stand too close to be marked


def learning_curves(charts: Sequence[Chart], look: Mapping[str, Look], spared: str = "") -> Figure | None:
    """Draw the mean over seeds of each mechanism, and a band from the least to the greatest seed.

    ``spared`` is a note on mechanisms that have no look.
    """
    drawn = [(chart, lines) for chart in charts if (lines := [one for one in chart.lines if _name(one) in look])]
    if not drawn:
        return None
    figure, axes = panels.grid([f"{chart.race.title}, {chart.race.held}" for chart, _ in drawn])
    for panel, (chart, lines) in zip(axes, drawn, strict=False):
        for line in lines:
            _draw(panel, line, look[_name(line)], 100 if is_fraction(chart.metric) else 1)
        _frame(panel, chart.metric)
    everything = [line for _, lines in drawn for line in lines]
    several = any(len(line.curves) > 1 for line in everything)
    single = list(dict.fromkeys(panels.short(_name(line)) for line in everything if len(line.curves) == 1))
    notes = [
        "Lines: mean over seeds; bands: least to greatest." if several else "One seed per line: indicative.",
        f"One seed, indicative: {', '.join(single)}." if several and single else "",
        panels.panels_left_out(len(drawn)),
        spared,
    ]
    names = list(dict.fromkeys(_name(line) for line in everything))
    panels.finish(figure, panels.legend_of(names, look), notes)
    return figure


def _name(line: Line) -> str:
    return line.entrant.mechanism


def _draw(axes: Axes, line: Line, look: Look, factor: float) -> None:
    band = line.band()
    images = [place for place, _ in band]
    marked = look.marker if len(band) <= _MARKED else ""
    mean = [factor * seeds.mean for _, seeds in band]
    axes.plot(images, mean, color=look.colour, linestyle=look.dash, marker=marked, ms=5, mec="w", mew=0.5, lw=1.5)
    if len(line.curves) > 1:
        least, greatest = ([factor * end for end in ends] for ends in zip(*_ends(line), strict=True))
        axes.fill_between(images, least, greatest, color=look.colour, alpha=0.15, linewidth=0)


def _ends(line: Line) -> list[tuple[float, float]]:
    return [(seeds.least, seeds.greatest) for _, seeds in line.band()]


def _frame(axes: Axes, metric: str) -> None:
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("training images seen")
    axes.set_ylabel(f"validation {score_header([metric])}")
    if is_fraction(metric):  # the margin may reach beyond what a share can be: it has no ticks there
        low, high = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if max(low, 0) <= tick <= min(high, 100)])
