"""Worker processes, from the inside: a spawned template that imports torch and runs nothing, and workers forked of it.

A worker takes one request after another over a pipe and answers each. It writes nothing to the parent's terminal: its
output goes to the run's log. When the parent vanishes, however that happens, every worker and whatever it started end
at once.
"""

import importlib
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

ACTIVE = False  # whether this process is a worker
MESSAGE = 1000  # characters of an error that are kept
SLACK = 2**28  # B beyond a memory limit: stacks of threads, code, what libraries keep for themselves
PATIENCE = 10.0  # seconds for a worker that has closed its pipe to end by itself


def main() -> None:
    """Be the template. Arguments: descriptors of the parent's pipe and of the lifeline, then modules to import."""
    global ACTIVE
    ACTIVE = True
    # What workers need is imported once, here; torch's ledgers and counters import its compiler at their first use.
    for module in ("attnbench.execute", "torch._dynamo", *sys.argv[3:]):
        with suppress(Exception):  # whoever asks for a broken plug-in is told by the worker
            importlib.import_module(module)
    control: Connection[Any, Any] = Connection(int(sys.argv[1]))
    lifeline = int(sys.argv[2])
    while True:
        try:
            request, pid = control.recv()
        except EOFError:
            return
        if request == "reap":
            control.send(_reap(pid))
            continue
        pipe = recv_handle(control)
        child = os.fork() if request == "fork" else 0  # "become": where forking is unsafe, the template serves itself
        if child == 0:
            if request == "fork":
                os.setsid()
                control.close()
            threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
            _serve(Connection(pipe))
            os._exit(0)
        os.close(pipe)
        control.send(child)


def _serve(pipe: "Connection[Any, Any]") -> None:
    """Answer requests until the parent closes the pipe."""
    server = _Server(pipe.send)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("result", getattr(server, name)(*arguments)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a failing cell is a result: the parent records it)
            traceback.print_exc()
            sys.stderr.flush()
            pipe.send(("error", (_status(error), _message(error))))


def _reap(pid: int) -> int:
    """Return the exit code of a worker, negative for a signal; one that does not end is ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Server:
    """The requests that a worker answers."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._timed: Any = None

    def configure(
        self, threads: int, path: list[str], words: list[str], plugins: list[str], memory_limit: int | None
    ) -> None:
        """Set threads, register plug-ins with ``path`` and ``words`` as sys.path and sys.argv, cap the memory (B)."""
        import torch

        torch.set_num_threads(threads)
        sys.path[:], sys.argv[:] = path, words
        for plugin in plugins:
            kind, _, place = plugin.partition(":")
            if kind == "file":
                runpy.run_path(place, run_name="__attnbench_plugin__")
            else:
                importlib.import_module(place)
        if memory_limit is not None:
            _cap_memory(memory_limit)

    def describe(self, device: str, threads: int) -> dict[str, Any]:
        """Return the environment of this process."""
        from attnbench.environment import environment

        return environment(device, threads)

    def measure(self, cell: Any, context: Any) -> Any:
        """Run one cell."""
        from attnbench.execute import measure

        return measure(cell, context, lambda done: self._send(("progress", done)))

    def prepare(self, cell: Any, repeats: int | None) -> dict[str, Any]:
        """Build and warm up the model of a cell that is timed; return how it was warmed up, and its kernel.

        ``repeats`` is what an earlier launch of it found.
        """
        from attnbench.execute import TimedModel

        self._timed = None  # frees the earlier model first
        priority = self._prioritise((cell.timing or {}).get("priority", False))
        self._timed = TimedModel(cell, repeats)
        return {**self._timed.report, "priority": priority}

    def prepare_anchor(self, device: str, least: float, repeats: int | None, priority: bool) -> dict[str, Any]:
        """Warm up the fixed piece of work that runs are compared by."""
        from attnbench.execute import TimedAnchor

        self._prioritise(priority)
        self._timed = TimedAnchor(device, least, repeats)
        report: dict[str, Any] = self._timed.report
        return report

    def _prioritise(self, wanted: bool) -> str:
        from attnbench.measure.priority import priority, raise_priority

        return raise_priority() if wanted else priority()

    def usage(self) -> float:
        """Return the CPU seconds of this process and of those that it started and that ended."""
        return sum(os.times()[:4])

    def foresee(self, cells: Any, limit: int) -> Any:
        """Return what cells of one model at one resolution need, without running them."""
        from attnbench.foresight import foresee

        return foresee(cells, limit)

    def calibrate(self, device: str) -> float:
        """Return the MACs per second that this machine reaches at its best."""
        from attnbench.foresight import calibrate

        return calibrate(device)

    def attempt(self, cell: Any) -> float:
        """Run one batch twice; return the seconds of the faster call."""
        from attnbench.execute import attempt

        return attempt(cell)

    def sample(self) -> tuple[float, float]:
        """Return seconds per call of the prepared model, and the seconds that were spent to learn it."""
        begin = time.perf_counter()
        seconds: float = self._timed.sample()
        return seconds, time.perf_counter() - begin


def _cap_memory(limit: int) -> None:
    """Let this process allocate ``limit`` bytes more than it has: beyond, torch says that it is out of memory.

    So a cell that needs more than was foreseen becomes a record, before the system ends a process of its choice.
    """
    import resource  # not on Windows

    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])  # data and stack
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = pages * resource.getpagesize() + SLACK + limit
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _status(error: BaseException) -> str:
    from attnbench.errors import UnsupportedError

    text = str(error).lower()
    memory = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    if isinstance(error, MemoryError) or memory:
        return "out_of_memory"
    return "unsupported" if isinstance(error, UnsupportedError) else "failed"


def _message(error: BaseException) -> str:
    from attnbench.errors import UserError

    printable = "".join(char if char.isprintable() else " " for char in str(error))
    text = " ".join(printable.split()) or type(error).__name__
    return (text if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {text}")[:MESSAGE]


def _die_with_parent(lifeline: int) -> None:
    """Block until the parent's end of the pipe is gone, then end this process and its data loaders."""
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
