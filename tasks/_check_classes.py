"""What is wrong with a folder of classes of images: ``PATH/train/<class>/*`` and ``PATH/val/<class>/*``."""

from pathlib import Path

from attnbench.data_report import Problems, Progress, Report
from attnbench.errors import UserError

from ._check_images import Seen, entries, folders_in, images_and_others, leaks, look_at
from ._folder import LAYOUT
from ._image_files import folder_at

SPLITS = ("train", "val")


def check(path: str, progress: Progress | None = None) -> Report:
    """Decode every image and compare the splits.

    Raises:
        UserError: no folder, or neither split in it.
    """
    root, problems = folder_at(path, LAYOUT), Problems([])
    if not any((root / split).is_dir() for split in SPLITS):
        raise UserError(f"data path {path!r} has no folder 'train' and no folder 'val'; {LAYOUT}")
    images = {split: _images(root, split, problems) for split in SPLITS}
    every = [file for classes in images.values() for files in classes.values() for file in files]
    seen = {item.path: item for item in look_at(every, progress)}
    for item in seen.values():
        if item.error:
            problems.error("image that cannot be read", item.path.relative_to(root), item.error)
    _compare(images, problems)
    by_split = {split: [seen[file] for files in images[split].values() for file in files] for split in SPLITS}
    leaks(problems, root, by_split["train"], by_split["val"])
    for split in SPLITS:
        _ambiguous(root, images[split], seen, problems)
    counts = {
        split: {"images": len(by_split[split]), "classes": sum(map(bool, images[split].values()))} for split in SPLITS
    }
    classes = {split: {name: len(files) for name, files in images[split].items()} for split in SPLITS}
    return Report(counts, classes, "images", tuple(problems.found))


def _images(root: Path, split: str, problems: Problems) -> dict[str, list[Path]]:
    """Return the images of each class."""
    folder = root / split
    if not folder.is_dir():
        problems.error("missing folder", split, LAYOUT)
        return {}
    for item in entries(folder):
        if not item.is_dir():
            problems.warning("file outside class folders", item.relative_to(root), "not read")
    found = {}
    for place in folders_in(folder):
        images, others = images_and_others(place)
        found[place.name] = images
        if not images:
            problems.error("class folder without images", place.relative_to(root))
        for item in others:
            problems.warning("file that is no image", item.relative_to(root), "not read")
    if not found:
        problems.error("no class folders", split, LAYOUT)
    return found


def _compare(images: dict[str, dict[str, list[Path]]], problems: Problems) -> None:
    train, val = (images[split] for split in SPLITS)
    if len(train) == 1:
        problems.error("too few classes", "train", "one class; a classification needs two")
    if train and val:
        for name in sorted(val.keys() - train.keys()):
            problems.error("class in validation only", name, f"{len(val[name])} images of val")
        for name in sorted(train.keys() - val.keys()):
            problems.warning("class without validation images", name, f"{len(train[name])} images of train")


def _ambiguous(root: Path, classes: dict[str, list[Path]], seen: dict[Path, Seen], problems: Problems) -> None:
    """Warn of an image that is in two classes of a split."""
    known: dict[bytes, tuple[str, Path]] = {}
    for name, files in classes.items():
        for file in files:
            digest = seen[file].digest
            other, first = known.setdefault(digest, (name, file)) if digest else (name, file)
            if other != name:
                problems.warning("image in two classes", file.relative_to(root), f"same as {first.relative_to(root)}")
