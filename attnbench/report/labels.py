"""Place one label per series beside one of its points, where it covers nothing."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import cos, pi, sin
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Point = tuple[float, float]
Stroke = tuple[Point, Point]  # an error bar, a line between two points
Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels

_DISTANCES: Final = (7, 14, 24, 38, 54)  # points, from the marker's centre to the label's edge
_ANGLES: Final = tuple(index * pi / 4 for index in (2, 6, 1, 7, 3, 5, 0, 4))  # above and below first
_MARKER: Final = 5  # points, half the side of the square that a marker takes
_STROKE: Final = 1.5  # points, half the width that a stroke keeps free
_STEPS: Final = 24  # small squares that stand for a stroke
_LEADER: Final = 10  # points: a label farther off gets a line to its point
_SIZE: Final = 9  # points, of the letters


def label_series(
    axes: Axes, series: Mapping[str, Sequence[Point]], colours: Mapping[str, str], strokes: Sequence[Stroke] = ()
) -> None:
    """Write each series' name beside one of its points (data coordinates), in its colour.

    It takes the nearest place that overlaps no label, no point and no stroke and lies in the frame; where there is
    none, the one that overlaps least. The figure must have its layout already.
    """
    scale = axes.figure.dpi / 72  # pixels of a point
    pixels = {name: [_pixel(axes, point) for point in points] for name, points in series.items()}
    taken = [_box(point, (_MARKER * scale,) * 2) for points in pixels.values() for point in points]
    for start, end in strokes:
        steps = np.linspace(_pixel(axes, start), _pixel(axes, end), _STEPS).tolist()
        taken += [_box((x, y), (_STROKE * scale,) * 2) for x, y in steps]
    for name, points in series.items():
        half = _half_extent(axes, name)
        which, distance, centre = _best(list(_places(pixels[name], half, scale)), half, taken, axes)
        taken.append(_box(centre, half))
        text = axes.annotate(
            name,
            points[which],
            xytext=((centre[0] - pixels[name][which][0]) / scale, (centre[1] - pixels[name][which][1]) / scale),
            textcoords="offset points",
            color=colours[name],
            fontsize=_SIZE,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colours[name], "linewidth": 0.6} if distance > _LEADER else None,
        )
        text.set_in_layout(False)  # the layout is done: labels must not move the axes under them


def _best(
    places: list[tuple[int, float, Point]], half: Point, taken: list[Box], axes: Axes
) -> tuple[int, float, Point]:
    boxes = np.array([_box(centre, half) for _, _, centre in places])
    inside = _shared(boxes, np.array([axes.bbox.extents]))[:, 0]
    outside = 4 * half[0] * half[1] - inside
    covered = _shared(boxes, np.array(taken)).sum(axis=1) + np.where(outside < 1, 0, outside)
    return places[int(covered.argmin())]


def _shared(boxes: Floats, others: Floats) -> Floats:
    """Return the area, in square pixels, that each box shares with each of the others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Floats = np.clip(high - low, 0, None).prod(axis=2)
    return shared


def _places(points: Sequence[Point], half: Point, scale: float) -> Iterator[tuple[int, float, Point]]:
    """Yield the index of a point, the distance to it, and the label's centre in pixels, nearest first."""
    for distance, (which, (x, y)), angle in product(_DISTANCES, enumerate(points), _ANGLES):
        across, up = cos(angle) * (distance * scale + half[0]), sin(angle) * (distance * scale + half[1])
        yield which, distance, (x + across, y + up)


def _pixel(axes: Axes, point: Point) -> Point:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _half_extent(axes: Axes, name: str) -> Point:
    probe = axes.text(0, 0, name, fontsize=_SIZE)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width / 2, extent.height / 2


def _box(centre: Point, half: Point) -> Box:
    return centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]
