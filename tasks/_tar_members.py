"""Files inside tar files, found once and then read by position, without extracting or unpickling anything.

A member is a place in a file, so it can be pickled, and every process opens the tar for itself. The names of members
are read and never used as paths. Compressed tars have no positions and are refused; links and sparse members are passed
over.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from attnbench.errors import UserError

from ._decoded import unreadable

_BROKEN: Final = (OSError, EOFError, tarfile.TarError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file inside a tar, or inside a tar in it."""

    name: str  # as the tar has it
    holder: str  # stem of the inner tar that holds it; empty in the outer tar
    tar: Path
    offset: int  # bytes
    size: int  # bytes

    @property
    def where(self) -> str:
        """Return the place in words, for errors."""
        return f"{self.name!r} in {str(self.tar)!r}"

    def read(self) -> bytes:
        """Return the content; a ``UserError`` where the tar has changed or gone."""
        try:
            with self.tar.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise unreadable(self.where, error) from error
        if len(content) < self.size:
            raise UserError(f"cannot read {self.where}: the tar ends before it")
        return content


def members(tar: Path) -> Iterator[Member]:
    """Yield the regular files of ``tar`` in its order, those of tars in it (one level deep) among them.

    Raises:
        UserError: missing, compressed, damaged or cut short.
    """
    try:
        end = tar.stat().st_size
        with tarfile.open(tar, "r:") as outer:
            for info in _headers(outer):
                if info.name.lower().endswith(".tar"):
                    yield from _inner(tar, outer, info)
                else:
                    yield _member(tar, "", info, 0, end)
    except _BROKEN as error:
        if isinstance(error, UserError):
            raise
        hint = "it must be a tar without compression, which can be read by position"
        raise UserError(f"{unreadable(repr(str(tar)), error)}; {hint}") from error


def _inner(tar: Path, outer: tarfile.TarFile, holder: tarfile.TarInfo) -> Iterator[Member]:
    with tarfile.open(fileobj=outer.extractfile(holder), mode="r:") as inner:
        for info in _headers(inner):
            yield _member(tar, PurePosixPath(holder.name).stem, info, holder.offset_data, holder.size)


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    last = -1
    for info in tar:
        if info.offset <= last or info.size < 0:  # else a crafted header is read for ever
            raise tarfile.ReadError(f"header of {info.name!r} goes backwards")
        last = info.offset
        if info.isreg() and not info.issparse():
            yield info


def _member(tar: Path, holder: str, info: tarfile.TarInfo, start: int, end: int) -> Member:
    if info.offset_data + info.size > end:
        raise tarfile.ReadError(f"it ends within {info.name!r}")
    return Member(info.name, holder, tar, start + info.offset_data, info.size)
