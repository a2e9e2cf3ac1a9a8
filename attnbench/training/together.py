"""Several processes that train one model, as one of them sees them: Hugging Face Accelerate over torch.distributed."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore

# The first process evaluates while the others wait in their next step; a process that ends is noticed otherwise.
PATIENCE = timedelta(days=7)


class Together:
    """One of several processes: gradients and losses are means over them."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.rank, self.ranks = int(accelerator.process_index), int(accelerator.num_processes)

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return ``objective`` in torch's DistributedDataParallel, which starts with the first process's weights.

        On CUDA batch norms take the statistics of all processes' images, as the papers' do; torch can do it there only.
        """
        if self._accelerator.device.type == "cuda":
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        wrapped: nn.Module = self._accelerator.prepare(objective)
        return wrapped

    def part(self, objective: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one accumulated part: gradients are exchanged in the ``last`` only."""
        context: AbstractContextManager[Any] = nullcontext() if last else self._accelerator.no_sync(objective)
        return context

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of ``value`` over the processes."""
        reduced: Tensor = self._accelerator.reduce(value, reduction="mean")
        return reduced


@contextmanager
def joined(rank: int, ranks: int, device: torch.device, folder: Path) -> Iterator[Together]:
    """Join the processes of this machine that meet in ``folder``; no port is fixed, and none is open to others.

    Call it once in a process that was started for it: Accelerate reads the environment, and keeps what it read.
    """
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else Accelerate chooses, with a warning
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if Path("/sys/class/net/lo").is_dir() else "lo0")
    store = FileStore(str(folder / "store"), ranks)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    yield Together(_accelerator(device))
    torch.distributed.destroy_process_group()  # not after an error: the others would tell of a lost partner first


def _accelerator(device: torch.device) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch may leave parameters out: a head's part for objects, say, where there are none.
    options = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[options])
