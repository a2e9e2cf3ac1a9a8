import pytest

from attnbench.amounts import parse_bytes, parse_seconds
from attnbench.capacity import available_memory
from attnbench.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80GiB", 80 * 2**30),
        ("16GB", 16 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5 kib", 1536),
        ("2TB", 2 * 10**12),
        ("12345", 12345),
        (12345, 12345),
        ("7B", 7),
    ],
)
def test_an_amount_of_memory_is_read_in_bytes(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "80G", "-1", "1e9", "80 GiB free", "nan", "0", "0.1", "1,5GB"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="memory"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h 1m 1s", 3661), ("2.5", 2.5), (30, 30), ("1.5h", 5400)],
)
def test_a_time_is_read_in_seconds(text: object, expected: float) -> None:
    assert parse_seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "10x", "30m1h", "-5", "inf", "0", "0s", "1h-5m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="time"):
        parse_seconds(text)


def test_a_machine_has_memory_left() -> None:
    assert 2**20 < available_memory() < 2**50
