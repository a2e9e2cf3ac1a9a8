"""What a table takes as measured: plain values in base units, from wherever they come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnbench.published.model_names import REFERENCE

Resolution = tuple[int, int]  # (H, W) in pixels
Key = tuple[str, Resolution]  # a model's name, or a variant's, and the resolution


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs: parameters, and MACs of one image."""

    parameters: int
    macs: int
    surplus: Mapping[str, int] = field(default_factory=dict)  # MACs that the authors' code does beyond these, by kind


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def inverse(self) -> "Interval":
        """Return the interval of 1 / value: a time ratio as a throughput ratio."""
        return Interval(1 / self.value, 1 / self.high, 1 / self.low)


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured here; what is absent was not measured.

    ``time_ratios`` hold the time per image over that of Swin-Tiny in the same run at the same resolution (above 1 is
    slower); ``accuracy`` top-1 as a fraction; ``failures`` why a model could not be built or traced; ``configurations``
    the settings of every published model that this project builds, under the authors' argument names.
    """

    costs: Mapping[Key, Cost] = field(default_factory=dict)
    time_ratios: Mapping[Key, Interval] = field(default_factory=dict)
    accuracy: Mapping[Key, float] = field(default_factory=dict)
    configurations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: Mapping[Key, str] = field(default_factory=dict)

    def speed(self, key: Key) -> Interval | None:
        """Return the throughput ratio to Swin-Tiny's; its own is 1 wherever anything was timed."""
        name, resolution = key
        if name == REFERENCE and any(other == resolution for _, other in self.time_ratios):
            return Interval(1.0, 1.0, 1.0)
        found = self.time_ratios.get(key)
        return None if found is None else found.inverse()


@dataclass(frozen=True, slots=True)
class Head:
    """A task's head to put behind a model's stages, by the task's and its own name, and its number of classes."""

    task: str
    name: str
    classes: int


@dataclass(frozen=True, slots=True)
class Need:
    """One model to measure: the key its cost is looked up under, and how to build it.

    ``resolution`` is that of the image counted; the model is built for ``built``, where that is another. Without a
    ``head`` it has its classifier.
    """

    key: str
    name: str
    resolution: Resolution
    changes: tuple[tuple[str, Any], ...] = ()
    head: Head | None = None
    built: Resolution | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows to show: models by name and resolutions; None stands for all that are printed."""

    models: tuple[str, ...] | None = None
    resolutions: tuple[Resolution, ...] | None = None

    def takes(self, model: str, resolution: Resolution | None = None) -> bool:
        """Tell whether a row of this model (and resolution, if it has one) is wanted."""
        if self.models is not None and model not in self.models:
            return False
        return self.resolutions is None or resolution is None or resolution in self.resolutions


def variant_key(name: str, changes: Mapping[str, Any]) -> str:
    """Return the key of a model with changed settings, such as ``swin_base[window_size=12]``."""
    if not changes:
        return name
    return f"{name}[{','.join(f'{setting}={value}' for setting, value in changes.items())}]".replace(" ", "")
