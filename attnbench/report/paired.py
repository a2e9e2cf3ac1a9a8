"""Mechanisms compared on the same validation images: the difference of their outcomes, image by image.

Two things make a difference a matter of luck. Other *images* might have been in the split: a bootstrap draws them
again, after each image's outcomes were averaged over the seeds that both mechanisms have; the test is McNemar's (1947)
exact one where outcomes are right or wrong, else Student's for pairs. Another *seed* might have turned it: Student's
interval and test of the difference over seeds. Each holds the other fixed, so a verdict needs both. Of one seed only
the first can be told. P values of a race are corrected together (Holm 1979).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from attnbench.measure.statistics import LEVEL
from attnbench.report.bootstrap import Floats
from attnbench.report.images import averages_to, is_binary, outcomes, resampled_mean
from attnbench.report.races import Entrant, Race
from attnbench.report.rows import headline
from attnbench.report.seeds import Seeds

Verdict = Literal["better", "worse", "tie"]

_DIGITS: Final = 12  # to which differences are equal: thirds of seeds leave rounding behind


@dataclass(frozen=True, slots=True)
class Pair:
    """One mechanism less the reference: differences of outcomes, from -1 to 1."""

    entrant: Entrant
    reference: Entrant
    metric: str  # the headline
    averages: bool  # whether the outcomes average to it; else the difference is one of outcomes alone
    images: int
    better_images: int
    worse_images: int
    seeds: Seeds  # mean difference of each seed that both have
    low: float  # 95 %, over images
    high: float
    test: Literal["McNemar", "Student"]
    p_images: float
    p_seeds: float | None  # of two seeds or more
    p: float = 1.0  # the greater of the two, corrected for the number of comparisons
    verdict: Verdict = "tie"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A mechanism that could not be paired, and why."""

    entrant: Entrant
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Every mechanism of a race but the reference."""

    race: Race
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]


def compare(race: Race) -> Compared:
    """Compare each mechanism of a race of accuracies to the reference; where no record has outcomes, none."""
    found: list[Pair] = []
    left: list[LeftOut] = []
    for entrant in race.entrants:
        if entrant is race.reference:
            continue
        one = _pair(entrant, race.reference)
        if isinstance(one, Pair):
            found.append(one)
        else:
            left.append(LeftOut(entrant, one))
    anything = any(outcomes(headline(record)) for one in race.entrants for record in one.seeds.values())
    return Compared(race, tuple(_judged(found)), tuple(left) if anything else ())


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for how many they are (Holm 1979), in their own order."""
    corrected = [1.0] * len(p)
    greatest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        greatest = max(greatest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = greatest
    return corrected


def mcnemar(better: int, worse: int) -> float:
    """Return the two-sided p value of McNemar's exact test, from the images that only one of two got right."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def student_test(differences: Floats) -> float:
    """Return the two-sided p value of Student's test of a mean difference of 0.

    Differences that are all the same show no scatter to judge by: then it is that of the exact test of signs.
    """
    from scipy.stats import ttest_1samp

    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else float(2.0 ** (1 - len(differences)))
    return float(ttest_1samp(differences, 0).pvalue)


def _pair(entrant: Entrant, reference: Entrant) -> Pair | str:
    shared = [seed for seed in entrant.seeds if seed in reference.seeds]
    if not shared:
        return "no seed in common"
    pairs = [(headline(entrant.seeds[seed]), headline(reference.seeds[seed])) for seed in shared]
    both = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    lengths = {len(outcomes(item)) for pair in both for item in pair}
    if len(both) < len(pairs) or len({item.metric for pair in both for item in pair}) != 1:
        return "another headline"
    if len(lengths) != 1 or max(lengths) < 2:
        return "no outcomes per image" if 0 in lengths else "another number of images"
    table = np.array([np.subtract(outcomes(ours), outcomes(theirs)) for ours, theirs in both])  # (seeds, images)
    per_image = table.mean(axis=0).round(_DIGITS)
    per_seed = table.mean(axis=1).round(_DIGITS)
    better, worse = int((per_image > 0).sum()), int((per_image < 0).sum())
    exact = len(both) == 1 and all(is_binary(outcomes(item)) for item in both[0])
    first = [one.seeds[shared[0]].cell.key for one in (entrant, reference)]
    low, high = resampled_mean(per_image, int(first[0], 16) ^ int(first[1], 16))
    return Pair(
        entrant,
        reference,
        both[0][0].metric,
        all(averages_to(item) for pair in both for item in pair),
        len(per_image),
        better,
        worse,
        Seeds(tuple(per_seed.tolist())),
        low,
        high,
        "McNemar" if exact else "Student",
        mcnemar(better, worse) if exact else student_test(per_image),
        student_test(per_seed) if len(both) > 1 else None,
    )


def _judged(found: Sequence[Pair]) -> Iterator[Pair]:
    for pair, p in zip(found, holm([max(one.p_images, one.p_seeds or 0.0) for one in found]), strict=True):
        told: Verdict = "better" if pair.seeds.mean > 0 else "worse"
        yield replace(pair, p=p, verdict=told if p < 1 - LEVEL else "tie")
