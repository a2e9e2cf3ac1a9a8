"""Times contenders together, in randomised A B B A rounds. Parent's side: never imports torch.

On a shared machine the load changes within seconds. Contenders that are timed one after the other then differ by the
load; contenders of one round saw the same, and a drift that is steady within it cancels, since every contender's two
visits have the same middle. After some seconds of rounds every contender is launched anew, see ``statistics``.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import ceil, inf, isfinite, sqrt

from attnbench.config import Timing
from attnbench.measure.statistics import Interval, half_width, paired_ratio

FEWEST_ROUNDS = 3  # fewer tell no interval, see ``statistics``
WORTH = 3  # a launch lasts at least so many times as long as it took to get ready
MOST_EMPTY = 3  # launches in a row in which nobody got ready
RECHECK = 1.25  # rounds grow by this factor between two looks at the intervals: each look takes time, and may be lucky

Contenders = Mapping[str, Callable[[], float]]


class GoneError(Exception):
    """A contender that is lost by no fault of its own: it sits out the rest of its launch, and is back in the next."""


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
    launches: list[int] = field(default_factory=list)  # first round of each launch
    aside: frozenset[str] = frozenset()  # contenders whose ratio nobody waits for

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

    def ratio(self, contender: str, to: str | None = None) -> Interval | None:
        """Return time over that of ``to``, or the reference's, by round; None without a round that has both."""
        own, reference = self.times(contender), self.times(to or self.reference)
        shared = [number for number in own if number in reference]
        if not shared:
            return None
        launches = len({self.launch_of(number) for number in shared})
        return paired_ratio(
            [own[number] for number in shared], [reference[number] for number in shared], launches=launches
        )

    def launch_of(self, number: int) -> int:
        """Return which launch a round belongs to, from 0."""
        return sum(first <= number for first in self.launches) - 1


def run_rounds(
    contenders: Contenders, reference: str, timing: Timing, seed: int, on_round: Callable[[int], None]
) -> Rounds:
    """Run the rounds of contenders that are never launched anew; see :func:`run_launches`."""
    return run_launches(lambda: nullcontext(contenders), reference, timing, seed, on_round, once=True)


def run_launches(
    launch: Callable[[], AbstractContextManager[Contenders]],
    reference: str,
    timing: Timing,
    seed: int,
    on_round: Callable[[int], None],
    *,
    aside: frozenset[str] = frozenset(),
    once: bool = False,
    deadline: float = inf,
) -> Rounds:
    """Call contenders (each returns seconds per call), one at a time, round after round; return all that was seen.

    A round visits them in a random order and then in the reverse order. ``launch`` readies them; when a launch has
    lasted ``timing.launch`` seconds, and, but for the first, thrice as long as it took to get ready, it is left and the
    next one entered, unless there is to be but ``once``.

    The rounds end when every ratio's interval, but for those ``aside``, is as narrow as ``timing.precision``, at
    ``timing.max_rounds``, or when ``timing.budget`` is spent, counted from the first round, or the ``deadline`` (s,
    monotonic) is reached; but not before ``timing.min_rounds`` rounds of ``timing.min_launches`` launches in the first
    case and three rounds in the last ones.

    A contender that raises, or returns no positive time, is visited no more. Where the reference failed, now or before
    it could be a contender, there are no ratios to narrow: the others are timed until the budget or the rounds are used
    up. ``on_round`` is told how many rounds are done.
    """
    rounds = Rounds(reference, aside=aside)
    shuffle = random.Random(seed).shuffle  # noqa: S311 (an order, not a secret)
    done, end, empty = 0, deadline, 0
    while done < max(timing.max_rounds, FEWEST_ROUNDS) and not rounds.converged:
        opened = time.monotonic()
        with launch() as contenders:
            ready = time.monotonic()
            end = min(end, ready + timing.budget)
            rounds.launches.append(done)
            # The first launch took longer: it started the template, and found out how to warm up.
            took = ready - opened if len(rounds.launches) > 1 else 0.0
            leave = inf if once else ready + max(timing.launch, WORTH * took)
            done = _launch_rounds(rounds, contenders, timing, shuffle, on_round, leave, end)
        if done >= FEWEST_ROUNDS and time.monotonic() >= end:
            break
        empty = 0 if contenders else empty + 1
        if empty > MOST_EMPTY or (contenders and not _alive(rounds, contenders)):
            break
    rounds.converged = rounds.converged or _is_settled(rounds, done, timing)
    return rounds


def _launch_rounds(
    rounds: Rounds,
    contenders: Contenders,
    timing: Timing,
    shuffle: Callable[[list[str]], None],
    on_round: Callable[[int], None],
    leave: float,
    end: float,
) -> int:
    """Run rounds until ``leave`` or ``end`` (s, monotonic), or until all is told; return how many there are in all."""
    first = done = rounds.launches[-1]
    check = max(timing.min_rounds, ceil(first * RECHECK))
    order = [name for name in contenders if name not in rounds.failures]
    while _alive(rounds, order) and done < max(timing.max_rounds, FEWEST_ROUNDS):
        shuffle(order)
        gone: set[str] = set()
        for name in (*order, *reversed(order)):
            if name not in rounds.failures and name not in gone and not _visit(rounds, done, name, contenders[name]):
                gone.add(name)
        order = [name for name in order if name not in rounds.failures and name not in gone]
        done += 1
        on_round(done)
        if done >= check:
            check = ceil(done * RECHECK)
            rounds.converged = _is_settled(rounds, done, timing)
        now = time.monotonic()
        enough = done >= FEWEST_ROUNDS and now >= end
        if rounds.converged or enough or (now >= leave and done - first >= FEWEST_ROUNDS):
            break
    return done


def _alive(rounds: Rounds, names: Iterable[str]) -> list[str]:
    """Return those that the rounds are for: an anchor alone is not worth timing."""
    return [name for name in names if name not in rounds.failures and name not in rounds.aside]


def _is_settled(rounds: Rounds, done: int, timing: Timing) -> bool:
    names = dict.fromkeys(sample.contender for sample in rounds.samples)
    enough = done >= timing.min_rounds and len(rounds.launches) >= timing.min_launches
    return enough and _all_narrow(rounds, _alive(rounds, names), timing.precision)


def _visit(rounds: Rounds, number: int, name: str, contender: Callable[[], float]) -> bool:
    """Take one sample; return False if the contender is gone until the next launch."""
    stamp = time.time()
    try:
        seconds = contender()
        if not (isfinite(seconds) and seconds > 0):
            raise ValueError(f"{name} returned {seconds!r} seconds per call")
    except GoneError:
        return False
    except Exception as error:  # noqa: BLE001 (a failure is a result: the others go on, and the caller records it)
        rounds.failures[name] = error
    else:
        rounds.samples.append(Sample(name, number, stamp, seconds))
    return True


def _all_narrow(rounds: Rounds, names: list[str], precision: float) -> bool:
    if rounds.reference not in names:
        return False
    ratios = (rounds.ratio(name) for name in names if name != rounds.reference)
    return all((inf if ratio is None else half_width(ratio)) <= precision for ratio in ratios)
