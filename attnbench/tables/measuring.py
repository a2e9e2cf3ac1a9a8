"""Parameters and MACs of the models that tables need, counted on ``meta``: no weights are made, no memory is taken."""

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace

from attnbench.report.rows import one_line
from attnbench.tables.measured import Cost, Key, Measured, Need

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
    """Build one model on ``meta`` and count; its classifier has 1000 classes."""
    import torch

    from attnbench.backbone import Backbone
    from attnbench.measure.macs import count_macs
    from attnbench.models import create_model

    with torch.device("meta"):
        model = create_model(need.name, resolution=need.resolution, **dict(need.changes))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    surplus = model.surplus(*need.resolution) if isinstance(model, Backbone) else {}
    return Cost(parameters, count_macs(model, (3, *need.resolution)), surplus)
