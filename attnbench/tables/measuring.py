"""Parameters and MACs of the models that tables need, counted on ``meta``: no weights are made, no memory is taken."""

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any, cast

from attnbench.report.rows import one_line
from attnbench.tables.measured import Cost, Head, Key, Measured, Need, Resolution

Progress = Callable[[int, int, str], None]


def measure(needs: Iterable[Need], measured: Measured, progress: Progress | None = None) -> Measured:
    """Return ``measured`` with the costs of ``needs``, except those it already has.

    A model that cannot be built or traced becomes a failure with its reason, and the others go on. ``progress`` is
    told how many models are done, of how many, and which comes next.
    """
    costs: dict[Key, Cost] = dict(measured.costs)
    failures: dict[Key, str] = dict(measured.failures)
    wanted = [need for need in needs if (need.key, need.resolution) not in costs]
    for done, need in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), need.key)
        try:
            costs[need.key, need.resolution] = cost(need)
        except Exception as error:  # noqa: BLE001 (a failure is a result: its cell says why)
            failures[need.key, need.resolution] = one_line(f"{type(error).__name__}: {error}")
        gc.collect()  # the traced graph of one model holds cycles
    return replace(measured, costs=costs, failures=failures)


def cost(need: Need) -> Cost:
    """Build one model on ``meta`` and count; its classifier, where it has one, has 1000 classes."""
    if need.head is not None:
        channels, stages = _stages(need.name, need.changes, need.built or need.resolution, need.resolution)
        head = _head(need.head, channels, need.resolution)
        return Cost(stages.parameters + head.parameters, stages.macs + head.macs, stages.surplus)
    import torch

    from attnbench.models import create_model

    with torch.device("meta"):
        model = create_model(need.name, resolution=need.resolution, **dict(need.changes))
    return _counted(model, need.resolution)


@cache
def _stages(
    name: str, changes: tuple[tuple[str, Any], ...], built: Resolution, resolution: Resolution
) -> tuple[tuple[int, ...], Cost]:
    """Return the channels of a model's stages, and what these cost without any head: counted once for all heads."""
    import torch
    from torch import nn

    from attnbench.models import create_model

    with torch.device("meta"):
        model = create_model(name, resolution=built, head=lambda _: nn.Identity(), **dict(changes))
    channels: tuple[int, ...] = cast(Any, model).channels  # a published model is a Backbone
    return channels, _counted(model, resolution)


@cache
def _head(head: Head, channels: tuple[int, ...], resolution: Resolution) -> Cost:
    """Return what a task's head costs behind stages of these channels: counted once for all models that have them."""
    import torch
    from torch import Tensor, nn

    from attnbench.registry import TASKS

    class Behind(nn.Module):
        """The head, fed with empty maps of an image's size."""

        def __init__(self) -> None:
            super().__init__()
            self.head = TASKS[head.task].head(channels, head.classes, head.name)

        def forward(self, images: Tensor) -> Any:
            sides = [(4 << stage) for stage in range(len(channels))]
            shapes = [[-(-length // side) for length in images.shape[2:]] for side in sides]
            maps = [images.new_empty(1, *shape, dim) for shape, dim in zip(shapes, channels, strict=True)]
            return self.head(maps)

    with torch.device("meta"):
        model = Behind()
    return _counted(model, resolution)


def _counted(model: Any, resolution: Resolution) -> Cost:
    from attnbench.backbone import Backbone
    from attnbench.measure.macs import count_macs

    parameters = sum(parameter.numel() for parameter in model.parameters())
    surplus = model.surplus(*resolution) if isinstance(model, Backbone) else {}
    return Cost(parameters, count_macs(model, (3, *resolution)), surplus)
