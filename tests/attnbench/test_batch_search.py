"""A model of a device: it holds so many images, and its throughput saturates."""

from dataclasses import dataclass, field
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.batch_search import MOST, SLOW, search


@dataclass
class Device:
    capacity: int  # images
    start: float  # s that a call takes before its first image
    image: float  # s
    tried: list[int] = field(default_factory=list)

    def seconds(self, size: int) -> float:
        return self.start + self.image * size

    def speed(self, size: int) -> float:
        return size / self.seconds(size)

    def __call__(self, size: int) -> float | None:
        self.tried.append(size)
        return self.seconds(size) if size <= self.capacity else None


DEVICES = st.builds(Device, st.integers(1, 10_000), st.floats(1e-5, 0.1), st.floats(1e-6, 1e-3))


@settings(max_examples=60, deadline=None)
@given(DEVICES)
def test_the_best_fits_and_no_size_that_was_tried_is_faster(device: Device) -> None:
    found = search(device)
    assert found is not None
    assert found.best in device.tried
    assert 1 <= found.best <= device.capacity
    assert device.speed(found.best) >= 0.98 * max(
        device.speed(size) for size in device.tried if size <= device.capacity
    )


@settings(max_examples=60, deadline=None)
@given(DEVICES)
def test_the_best_is_within_two_per_cent_of_any_size_where_memory_is_not_the_end(device: Device) -> None:
    found = search(device)
    assert found is not None
    if found.largest is None:
        assert device.speed(found.best) >= 0.98 * device.speed(min(device.capacity, MOST))
    else:
        assert device.speed(found.best) >= 8 / 9 * device.speed(device.capacity)


@settings(max_examples=60, deadline=None)
@given(DEVICES)
def test_the_largest_is_within_an_eighth_of_the_capacity_where_that_was_reached(device: Device) -> None:
    found = search(device)
    assert found is not None
    reached = any(size > device.capacity for size in device.tried)
    assert (found.largest is not None) == reached
    if found.largest is not None:
        assert found.best <= found.largest <= device.capacity <= found.largest * 9 / 8


@settings(max_examples=60, deadline=None)
@given(DEVICES)
def test_attempts_are_few_and_none_is_made_twice(device: Device) -> None:
    search(device)
    assert len(device.tried) == len(set(device.tried))
    assert len(device.tried) <= log2(min(device.capacity, MOST)) + 6
    assert max(device.tried) <= min(2 * device.capacity, MOST)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15))
def test_a_small_capacity_is_found_exactly(capacity: int) -> None:
    found = search(Device(capacity, 1.0, 0.0))
    assert found is not None
    assert (found.best, found.largest) == (capacity, capacity)


def test_nothing_is_found_where_not_one_image_fits() -> None:
    device = Device(0, 1.0, 1.0)
    assert search(device) is None
    assert device.tried == [1]


def test_doubling_ends_at_the_most_images() -> None:
    device = Device(10**9, 1.0, 0.0)
    found = search(device)
    assert found is not None
    assert (found.best, found.largest) == (MOST, None)
    assert device.tried == [2**power for power in range(13)]


def test_doubling_ends_after_a_slow_call() -> None:
    device = Device(10**9, 0.0, SLOW / 3)
    device.start = 3 * SLOW  # so that every doubling gains
    found = search(device)
    assert found is not None
    assert device.tried == [1]
    assert (found.best, found.largest) == (1, None)


def test_two_doublings_without_a_gain_are_the_end_and_one_is_not() -> None:
    speeds = {1: 1.0, 2: 1.0, 4: 2.0, 8: 2.02, 16: 2.03, 32: 9.0}
    found = search(lambda size: size / speeds[size])
    assert found is not None
    assert found.best == 16


def test_throughput_that_falls_leaves_the_first_size_best() -> None:
    tried: list[int] = []

    def attempt(size: int) -> float:
        tried.append(size)
        return 1e-3 * float(size) ** 1.5

    found = search(attempt)
    assert found is not None
    assert (found.best, tried) == (1, [1, 2, 4])


def test_an_error_of_an_attempt_is_raised() -> None:
    def attempt(size: int) -> float:
        raise RuntimeError("driver")

    with pytest.raises(RuntimeError, match="driver"):
        search(attempt)
