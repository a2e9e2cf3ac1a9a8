"""When a measured value reproduces a printed one."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.tables.model import Cell, Here, Quantity, Reported
from attnbench.tables.quantities import MACS, PARAMETERS, SPEED_RATIO, TOP1
from attnbench.tables.verdict import judge_number, judge_setting, number, ratio, rounds_to


def verdict(quantity: Quantity, printed: str, value: float) -> str:
    return judge_number(quantity, Reported(printed, "a paper"), Here(value))


@pytest.mark.parametrize(
    ("quantity", "printed", "value", "expected"),
    [
        (PARAMETERS, "28.9", 28_880_380, "reproduces"),  # rounds
        (PARAMETERS, "29.1", 28_880_380, "reproduces"),  # 0.75 % off
        (PARAMETERS, "29", 28_288_354, "differs"),  # rounds to 28
        (PARAMETERS, "28", 28_288_354, "reproduces"),  # rounds, though more than 1 % off
        (PARAMETERS, "3.4", 3_666_760, "differs"),
        (MACS, "4.9", 4_953_223_680, "differs"),  # rounds to 5.0 and is 1.09 % off
        (MACS, "4.9", 4_949_000_000, "reproduces"),  # 1 % at most
        (MACS, "0.6", 566_065_664, "reproduces"),
        (MACS, "4.85", 4_849_999_999, "reproduces"),
        (TOP1, "81.2", 0.81172, "reproduces"),
        (TOP1, "81.3", 0.81172, "differs"),  # 0.128 points off
        (TOP1, "81.27", 0.81172, "reproduces"),  # 0.098 points off
        (TOP1, "81.172", 0.81172, "reproduces"),
    ],
)
def test_the_printed_digits_or_the_tolerance_decide(
    quantity: Quantity, printed: str, value: float, expected: str
) -> None:
    assert verdict(quantity, printed, value) == expected


def test_a_word_is_never_reproduced_by_a_number() -> None:
    assert verdict(PARAMETERS, "about 29", 29e6) == "differs"
    assert number("NaN") is None
    assert number("Infinity") is None


@given(st.integers(0, 10**12), st.integers(-6, 6))
def test_a_value_rounds_to_its_own_rounding(units: int, places: int) -> None:
    value = Decimal(units).scaleb(-6)
    assert rounds_to(value, value.quantize(Decimal(1).scaleb(places)))


@given(st.integers(1, 10**7), st.integers(0, 4), st.integers(-(10**6), 10**6))
def test_rounding_means_at_most_half_a_unit_of_the_last_digit_away(units: int, places: int, away: int) -> None:
    printed = Decimal(units).scaleb(-places)
    value = printed + Decimal(away).scaleb(-places - 5)
    half = abs(Fraction(value) - Fraction(printed)) <= Fraction(1, 2) * Fraction(10) ** -places
    assert rounds_to(value, printed) == half


@given(st.integers(10**6, 10**9), st.integers(0, 3))
def test_what_is_printed_from_the_measured_value_itself_reproduces(parameters: int, places: int) -> None:
    assert verdict(PARAMETERS, f"{Decimal(parameters).scaleb(-6):.{places}f}", parameters) == "reproduces"


@given(st.floats(0.011, 10))
def test_more_than_the_tolerance_off_is_different(excess: float) -> None:
    assert verdict(PARAMETERS, "100.00", 100e6 * (1 + excess)) == "differs"


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (Here(0.42, 0.40, 0.44), "reproduces"),  # covered
        (Here(0.46, 0.455, 0.465), "reproduces"),  # within 10 %
        (Here(0.50, 0.41, 0.59), "reproduces"),  # wide, but covers
        (Here(0.50, 0.35, 0.55), "inconclusive"),  # covers, as it would much else
        (Here(0.43, 0.05, 4.00), "inconclusive"),
        (Here(0.60, 0.44, 1.90), "differs here"),
        (Here(0.47, 0.465, 0.475), "differs here"),
        (Here(0.37, None, None), "differs here"),
    ],
)
def test_a_speed_ratio_is_judged_by_interval_then_tolerance(here: Here, expected: str) -> None:
    reported = Reported("0.420", "a paper", behind="319 / 760")
    assert Cell(SPEED_RATIO, (reported,), here).verdict(reported) == expected


def test_a_speed_ratio_is_compared_at_full_precision() -> None:
    assert ratio(SPEED_RATIO, Reported("0.420", "a paper", behind="319 / 760"), Here(319 / 760)) == 1


def test_the_reference_is_no_finding() -> None:
    reported = Reported("1", "by definition")
    assert Cell(SPEED_RATIO, (reported,), Here(1.0)).verdict(reported) == "reference"


def test_a_setting_is_equal_or_different() -> None:
    quantity = Quantity("depth", "blocks", judge=judge_setting)
    assert judge_setting(quantity, Reported("6", "a file"), Here("6")) == "equal"
    assert judge_setting(quantity, Reported("6", "a file"), Here("18")) == "differs"


def test_what_was_not_measured_or_not_printed_says_so() -> None:
    reported = Reported("28.9", "a paper")
    assert Cell(PARAMETERS, (reported,)).verdicts() == ("not measured",)
    assert Cell(PARAMETERS, (reported,), Here(None, reason="no")).verdicts() == ("not measured",)
    assert Cell(PARAMETERS, (), Here(1e6)).verdicts() == ("not printed",)


def test_sources_that_disagree_get_a_verdict_each() -> None:
    reported = (Reported("29", "one"), Reported("28.3", "another"), Reported("28.3", "a third"))
    assert Cell(PARAMETERS, reported, Here(28_288_354)).verdicts() == ("differs", "reproduces")
