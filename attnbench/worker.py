"""The worker process: takes one request after another over a pipe and answers each. Started by ``process.Worker``.

It writes nothing to the parent's terminal: its output goes to the run's log. When the parent vanishes, however that
happens, the worker and whatever it started end at once.
"""

import importlib
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

ACTIVE = False  # whether this process is a worker


def main() -> None:
    """Serve the pipe whose two descriptors are the arguments, until the parent closes it."""
    global ACTIVE
    ACTIVE = True
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    threading.Thread(target=_die_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    server: _Server | None = None
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            server = server or _Server(pipe.send)
            pipe.send(("result", getattr(server, name)(*arguments)))
        except Exception as error:  # noqa: BLE001 (a failing cell is a result: the parent records it)
            traceback.print_exc()
            sys.stderr.flush()
            pipe.send(("error", (_status(error), _message(error))))


class _Server:
    """The requests that a worker answers."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._timed: Any = None

    def configure(self, threads: int, path: list[str], plugins: list[str]) -> None:
        """Set threads, and register plug-ins that live outside of installed packages."""
        import torch

        torch.set_num_threads(threads)
        sys.path[:] = path
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


def _status(error: Exception) -> str:
    from attnbench.errors import UnsupportedError

    text = str(error).lower()
    memory = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    if isinstance(error, MemoryError) or memory:
        return "out_of_memory"
    return "unsupported" if isinstance(error, UnsupportedError) else "failed"


def _message(error: Exception) -> str:
    from attnbench.errors import UserError

    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {text}"[:1000]


def _die_with_parent(lifeline: int) -> None:
    """Block until the parent's end of the pipe is gone, then end this process and its data loaders."""
    os.read(lifeline, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
