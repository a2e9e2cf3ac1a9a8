"""Times the models of a table in one run of the harness, whose records are kept as those of any other run."""

from collections.abc import Mapping, Sequence

from attnbench.config import RunConfig, Timing
from attnbench.harness import run_cells
from attnbench.progress import Progress
from attnbench.tables.measured import Interval, Key, Resolution

TINY = (
    "focal_tiny",
    "pvt_small",
    "timm:deit_small_patch16_224",
)  # timed where no models are named: the rest takes hours
CELL_LIMIT = 600.0  # seconds: who asks for a table's throughput wants its large models too
BUDGET = 150.0  # seconds for one resolution: a round of large models takes twenty


def time_models(models: Sequence[str], resolutions: Sequence[Resolution]) -> Mapping[Key, Interval]:
    """Return the time per image over that of the first of ``models``, in the same rounds, with its 95 % interval.

    A model that fails, or that had too few rounds for an interval, is left out; the run's records say why.
    """
    config = RunConfig(
        models=list(models),
        resolutions=[f"{height}x{width}" for height, width in resolutions],
        measure=["time"],
        reference=models[0],
        timing=Timing(budget=BUDGET),
        cell_limit=CELL_LIMIT,
    )
    with Progress(config) as progress:
        outcome = run_cells(config, progress)
    found: dict[Key, Interval] = {}
    for record in outcome.records:
        ratio = record.measured("time_ratio")
        if record.status == "ok" and ratio is not None and ratio.low is not None and ratio.high is not None:
            found[record.cell.mechanism, record.cell.resolution] = Interval(ratio.value, ratio.low, ratio.high)
    return found
