"""Whether two environments are of the same hardware. Times of one machine say nothing about another."""

from collections.abc import Mapping
from typing import Final

# What a time depends on and no setting of a run changes. The number of cores is not among them: threads are set.
HARDWARE: Final = ("machine", "cpu", "gpu")


def hardware_difference(environment_a: Mapping[str, object], environment_b: Mapping[str, object]) -> str | None:
    """Return the first difference in words, such as ``cpu 'AMD EPYC' and 'Intel Xeon'``; None if there is none.

    Both are environments as records hold them. What one of them does not tell (a GPU where none was used) is no
    difference.
    """
    for name in HARDWARE:
        a, b = environment_a.get(name), environment_b.get(name)
        if a and b and a != b:
            return f"{name} {a!r} and {b!r}"
    return None
