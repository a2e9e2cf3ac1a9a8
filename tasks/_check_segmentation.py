"""Whether a COCO segmentation is well formed: polygons, or run lengths that cover exactly their image.

COCO's own decoder is not asked: it is C code that trusts what it is given.
"""

import math
from typing import Any, Final

LEAST: Final = 6  # numbers of a polygon: three points
LARGEST: Final = 10**9  # of a side or a run: what lies beyond is no number of pixels


def malformed(segmentation: Any, size: tuple[int, int] | None) -> str:
    """Return what is wrong with the segmentation of an object in an image of ``size`` (width, height), or nothing.

    None and an empty list mean that there is none, as in data of boxes only.
    """
    if segmentation is None or segmentation == []:
        return ""
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        return "neither a list of polygons nor run lengths"
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(type(number) in (int, float) for number in polygon):
            return "a polygon that is no list of numbers"
        if len(polygon) % 2 or len(polygon) < LEAST:
            return f"a polygon of {len(polygon)} numbers; expected x and y of three or more points"
        if not all(abs(number) < math.inf for number in polygon):
            return "a polygon with a number that is not finite"
    return ""


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int] | None) -> str:
    extent, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(extent, list) or len(extent) != 2 or not all(map(_count, extent)):
        return "run lengths without 'size' [height, width]"
    if size and extent != [size[1], size[0]]:
        return f"run lengths of {extent[1]} x {extent[0]} pixels in an image of {size[0]} x {size[1]}"
    runs = counts if isinstance(counts, list) else unpacked(counts) if isinstance(counts, str) else None
    if runs is None or not all(map(_count, runs)):
        return "run lengths whose 'counts' are no numbers of pixels"
    if sum(runs) != extent[0] * extent[1]:
        return f"run lengths of {sum(runs)} pixels; expected {extent[0] * extent[1]}"
    return ""


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def unpacked(text: str) -> list[int] | None:
    """Return the runs in COCO's compressed ``counts``, or None where it is none.

    A character less 48 holds five bits, the least first, and a sixth that says whether more follow; the last one's
    highest bit is the sign. From the fourth run on, what is written is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return None if shift else runs
