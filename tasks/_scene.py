"""A procedural scene, and its picture at any resolution.

A :class:`Scene` says what is where; :func:`render` draws it, and :func:`coverage` is the exact mask of one object, so
boxes, masks and label maps can be had from the same scenes. Every picture is drawn natively: edges are anti-aliased
from the distance to the outline, the texture is averaged over each pixel in closed form, and nothing is resampled.

Units: centres and windows are fractions of the scene's height and width; radii are fractions of the picture's shorter
side; frequencies are cycles per shorter side. A scene thus fits a picture of any proportions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, floor, pi, sin
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["disc", "triangle", "square", "hexagon", "cross"]
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A flat figure. ``hue`` is its step on the colour wheel, None for a grey one that decides nothing."""

    kind: Kind
    centre: tuple[float, float]  # (y, x)
    radius: float  # of the circle around it
    angle: float  # radians
    colour: tuple[float, float, float]  # RGB, 0..1
    hue: int | None


@dataclass(frozen=True, slots=True)
class Wave:
    """One sinusoid of the background's texture."""

    amplitude: float
    frequency: tuple[float, float]  # (y, x)
    phase: float  # radians


@dataclass(frozen=True, slots=True)
class Background:
    """A colour, and waves that lighten and darken it."""

    colour: tuple[float, float, float]  # RGB, 0..1
    waves: tuple[Wave, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """A labelled arrangement of objects; later ones are painted over earlier ones."""

    label: int
    background: Background
    objects: tuple[SceneObject, ...]

    @property
    def deciding(self) -> tuple[SceneObject, ...]:
        """Return the objects that decide the label."""
        return tuple(item for item in self.objects if item.hue is not None)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a scene that is shown, of the scene's own proportions: nothing is stretched."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0  # share of the height and of the width


WHOLE = Window()


def render(scene: Scene, resolution: tuple[int, int], window: Window = WHOLE) -> NDArray[np.uint8]:
    """Return the picture (H, W, 3) of what ``window`` shows of ``scene``."""
    picture = _texture(scene.background, resolution, window)[..., None] + _rgb(scene.background.colour)
    for item in scene.objects:
        rows, columns, mask = coverage(item, resolution, window)
        patch = picture[rows, columns]
        patch += mask[..., None] * (_rgb(item.colour) - patch)
    picture *= 255
    picture += 0.5
    np.clip(picture, 0, 255, out=picture)
    return picture.astype(np.uint8)


def coverage(item: SceneObject, resolution: tuple[int, int], window: Window = WHOLE) -> tuple[slice, slice, Floats]:
    """Return the rows and columns that ``item`` may touch, and the covered share of each pixel there, 0..1."""
    radius = item.radius * min(resolution) / window.side  # pixels, as all below
    y = (item.centre[0] - window.top) / window.side * resolution[0]
    x = (item.centre[1] - window.left) / window.side * resolution[1]
    rows, columns = _span(y, radius, resolution[0]), _span(x, radius, resolution[1])
    down = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - y) / radius
    right = (np.arange(columns.start, columns.stop, dtype=np.float32)[None] + 0.5 - x) / radius
    turn = np.float32(cos(item.angle)), np.float32(sin(item.angle))
    distance = _OUTLINES[item.kind](turn[0] * down - turn[1] * right, turn[1] * down + turn[0] * right)
    return rows, columns, np.clip(np.float32(0.5) - distance * np.float32(radius), 0, 1)


def box(item: SceneObject, proportions: tuple[float, float], share: float = 1.0) -> tuple[float, float, float, float]:
    """Return (top, left, bottom, right) around ``share`` of the circle around ``item``, in a scene of (H, W)."""
    y, x = item.centre
    down, right = (share * item.radius * min(proportions) / side for side in proportions)
    return y - down, x - right, y + down, x + right


def _rgb(colour: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.array(colour, dtype=np.float32)


def _span(centre: float, radius: float, count: int) -> slice:
    start = min(max(floor(centre - radius - 1), 0), count)
    return slice(start, max(min(ceil(centre + radius + 1), count), start))


def _texture(background: Background, resolution: tuple[int, int], window: Window) -> NDArray[np.float32]:
    """Return the sum of the waves (H, W), each averaged over the pixel: cos(y + x) is separable, so one matmul."""
    down = [wave.frequency[0] * resolution[0] / min(resolution) for wave in background.waves]
    right = [wave.frequency[1] * resolution[1] / min(resolution) for wave in background.waves]
    y = _phases(down, window.top, window.side, resolution[0])
    x = _phases(right, window.left, window.side, resolution[1]) + np.array([w.phase for w in background.waves])
    step_y, step_x = np.array(down) * window.side / resolution[0], np.array(right) * window.side / resolution[1]
    size = np.array([wave.amplitude for wave in background.waves]) * np.sinc(step_y) * np.sinc(step_x)
    rows = np.concatenate([np.cos(y) * size, -np.sin(y) * size], axis=1)  # (H, 2 waves)
    columns = np.concatenate([np.cos(x), np.sin(x)], axis=1)  # (W, 2 waves)
    texture: NDArray[np.float32] = rows.astype(np.float32) @ columns.astype(np.float32).T
    return texture


def _phases(frequencies: list[float], start: float, side: float, count: int) -> NDArray[np.float64]:
    """Return the phase (count, waves) at the middle of each pixel."""
    places = start + side * (np.arange(count) + 0.5) / count
    phases: NDArray[np.float64] = 2 * pi * places[:, None] * np.array(frequencies)
    return phases


# Distances to the outline, negative inside, of figures within the unit circle (outside corners: a lower bound).


def _disc(y: Floats, x: Floats) -> Floats:
    distance: Floats = np.sqrt(y * y + x * x) - 1
    return distance


def _hexagon(y: Floats, x: Floats) -> Floats:
    half = np.float32(0.75**0.5)
    distance: Floats = np.maximum(half * np.abs(x) + np.float32(0.5) * np.abs(y), np.abs(y)) - half
    return distance


def _rectangle(y: Floats, x: Floats, height: float, width: float) -> Floats:
    return np.maximum(np.abs(y) - np.float32(height), np.abs(x) - np.float32(width))


def _square(y: Floats, x: Floats) -> Floats:
    return _rectangle(y, x, 0.5**0.5, 0.5**0.5)


def _cross(y: Floats, x: Floats) -> Floats:
    return np.minimum(_rectangle(y, x, 0.93, 0.36), _rectangle(y, x, 0.36, 0.93))


def _triangle(y: Floats, x: Floats) -> Floats:
    slope = np.float32(0.75**0.5)
    distance: Floats = np.maximum(y - np.float32(0.5), slope * np.abs(x) - np.float32(0.5) * y - np.float32(0.5))
    return distance


_OUTLINES: dict[Kind, Callable[[Floats, Floats], Floats]] = {
    "disc": _disc,
    "triangle": _triangle,
    "square": _square,
    "hexagon": _hexagon,
    "cross": _cross,
}
