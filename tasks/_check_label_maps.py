"""What is wrong with images and their label maps, in the layout of ADE20K or of Pascal VOC."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from attnbench.data_report import Problems, Progress, Report
from attnbench.errors import UserError

from ._check_images import Seen, images_and_others, leaks, look_at
from ._image_files import folder_at

LAYOUT: Final = (
    "expected ADE20K's images/{training,validation} and annotations/{training,validation}, "
    "or Pascal VOC's JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt"
)
GREY: Final = ("L", "P", "1", "I", "I;16", "I;16L", "I;16B", "I;16N")  # one whole number a pixel
Pair = tuple[Path, Path]  # an image and its label map


@dataclass(frozen=True, slots=True)
class _Layout:
    splits: tuple[str, str]  # of training and validation, as the layout calls them
    first: int  # label of the first class
    ignore: int
    names: tuple[str, ...]  # files that may name the classes


ADE20K: Final = _Layout(("training", "validation"), 1, 0, ("classes.txt", "objectInfo150.txt"))
PASCAL: Final = _Layout(("train", "val"), 0, 255, ("classes.txt", "labels.txt"))


@dataclass(slots=True)
class _Found:
    """What a split came to."""

    images: list[Seen] = field(default_factory=list)
    pixels: dict[int, int] = field(default_factory=dict)  # by label


def check(path: str, progress: Progress | None = None) -> Report:
    """Decode every image and label map, and compare them.

    Raises:
        UserError: no folder, or none of the two layouts.
    """
    root, problems = folder_at(path, LAYOUT), Problems([])
    layout = _layout(root)
    pairs = {split: (_ade20k if layout is ADE20K else _pascal)(root, split, problems) for split in layout.splits}
    every = list(dict.fromkeys(pair for found in pairs.values() for pair in found))
    images = look_at([image for image, _ in every], _part(progress, 0, 2 * len(every)))
    maps = look_at([labels for _, labels in every], _part(progress, len(every), 2 * len(every)), _labels)
    seen = dict(zip(every, zip(images, maps, strict=True), strict=True))
    names = _names(root, layout, problems)
    for pair in every:
        _compare(root, layout, names, seen[pair], problems)
    found = {split: _sum(seen[pair] for pair in pairs[split]) for split in layout.splits}
    train, val = (found[split] for split in layout.splits)
    leaks(problems, root, train.images, val.images)
    classes = {split: _classes(layout, names, found, split) for split in layout.splits}
    _absent(layout, classes, problems)
    counts = {split: _counts(layout, found[split]) for split in layout.splits}
    return Report(counts, classes, "pixels", tuple(problems.found))


def _layout(root: Path) -> _Layout:
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        return ADE20K
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return PASCAL
    raise UserError(f"data path {str(root)!r} is of no known layout; {LAYOUT}")


def _ade20k(root: Path, split: str, problems: Problems) -> list[Pair]:
    images = _by_stem(root, root / "images" / split, problems)
    maps = _by_stem(root, root / "annotations" / split, problems, maps=True)
    for stem in images.keys() - maps.keys():
        problems.error("image without label map", images[stem].relative_to(root), f"expected {stem}.png")
    for stem in maps.keys() - images.keys():
        problems.error("label map without image", maps[stem].relative_to(root))
    return [(images[stem], maps[stem]) for stem in images if stem in maps]


def _pascal(root: Path, split: str, problems: Problems) -> list[Pair]:
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        stems = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        problems.error("missing list", listing.relative_to(root), str(error))
        return []
    quiet = Problems([])  # these folders serve both splits; each file is looked up, and told of there
    images = _by_stem(root, root / "JPEGImages", problems if split == "train" else quiet)
    maps = _by_stem(root, root / "SegmentationClass", problems if split == "train" else quiet, maps=True)
    found = []
    for number, stem in enumerate(stems, 1):
        where = f"{listing.relative_to(root)}, line {number}"
        if stem not in images:
            problems.error("missing image", where, f"{stem!r} is no image of JPEGImages")
        if stem not in maps:
            problems.error("missing label map", where, f"{stem!r} is no label map of SegmentationClass")
        if stem in images and stem in maps:
            found.append((images[stem], maps[stem]))
    for stem, count in Counter(stems).items():
        if count > 1:
            problems.warning("listed twice", listing.relative_to(root), f"{stem!r}, {count} times")
    return found


def _by_stem(root: Path, folder: Path, problems: Problems, *, maps: bool = False) -> dict[str, Path]:
    """Return the files by their relative name without extension, sorted."""
    if not folder.is_dir():
        problems.error("missing folder", folder.relative_to(root), LAYOUT)
        return {}
    images, others = images_and_others(folder)
    found: dict[str, Path] = {}
    for file in images:
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if maps and file.suffix.lower() != ".png":
            problems.warning("label map that is no PNG", file.relative_to(root), "not read")
        elif stem in found:
            problems.error("two files of one stem", file.relative_to(root), f"and {found[stem].relative_to(root)}")
        else:
            found[stem] = file
    for file in others:
        problems.warning("file that is no image", file.relative_to(root), "not read")
    if not found:
        problems.error("empty folder", folder.relative_to(root))
    return found


def _labels(image: Image.Image) -> dict[int, int] | str:
    """Return the pixels of each label, or the mode of a picture that holds no labels."""
    if image.mode not in GREY:
        return image.mode
    pixels = np.asarray(image)
    if pixels.dtype == np.uint8:  # several times as fast as sorting
        every = np.bincount(pixels.reshape(-1), minlength=256)
        return {int(label): int(every[label]) for label in every.nonzero()[0]}
    labels, counts = np.unique(pixels, return_counts=True)
    return dict(zip(map(int, labels), map(int, counts), strict=True))


def _compare(root: Path, layout: _Layout, names: list[str], pair: tuple[Seen, Seen], problems: Problems) -> None:
    image, labels = pair
    for item, kind in ((image, "image that cannot be read"), (labels, "label map that cannot be read")):
        if item.error:
            problems.error(kind, item.path.relative_to(root), item.error)
    where = labels.path.relative_to(root)
    if image.size and labels.size and image.size != labels.size:
        sizes = f"{labels.size[0]} x {labels.size[1]}, the image {image.size[0]} x {image.size[1]} pixels"
        problems.error("label map of another size", where, sizes)
    if isinstance(labels.found, str):
        what = f"a picture of mode {labels.found}; expected one channel that holds the numbers of classes"
        problems.error("label map in colours", where, what)
    elif labels.found is not None:
        last = layout.first + len(names) - 1
        beyond = [n for n in labels.found if n != layout.ignore and names and not layout.first <= n <= last]
        if beyond or any(n < 0 for n in labels.found):
            numbers = ", ".join(map(str, beyond[:8])) + (", ..." if len(beyond) > 8 else "")
            what = f"{numbers}; expected {layout.first} to {last}, or {layout.ignore} for ignored pixels"
            problems.error("label out of range", where, what)
        elif labels.found.keys() == {layout.ignore}:
            problems.warning("label map with nothing but ignored pixels", where)
        elif layout is ADE20K and not names and 255 in labels.found:
            problems.warning("label 255", where, "a class here; where it means 'ignore', write 0 for it")


def _sum(pairs: Iterable[tuple[Seen, Seen]]) -> _Found:
    found = _Found()
    for image, labels in pairs:
        found.images.append(image)
        for label, count in labels.found.items() if isinstance(labels.found, dict) else ():
            found.pixels[label] = found.pixels.get(label, 0) + count
    return found


def _counts(layout: _Layout, found: _Found) -> dict[str, int | float]:
    pixels = sum(found.pixels.values())
    ignored = found.pixels.get(layout.ignore, 0) / pixels if pixels else 0.0
    return {"images with label maps": len(found.images), "pixels": pixels, "ignored pixels": ignored}


def _classes(layout: _Layout, names: list[str], found: dict[str, _Found], split: str) -> dict[str, int]:
    """Return the pixels of each class; without names, classes are the labels that occur."""
    labels = {n for item in found.values() for n in item.pixels} - {layout.ignore}
    known = dict(enumerate(names, layout.first)) if names else {n: str(n) for n in sorted(labels)}
    found_here = found[split].pixels
    return {f"{label} {name}" if names else name: found_here.get(label, 0) for label, name in known.items()}


def _absent(layout: _Layout, classes: dict[str, dict[str, int]], problems: Problems) -> None:
    train, val = (classes[split] for split in layout.splits)
    for name, count in train.items():
        if not count and any(train.values()):
            problems.warning("class absent from training", name, f"{val[name]:,} pixels of validation")
        elif not val[name] and any(val.values()):
            problems.warning("class absent from validation", name, f"{count:,} pixels of training")


def _names(root: Path, layout: _Layout, problems: Problems) -> list[str]:
    """Return the names of the classes; none where no file gives them."""
    file = next((root / name for name in layout.names if (root / name).is_file()), None)
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        problems.error("names of classes that cannot be read", file.name, str(error))
        return []
    if file.name == "objectInfo150.txt":  # ADE20K's own: a heading, then columns, the last of them the name
        return [line.split("\t")[-1].strip() for line in lines[1:] if line.strip()]
    if not all(line.strip() for line in lines):
        problems.error("empty line", file.name, "expected one name of a class on each line")
    numbered = all(re.match(rf"{number}\b", line) for number, line in enumerate(lines, layout.first))
    return [re.sub(r"^\d+\W*", "", line) if numbered else line.strip() for line in lines]


def _part(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Return the progress of one of several passes."""
    return progress and (lambda count, _: progress(done + count, total))
