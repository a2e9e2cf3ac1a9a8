"""Images packed into tar files: class folders in a tar, or the shards of a webdataset."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._decoded import decoded, unreadable
from ._tar_members import Member

NAMES: Final[dict[Split, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "eval", "test"),  # the first that is there
}
Entry = tuple[Member, int]  # an image and its label


@dataclass(frozen=True, slots=True)
class Packed:
    """Labelled images at known places of tar files."""

    identity: str
    classes: tuple[str, ...]
    entries: Mapping[Split, Sequence[Entry]]

    def count(self, split: Split) -> int:
        """Return the number of images."""
        return len(self.entries[split])

    def image(self, split: Split, index: int) -> tuple[Image.Image, int]:
        """Return an image in RGB and its label; one that cannot be read is a ``UserError`` that names it."""
        member, label = self.entries[split][index]
        return decoded(member.read(), member.where), label


def tars(place: str) -> dict[Split, list[Path]]:
    """Return the tar files of each split, sorted.

    ``place`` is a folder with ``train.tar``, ``train/*.tar`` or ``*train*.tar`` and the same for validation (see
    ``NAMES``), or two patterns with a comma between: ``/x/train-{000..009}.tar,/x/val-*.tar``.

    Raises:
        UserError: nothing there, or one file in both splits.
    """
    patterns = place.split(",")
    if len(patterns) == 2:
        found: dict[Split, list[Path]] = {"train": _matches(patterns[0]), "val": _matches(patterns[1])}
    elif len(patterns) == 1:
        found = {split: _named(Path(place), names) for split, names in NAMES.items()}
    else:
        raise UserError(f"{place!r}: give a folder, or the tar files of training and of validation with one comma")
    both = {file.resolve() for file in found["train"]} & {file.resolve() for file in found["val"]}
    if both:
        raise UserError(f"{str(min(both))!r} is named for training and for validation")
    return found


def manifest(entries: Mapping[Split, Iterable[Entry]]) -> str:
    """Return the hash of every image's split, name, size and label, whatever the order: 16 hex digits."""
    lines = [
        f"{split}\0{member.holder}\0{member.name}\0{member.size}\0{label}\n".encode("utf-8", "surrogateescape")
        for split, found in entries.items()
        for member, label in found
    ]
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()[:16]


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    try:
        if not folder.is_dir():
            raise UserError(f"{str(folder)!r} is no folder of tar files; give one, or TRAIN.tar,VAL.tar")
        there = sorted(file for file in folder.iterdir() if file.suffix == ".tar" and file.is_file())
        for name in names:
            whole = [file for file in there if file.stem == name]
            parts = sorted((folder / name).glob("*.tar"))
            marked = [file for file in there if name in re.split(r"[^a-z]+", file.stem.lower())]
            if found := whole or parts or marked:
                return found
    except OSError as error:
        raise unreadable(repr(str(folder)), error) from error
    wanted = f"{names[0]}.tar, {names[0]}/*.tar or *{names[0]}*.tar"
    raise UserError(f"{str(folder)!r} holds no tar files of {' or '.join(names)}; expected {wanted}")


def _matches(pattern: str) -> list[Path]:
    """Return the files of a pattern: one ``{000..123}`` counts, ``*`` is any text in a file's name."""
    text = pattern.strip()
    count = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", text)
    if count:
        start, first, last, rest = count.groups()
        found = [Path(f"{start}{number:0{len(first)}}{rest}") for number in range(int(first), int(last) + 1)]
    elif "*" in Path(text).name:
        found = sorted(Path(text).parent.glob(Path(text).name))
    else:
        found = [Path(text)]
    missing = next((file for file in found if not file.is_file()), None)
    if not text or not found or missing is not None:
        raise UserError(f"tar file {str(missing or pattern)!r} does not exist")
    return found
