"""Class folders in tar files: the folder that holds an image is its class, as in timm's tar reader.

Without folders the tar's own name is the class, where a split has several tars or holds tars in a tar (as ImageNet's
original archive does). Classes are those of training, sorted; what counts as an image is as in a folder.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from attnbench.errors import UserError
from attnbench.task_contract import Split

from ._image_files import extensions
from ._packed import Entry, Packed, manifest, tars
from ._tar_members import Member, members


def open_tar(place: str) -> Packed:
    """Return the images of the tar files at ``place`` (see :func:`._packed.tars`).

    Raises:
        UserError: missing or broken tars, images without a class, a class that training lacks, fewer than two classes.
    """
    found = {split: _labelled(files) for split, files in tars(place).items()}
    classes = tuple(sorted({name for _, name in found["train"]}))
    if len(classes) < 2:
        raise UserError(f"{place!r} holds {len(classes)} class for training; a classification needs two")
    labels = {name: label for label, name in enumerate(classes)}
    unknown = next((item for item in found["val"] if item[1] not in labels), None)
    if unknown is not None:
        raise UserError(f"class {unknown[1]!r} of {unknown[0].where} is not among those of training")
    entries: dict[Split, Sequence[Entry]] = {
        split: tuple((member, labels[name]) for member, name in images) for split, images in found.items()
    }
    return Packed(f"tar:{manifest(entries)}", classes, entries)


def _labelled(files: list[Path]) -> list[tuple[Member, str]]:
    """Return each image with the name of its class, sorted by class and name."""
    known, found = extensions(), []
    for file in files:
        for member in members(file):
            path = PurePosixPath(member.name)
            if path.suffix.lower() in known and not path.name.startswith("."):
                found.append((member, _class(member, file.stem if len(files) > 1 else "")))
    if not found:
        raise UserError(f"{str(files[0])!r} holds no image; known are {', '.join(known)}")
    return sorted(found, key=lambda item: (item[1], PurePosixPath(item[0].name).parts, item[0].holder))


def _class(member: Member, tar: str) -> str:
    name = PurePosixPath(member.name).parent.name or member.holder or tar
    if not name:
        raise UserError(f"{member.where} is in no folder; expected <class>/<image> in the tar")
    return name
