"""A worker process as its parent sees it: started, asked one thing at a time, killed with all that it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

from attnbench.errors import UserError
from attnbench.record import Status
from attnbench.registry import Registry

# -P: neither the working directory nor a file named like a module in it may be imported by accident.
COMMAND = (sys.executable, "-P", "-c", "from attnbench.worker import main; main()")
# A thread that waits sleeps instead of spinning. Beside another busy process on two cores a training step took a third
# of the time so. The variable in the caller's environment wins.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


class WorkerError(Exception):
    """A cell did not end well: ``status`` and message go into its record."""

    def __init__(self, status: Status, message: str, *, alive: bool) -> None:
        super().__init__(message)
        self.status: Status = status
        self.alive = alive  # whether the worker can be asked again


class Worker:
    """One fresh Python process. It is spawned, not forked, so nothing of the parent's memory or threads is in it."""

    def __init__(self, threads: int, plugins: list[str], log: Path) -> None:
        self._pipe, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        threading = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._oom_kills = _oom_kills()
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [*COMMAND, str(theirs.fileno()), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(), lifeline),
                env={**PASSIVE, **os.environ, **threading},
                start_new_session=True,  # a Ctrl-C reaches the parent alone, which then decides
            )
        theirs.close()
        os.close(lifeline)
        try:
            self.call("configure", threads, sys.path, plugins, timeout=600.0)
        except BaseException:
            self.kill()
            raise

    def call(
        self, request: str, *arguments: Any, timeout: float, progress: Callable[[float], None] | None = None
    ) -> Any:
        """Ask and wait, blocking, for the answer.

        Raises:
            WorkerError: the request failed, took longer than ``timeout`` seconds, or ended the process.
        """
        deadline = time.monotonic() + timeout
        try:
            self._pipe.send((request, arguments))
            while True:
                if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise WorkerError("timeout", f"took longer than {timeout:.0f} s", alive=False)
                kind, content = self._pipe.recv()
                if kind == "result":
                    return content
                if kind == "error":
                    raise WorkerError(*content, alive=True)
                if progress:
                    progress(content)
        except (EOFError, ConnectionError, BrokenPipeError):
            raise self._death() from None

    def kill(self) -> None:
        """End the process and all that it started; harmless when it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def _death(self) -> WorkerError:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = 0
        self.kill()
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills:
            return WorkerError("out_of_memory", "the system ended the worker: out of memory", alive=False)
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerError("failed", f"the worker process ended {reason}", alive=False)


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
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
