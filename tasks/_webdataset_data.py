"""A webdataset: tar files whose neighbouring members ``KEY.jpg`` and ``KEY.cls`` (or ``KEY.json``) are one example.

Webdatasets are made to be streamed; here the members' positions are found once, and then any example can be read by
itself, so that batches are the same whatever loads them. Nothing is unpickled: members of other kinds are never read.
Shards are those of ``_info.json`` or ``info.json`` (as timm reads it), else by their names (see :func:`._packed.tars`).
Labels are whole numbers; ``classes.txt`` in the folder may name them, a line each.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Final

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._decoded import unreadable
from ._packed import NAMES, Entry, Packed, manifest, tars
from ._tar_members import Member, members

IMAGES: Final = ("jpg", "jpeg", "png", "webp")
MOST: Final = 1_000_000  # classes; a larger label is no label


def open_webdataset(place: str) -> Packed:
    """Return the images of the shards at ``place``: a folder, or two patterns with a comma between.

    Raises:
        UserError: missing or broken shards, an example without a label, a label that training lacks.
    """
    shards, key = _described(Path(place)) or (tars(place), "")
    entries: dict[Split, Sequence[Entry]] = {
        split: tuple(entry for file in files for entry in _examples(file, key)) for split, files in shards.items()
    }
    empty = next((split for split, found in entries.items() if not found), None)
    if empty:
        raise UserError(f"{place!r} holds no image for {empty}: no shard has a member {', '.join(IMAGES)}")
    count = 1 + max(label for _, label in entries["train"])
    beyond = next((member for member, label in entries["val"] if label >= count), None)
    if beyond is not None or count < 2:
        what = f"label of {beyond.where} is beyond" if beyond else "one class is too few:"
        raise UserError(f"{what} the labels 0..{count - 1} of training")
    names = _names(Path(place), count)
    return Packed(f"webdataset:{manifest(entries)}", names, entries)


def _examples(shard: Path, key: str) -> Iterator[Entry]:
    """Yield the images of a shard with their labels, in its order."""
    for name, group in groupby(members(shard), key=lambda member: _split(member.name)[0]):
        parts: dict[str, Member] = {}
        for member in group:
            if parts.setdefault(_split(member.name)[1], member) is not member:
                raise UserError(f"{member.where} is there twice")
        image = next((parts[kind] for kind in IMAGES if kind in parts), None)
        if image is not None and not PurePosixPath(name).name.startswith("."):
            label = _label(image, parts, key)
            if label >= 0:  # timm's mark of an image to leave out
                yield image, label


def _split(name: str) -> tuple[str, str]:
    """Return key and kind: what stands before and after the first point of the file's name."""
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return folder + slash + key, kind.lower()


def _label(image: Member, parts: dict[str, Member], key: str) -> int:
    try:
        if "cls" in parts and not key:
            label = int(parts["cls"].read())
        elif "json" in parts:
            found = json.loads(parts["json"].read())[key or "label"]
            label = found if type(found) is int else int("" if not isinstance(found, str) else found)
        else:
            raise UserError(f"{image.where} has no label: expected a member .cls or .json beside it")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{image.where} has a label that is no whole number") from error
    if label >= MOST or label < -1:
        raise UserError(f"{image.where} has the label {label}; expected 0 up to the number of classes")
    return label


def _described(folder: Path) -> tuple[dict[Split, list[Path]], str] | None:
    """Return the shards that the folder's description names, and the key of the label; None without description."""
    try:
        file = next((folder / name for name in ("_info.json", "info.json") if (folder / name).is_file()), None)
        if file is None:
            return None
        splits: dict[str, Any] = json.loads(file.read_bytes())["splits"]
        found = {split: _split_of(splits, split) for split in NAMES}
        shards = {split: [_inside(folder, str(name)) for name in item["filenames"]] for split, item in found.items()}
        keys = {str(item.get("alt_label") or "") for item in found.values()}
        return shards, max(keys)
    except UserError:
        raise
    except OSError as error:
        raise unreadable(repr(str(folder)), error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is no description of splits with filenames") from error


def _split_of(splits: dict[str, Any], split: Split) -> dict[str, Any]:
    name = next((name for name in NAMES[split] if name in splits), None)
    if name is None:
        raise UserError(f"the description of the shards has no split {' or '.join(NAMES[split])}")
    found: dict[str, Any] = splits[name]
    return found


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name:
        raise UserError(f"shard {name!r} of the description lies outside {str(folder)!r}")
    return folder / path


def _names(folder: Path, count: int) -> tuple[str, ...]:
    file = folder / "classes.txt"
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [str(n) for n in range(count)]
    except (OSError, UnicodeError) as error:
        raise unreadable(repr(str(file)), error) from error
    if len(lines) < count:
        raise UserError(f"{str(file)!r} names {len(lines)} classes, but labels go up to {count - 1}")
    return tuple(lines)
