"""What is wrong with detection data of COCO's format: annotation files, their images, and both together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attnbench.data_report import Problems, Progress, Report
from attnbench.errors import UserError

from ._check_coco_file import Annotation, AnnotationFile, examine
from ._check_images import Seen, leaks, look_at
from ._image_files import folder_at

LAYOUT: Final = "expected annotations/instances_train*.json and annotations/instances_val*.json"
SPLITS: Final = ("train", "val")
FURTHEST: Final = 1.0  # pixels that a box may go beyond its image: rounding


def check(path: str, progress: Progress | None = None) -> Report:
    """Read both annotation files, decode every image that they name, and compare.

    Raises:
        UserError: no folder, or no annotation file in it.
    """
    root, problems = folder_at(path, LAYOUT), Problems([])
    sources = {split: sorted((root / "annotations").glob(f"instances_{split}*.json")) for split in SPLITS}
    if not any(sources.values()):
        raise UserError(f"data path {path!r} has no annotations of COCO's format; {LAYOUT}")
    files: dict[str, AnnotationFile] = {}
    places: dict[str, dict[int, Path]] = {}  # by split and image id
    for split, found in sources.items():
        if len(found) != 1:
            what = ", ".join(file.name for file in found) or LAYOUT
            problems.error("several annotation files" if found else "missing annotation file", split, what)
        files[split] = examine(root, found[0], problems) if found else AnnotationFile()
        places[split] = _places(root, split, found[0].stem, files[split], problems) if found else {}
    every = list(dict.fromkeys(place for found in places.values() for place in found.values()))
    seen = {item.path: item for item in look_at(every, progress)}
    for item in seen.values():
        if item.error:
            problems.error("image that cannot be read", item.path.relative_to(root), item.error)
    for split, file in files.items():
        sizes = _sizes(root, file, {image: seen[place] for image, place in places[split].items()}, problems)
        for box in file.annotations:
            if box.image in sizes:
                _placed(box, sizes[box.image], problems)
    _compare(files, problems)
    train, val = ([seen[place] for place in dict.fromkeys(places[split].values())] for split in SPLITS)
    leaks(problems, root, train, val)
    counts = {split: _counts(file) for split, file in files.items()}
    return Report(counts, {split: _boxes(file) for split, file in files.items()}, "boxes", tuple(problems.found))


def _places(root: Path, split: str, stem: str, file: AnnotationFile, problems: Problems) -> dict[int, Path]:
    """Return the files of the images that are there, by id."""
    name = stem.removeprefix("instances_")  # train, train2017
    folders = [root / "images" / name, root / name, root / "images" / split, root / split]
    folder = next((place for place in folders if place.is_dir()), None)
    if folder is None:
        known = ", ".join(dict.fromkeys(place.relative_to(root).as_posix() for place in folders))
        problems.error("missing folder", f"images of {split}", f"expected one of {known}")
        return {}
    found = {}
    for image in file.images.values():
        place = folder / image.file_name if image.file_name else None
        if place is None:
            continue
        try:
            there = place.is_file()
        except OSError:  # a name longer than names may be
            there = False
        if there:
            found[image.number] = place
        else:
            problems.error("missing image", image.where, place.relative_to(root))
    return found


def _sizes(
    root: Path, file: AnnotationFile, seen: Mapping[int, Seen], problems: Problems
) -> dict[int, tuple[int, int]]:
    """Return (width, height) of each image, of the file where it can be decoded, else as the annotations say."""
    found = {}
    for number, image in file.images.items():
        real = seen[number].size if number in seen else None
        if real and image.size and real != image.size:
            what = f"{real[0]} x {real[1]} pixels, annotated as one of {image.size[0]} x {image.size[1]}"
            problems.error("image of another size", seen[number].path.relative_to(root), what)
        size = real or image.size
        if size:
            found[number] = size
    return found


def _placed(box: Annotation, size: tuple[int, int], problems: Problems) -> None:
    """Tell of a box that leaves its image."""
    if box.box is None:
        return
    x, y, width, height = box.box
    shown = f"x {x:g} to {x + width:g}, y {y:g} to {y + height:g} in an image of {size[0]} x {size[1]}"
    if x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0:
        problems.error("box outside its image", box.where, shown)
    elif max(-x, -y, x + width - size[0], y + height - size[1]) > FURTHEST:
        problems.warning("box beyond its image's border", box.where, shown)


def _compare(files: Mapping[str, AnnotationFile], problems: Problems) -> None:
    """Tell what differs between the categories of the two files, and classes that training lacks."""
    train, val = (files[split] for split in SPLITS)
    if train.categories and val.categories and train.categories != val.categories:
        for number in sorted(train.categories.keys() | val.categories.keys()):
            one, other = train.categories.get(number), val.categories.get(number)
            if one != other:
                what = f"{one!r} in train, {other!r} in val".replace("None", "missing")
                problems.error("category that differs", f"category {number}", what)
    boxes = {split: _boxes(files[split]) for split in SPLITS}
    for name, count in boxes["val"].items():
        if count and not boxes["train"].get(name):
            problems.warning("class in validation only", name, f"{count:,} boxes of val")
    for name, count in boxes["train"].items():
        if not count and not boxes["val"].get(name):
            problems.warning("class without boxes", name)


def _boxes(file: AnnotationFile) -> dict[str, int]:
    """Return the boxes of each category that are no crowds."""
    found = dict.fromkeys(file.categories.values(), 0)
    for box in file.annotations:
        if not box.crowd and box.category in file.categories:
            found[file.categories[box.category]] += 1
    return found


def _counts(file: AnnotationFile) -> dict[str, int]:
    annotated = {box.image for box in file.annotations}
    return {
        "images": len(file.images),
        "boxes": sum(not box.crowd for box in file.annotations),
        "classes": len(file.categories),
        "images without boxes": len(file.images.keys() - annotated),
        "crowds": sum(box.crowd for box in file.annotations),
    }
