"""What every figure shares: the look of a mechanism, the panels, the axes, the notes. Matplotlib's own classes only."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Final, Literal

import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from attnbench.report.rows import Row
from attnbench.report.view import pixels

MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "*")
GREY: Final = "0.35"

_PANEL: Final = (5.4, 3.9)  # inches
_ACROSS: Final = 2  # panels in a line
_PANELS: Final = 12  # in a figure, at most
_LEGEND: Final = 1.7  # inches
_LINES: Final = 4.5  # of the legend, in an inch
_LEFT_OUT: Final = 4  # rows named in the note, at most
_NAME: Final = 24  # characters of a mechanism's name, at most
_DARKEN: Final = 0.65  # of a colour, for letters
_CROWDED: Final = 6  # resolutions: more than these stand upright on their axis
_TICKS: Final = 24  # resolutions named on an axis, at most
_ROOM: Final = 0.12  # share of a logarithmic axis left free at each end
_SPAN: Final = 4  # largest over smallest value from which powers of ten make good ticks


Dash = Literal["-", "--"]
_DASHES: Final[tuple[Dash, ...]] = ("-", "--")


@dataclass(frozen=True, slots=True)
class Look:
    """How a mechanism is drawn, the same in every figure of a report."""

    colour: str
    marker: str
    dash: Dash


@contextmanager
def style() -> Iterator[None]:
    """Set the look of what is drawn and saved inside, and nothing outside."""
    look: Any = {  # seaborn and matplotlib give these dictionaries different types
        **sns.plotting_context("notebook", font_scale=0.85),
        **sns.axes_style("whitegrid"),
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
        "text.parse_math": False,  # a stranger's name may hold a dollar sign
        "svg.hashsalt": "attnbench",
        "grid.color": "0.9",
    }
    with rc_context(look):
        yield


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Return the look of each mechanism, by the order in which they come, for as many as there are looks."""
    palette = [*sns.color_palette("colorblind").as_hex(), "#000000", "#332288"]
    names = dict.fromkeys(str(row["mechanism"]) for row in rows)
    drawn = [(colour, marker, dash) for dash in _DASHES for colour, marker in zip(palette, MARKERS, strict=True)]
    return {name: Look(*own) for name, own in zip(names, drawn, strict=False)}


def grid(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per title, as many as can be read."""
    count = min(len(titles), _PANELS)
    across = min(count, _ACROSS)
    down = ceil(count / across)
    figure = Figure(figsize=(across * _PANEL[0] + _LEGEND, down * _PANEL[1]), dpi=150, layout="constrained")
    axes = [figure.add_subplot(down, across, index + 1) for index in range(count)]
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(textwrap.fill(title, 70), fontsize=9, loc="left")
    return figure, axes


def readable(colour: str) -> str:
    """Return a colour dark enough for letters on white, recognisable as the same."""
    red, green, blue = to_rgb(colour)
    return to_hex((_DARKEN * red, _DARKEN * green, _DARKEN * blue))


def finish(figure: Figure, handles: Sequence[Line2D], notes: Sequence[str]) -> None:
    """Add the legend beside the panels and the notes below them, then settle the layout."""
    for axes in figure.axes:
        sns.despine(ax=axes)
    if handles:
        columns = ceil(len(handles) / int(figure.get_figheight() * _LINES))
        figure.set_figwidth(figure.get_figwidth() + (columns - 1) * _LEGEND)
        figure.legend(handles=list(handles), loc="outside right upper", frameon=False, ncols=columns)
    wide = int(figure.get_figwidth() * 14)  # characters that fit
    text = "\n".join(textwrap.fill(note, wide) for note in notes if note)
    if text:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=GREY)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # else it would be settled anew for every file


def legend_of(names: Sequence[str], look: Mapping[str, Look]) -> list[Line2D]:
    """Return a legend's line for each mechanism."""
    return [
        # Matplotlib before 3.10 leaves out names that begin with an underscore: a thin space lets them stay.
        Line2D([], [], color=look[n].colour, marker=look[n].marker, linestyle=look[n].dash, label=f"\u2009{short(n)}")
        for n in names
    ]


def short(name: str) -> str:
    """Return a name that a figure has room for."""
    return name if len(name) <= _NAME else name[: _NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def side(resolution: object) -> float:
    """Return the side, in pixels, of the square that has as many pixels."""
    height, width = resolution if isinstance(resolution, list) else (0, 0)
    return sqrt(height * width)


def resolution_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Make x logarithmic, with a tick at each resolution of the rows, named HxW."""
    names: dict[float, dict[str, None]] = {}
    for row in rows:
        names.setdefault(side(row["resolution"]), {})[pixels(row["resolution"])] = None
    places = sorted(names)
    ticks = _apart(places)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, ["\n".join(names[place]) for place in ticks])
    axes.set_xlim(places[0] / 1.12, places[-1] * 1.12)
    axes.set_xlabel("resolution HxW (pixels), by the square root of its area")
    if len(places) > _CROWDED:
        axes.tick_params("x", rotation=90)


def _apart(places: Sequence[float]) -> list[float]:
    """Return the places if they are few, else those that stand far enough apart on a logarithmic axis."""
    if len(places) <= _TICKS:
        return list(places)
    least = (places[-1] / places[0]) ** (1 / _TICKS)
    kept = [places[0]]
    for place in places[1:]:
        if place >= kept[-1] * least:
            kept.append(place)
    return kept


def log_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Make an axis logarithmic around its values, with plain numbers: few enough to be read, never fewer than two."""
    room = (max(values) / min(values)) ** _ROOM * 1.15
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (min(values) / room, max(values) * room)})
    wide = max(values) > _SPAN * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.12g}"))


def positive(value: object) -> bool:
    """Whether a value has a place on a logarithmic axis."""
    return isinstance(value, float | int) and value > 0


def left_out(rows: Sequence[Row], column: str) -> str:
    """Return the note on the rows that a figure cannot show, and why."""
    told: dict[str, None] = {}
    for row in rows:
        if not positive(row[column]):
            why = (
                "zero"
                if row[column] is not None
                else "not measured"
                if row["status"] == "ok"
                else str(row["status"]).replace("_", " ")
            )
            told[f"{short(str(row['mechanism']))} at {pixels(row['resolution'])} ({why})"] = None
    more = f", and {len(told) - _LEFT_OUT} more" if len(told) > _LEFT_OUT else ""
    return f"Left out: {', '.join(list(told)[:_LEFT_OUT])}{more}." if told else ""


def panels_left_out(count: int) -> str:
    """Return the note on panels that a figure has no room for."""
    return f"{count - _PANELS} further panels are not drawn." if count > _PANELS else ""


def mechanisms_left_out(count: int) -> str:
    """Return the note on mechanisms that have no look of their own."""
    return f"{count} further mechanisms are not drawn: there are no more colours and markers." if count > 0 else ""


def resolutions_left_out(count: int) -> str:
    """Return the note on resolutions that have no marker of their own."""
    return f"{count} larger resolutions are not drawn: there are no more markers." if count > 0 else ""
