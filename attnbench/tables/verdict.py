"""When a measured value reproduces a printed one."""

from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal, InvalidOperation

from attnbench.tables.model import (
    DIFFERS,
    DIFFERS_HERE,
    EQUAL,
    INCONCLUSIVE,
    REFERENCE,
    REPRODUCES,
    Here,
    Quantity,
    Reported,
)

RULE = (
    "Verdicts, one per printed value: 'reproduces' where the value measured here rounds to the printed digits or lies "
    "within 1 % of them; 'differs' otherwise; accuracy reproduces where it rounds to the printed digits or lies within "
    "0.1 points. Ratio is measured over reported. MACs are of one image; papers call them FLOPs."
)
WIDE = 1.25  # an interval that reaches farther, as a factor, can neither confirm nor refute
RATIO_RULE = (
    "Throughput ratios are to Swin-Tiny of the same source and resolution, and of the same run here, with 95 % "
    "interval: images per second are never compared across hardware. 'reproduces' where the interval covers the "
    "reported ratio or the estimate lies within 10 % of it; 'differs here' otherwise: the hardware differs, so this "
    "is no verdict on the paper. 'inconclusive' where the interval covers the reported ratio and reaches more than "
    "25 % away from the estimate."
)


def shown(quantity: Quantity, base: float) -> Decimal:
    """Return a value in the unit shown, exactly."""
    return Decimal(base).scaleb(quantity.exponent)


def number(printed: str) -> Decimal | None:
    """Return a printed value as a number, None where it is a word."""
    try:
        value = Decimal(printed)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def rounds_to(value: Decimal, printed: Decimal) -> bool:
    """Tell whether ``value``, cut to the digits of ``printed``, is ``printed``; a half may go either way."""
    digit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return printed in (value.quantize(digit, ROUND_HALF_UP), value.quantize(digit, ROUND_HALF_DOWN))


def judge_number(quantity: Quantity, reported: Reported, here: Here) -> str:
    """Judge a number by the printed digits, then by the quantity's tolerances."""
    printed = number(reported.printed)
    if printed is None or not isinstance(here.value, int | float):
        return DIFFERS
    value = shown(quantity, here.value)
    distance = abs(value - printed)
    near = distance <= abs(printed) * Decimal(str(quantity.relative)) or distance <= Decimal(str(quantity.points))
    return REPRODUCES if near or rounds_to(value, printed) else DIFFERS


def judge_ratio(quantity: Quantity, reported: Reported, here: Here) -> str:
    """Judge a ratio of speeds by its interval, then by the tolerance; its digits are derived and decide nothing."""
    target = ratio_target(reported)
    if target is None:  # Swin-Tiny over itself
        return REFERENCE
    if not isinstance(here.value, int | float):
        return DIFFERS_HERE
    low, high = (here.value if end is None else end for end in (here.low, here.high))
    covered = low <= target <= high
    near = abs(here.value - target) <= quantity.relative * abs(target)
    if covered and max(here.value / low, high / here.value) > WIDE:
        return INCONCLUSIVE
    return REPRODUCES if covered or near else DIFFERS_HERE


def judge_setting(_quantity: Quantity, reported: Reported, here: Here) -> str:
    """Judge a setting: equal or not."""
    return EQUAL if reported.printed == here.value else DIFFERS


def ratio(quantity: Quantity, reported: Reported, here: Here) -> float | None:
    """Return measured over reported; None where either is no number."""
    printed = number(reported.printed)
    if not isinstance(here.value, int | float) or not printed:
        return None
    target = ratio_target(reported)
    return float(here.value / target) if target else float(shown(quantity, here.value) / printed)


def ratio_target(reported: Reported) -> float | None:
    """Return a derived ratio at full precision, from the two numbers behind it."""
    if reported.behind is None:
        return None
    over, under = (Decimal(part) for part in reported.behind.split(" / "))
    return float(over / under)
