"""A worker process as its parent sees it: started, asked one thing at a time, killed with all that it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attnbench.errors import UserError
from attnbench.record import Status
from attnbench.registry import Registry

# -P: neither the working directory nor a file named like a module in it may be imported by accident.
COMMAND = (sys.executable, "-P", "-c", "from attnbench.worker import main; main()")
# A thread that waits sleeps instead of spinning. Beside another busy process on two cores a training step took a third
# of the time so. Workers that run before others need not wait for them, and must not: waking up costs more time, and
# never twice the same. The variable in the caller's environment wins.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
START = 600.0  # seconds that a first import may take on a slow disk


class WorkerError(Exception):
    """A cell did not end well: ``status`` and message go into its record."""

    def __init__(self, status: Status, message: str, *, alive: bool, killed: bool = False) -> None:
        super().__init__(message)
        self.status: Status = status
        self.alive = alive  # whether the worker can be asked again
        self.killed = killed  # whether someone else ended it: that says nothing about the cell


class _EndedError(Exception):
    """The template ended while it was asked for a worker."""


class Template:
    """A spawned process that has imported torch and run nothing; a worker is forked from it in milliseconds.

    So a worker is fresh, with nothing of the parent's memory or threads in it, without seconds of imports each. Where a
    process that has loaded numerical libraries must not fork (macOS), every worker is spawned instead.

    ``preload`` names modules that the template imports too; they must not compute anything, because threads do not
    survive a fork. ``plugins``, which may, are imported by each worker. ``memory_limit`` is what each may allocate (B).
    ``first``: the workers will run before other processes.
    """

    def __init__(
        self,
        threads: int,
        preload: list[str],
        plugins: list[str],
        log: Path,
        *,
        memory_limit: int | None = None,
        first: bool = False,
        forks: bool = sys.platform == "linux",
    ) -> None:
        self.threads, self.preload, self.plugins, self.log, self.forks = threads, preload, plugins, log, forks
        self.memory_limit = memory_limit
        self._waiting = {} if first else PASSIVE
        self._kept: list[int] = []  # lifelines of workers that outlived their template
        self._process: subprocess.Popen[bytes] | None = None

    def worker(self, *, capped: bool = True) -> "Worker":
        """Return a new worker, its plug-ins registered; one that is not ``capped`` may allocate what it likes.

        Raises:
            UserError: a plug-in does not load in another process.
        """
        worker = self._new()
        limit = self.memory_limit if capped else None
        try:
            worker.call("configure", self.threads, sys.path, sys.argv, self.plugins, limit, timeout=START)
        except WorkerError as error:
            worker.kill()
            if error.killed:
                return self.worker(capped=capped)
            raise UserError(f"a worker process cannot start: {error}") from error
        except BaseException:
            worker.kill()
            raise
        return worker

    def _new(self) -> "Worker":
        """Return a worker that is not configured; if the template was ended meanwhile, of a new one."""
        for last in (False, True):
            if self._process is None or self._process.poll() is not None:
                self._spawn()
            ours, theirs = Pipe()
            try:
                self._control.send(("fork" if self.forks else "become", 0))
                send_handle(self._control, theirs.fileno(), None)
                theirs.close()
                return self._forked(ours) if self.forks else self._become(ours)
            except (OSError, EOFError, _EndedError) as error:
                self._end()
                if last:
                    raise UserError(f"the worker template ended at its start; see {self.log}") from error
        raise AssertionError("the loop returns or raises")

    def close(self) -> None:
        """End the template, and whatever is left of its workers."""
        self._end()
        while self._kept:
            os.close(self._kept.pop())

    def _end(self) -> None:
        """End the template alone: closing a lifeline would end workers that are in the middle of something."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._control.close()
            self._kept.append(self._lifeline)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _spawn(self) -> None:
        self._end()
        self._control, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        threading = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [*COMMAND, str(theirs.fileno()), str(lifeline), *self.preload],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(), lifeline),
                env={**self._waiting, **os.environ, **threading},
                start_new_session=True,  # a Ctrl-C reaches the parent alone, which then decides
            )
        theirs.close()
        os.close(lifeline)

    def _forked(self, pipe: "Connection[Any, Any]") -> "Worker":
        if not self._control.poll(START):
            raise UserError(f"the worker template did not start in {START:.0f} s; see {self.log}")
        try:
            pid = self._control.recv()
        except (EOFError, ConnectionError):
            raise _EndedError from None
        return Worker(pipe, pid, partial(_reap, self._control, pid))

    def _become(self, pipe: "Connection[Any, Any]") -> "Worker":
        process, lifeline = self._process, self._lifeline
        if process is None:
            raise RuntimeError("a template becomes a worker once")
        self._control.close()
        self._process = None  # the next worker is spawned anew

        def wait() -> int:
            code = process.wait()
            os.close(lifeline)
            return code

        return Worker(pipe, process.pid, wait)


