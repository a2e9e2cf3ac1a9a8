"""Where a number was measured: device, versions, commit, flags. Ratios across different hardware mean nothing."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attnbench.errors import UserError

PACKAGES = ("attnbench", "torch", "torchvision", "timm", "numpy")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(name: str) -> str:
    """Return ``cpu``, ``cuda`` or ``cuda:N`` for ``name``, where ``auto`` takes a GPU if there is one.

    Raises:
        UserError: not a device, or CUDA where there is none.
    """
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if cuda else "cpu"
    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    if kind != "cuda" or (":" in name and not index.isdigit()):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if not cuda:
        raise UserError(f"device {name!r}: this machine offers no CUDA device to torch; use --device cpu")
    if index and int(index) >= cuda:
        raise UserError(f"device {name!r}: this machine has {cuda} CUDA device(s), numbered from 0")
    return name


def environment(device: str, threads: int) -> dict[str, Any]:
    """Describe this process's machine and software; call it in the process that measures."""
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": usable_cores(),
        "threads": threads,
        "device": device,
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "load": round(os.getloadavg()[0], 2),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        found |= {"gpu": properties.name, "gpu_memory_B": properties.total_memory, "cuda": torch.version.cuda}
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str | None:
    """Return the commit of the source tree, with ``-dirty`` where files differ; None for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603 (fixed words)
    except (OSError, subprocess.SubprocessError):
        return None
