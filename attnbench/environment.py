"""Where a number was measured: device, versions, commit, flags. Ratios across different hardware mean nothing."""

import hashlib
import os
import platform
import subprocess
from functools import cache
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

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        **hardware(device),
        "threads": threads,
        "device": device,
        "versions": {name: _version(name) for name in PACKAGES},
        **_source(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "governor": _governor(),
        "load": round(os.getloadavg()[0], 2),
    }


def hardware(device: str) -> dict[str, Any]:
    """Describe what times depend on and no setting changes: machine, CPU, and the GPU if ``device`` is one."""
    found: dict[str, Any] = {"machine": platform.machine(), "cpu": _cpu(), "cores": usable_cores()}
    if device.startswith("cuda"):
        import torch

        properties = torch.cuda.get_device_properties(torch.device(device))
        found |= {"gpu": properties.name, "gpu_memory_B": properties.total_memory}
        found |= {"cuda": torch.version.cuda, "driver": _driver()}
    return found


def device_memory(device: str) -> int | None:
    """Return the bytes that are free on a GPU; None for a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.mem_get_info(torch.device(device))[0]


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


def _governor() -> str | None:
    """Return how the CPU chooses its clock, where Linux says."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _driver() -> str | None:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return None
    return next((word for word in first.split() if word[0].isdigit() and "." in word), None)


@cache
def _source() -> dict[str, str | None]:
    """Return the commit of the source tree and, where files differ from it, a hash of how; None for a package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD").decode().strip()
        changes = _git(root, "diff", "HEAD", "--binary")
        new = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
        for name in filter(None, new):
            changes += name + (root / os.fsdecode(name)).read_bytes()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": hashlib.sha256(changes).hexdigest()[:12] if changes else None}


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=True, timeout=10).stdout  # noqa: S603, S607 (fixed words)
