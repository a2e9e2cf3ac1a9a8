"""One COCO annotation file, read with distrust: whatever is wrong in it is one line that names the file and the entry.

What COCO's own tools accept is accepted: images without annotations, boxes of no width or height, category ids with
gaps, a missing ``iscrowd`` (not a crowd). Boxes beyond the border are accepted too. Ids stay as they are, for COCO's
evaluator ranks images by theirs, and takes an object with the id 0 for one that is never found.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from attnbench.errors import UserError

LARGEST = 1e9  # of any number: what lies beyond is broken, and overflows in COCO's C code


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of the file and the annotations of it, in the file's order."""

    image_id: int
    file_name: str  # relative, and inside the folder of images
    size: tuple[int, int]  # (H, W)
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """A whole file: images in its order, category names by id, ids ascending."""

    images: tuple[ImageEntry, ...]
    categories: dict[int, str]


def parse(path: Path, content: bytes, masks: bool) -> AnnotationFile:
    """Return what the bytes of ``path`` say; segmentations only if ``masks`` are asked for.

    Raises:
        UserError: anything that COCO's format does not allow, or masks that are asked for and missing.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"cannot read {str(path)!r}: no valid JSON: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{str(path)!r} must hold an object with images, annotations and categories")
    categories = {
        entry["id"]: _text(place, entry, "name") for place, entry in _entries(path, data, "categories", least=1)
    }
    sizes: dict[int, tuple[str, tuple[int, int]]] = {}
    for place, entry in _entries(path, data, "images", least=1):
        sizes[entry["id"]] = (
            _inside(place, _text(place, entry, "file_name")),
            (_side(place, entry, "height"), _side(place, entry, "width")),
        )
    grouped: dict[int, list[dict[str, Any]]] = {image: [] for image in sizes}
    for place, entry in _entries(path, data, "annotations", least=0):
        image = _known(place, entry, "image_id", sizes, "images")
        _known(place, entry, "category_id", categories, "categories")
        grouped[image].append(_annotation(place, entry, sizes[image][1], masks))
    images = tuple(ImageEntry(image, name, size, tuple(grouped[image])) for image, (name, size) in sizes.items())
    return AnnotationFile(images, dict(sorted(categories.items())))


def _entries(path: Path, data: dict[str, Any], key: str, least: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of list ``key``, each with the words that name it; their ids are whole numbers, once each."""
    found = data.get(key)
    if not isinstance(found, list):
        raise UserError(f"{str(path)!r} has no list {key!r}")
    if len(found) < least:
        raise UserError(f"{str(path)!r} has an empty list {key!r}")
    seen = set()
    for position, entry in enumerate(found):
        place = f"{str(path)!r}: {key}[{position}]"
        if not isinstance(entry, dict):
            raise UserError(f"{place} is no object")
        if type(entry.get("id")) is not int:
            raise UserError(f"{place} needs a whole number 'id', not {_short(entry.get('id'))}")
        if entry["id"] in seen:
            raise UserError(f"{place} repeats the id {entry['id']}")
        seen.add(entry["id"])
        yield f"{place} (id {entry['id']})", entry


def _annotation(place: str, entry: dict[str, Any], size: tuple[int, int], masks: bool) -> dict[str, Any]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
        raise UserError(f"{place} needs a 'bbox' of four finite numbers, not {_short(box)}")
    if min(box[2:]) < 0:
        raise UserError(f"{place} has a 'bbox' of negative width or height: {box}")
    crowd, area = entry.get("iscrowd", 0), entry.get("area")
    if crowd not in (0, 1):
        raise UserError(f"{place} needs an 'iscrowd' of 0 or 1, not {_short(crowd)}")
    if area is None or not _finite(area) or area < 0:
        raise UserError(f"{place} needs an 'area' of at least 0, not {_short(area)}")
    kept = {key: entry[key] for key in ("id", "image_id", "category_id")}
    kept |= {"bbox": box, "area": area, "iscrowd": int(crowd)}
    if masks:
        kept["segmentation"] = _segmentation(place, entry.get("segmentation"), size)
    return kept


def _segmentation(place: str, found: Any, size: tuple[int, int]) -> Any:
    """Return polygons or run lengths that COCO's C code can be trusted with."""
    if isinstance(found, dict):
        counts = found.get("counts")
        if found.get("size") != list(size):
            raise UserError(f"{place} has run lengths of size {_short(found.get('size'))} in an image of {list(size)}")
        runs = _decoded(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not _fill(runs, size[0] * size[1]):
            raise UserError(
                f"{place} has run lengths that do not add up to the {size[0] * size[1]} pixels of its image"
            )
        return found
    if not found or not isinstance(found, list):
        raise UserError(f"{place} has no mask, and mask_rcnn needs one of each object: use faster_rcnn or retinanet")
    far = 2 * max(size)  # a polygon that leaves the image by more is broken, and rasterising it takes any memory
    for ring in found:
        good = isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0
        if not good or not all(_finite(number) and abs(number) <= far for number in ring):
            raise UserError(f"{place} has a polygon that is not three or more points x, y near the image")
    return found


def _decoded(text: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed form: six bits a character, differences to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode():
        code = byte - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        value -= (1 << shift) if code & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs


def _fill(runs: list[Any], pixels: int) -> bool:
    """Say whether the runs are lengths that add up to ``pixels``."""
    return all(type(run) is int and run >= 0 for run in runs) and sum(runs) == pixels


def _inside(place: str, name: str) -> str:
    """Return a file name that stays inside its folder on every system."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    rooted = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if rooted or ".." in parts or not PurePosixPath(name).name or not name.isprintable():
        raise UserError(f"{place} has a 'file_name' that is no path inside the folder of images: {_short(name)}")
    return name


def _text(place: str, entry: dict[str, Any], key: str) -> str:
    if not isinstance(entry.get(key), str):
        raise UserError(f"{place} needs a text {key!r}, not {_short(entry.get(key))}")
    return str(entry[key])


def _side(place: str, entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise UserError(f"{place} needs a {key!r} in whole pixels, not {_short(value)}")
    return value


def _known(place: str, entry: dict[str, Any], key: str, known: dict[int, Any], kind: str) -> int:
    value = entry.get(key)
    if type(value) is not int or value not in known:
        raise UserError(f"{place} has a {key!r} that is not among the {kind}: {_short(value)}")
    return value


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST  # false for NaN


def _short(value: Any) -> str:
    """Return ``value`` as it would be in the file, on one line, and not the whole of something long."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
