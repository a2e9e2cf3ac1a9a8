"""The record store: ``<folder>/records.jsonl``, one JSON line per record, one writer at a time.

A line counts once its newline is on disk. Whatever follows the last newline was cut short by a crash: readers ignore
it and the next append cuts it off, so that its cell is done again. NaN and infinity are refused: a probe that finds
one has failed, and its record says so. Numbers are written as ``repr`` writes them and come back bit for bit.

The lock is an ``flock``: it ends with its process, however that ends. Standard library only, POSIX only.
"""

import errno
import fcntl
import json
import math
import os
import socket
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self
from weakref import WeakSet

from attnbench.errors import UserError
from attnbench.record import Json, Record

RECORDS = "records.jsonl"
LOCK = ".lock"

_MODE = 0o666  # less the umask, as open() does
_LOCK_BYTES = 4096  # more than a holder writes


class Store:
    """The one writer of a results folder; ``records`` is what the folder held when it was opened.

    Opening takes the lock and checks every line. A folder that cannot be written, is held by
    another writer, or holds a corrupt line is a :class:`UserError`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS
        self._lock = -1
        self._file = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _acquire(folder / LOCK)
            self._file = _open_records(self.path)
            self.records, self._end = _read(self.path)
        except OSError as error:
            self.close()
            _refuse("write to", folder, error)
        except BaseException:
            self.close()
            raise
        _OPEN.add(self)

    def append(self, *records: Record) -> None:
        """Add a line for each record, all with one sync; on return they are on disk.

        A disk that is full or fails is a :class:`UserError`, and the file then ends where it ended before: all of the
        records are there, or none. A number that is not finite is a ``ValueError``, and nothing is written.
        """
        if self._file < 0:
            raise ValueError(f"the store of {self.path} is closed")
        lines = b"".join(map(_line, records))
        try:
            self._cut()  # what a crash, or an append that was interrupted, left behind the last whole line
            self._write(lines)
        except OSError as error:
            self._cut_if_possible()
            _refuse("write", self.path, error)
        self._end += len(lines)

    def close(self) -> None:
        """Give the lock back. The lock's file stays: removing it would let two writers hold two files."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, lines: bytes) -> None:
        if os.fstat(self._file).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "deleted while it was being written", str(self.path))
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)

    def _cut(self) -> None:
        if os.fstat(self._file).st_size != self._end:
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)

    def _cut_if_possible(self) -> None:
        try:
            self._cut()
        except OSError:
            return  # the line stays torn; the next append, or the next opening, cuts it off


def load(folder: Path) -> list[Record]:
    """Return the records of ``folder`` in the order they were written, without a lock.

    A folder without records, and a corrupt line, are a :class:`UserError`; a torn last line is ignored.
    """
    try:
        return _read(folder / RECORDS)[0]
    except FileNotFoundError as error:
        raise UserError(f"no {RECORDS} in {str(folder)!r}") from error
    except OSError as error:
        _refuse("read", folder / RECORDS, error)


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """Return the last record of every key, keys in the order in which they first came."""
    return {record.cell.key: record for record in records}


def _read(path: Path) -> tuple[list[Record], int]:
    """Return the records and the number of bytes they take; what follows is a torn line."""
    data = path.read_bytes()
    lines = data.split(b"\n")
    torn = lines.pop()
    return [_record(path, number, line) for number, line in enumerate(lines, 1)], len(data) - len(torn)


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        data = json.loads(line.decode(), parse_constant=_not_a_number)
        record = Record.from_json(data)
        if data["key"] != record.cell.key:
            raise ValueError("the key is not that of the cell")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = str(error) if isinstance(error, ValueError) else f"not a record ({type(error).__name__}: {error})"
        raise UserError(f"{str(path)!r}, line {number}: {what}") from error
    return record


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _line(record: Record) -> bytes:
    data = record.to_json()
    try:
        return json.dumps(data, allow_nan=False).encode() + b"\n"
    except ValueError:
        place = next(_not_finite("", data)).lstrip(".")
        probe = record.cell.probe
        raise ValueError(f"{place} of the {probe} record is not finite; record a failure instead") from None


def _not_finite(place: str, value: object) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _not_finite(f"{place}.{name}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(f"{place}[{index}]", item)


def _open_records(path: Path) -> int:
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
    if new:  # a new name is on disk only once its folder is
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return descriptor


def _acquire(path: Path) -> int:
    """Take the lock and write into it who holds it."""
    # O_NOFOLLOW: in a folder that others can write to, a link would have another file overwritten.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        os.write(descriptor, json.dumps(holder).encode())
    except BlockingIOError as error:
        who = _holder(os.pread(descriptor, _LOCK_BYTES, 0))
        os.close(descriptor)
        raise UserError(
            f"{str(path.parent)!r} is being written by {who}; wait for it, or choose another folder"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _holder(text: bytes) -> str:
    try:
        data: Json = json.loads(text)
        return f"process {data['pid']} on {data['host']} since {data['since']}"
    except (ValueError, TypeError, KeyError):
        return "another process"  # which has the lock, and has not yet written its name


def _refuse(what: str, path: Path, error: OSError) -> NoReturn:
    raise UserError(f"cannot {what} {str(path)!r}: {error.strerror or error}") from error


_OPEN: WeakSet[Store] = WeakSet()


def _let_go() -> None:
    # A forked child shares the lock and would keep it after its parent's death; closing there leaves the parent's.
    for store in _OPEN:
        store.close()


os.register_at_fork(after_in_child=_let_go)
