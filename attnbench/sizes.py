"""The sizes of the backbone. Standard library only: ``attnbench list sizes`` needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Width, depths and heads."""

    dim: int  # channels of stage 0; each further stage doubles them
    depths: tuple[int, int, int, int]  # blocks per stage
    heads: tuple[int, int, int, int]


SIZES: Mapping[str, Size] = {
    "nano": Size(32, (2, 2, 2, 2), (1, 2, 4, 8)),
    "tiny": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
