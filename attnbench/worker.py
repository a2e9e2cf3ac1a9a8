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
from typing import Any

ACTIVE = False  # whether this process is a worker
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

    def configure(self, threads: int, path: list[str], words: list[str], plugins: list[str]) -> None:
        """Set threads, and register plug-ins of ``sys.path`` = ``path`` and ``sys.argv`` = ``words``."""
        import torch

        torch.set_num_threads(threads)
        sys.path[:], sys.argv[:] = path, words
        for plugin in plugins:
            kind, _, place = plugin.partition(":")
            if kind == "file":
                runpy.run_path(place, run_name="__attnbench_plugin__")
            else:
                importlib.import_module(place)

    def describe(self, device: str, threads: int) -> dict[str, Any]:
        """Return the environment of this process."""
        from attnbench.environment import environment

        return environment(device, threads)

    def measure(self, cell: Any, context: Any) -> Any:
        """Run one cell."""
        from attnbench.execute import measure

        return measure(cell, context, lambda done: self._send(("progress", done)))

    def prepare(self, cell: Any) -> dict[str, Any]:
        """Build and warm up the model of a latency cell; return how it was warmed up."""
        from attnbench.execute import TimedModel

        self._timed = None  # frees the earlier model first
        self._timed = TimedModel(cell)
        report: dict[str, Any] = self._timed.clock.report
        return report

    def sample(self) -> float:
        """Return seconds per call of the prepared model."""
        seconds: float = self._timed.sample()
        return seconds


def _status(error: BaseException) -> str:
    from attnbench.errors import UnsupportedError

    text = str(error).lower()
    memory = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    if isinstance(error, MemoryError) or memory:
        return "out_of_memory"
    return "unsupported" if isinstance(error, UnsupportedError) else "failed"


def _message(error: BaseException) -> str:
    from attnbench.errors import UserError

    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {text}"[:1000]


def _die_with_parent(lifeline: int) -> None:
    """Block until the parent's end of the pipe is gone, then end this process and its data loaders."""
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
