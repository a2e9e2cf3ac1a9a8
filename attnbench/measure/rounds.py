"""Times contenders together, in randomised A B B A rounds. Parent's side: never imports torch.

On a shared machine the load changes within seconds. Contenders that are timed one after the other then differ by the
load; contenders of one round saw the same, and a drift that is steady within it cancels, since every contender's two
visits have the same middle.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt

from attnbench.config import Timing
from attnbench.measure.statistics import Interval, half_width, paired_ratio

FEWEST_ROUNDS = 3  # fewer tell no interval, see ``statistics``


@dataclass(frozen=True, slots=True)
class Sample:
    """One visit to one contender."""

    contender: str
    round: int  # from 0
    time: float  # when the visit began, seconds since the epoch
    seconds: float  # per call


@dataclass(slots=True)
class Rounds:
    """What came of the rounds: every sample in order, the failures, and whether all ratios reached the precision."""

    reference: str
    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)  # by contender
    converged: bool = False

    def times(self, contender: str) -> dict[int, float]:
        """Return the contender's seconds per call by round, for the rounds in which both its visits succeeded.

        It is the geometric mean of the two visits: the logarithm of a ratio of two such means is the mean of the
        visits' log ratios, which is what the statistics are about, and an interrupted visit weighs less.
        """
        visits: dict[int, list[float]] = {}
        for sample in self.samples:
            if sample.contender == contender:
                visits.setdefault(sample.round, []).append(sample.seconds)
        return {number: sqrt(pair[0] * pair[1]) for number, pair in visits.items() if len(pair) == 2}

    def ratio(self, contender: str) -> Interval | None:
        """Return time over the reference's, paired by round; None without a round that has both."""
        own, reference = self.times(contender), self.times(self.reference)
        shared = [number for number in own if number in reference]
        if not shared:
            return None
        return paired_ratio([own[number] for number in shared], [reference[number] for number in shared])


def run_rounds(
    contenders: Mapping[str, Callable[[], float]],
    reference: str,
    timing: Timing,
    seed: int,
    on_round: Callable[[int], None],
) -> Rounds:
    """Call contenders (each returns seconds per call), one at a time, round after round; return all that was seen.

    A round visits them in a random order and then in the reverse order. The rounds end when every ratio's interval
    is as narrow as ``timing.precision``, at ``timing.max_rounds``, or when ``timing.budget`` is spent, but not before
    ``timing.min_rounds`` in the first case and three in the last. A contender that raises, or returns no
    positive time, is visited no more. Where the reference failed, now or before it could be a contender, there are no
    ratios to narrow: the others are timed until the budget or the rounds are used up.
    ``on_round`` is told how many rounds are done.
    """
    rounds = Rounds(reference)
    order = list(contenders)
    shuffle = random.Random(seed).shuffle  # noqa: S311 (an order, not a secret)
    begin = time.monotonic()
    for number in range(max(timing.max_rounds, FEWEST_ROUNDS)):
        shuffle(order)
        for name in (*order, *reversed(order)):
            if name not in rounds.failures:
                _visit(rounds, number, name, contenders[name])
        order = [name for name in order if name not in rounds.failures]
        if not order:
            break
        on_round(number + 1)
        rounds.converged = number + 1 >= timing.min_rounds and _all_narrow(rounds, order, timing.precision)
        spent = number + 1 >= FEWEST_ROUNDS and time.monotonic() - begin >= timing.budget
        if rounds.converged or spent:
            break
    return rounds


def _visit(rounds: Rounds, number: int, name: str, contender: Callable[[], float]) -> None:
    stamp = time.time()
    try:
        seconds = contender()
        if not (isfinite(seconds) and seconds > 0):
            raise ValueError(f"{name} returned {seconds!r} seconds per call")
    except Exception as error:  # noqa: BLE001 (a failure is a result: the others go on, and the caller records it)
        rounds.failures[name] = error
    else:
        rounds.samples.append(Sample(name, number, stamp, seconds))


def _all_narrow(rounds: Rounds, names: list[str], precision: float) -> bool:
    if rounds.reference not in names:
        return False
    ratios = (rounds.ratio(name) for name in names if name != rounds.reference)
    return all((inf if ratio is None else half_width(ratio)) <= precision for ratio in ratios)