def _reap(control: "Connection[Any, Any]", pid: int) -> int:
    """Ask the template that forked a worker for its exit code."""
    try:
        control.send(("reap", pid))
        code: int = control.recv()
    except (EOFError, OSError):  # the template itself was ended, and the system reaps
        return -signal.SIGKILL
    return code


class Worker:
    """One fresh Python process, asked one thing at a time."""

    def __init__(self, pipe: "Connection[Any, Any]", pid: int, wait: Callable[[], int]) -> None:
        self._pipe, self._pid, self._wait = pipe, pid, wait
        self._alive = True
        self._oom_kills = _oom_kills()

    def call(
        self,
        request: str,
        *arguments: Any,
        timeout: float,
        progress: Callable[[float], None] | None = None,
        patient: bool = False,
    ) -> Any:
        """Ask and wait, blocking, for the answer; if ``patient``, progress starts the timeout anew.

        Raises:
            WorkerError: the request failed, took longer than ``timeout`` seconds, or ended the process.
        """
        deadline = time.monotonic() + timeout
        try:
            self._pipe.send((request, arguments))
            while True:
                if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    what = f"made no progress for {timeout:.0f} s" if patient else f"took longer than {timeout:.0f} s"
                    raise WorkerError("timeout", what, alive=False)
                kind, content = self._pipe.recv()
                if kind == "result":
                    return content
                if kind == "error":
                    raise WorkerError(*content, alive=True)
                if patient:
                    deadline = time.monotonic() + timeout
                if progress:
                    progress(content)
        except (EOFError, ConnectionError):
            raise self._death() from None
        except WorkerError:
            raise
        except Exception as error:  # what a worker wrote into its pipe is not to be trusted
            self.kill()
            what = f"the worker's answer cannot be read ({type(error).__name__})"
            raise WorkerError("failed", what, alive=False) from error

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked, as far as is known."""
        return self._alive

    def kill(self) -> None:
        """End the process and all that it started; harmless when it has ended."""
        if self._alive:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self._end()

    def _end(self) -> int:
        code = self._wait()
        self._alive = False
        self._pipe.close()
        with suppress(ProcessLookupError):  # what the worker had started
            os.killpg(self._pid, signal.SIGKILL)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def _death(self) -> WorkerError:
        code = self._end()
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            return WorkerError("out_of_memory", "the system ended the worker: out of memory", alive=False)
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        killed = code in (-signal.SIGKILL, -signal.SIGTERM)
        return WorkerError("failed", f"the worker process ended {reason}", alive=False, killed=killed)


def built_in_modules(registry: Registry[Any], names: list[str]) -> list[str]:
    """Return the modules of this package that declare ``names``."""
    return [item.module for item in registry.declared() if item.name in names]


def plugin_sources(registry: Registry[Any], names: list[str]) -> list[str]:
    """Return what a worker must import to know plug-ins that this process registered by itself.

    Raises:
        UserError: a plug-in typed into an interactive session, where no other process can find it.
    """
    declared = {item.module for item in registry.declared()}
    sources = []
    for name in names:
        origin = registry.origin(name)
        if origin is None or origin.__module__ in declared:
            continue
        if origin.__module__ != "__main__":
            sources.append(f"module:{origin.__module__}")
            continue
        file = getattr(sys.modules["__main__"], "__file__", None)
        if file is None:
            raise UserError(f"{registry.kind} {name!r} is defined in an interactive session; put it into a file")
        sources.append(f"file:{Path(file).resolve()}")
    return sorted(set(sources))


def _oom_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory; 0 where it does not say."""
    found = 0
    for file in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):  # the machine's, this container's
        with suppress(OSError):
            lines = file.read_text(encoding="ascii").splitlines()
            found += next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return found
