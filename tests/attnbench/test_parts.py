"""Parts cover the whole once, and those that stand for others stand for all of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from attnbench.parts import alike, part, parts, times


@given(whole=st.integers(0, 300), most=st.integers(0, 400), unit=st.integers(1, 50))
def test_parts_follow_each_other_and_are_of_one_length_but_the_last(whole: int, most: int, unit: int) -> None:
    found = list(parts(whole, most, unit))
    assert [place for some in found for place in range(some.start, some.stop)] == list(range(whole))
    lengths = [some.stop - some.start for some in found]
    assert all(length <= max(most, unit) for length in lengths)
    assert all(first == part(whole, most, unit) >= second for first, second in pairwise(lengths))
    assert all(first % unit == 0 for first, _ in pairwise(lengths))
    assert len(found) == -(-whole // (max(most // unit, 1) * unit))  # as few as there can be


@given(whole=st.integers(0, 300), most=st.integers(0, 400), outer=st.integers(1, 5))
def test_one_part_of_each_length_stands_for_all(whole: int, most: int, outer: int) -> None:
    expected = [some.stop - some.start for some in parts(whole, most)] * outer
    counted: list[int] = []
    with alike():
        for _ in parts(outer, 1):
            for some in parts(whole, most):
                counted += [some.stop - some.start] * times()
        assert times() == 1
    assert sorted(counted) == sorted(expected)
    assert list(parts(3, 1)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
