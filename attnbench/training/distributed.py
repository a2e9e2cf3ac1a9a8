"""Training in several processes of this machine: started, watched, and ended with this one or with the first error."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.task_contract import Task

from .loop import Training, train

GRACE = 1.0  # seconds after an error in which its cause, an error or an end of another process, may still arrive

Build = Callable[[torch.device], tuple[nn.Module, Task]]


@dataclass(frozen=True, slots=True)
class _Job:
    """What a process must know to train; it travels there pickled."""

    build: Build
    recipe: Recipe
    ranks: int
    resolution: tuple[int, int]
    seed: int
    device: str
    autocast: torch.dtype | None
    workers: int
    threads: int
    checkpoint: Path | None
    every: float
    folder: Path


def train_in_processes(
    model: nn.Module,
    build: Build,
    recipe: Recipe,
    *,
    processes: int,
    resolution: tuple[int, int],
    seed: int,
    device: torch.device,
    autocast: torch.dtype | None,
    workers: int,
    threads: int,
    progress: Callable[[float], None],
    checkpoint: Path | None = None,
    every: float = 60.0,
) -> Training:
    """Train in ``processes`` fresh processes and load the weights into ``model``; see :func:`loop.train`.

    On CUDA process ``i`` trains on ``cuda:i``. Elsewhere batch norms take the statistics of their process's images.

    Args:
        model: receives the weights; wherever it is, it does not train.
        build: is pickled, and called in each process with its device; returns the model on it, drawn, and the task.
        recipe: as for one process; ``batch_size`` is of all processes together.
        processes: how many.
        resolution: (H, W) of the images.
        seed: of data order, augmentation and stochastic depth.
        device: its type says where to train.
        autocast: type of mixed precision; None: none.
        workers: processes that load data, of each process.
        threads: of arithmetic, of all processes together.
        progress: is called with the share of steps that are done.
        checkpoint: file that the training's state is kept in.
        every: seconds from one checkpoint to the next.

    Raises:
        UserError: fewer GPUs than processes, and whatever :func:`loop.train` says.
        RuntimeError: a process that was ended.
    """
    if device.type == "cuda" and torch.cuda.device_count() < processes:
        raise UserError(f"{processes} processes need a GPU each; this machine has {torch.cuda.device_count()}")
    with TemporaryDirectory(prefix="attnbench-") as name:
        folder = Path(name)
        share = max(1, threads // processes)
        job = _Job(
            build, recipe, processes, resolution, seed, device.type, autocast, workers, share, checkpoint, every, folder
        )
        with _started(job) as children:
            training = _watch(children, progress)
        model.load_state_dict(torch.load(folder / "weights.pt", map_location="cpu", weights_only=True))
    return training


@dataclass(frozen=True, slots=True)
class _Child:
    rank: int
    process: BaseProcess
    pipe: "Connection[Any, Any]"


@contextmanager
def _started(job: _Job) -> Iterator[list[_Child]]:
    """Start the processes; end those that are left."""
    context = multiprocessing.get_context("spawn")
    children: list[_Child] = []
    try:
        for rank in range(job.ranks):
            ours, theirs = context.Pipe(duplex=False)
            # Not daemons, which could not start loader workers.
            process = context.Process(target=_take_part, args=(job, rank, theirs), name=f"attnbench-rank-{rank}")
            process.start()
            theirs.close()
            children.append(_Child(rank, process, ours))
        yield children
    finally:
        for child in children:
            child.process.kill()
        for child in children:
            child.process.join()
            child.pipe.close()


def _watch(children: list[_Child], progress: Callable[[float], None]) -> Training:
    """Hand on progress until every process has ended well; return the first one's result."""
    running = {child.pipe: child for child in children}
    result: Training | None = None
    while running:
        for pipe in wait(list(running)):
            child = running[pipe]  # type: ignore[index]
            try:
                kind, content = child.pipe.recv()
            except EOFError:
                raise _ended(child, len(children)) from None
            if kind == "progress":
                progress(content)
            elif kind == "error":
                raise _cause(content, running, len(children))
            else:
                result = content or result
                del running[child.pipe]
    if result is None:
        raise RuntimeError("the first process gave no result")
    return result


def _cause(first: tuple[float, Exception], running: dict[Any, _Child], ranks: int) -> Exception:
    """Return the error that came first by the clock; that a partner is lost is what the others then say."""
    errors, deadline = [first], time.monotonic() + GRACE
    while time.monotonic() < deadline:
        for pipe in wait(list(running), timeout=max(0.0, deadline - time.monotonic())):
            child = running[pipe]
            try:
                kind, content = child.pipe.recv()
            except EOFError:
                del running[pipe]
                child.process.join()
                if child.process.exitcode == -signal.SIGKILL:
                    return _ended(child, ranks)
                continue
            if kind == "error":
                errors.append(content)
        if not running:
            break
    return min(errors, key=lambda error: error[0])[1]


def _ended(child: _Child, ranks: int) -> RuntimeError:
    child.process.join()
    code = child.process.exitcode or 0
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return RuntimeError(f"process {child.rank} of {ranks} that trained was ended {how}")


def _take_part(job: _Job, rank: int, pipe: "Connection[Any, Any]") -> None:
    """Be one of the processes: train, and say how it went."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        content = _trained(job, rank, pipe)
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        pipe.send(("error", (time.monotonic(), _portable(error))))
        os._exit(1)  # at once: threads of the group wait for processes that are about to be ended
    pipe.send(("result", content))


def _trained(job: _Job, rank: int, pipe: "Connection[Any, Any]") -> Training | None:
    from .together import joined

    torch.set_num_threads(job.threads)
    device = torch.device("cuda", rank) if job.device == "cuda" else torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with joined(rank, job.ranks, device, job.folder) as processes:
        model, task = job.build(device)
        training = train(
            model,
            task,
            job.recipe,
            resolution=job.resolution,
            seed=job.seed,
            device=device,
            autocast=job.autocast,
            workers=job.workers,
            progress=(lambda share: pipe.send(("progress", share))) if rank == 0 else _silent,
            checkpoint=job.checkpoint,
            every=job.every,
            processes=processes,
        )
        if rank == 0:
            torch.save(model.state_dict(), job.folder / "weights.pt")
        return training if rank == 0 else None


def _silent(share: float) -> None:
    """Say nothing: the first process's progress is everyone's."""


def _portable(error: Exception) -> Exception:
    """Return the error, or its words where it does not survive the way to the parent."""
    with suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301 (our own)
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _die_with_parent() -> None:
    """Wait for the parent's end, however it comes, and end this process with its loader workers' pipes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
