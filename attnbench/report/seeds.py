"""What several seeds say of one number: its mean with Student's 95 % interval, the least and the greatest."""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from statistics import fmean, stdev

from attnbench.report.bootstrap import student


@dataclass(frozen=True)  # without slots, so that each is worked out once
class Seeds:
    """The values of one or more seeds."""

    values: tuple[float, ...]

    @cached_property
    def mean(self) -> float:
        """The mean over seeds."""
        return fmean(self.values)

    @property
    def least(self) -> float:
        """The least seed's value."""
        return min(self.values)

    @property
    def greatest(self) -> float:
        """The greatest seed's value."""
        return max(self.values)

    @property
    def count(self) -> int:
        """How many seeds there are."""
        return len(self.values)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval of the mean, None of one seed: seeds are few, their scatter unknown beforehand."""
        if self.count < 2:
            return None
        half = student(self.count - 1) * stdev(self.values) / sqrt(self.count)
        return self.mean - half, self.mean + half
