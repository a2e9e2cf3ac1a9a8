"""One annotation file of COCO's format, read on past whatever is wrong in it, with all of that told."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from attnbench.data_report import Problems

from ._check_segmentation import LARGEST, malformed

SHOWN: Final = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Image:
    """One entry of ``images``."""

    number: int  # its id
    where: str
    file_name: str  # relative and inside the folder of images; empty where the entry has none that is safe
    size: tuple[int, int] | None  # (width, height)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One entry of ``annotations`` that belongs to an image."""

    where: str
    image: int
    category: int | None
    box: tuple[float, float, float, float] | None  # x, y, width, height; None where it is no box
    crowd: bool


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """What could be read."""

    images: dict[int, Image] = field(default_factory=dict)  # by id
    categories: dict[int, str] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)


def examine(root: Path, path: Path, problems: Problems) -> AnnotationFile:
    """Return what the file says, as far as it makes sense."""
    source = str(path.relative_to(root))
    data = _parsed(path, source, problems)
    categories = {
        number: _text(entry.get("name"), place, "name", problems) or f"category {number}"
        for number, place, entry in _entries(data, "categories", source, problems)
    }
    for name in {name for name in categories.values() if [*categories.values()].count(name) > 1}:
        problems.warning("categories of one name", source, name)
    images = {
        number: Image(number, place, _file_name(entry, place, problems), _size(entry, place, problems))
        for number, place, entry in _entries(data, "images", source, problems)
    }
    first: dict[str, str] = {}
    for image in images.values():
        if image.file_name and first.setdefault(image.file_name, image.where) != image.where:
            problems.error("image listed twice", image.where, f"{image.file_name}, as {first[image.file_name]}")
    annotations = [
        found
        for number, place, entry in _entries(data, "annotations", source, problems)
        if (found := _annotation(number, place, entry, images, categories, problems)) is not None
    ]
    return AnnotationFile(images, categories, annotations)


def _parsed(path: Path, source: str, problems: Problems) -> dict[str, Any]:
    try:
        if not path.is_file():
            problems.error("annotation file that cannot be read", source, "no regular file")
            return {}
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        problems.error("broken JSON", source, f"line {error.lineno}, column {error.colno}: {error.msg}")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.error("annotation file that cannot be read", source, error)
        return {}
    if not isinstance(data, dict):
        problems.error("malformed file", source, "expected an object with images, annotations and categories")
        return {}
    return data


def _entries(
    data: dict[str, Any], key: str, source: str, problems: Problems
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield id, place in words, and entry, of each object of a list that has an id of its own."""
    found = data.get(key)
    if not isinstance(found, list):
        if data:
            problems.error("missing list", source, f"{key!r}: expected a list of objects")
        return
    seen: set[int] = set()
    for index, entry in enumerate(found):
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int:
            what = f"needs a whole number 'id', not {_short(number)}" if isinstance(entry, dict) else "is no object"
            problems.error("malformed entry", f"{source}, {key}[{index}]", what)
            continue
        place = f"{source}, {key.replace('ies', 'y').removesuffix('s')} {number}"
        if number in seen:
            problems.error("duplicate id", place)
            continue
        seen.add(number)
        yield number, place, entry


def _annotation(
    number: int,
    place: str,
    entry: dict[str, Any],
    images: dict[int, Image],
    categories: dict[int, str],
    problems: Problems,
) -> Annotation | None:
    """Return the annotation, or None where it belongs to no image."""
    if number == 0:
        problems.warning("annotation id 0", place, "COCO's evaluator takes it for an object that is never found")
    image, category, crowd = entry.get("image_id"), entry.get("category_id"), entry.get("iscrowd", 0)
    if type(category) is not int or category not in categories:
        problems.error("unknown category", place, f"category_id {_short(category)}")
        category = None
    if type(crowd) not in (int, bool) or crowd not in (0, 1):
        problems.error("malformed entry", place, f"'iscrowd' must be 0 or 1, not {_short(crowd)}")
    if type(image) is not int or image not in images:
        problems.error("unknown image", place, f"image_id {_short(image)}")
        return None
    size = images[image].size
    wrong = malformed(entry.get("segmentation"), size)
    if wrong:
        problems.error("malformed segmentation", place, wrong)
    return Annotation(place, image, category, _box(entry, place, problems), crowd in (1, True))


def _box(entry: dict[str, Any], place: str, problems: Problems) -> tuple[float, float, float, float] | None:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) in (int, float) for side in box):
        problems.error("malformed box", place, f"'bbox' must be [x, y, width, height], not {_short(box)}")
        return None
    try:
        x, y, width, height = map(float, box)
    except OverflowError:
        x = y = width = height = math.inf
    if not all(map(math.isfinite, (x, y, width, height))):
        problems.error("number that is not finite", place, f"'bbox' is {_short(box)}")
        return None
    if width < 0 or height < 0:
        problems.error("box of negative size", place, f"{width:g} x {height:g}")
        return None
    if width == 0 or height == 0:
        problems.warning("box without area", place, f"{width:g} x {height:g}: nothing to learn from")
    return x, y, width, height


def _file_name(entry: dict[str, Any], place: str, problems: Problems) -> str:
    name = _text(entry.get("file_name"), place, "file_name", problems)
    if not name:
        return ""
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in parts or "\0" in name:
        problems.error("unsafe file name", place, f"{_short(name)} is no path inside the folder of images")
        return ""
    return name


def _size(entry: dict[str, Any], place: str, problems: Problems) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if type(width) is int and type(height) is int and 0 < width <= LARGEST and 0 < height <= LARGEST:
        return width, height
    what = f"'width' and 'height' must be whole pixels, not {_short(width)} and {_short(height)}"
    problems.error("malformed entry", place, what)
    return None


def _text(value: Any, place: str, key: str, problems: Problems) -> str:
    if isinstance(value, str) and value:
        return value
    problems.error("malformed entry", place, f"needs a text {key!r}, not {_short(value)}")
    return ""


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = ascii(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
