"""The quantities that several tables share."""

from typing import Final

from attnbench.tables.measured import Key, Measured
from attnbench.tables.model import Here, Quantity
from attnbench.tables.verdict import judge_number, judge_ratio

PARAMETERS: Final = Quantity("parameters", "params (M)", -6, judge_number, relative=0.01)
MACS: Final = Quantity("macs", "MACs (G)", -9, judge_number, relative=0.01)
TOP1: Final = Quantity("top1", "top-1 (%)", 2, judge_number, points=0.1)
TOP5: Final = Quantity("top5", "top-5 (%)", 2, judge_number, points=0.1)
SPEED: Final = Quantity("throughput", "img/s printed")
SPEED_RATIO: Final = Quantity("throughput_ratio", "ratio to Swin-T", 0, judge_ratio, relative=0.1)


def score(name: str, header: str) -> Quantity:
    """Return a score in per cent of a task."""
    return Quantity(name, f"{header} (%)", 2, judge_number, points=0.1)


def cost_here(measured: Measured, quantity: Quantity, key: Key) -> Here | None:
    """Return the parameters or MACs measured, or why they could not be; None where nobody measured."""
    if reason := measured.failures.get(key):
        return Here(None, reason=reason)
    cost = measured.costs.get(key)
    return None if cost is None else Here(cost.parameters if quantity == PARAMETERS else cost.macs)


def accuracy_here(measured: Measured, key: Key) -> Here | None:
    """Return the top-1 measured, a fraction; None where nobody measured."""
    value = measured.accuracy.get(key)
    return None if value is None else Here(value)


def speed_here(measured: Measured, key: Key) -> Here | None:
    """Return the throughput ratio to Swin-Tiny with its interval; None where nobody measured."""
    speed = measured.speed(key)
    return None if speed is None else Here(speed.value, speed.low, speed.high)
