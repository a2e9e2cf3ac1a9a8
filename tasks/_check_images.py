"""Every image of a data set opened and decoded for a check: by threads, for decoding lets others run meanwhile."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from attnbench.data_report import Problems, Progress
from attnbench.errors import UserError

from ._image_files import UNREADABLE, extensions, files_below

MOST: Final = 16  # threads
CHUNK: Final = 4096  # images that wait for a thread; each costs a kilobyte


@dataclass(frozen=True, slots=True)
class Seen:
    """One file, looked at."""

    path: Path
    size: tuple[int, int] | None = None  # (width, height) as stored; None where it cannot be decoded
    digest: bytes = b""  # of the content; empty where it cannot be read
    error: str = ""
    found: Any = None  # what ``look`` returned


def look_at(
    paths: Sequence[Path], progress: Progress | None, look: Callable[[Image.Image], Any] = lambda _: None
) -> list[Seen]:
    """Decode the images at ``paths``; in their order, what each is and what ``look`` makes of it."""
    found = []
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, MOST)) as pool:
        warnings.simplefilter("ignore")  # of large images and odd metadata: not what is asked here
        for start in range(0, len(paths), CHUNK):
            for seen in pool.map(lambda path: _seen(path, look), paths[start : start + CHUNK]):
                found.append(seen)
                if progress is not None:
                    progress(len(found), len(paths))
    return found


def leaks(problems: Problems, root: Path, train: Iterable[Seen], val: Iterable[Seen]) -> None:
    """Warn of each file of ``val`` whose content is in ``train`` too."""
    known = {seen.digest: seen.path for seen in train if seen.digest}
    for seen in val:
        if seen.digest in known:
            other = known[seen.digest].relative_to(root)
            problems.warning(
                "image in training and validation", seen.path.relative_to(root), f"same content as {other}"
            )


def images_and_others(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and the other files at any depth, sorted; hidden ones are passed over, links followed once.

    Raises:
        UserError: a folder that cannot be read.
    """
    known = extensions()
    images: list[Path] = []
    others: list[Path] = []
    for file in files_below(folder):
        (images if file.name.lower().endswith(known) else others).append(file)
    return sorted(images), sorted(others)


def folders_in(folder: Path) -> Iterator[Path]:
    """Yield the folders in ``folder`` that are not hidden, sorted."""
    yield from (item for item in entries(folder) if item.is_dir())


def entries(folder: Path) -> list[Path]:
    """Return what is in ``folder`` and not hidden, sorted.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {str(folder)!r}: {error.strerror}") from error


def _seen(path: Path, look: Callable[[Image.Image], Any]) -> Seen:
    digest, size = b"", None
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            return Seen(path, error="no regular file")
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            size = image.size
            return Seen(path, size, digest, found=look(image))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "no image" if content else "the file is empty"
        return Seen(path, None, digest, " ".join(reason.split()) or type(error).__name__)
